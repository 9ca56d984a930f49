//! A job that prints a great deal, with the agent, with `docker logs -f`, and with nobody as its reader.

use std::{io, process::Stdio, time::Duration};

use nix::sys::resource::{UsageWho, getrusage};
use sandbox::Builder;

use super::{
    Bench,
    engine::{Events, command},
    results::{Results, Unit, median, ratios},
    size_for_people,
    vm::{Order, Vm},
    within,
};

/// A gigabyte by the slowest reader takes minutes.
const PATIENCE: Duration = Duration::from_secs(1200);
/// Of each line, with its end.
pub(super) const LINE: u64 = 100;
/// Redaction is on. The job does not print it.
pub(super) const SECRET: (&str, &str) = ("longrun-secret-env-TOKEN", "token");

/// What one run took, in seconds.
struct Run {
    /// The job from start to exit, by the Engine's clock.
    wall: f64,
    /// The reader's processor time.
    reader: f64,
    /// The Engine's, from before the start to the reader's end.
    engine: f64,
}

/// All runs by their reader.
#[derive(Default)]
struct Rounds {
    nobody: Vec<Run>,
    docker_logs: Vec<Run>,
    agent: Vec<Run>,
}

pub(super) async fn measure(bench: &Bench, results: &mut Results) -> io::Result<()> {
    let mut events = bench.engine.events().await?;
    let mut rounds = Rounds::default();
    for number in 0..bench.scale.logs {
        for turn in 0..3 {
            events.catch_up().await?;
            match (number + turn) % 3 {
                0 => rounds.nobody.push(run(bench, &mut events, Reader::Nobody).await?),
                1 => rounds.docker_logs.push(run(bench, &mut events, Reader::DockerLogs).await?),
                _ => rounds.agent.push(run(bench, &mut events, Reader::Agent).await?),
            }
        }
    }
    tell(bench, &rounds, results);
    Ok(())
}

/// Fakes that have the secret.
pub(super) fn with_secret(cloud: Builder) -> Builder {
    cloud.secret(SECRET.1, "kept by nobody but us")
}

/// The words of a job that prints so much.
pub(super) fn words(bytes: u64) -> String {
    format!("lines {} {}", bytes / LINE, LINE - 1)
}

#[derive(Clone, Copy)]
enum Reader {
    Nobody,
    DockerLogs,
    Agent,
}

async fn run(bench: &Bench, events: &mut Events, reader: Reader) -> io::Result<Run> {
    let engine = || bench.engine.process.cpu_of_all_threads();
    let (engine_before, words) = (engine()?, words(bench.scale.log_bytes));
    let (wall, reader) = match reader {
        Reader::Agent => with_agent(bench, events, &words).await?,
        Reader::DockerLogs => with_docker(bench, events, &words, true).await?,
        Reader::Nobody => with_docker(bench, events, &words, false).await?,
    };
    Ok(Run { wall, reader, engine: (engine()? - engine_before).as_secs_f64() })
}

async fn with_agent(bench: &Bench, events: &mut Events, words: &str) -> io::Result<(f64, f64)> {
    let command = bench.engine.run("--rm", words);
    let order = Order { command: &command, attributes: &[SECRET], cloud: with_secret };
    let before = children()?;
    let vm = Vm::boot(&bench.agent, order).await?;
    let (wall, _) = tokio::try_join!(wall(events), vm.accepted(PATIENCE))?;
    vm.ended().await?;
    Ok((wall, children()? - before))
}

async fn with_docker(bench: &Bench, events: &mut Events, words: &str, read: bool) -> io::Result<(f64, f64)> {
    let container = bench.engine.docker(&bench.engine.run("--detach", words)).await?;
    let before = children()?;
    let reading = async {
        if read {
            let mut logs = command(&format!("docker logs --follow {container}"));
            logs.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            within("docker logs", PATIENCE, logs.spawn()?.wait()).await??;
        }
        Ok(())
    };
    let (wall, ()) = tokio::try_join!(wall(events), reading)?;
    let reader = children()? - before;
    bench.engine.docker(&format!("docker rm {container}")).await?;
    Ok((wall, reader))
}

/// From the next start to the next exit.
async fn wall(events: &mut Events) -> io::Result<f64> {
    let started = events.next("start", PATIENCE).await?;
    Ok(events.next("die", PATIENCE).await?.at - started.at)
}

/// Processor time of all children that ended.
fn children() -> io::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

fn tell(bench: &Bench, rounds: &Rounds, results: &mut Results) {
    let of = |runs: &[Run], pick: fn(&Run) -> f64| runs.iter().map(pick).collect::<Vec<_>>();
    let size = size_for_people(bench.scale.log_bytes);
    let count = rounds.agent.len();
    let mut add = |what: &str, pick: fn(&Run) -> f64, other: &[Run], target| {
        let (this, that) = (of(&rounds.agent, pick), of(other, pick));
        let detail = format!("{:.2} s by {:.2} s, medians of {count}", median(&this), median(&that));
        results.add_median(what, ratios(&this, &that), Unit::Ratio, target, detail);
    };
    let cpu = format!(
        "CPU to follow {size} of lines, with counts, tail and a secret looked for, by `docker logs -f`"
    );
    add(&cpu, |run| run.reader, &rounds.docker_logs, 0.1);
    add("… the Engine's own CPU meanwhile", |run| run.engine, &rounds.docker_logs, 0.5);
    let wall = format!("the job's own time while it prints {size}, by the same without a reader");
    add(&wall, |run| run.wall, &rounds.nobody, 1.05);
}
