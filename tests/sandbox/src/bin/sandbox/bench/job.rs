//! A job of no length, from the agent's start to the report, against the article's script and against `docker run`.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    Bench,
    engine::Events,
    millis, millis_from, program,
    results::{Results, Unit, median, ratios},
    vm::{Order, Vm},
};

/// For anything about a job that does nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the agent took, in milliseconds.
struct Run {
    whole: f64,
    first_request: f64,
    /// From the Engine's word of the exit to the report.
    after_exit: f64,
}

/// All rounds, in milliseconds.
#[derive(Default)]
struct Rounds {
    agent: Vec<Run>,
    script: Vec<f64>,
    docker: Vec<f64>,
}

pub(super) async fn measure(bench: &Bench, results: &mut Results) -> io::Result<()> {
    let script = program(bench.folder.path(), "baseline.sh", include_str!("baseline.sh"))?;
    let mut events = bench.engine.events().await?;
    // A first round warms the caches, and does not count.
    round(bench, 0, &script, &mut events, &mut Rounds::default()).await?;
    let mut rounds = Rounds::default();
    for number in 0..bench.scale.jobs {
        round(bench, number, &script, &mut events, &mut rounds).await?;
    }
    tell(&rounds, results);
    Ok(())
}

/// Each of the three once, in another order each time.
async fn round(
    bench: &Bench,
    number: usize,
    script: &Path,
    events: &mut Events,
    rounds: &mut Rounds,
) -> io::Result<()> {
    let command = bench.engine.run("--rm", "exit 0");
    for turn in 0..3 {
        match (number + turn) % 3 {
            0 => rounds.agent.push(by_agent(bench, &command, events).await?),
            1 => rounds.script.push(by_script(script, &command).await?),
            _ => {
                let started = Instant::now();
                bench.engine.docker(&command).await?;
                rounds.docker.push(millis(started.elapsed()));
            }
        }
    }
    Ok(())
}

async fn by_agent(bench: &Bench, command: &str, events: &mut Events) -> io::Result<Run> {
    events.catch_up().await?;
    let vm = Vm::boot(&bench.agent, Order::of(command)).await?;
    let (first_request, died, accepted) =
        tokio::try_join!(vm.first_request(), events.next("die", PATIENCE), vm.accepted(PATIENCE))?;
    let run = Run {
        whole: millis(accepted - vm.started),
        first_request: millis(first_request),
        after_exit: millis_from(died.told.into_std(), accepted),
    };
    vm.ended().await?;
    Ok(run)
}

async fn by_script(script: &Path, command: &str) -> io::Result<f64> {
    let vm = Vm::boot(script, Order::of(command)).await?;
    let whole = millis(vm.accepted(PATIENCE).await? - vm.started);
    vm.ended().await?;
    Ok(whole)
}

fn tell(rounds: &Rounds, results: &mut Results) {
    let of = |pick: fn(&Run) -> f64| rounds.agent.iter().map(pick).collect::<Vec<_>>();
    let (whole, jobs) = (of(|run| run.whole), rounds.agent.len());
    for (what, others, target) in [
        ("a job of no length, from start to accepted report, by the article's script", &rounds.script, 0.8),
        (
            "… by `docker run --rm` alone, which reports nothing, and removes the container",
            &rounds.docker,
            1.0,
        ),
    ] {
        let detail = format!("{:.0} ms by {:.0} ms, medians of {jobs}", median(&whole), median(others));
        results.add_median(what, ratios(&whole, others), Unit::Ratio, target, detail);
    }
    for (what, samples) in [
        (
            "from the Engine's own word of the container's exit to the accepted report",
            of(|run| run.after_exit),
        ),
        ("from the agent's start to its first request", of(|run| run.first_request)),
    ] {
        results.add_median(what, samples, Unit::Milliseconds, 10.0, format!("median of {jobs}"));
    }
}
