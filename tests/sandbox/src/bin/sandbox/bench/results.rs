//! What was measured, and how it is told.

use serde::{Deserialize, Serialize};

/// Everything that a run measured.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Results {
    /// What it ran on.
    pub(crate) machine: String,
    /// The day.
    pub(crate) date: String,
    pub(crate) rows: Vec<Row>,
    pub(crate) plots: Vec<Plot>,
}

/// One number.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Row {
    /// What it is of.
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: Unit,
    /// No more than this is wanted.
    pub(crate) target: f64,
    /// The numbers behind it.
    pub(crate) detail: String,
    /// One of each round, if there were rounds.
    pub(crate) samples: Vec<f64>,
}

/// What a number counts.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    /// This by that.
    Ratio,
    Milliseconds,
    /// Of 2^20 bytes.
    Mebibytes,
    /// Context switches a minute.
    SwitchesAMinute,
    /// Seconds of a processor a day.
    CpuSecondsADay,
    /// Of agents whose report was not accepted just once.
    Agents,
    /// Of all agents, in hundredths.
    Percent,
}

/// A curve, or a count over time.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) x: String,
    pub(crate) y: String,
    pub(crate) kind: PlotKind,
    pub(crate) points: Vec<(f64, f64)>,
}

/// How a plot is drawn.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PlotKind {
    /// x by powers of ten.
    LogX,
    /// x as it is.
    Linear,
    /// A bar for each x, which are one apart.
    Bars,
}

impl Results {
    pub(crate) fn new(machine: String, date: String) -> Self {
        Self { machine, date, rows: Vec::new(), plots: Vec::new() }
    }

    /// A number that was measured once.
    pub(crate) fn add(&mut self, what: &str, value: f64, unit: Unit, target: f64, detail: String) {
        self.rows.push(Row { what: what.to_owned(), value, unit, target, detail, samples: Vec::new() });
    }

    /// The median of several rounds.
    pub(crate) fn add_median(
        &mut self,
        what: &str,
        samples: Vec<f64>,
        unit: Unit,
        target: f64,
        detail: String,
    ) {
        self.rows.push(Row { what: what.to_owned(), value: median(&samples), unit, target, detail, samples });
    }

    pub(crate) fn plot(&mut self, [title, x, y]: [&str; 3], kind: PlotKind, points: Vec<(f64, f64)>) {
        let [title, x, y] = [title, x, y].map(str::to_owned);
        self.plots.push(Plot { title, x, y, kind, points });
    }

    /// The table of the README, in Markdown: ratios first.
    pub(crate) fn table(&self) -> String {
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by_key(|row| row.unit != Unit::Ratio);
        let rows = rows.into_iter().map(Row::line);
        let head = "| what | measured | at most | of |\n| --- | --- | --- | --- |\n".to_owned();
        let machine = format!("\nMeasured on {}: {}.\n", self.date, self.machine);
        std::iter::once(head).chain(rows).chain([machine]).collect()
    }
}

impl Row {
    /// Whether it is no more than is wanted; what is no number is not.
    pub(crate) fn is_met(&self) -> bool {
        self.value <= self.target
    }

    fn line(&self) -> String {
        let Self { what, value, unit, target, detail, .. } = self;
        let missed = if self.is_met() { "" } else { " (missed)" };
        format!("| {what} | **{}**{missed} | {} | {detail} |\n", unit.tell(*value), unit.tell(*target))
    }
}

impl Unit {
    /// A number of these, for people.
    pub(crate) fn tell(self, value: f64) -> String {
        let value = match value {
            // A ratio of 0.004 is not 0.00.
            small if small.abs() < 0.1 => format!("{}", (small * 1e4).round() / 1e4),
            whole if whole.fract() == 0.0 => format!("{whole}"),
            large if large.abs() >= 100.0 => format!("{large:.0}"),
            other => format!("{other:.2}"),
        };
        match self {
            Self::Ratio => value,
            Self::Milliseconds => value + " ms",
            Self::Mebibytes => value + " MiB",
            Self::SwitchesAMinute => value + " a minute",
            Self::CpuSecondsADay => value + " s a day",
            Self::Agents => value,
            Self::Percent => value + " %",
        }
    }
}

/// The sample in the middle.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        0 if sorted.is_empty() => f64::NAN,
        0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

/// Each of these by the one of the same round.
pub(crate) fn ratios(these: &[f64], those: &[f64]) -> Vec<f64> {
    these.iter().zip(those).map(|(this, that)| this / that).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        assert!(median(&[3.0, 1.0, 2.0]) == 2.0 && median(&[4.0, 1.0]) == 2.5 && median(&[]).is_nan());
        assert!(ratios(&[1.0, 6.0], &[2.0, 3.0]) == [0.5, 2.0]);
    }

    #[test]
    fn the_table_has_ratios_first_and_says_what_was_missed() {
        let mut results = Results::new("a machine".to_owned(), "2026-11-25".to_owned());
        results.add("memory", 8.5, Unit::Mebibytes, 8.0, "idle".to_owned());
        results.add_median("time", vec![0.5, 0.0123, 0.7], Unit::Ratio, 0.8, "x, y".to_owned());
        assert_eq!(
            results.table(),
            "| what | measured | at most | of |\n| --- | --- | --- | --- |\n\
             | time | **0.50** | 0.80 | x, y |\n\
             | memory | **8.50 MiB** (missed) | 8 MiB | idle |\n\
             \nMeasured on 2026-11-25: a machine.\n"
        );
        assert_eq!(Unit::Ratio.tell(0.00412), "0.0041");
    }

    #[test]
    fn the_readme_shows_the_last_results() {
        let results: Results =
            serde_json::from_str(include_str!("../../../../../bench/results.json")).expect("results");
        let readme = include_str!("../../../../../../README.md");
        assert!(readme.contains(&results.table()), "the README's table should be\n{}", results.table());
    }
}
