//! Many agents at once, whose jobs end together while their callbacks are away.

use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
    time::{Duration, Instant},
};

use nix::{sys::stat::Mode, unistd::mkfifo};

use super::{
    Bench,
    results::{PlotKind, Results, Unit},
    vm::{Order, Vm},
};

/// To start a container beside two hundred others.
const START: Duration = Duration::from_secs(600);
/// From the Engine's word of the last start until that job reads the pipe.
const SETTLE: Duration = Duration::from_secs(5);

pub(super) async fn measure(bench: &Bench, results: &mut Results) -> io::Result<()> {
    let gate = Gate::new(bench.folder.path())?;
    let vms = boot(bench, &gate).await?;
    vms.iter().for_each(|vm| vm.sandbox.set_callback_outage(true));
    let released = Instant::now();
    drop(gate);
    tokio::time::sleep(bench.scale.outage).await;
    vms.iter().for_each(|vm| vm.sandbox.set_callback_outage(false));
    let over = Instant::now();
    let (mut calls, mut unlike_one) = (Vec::new(), 0);
    for vm in vms {
        let sandbox = vm.gone().await?;
        calls.extend(sandbox.calls());
        unlike_one += usize::from(sandbox.reports().len() != 1);
    }
    tell(bench, released, over, &calls, unlike_one, results);
    Ok(())
}

/// The VMs, when all of their jobs run.
async fn boot(bench: &Bench, gate: &Gate) -> io::Result<Vec<Vm>> {
    let mut events = bench.engine.events().await?;
    let command = bench.engine.run(&format!("--rm --volume {}:/gate", gate.path), "cat /gate");
    let mut vms = Vec::new();
    for _ in 0..bench.scale.crowd {
        vms.push(Vm::boot(&bench.agent, Order::of(&command)).await?);
    }
    for _ in &vms {
        events.next("start", START).await?;
    }
    tokio::time::sleep(SETTLE).await;
    Ok(vms)
}

/// A pipe that every job reads: all end when this is dropped.
struct Gate {
    path: String,
    _writer: File,
}

impl Gate {
    fn new(folder: &Path) -> io::Result<Self> {
        let path = folder.join("gate");
        mkfifo(&path, Mode::S_IRWXU)?;
        // Opened for both, it does not wait for a reader, and a reader does not wait for it.
        let writer = OpenOptions::new().read(true).write(true).open(&path)?;
        Ok(Self { path: path.display().to_string(), _writer: writer })
    }
}

fn tell(
    bench: &Bench,
    released: Instant,
    over: Instant,
    calls: &[sandbox::Call],
    unlike_one: usize,
    results: &mut Results,
) {
    let agents = bench.scale.crowd;
    let (seconds, after) = (by_second(calls, released), by_second(calls, over));
    let outage = bench.scale.outage.as_secs();
    let busiest = after.iter().copied().max().unwrap_or_default();
    results.add(
        &format!("agents of {agents} at once whose report was not accepted just once"),
        unlike_one as f64,
        Unit::Agents,
        0.0,
        format!("{} tries in all, {outage} s of them without a callback", calls.len()),
    );
    results.add(
        &format!("agents that come back in the busiest second after {outage} s without a callback"),
        f64::from(busiest) * 100.0 / agents as f64,
        Unit::Percent,
        // As even as can be, over the longest pause's half minute, were 3.3.
        15.0,
        format!("{busiest} of {agents}; the last report came {} s after the outage", after.len() - 1),
    );
    let points =
        seconds.iter().enumerate().map(|(second, calls)| (second as f64, f64::from(*calls))).collect();
    let title = format!("tries of {agents} agents; no callback for {outage} s");
    results.plot([&title, "s after the jobs' end", "tries a second"], PlotKind::Bars, points);
}

/// How many calls came in each second from a moment on.
fn by_second(calls: &[sandbox::Call], from: Instant) -> Vec<u32> {
    let mut seconds = vec![0];
    for since in calls.iter().filter_map(|call| call.at.checked_duration_since(from)) {
        let second = since.as_secs() as usize;
        seconds.resize(seconds.len().max(second + 1), 0);
        seconds[second] += 1;
    }
    seconds
}
