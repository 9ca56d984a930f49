//! What the agent takes of a machine without doing much: size, memory, wake-ups.

use std::{fs, io, time::Duration};

use super::{
    Bench, mebibytes,
    results::{Results, Unit},
    vm::{Order, Vm},
    within,
};

/// Of the start of a job, and of its end.
const PATIENCE: Duration = Duration::from_secs(60);
/// After the start, until only the long waits are left.
const SETTLE: Duration = Duration::from_secs(5);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The program's size, and that of an image with nothing else in it.
pub(super) async fn measure(bench: &Bench, results: &mut Results) -> io::Result<()> {
    let size = fs::metadata(&bench.agent)?.len();
    results.add("the binary", mebibytes(size), Unit::Mebibytes, 4.5, format!("{size} bytes, static"));
    let mut gzip = tokio::process::Command::new("gzip");
    let packed = within("gzip", PATIENCE, gzip.arg("-c").arg(&bench.agent).output()).await??;
    if !packed.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&packed.stderr).into_owned()));
    }
    let packed = packed.stdout.len() as u64;
    results.add(
        "the same gzipped, which is all of the image",
        mebibytes(packed),
        Unit::Mebibytes,
        2.0,
        format!("{packed} bytes, gzip"),
    );
    Ok(())
}

/// An agent whose job does nothing, with all that it has to do then: it follows the metadata server, the container and
/// the workflow, and puts up a heartbeat once a minute.
pub(super) async fn measure_idle(bench: &Bench, results: &mut Results) -> io::Result<()> {
    let mut events = bench.engine.events().await?;
    let command = bench.engine.run("--rm", "wait");
    let order = Order { attributes: &[("enable-guest-attributes", "TRUE")], ..Order::of(&command) };
    let vm = Vm::boot(&bench.agent, order).await?;
    let container = events.next("start", PATIENCE).await?.container;
    tokio::time::sleep(SETTLE).await;
    let process = vm.process()?;
    let (switches, cpu) = (process.context_switches()?, process.cpu()?);
    let window = bench.scale.idle;
    tokio::time::sleep(window).await;
    let (switches, cpu) = (process.context_switches()? - switches, process.cpu()? - cpu);
    let peak = process.peak_memory()?;
    bench.engine.docker(&format!("docker kill {container}")).await?;
    vm.accepted(PATIENCE).await?;
    vm.ended().await?;

    let seconds = window.as_secs();
    results.add("peak memory, idle", mebibytes(peak), Unit::Mebibytes, 8.0, format!("{seconds} s of a job"));
    let a_minute = switches as f64 * 60.0 / window.as_secs_f64();
    let detail = format!("{switches} in {seconds} s");
    results.add("context switches of an idle agent", a_minute, Unit::SwitchesAMinute, 30.0, detail);
    let a_day = cpu.as_secs_f64() * DAY.as_secs_f64() / window.as_secs_f64();
    let detail = format!("{:.1} ms in {seconds} s", super::millis(cpu));
    results.add("CPU of an idle agent", a_day, Unit::CpuSecondsADay, 2.0, detail);
    Ok(())
}
