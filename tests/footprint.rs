//! What the agent costs the VM does not grow: its own memory, idle and under a large log, and how often it wakes while
//! nothing happens.
//!
//! Each number is the most that was measured in ten runs on a busy machine, and may grow by a tenth. They are of the
//! debug build that the suites run. What a machine's speed decides is not here, nor the memory in which the kernel maps
//! the program itself, which was 17 MB of this build: how much of it is the kernel's choice.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, DirEntry},
};

use machinery::{Agent, GIVEN, Given, Runtime, on_both, start};
use sandbox::Builder;

/// The memory of the agent and of a shim beside a job that does nothing, in KiB. Runs differed by 2 percent.
const IDLE: u64 = 1924;
const IDLE_SHIM: u64 = 1340;
/// The same when 300 MB of log went through. Runs differed by 2 percent, and by 10.
const UNDER_A_LOG: u64 = 2084;
const SHIM_UNDER_A_LOG: u64 = 2020;
/// How often they begin to wait in a minute. Small numbers differ more: 4 to 15, and 1 to 4.
const WAITS: u64 = 15;
const WAITS_OF_SHIM: u64 = 5;

/// What is at work for a job while it runs.
const FEATURES: &[(&str, &str)] = &[("enable-guest-attributes", "TRUE"), ("longrun-secret-env-KEY", "key")];

on_both! {
    beside_a_job_that_does_nothing_the_agent_is_small_and_hardly_wakes,
    three_million_lines_cost_no_memory,
    a_line_of_300_megabytes_costs_no_memory,
}

/// Waits for a minute in which nothing happens: from one long poll of the metadata server to the next, so that
/// all comes round once that comes once a minute. Nothing can end it sooner, since what is to be seen is how little
/// there is.
async fn beside_a_job_that_does_nothing_the_agent_is_small_and_hardly_wakes(runtime: Runtime) {
    let command = "docker run IMAGE print started wait";
    let mut agent = start(Given { command, ..given(runtime) }).await;
    agent.says("the job runs").await;
    let processes = Processes::of(&agent, runtime);
    agent.sandbox.requested(2, "instance/preempted").await;
    let before = processes.waits();
    agent.sandbox.requested(3, "instance/preempted").await;
    processes.check_waits(&before);
    processes.check_memory(IDLE, IDLE_SHIM);
    agent.signal("TERM");
    agent.ended().await;
}

async fn three_million_lines_cost_no_memory(runtime: Runtime) {
    costs_no_memory(runtime, "lines 3000000 99", 3_000_000).await;
}

async fn a_line_of_300_megabytes_costs_no_memory(runtime: Runtime) {
    costs_no_memory(runtime, "bytes 299999999", 1).await;
}

/// The peaks are read while the agent waits to deliver once more.
async fn costs_no_memory(runtime: Runtime, words: &str, lines: u64) {
    let command = match runtime {
        Runtime::Docker => format!("docker run --log-driver none IMAGE {words}"),
        Runtime::Host => format!("docker run IMAGE {words}"),
    };
    let cloud = |cloud: Builder| with_secret(cloud).callback_answers([503]);
    let mut agent = start(Given { command: &command, cloud, ..given(runtime) }).await;
    agent.says("the report was not accepted yet").await;
    Processes::of(&agent, runtime).check_memory(UNDER_A_LOG, SHIM_UNDER_A_LOG);
    let logs = agent.ended().await.report()["logs"].clone();
    assert_eq!((&logs["lines"], &logs["bytes"]), (&lines.into(), &300_000_000.into()));
}

fn given(runtime: Runtime) -> Given<'static> {
    Given { runtime, attributes: FEATURES, cloud: with_secret, ..GIVEN }
}

fn with_secret(cloud: Builder) -> Builder {
    cloud.secret("key", "correct horse battery staple")
}

/// Those of the agent's program, by their ids.
struct Processes {
    agent: u32,
    shim: Option<u32>,
}

impl Processes {
    fn of(agent: &Agent, runtime: Runtime) -> Self {
        let shim = || fs::read_to_string(agent.shim().join("lock")).unwrap().trim().parse().unwrap();
        Self { agent: agent.id(), shim: (runtime == Runtime::Host).then(shim) }
    }

    #[track_caller]
    fn check_memory(&self, agent: u64, shim: u64) {
        check("KiB of the agent", memory(self.agent), agent);
        if let Some(process) = self.shim {
            check("KiB of the shim", memory(process), shim);
        }
    }

    /// How often each of their threads has begun to wait.
    fn waits(&self) -> [BTreeMap<OsString, u64>; 2] {
        [waits(self.agent), self.shim.map(waits).unwrap_or_default()]
    }

    #[track_caller]
    fn check_waits(&self, before: &[BTreeMap<OsString, u64>; 2]) {
        // A thread that ended did so because it had nothing to do.
        let since = |[now, before]: [&BTreeMap<OsString, u64>; 2]| -> u64 {
            now.iter().map(|(thread, waits)| waits - before.get(thread).unwrap_or(&0)).sum()
        };
        let now = self.waits();
        check("waits of the agent", since([&now[0], &before[0]]), WAITS);
        check("waits of the shim", since([&now[1], &before[1]]), WAITS_OF_SHIM);
    }
}

#[track_caller]
fn check(what: &str, found: u64, measured: u64) {
    assert!(10 * found <= 11 * measured, "{found} {what}, where there were {measured}");
}

/// A process's largest memory so far, in KiB, without its program's.
fn memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    field(&status, "VmHWM") - field(&status, "RssFile")
}

/// How often each of a process's threads gave up the processor of its own accord. How often it was taken from them
/// tells of other processes.
fn waits(process: u32) -> BTreeMap<OsString, u64> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap().map(Result::unwrap);
    // One may end meanwhile.
    let status =
        |thread: DirEntry| Some((thread.file_name(), fs::read_to_string(thread.path().join("status")).ok()?));
    threads.filter_map(status).map(|(id, status)| (id, field(&status, "voluntary_ctxt_switches"))).collect()
}

fn field(status: &str, name: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    value.trim().trim_end_matches(" kB").parse().unwrap()
}
