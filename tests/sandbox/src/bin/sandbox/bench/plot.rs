//! The results as one picture: every number beside what is wanted, then how things grow.

use std::{fmt, io};

use plotters::{coord::Shift, prelude::*, style::text_anchor::*};

use super::results::{Plot, PlotKind, Results, Row};

/// In pixels.
const WIDTH: u32 = 1000;
const BAR: u32 = 24;
const HEAD: u32 = 40;
const PANEL: u32 = 240;
const PANELS_IN_A_ROW: usize = 3;
/// Where the bars begin, and where what is wanted is.
const BARS_AT: i32 = 560;
const WANTED_AT: i32 = 860;

const GOOD: RGBColor = RGBColor(46, 125, 91);
const MISSED: RGBColor = RGBColor(196, 78, 42);
const INK: RGBColor = RGBColor(36, 41, 47);
const FAINT: RGBColor = RGBColor(208, 215, 222);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws it, as SVG.
pub(super) fn picture(results: &Results) -> io::Result<String> {
    let panel_rows = results.plots.len().div_ceil(PANELS_IN_A_ROW);
    let bars = HEAD + BAR * results.rows.len() as u32;
    let mut svg = String::new();
    {
        let size = (WIDTH, bars + PANEL * panel_rows as u32);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE).map_err(drawing)?;
        let (top, bottom) = root.split_vertically(bars);
        draw_bars(&top, &results.rows)?;
        if panel_rows > 0 {
            let rows = bottom.split_evenly((panel_rows, 1));
            for (row, plots) in rows.iter().zip(results.plots.chunks(PANELS_IN_A_ROW)) {
                // The last ones share a row.
                for (area, plot) in row.split_evenly((1, plots.len())).iter().zip(plots) {
                    draw_plot(area, plot)?;
                }
            }
        }
        root.present().map_err(drawing)?;
    }
    Ok(svg)
}

/// Each number as a part of what is wanted at most.
fn draw_bars(area: &Area<'_>, rows: &[Row]) -> io::Result<()> {
    let text = |size: u32, colour: RGBColor| ("sans-serif", size).into_font().color(&colour);
    let right = |style: TextStyle<'static>| style.pos(Pos::new(HPos::Right, VPos::Center));
    let centre = text(12, INK).pos(Pos::new(HPos::Center, VPos::Center));
    let bottom = (HEAD + BAR * rows.len() as u32) as i32;
    area.draw(&Text::new("at most", (WANTED_AT, 20), centre)).map_err(drawing)?;
    for (row, y) in rows.iter().zip((HEAD as i32..).step_by(BAR as usize)) {
        let colour = if row.is_met() { GOOD } else { MISSED };
        let share = if row.target > 0.0 { row.value / row.target } else { row.value };
        let length = (share.min(1.35) * f64::from(WANTED_AT - BARS_AT)) as i32;
        let (middle, name) = (y + BAR as i32 / 2, row.what.replace('`', ""));
        let label = Text::new(name, (BARS_AT - 70, middle), right(text(12, INK)));
        area.draw(&label).map_err(drawing)?;
        let value = Text::new(row.unit.tell(row.value), (BARS_AT - 6, middle), right(text(12, colour)));
        area.draw(&value).map_err(drawing)?;
        let bar = [(BARS_AT, y + 4), (BARS_AT + length.max(1), y + BAR as i32 - 4)];
        area.draw(&Rectangle::new(bar, colour.filled())).map_err(drawing)?;
    }
    let wanted = PathElement::new([(WANTED_AT, HEAD as i32 - 6), (WANTED_AT, bottom)], INK.stroke_width(1));
    area.draw(&wanted).map_err(drawing)
}

fn draw_plot(area: &Area<'_>, plot: &Plot) -> io::Result<()> {
    let (first, last) =
        plot.points.iter().fold((f64::MAX, 0.0_f64), |(first, last), (x, _)| (first.min(*x), last.max(*x)));
    // What is flat shall look flat.
    let highest = plot.points.iter().map(|(_, y)| *y).fold(0.0, f64::max).max(f64::MIN_POSITIVE) * 1.25;
    let mut chart = ChartBuilder::on(area);
    let caption = ("sans-serif", 14).into_font().color(&INK);
    chart.caption(&plot.title, caption).margin(12).x_label_area_size(34).y_label_area_size(46);
    // A macro, for the two kinds of axes are two types.
    macro_rules! draw {
        ($x:expr) => {{
            let mut chart = chart.build_cartesian_2d($x, 0.0..highest).map_err(drawing)?;
            let mut mesh = chart.configure_mesh();
            mesh.light_line_style(TRANSPARENT).bold_line_style(FAINT).axis_style(FAINT);
            mesh.x_desc(&plot.x).y_desc(&plot.y).x_labels(6).y_labels(5);
            mesh.x_label_formatter(&|x| short(*x)).y_label_formatter(&|y| short(*y));
            mesh.label_style(("sans-serif", 11).into_font().color(&INK)).draw().map_err(drawing)?;
            match plot.kind {
                PlotKind::Bars => {
                    let bars = plot.points.iter();
                    let bars = bars.map(|(x, y)| Rectangle::new([(*x, 0.0), (x + 0.8, *y)], GOOD.filled()));
                    chart.draw_series(bars).map_err(drawing)?;
                }
                PlotKind::LogX | PlotKind::Linear => {
                    let line =
                        LineSeries::new(plot.points.iter().copied(), GOOD.stroke_width(2)).point_size(3);
                    chart.draw_series(line).map_err(drawing)?;
                }
            }
        }};
    }
    match plot.kind {
        PlotKind::LogX => draw!((first..last).log_scale()),
        PlotKind::Linear => draw!(0.0..last),
        PlotKind::Bars => draw!(0.0..last + 1.0),
    }
    Ok(())
}

fn short(number: f64) -> String {
    let decimals = if number < 1.0 { 2 } else { usize::from(number < 10.0) };
    let text = format!("{number:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn drawing(error: impl fmt::Display) -> io::Error {
    io::Error::other(format!("the picture cannot be drawn: {error}"))
}
