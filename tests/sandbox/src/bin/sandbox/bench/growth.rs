//! How memory and time grow with what a job does: they should not.

use std::{io, time::Duration};

use super::{
    Bench,
    engine::Events,
    log, mebibytes, millis_from,
    results::{PlotKind, Results, Unit, median},
    size_for_people,
    vm::{Order, Vm},
};

/// Ten gigabytes take minutes.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Reports of one size.
const REPORTS: usize = 5;
/// What of the log a report takes along, in KiB.
const TAILS: [u32; 5] = [0, 8, 32, 64, 128];

/// What a job costs the agent.
struct Cost {
    /// In MiB.
    peak: f64,
    /// In seconds.
    cpu: f64,
    /// From the Engine's word of the exit to the report, in milliseconds.
    after_exit: f64,
}

pub(super) async fn measure(bench: &Bench, results: &mut Results) -> io::Result<()> {
    let mut events = bench.engine.events().await?;
    with_the_log(bench, &mut events, results).await?;
    with_the_job(bench, &mut events, results).await?;
    with_the_report(bench, &mut events, results).await
}

async fn with_the_log(bench: &Bench, events: &mut Events, results: &mut Results) -> io::Result<()> {
    let (mut memory, mut cpu, mut after_exit) = (Vec::new(), Vec::new(), Vec::new());
    for bytes in bench.scale.log_sizes {
        let cost = cost(bench, events, &log::words(*bytes), &[log::SECRET]).await?;
        let megabytes = *bytes as f64 / 1e6;
        memory.push((megabytes, cost.peak));
        cpu.push((megabytes, cost.cpu * 1e3));
        after_exit.push((megabytes, cost.after_exit));
    }
    let cpu = a_gigabyte(&cpu);
    let line = cost(bench, events, &format!("bytes {}", bench.scale.line_bytes), &[log::SECRET]).await?;
    let largest = memory.iter().map(|(_, peak)| *peak).fold(0.0, f64::max);
    let size = size_for_people(bench.scale.log_sizes.last().copied().unwrap_or_default());
    let of = format!("lines of {} bytes", log::LINE);
    results.add(&format!("peak memory, {size} of log"), largest, Unit::Mebibytes, 12.0, of);
    let size = size_for_people(bench.scale.line_bytes);
    results.add(&format!("peak memory, one line of {size}"), line.peak, Unit::Mebibytes, 12.0, String::new());
    results.plot(["memory by the log's size", "log in MB", "peak in MiB"], PlotKind::LogX, memory);
    results.plot(["CPU by the log's size", "log in MB", "CPU in ms a GB"], PlotKind::LogX, cpu);
    results.plot(["exit to report by the log's size", "log in MB", "ms"], PlotKind::LogX, after_exit);
    Ok(())
}

/// From CPU time by megabytes to CPU time a gigabyte, without what the smallest log, which is hardly one, costs too.
fn a_gigabyte(cpu: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let Some(((smallest, fixed), larger)) = cpu.split_first() else { return Vec::new() };
    larger.iter().map(|(size, cpu)| (*size, (cpu - fixed) * 1e3 / (size - smallest))).collect()
}

async fn with_the_job(bench: &Bench, events: &mut Events, results: &mut Results) -> io::Result<()> {
    let (mut memory, mut after_exit) = (Vec::new(), Vec::new());
    for length in bench.scale.lengths {
        let cost = cost(bench, events, &format!("pause {}", length.as_millis()), &[]).await?;
        memory.push((length.as_secs_f64(), cost.peak));
        after_exit.push((length.as_secs_f64(), cost.after_exit));
    }
    results.plot(["memory by the job's length", "job in s", "peak in MiB"], PlotKind::Linear, memory);
    results.plot(["exit to report by the job's length", "job in s", "ms"], PlotKind::Linear, after_exit);
    Ok(())
}

async fn with_the_report(bench: &Bench, events: &mut Events, results: &mut Results) -> io::Result<()> {
    let mut after_exit = Vec::new();
    for tail in TAILS {
        let mut samples = Vec::new();
        for _ in 0..REPORTS {
            let tail = format!("{tail}KiB");
            let attributes = [("longrun-log-tail", tail.as_str())];
            samples.push(cost(bench, events, &log::words(200_000), &attributes).await?.after_exit);
        }
        after_exit.push((f64::from(tail), median(&samples)));
    }
    results.plot(
        ["exit to report by the report's size", "log in it in KiB", "ms"],
        PlotKind::Linear,
        after_exit,
    );
    Ok(())
}

/// Runs a job whose log nobody else keeps, which would cost gigabytes of disk.
async fn cost(
    bench: &Bench,
    events: &mut Events,
    words: &str,
    attributes: &[(&str, &str)],
) -> io::Result<Cost> {
    events.catch_up().await?;
    let command = bench.engine.run("--rm --log-driver none", words);
    let cloud = |cloud| log::with_secret(cloud).callback_answers([503]);
    let vm = Vm::boot(&bench.agent, Order { command: &command, attributes, cloud }).await?;
    let told = async {
        let call = super::within("the report", PATIENCE, vm.sandbox.next_call()).await?;
        let process = vm.process()?;
        Ok((call.at, process.peak_memory()?, process.cpu()?))
    };
    let (died, (told, peak, cpu)) = tokio::try_join!(events.next("die", PATIENCE), told)?;
    vm.accepted(PATIENCE).await?;
    vm.ended().await?;
    let after_exit = millis_from(died.told.into_std(), told);
    Ok(Cost { peak: mebibytes(peak), cpu: cpu.as_secs_f64(), after_exit })
}
