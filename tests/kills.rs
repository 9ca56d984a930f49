//! Promises 1 and 2 under kill -9: the agent is killed at every step that it takes, and another one is started in
//! its place. An attempt is started once, one ending is told, and nothing is left behind.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    io::Write,
    path::Path,
    sync::Arc,
    time::Duration,
};

use machinery::{Agent, Ended, GIVEN, Given, Runtime, on_both, start};
use sandbox::{Builder, Call};
use tempfile::TempDir;
use tokio::{sync::Semaphore, task::JoinSet};

/// Agents at once: they wait for the Engine most of the time.
const AT_ONCE: usize = 4;

/// A run that goes through many steps.
struct Course {
    name: &'static str,
    /// Words of the job, after the one that counts its starts.
    job: &'static str,
    attributes: &'static [(&'static str, &'static str)],
    cloud: fn(Builder) -> Builder,
    reason: &'static str,
    exit_code: u8,
    attempts: usize,
}

static COURSES: [Course; 4] = [
    Course {
        name: "a job that completes, with a callback that fails at first",
        job: "print hello exit 0",
        attributes: &[],
        cloud: |cloud| cloud.callback_answers([503]),
        reason: "Completed",
        exit_code: 0,
        attempts: 1,
    },
    Course {
        name: "a job that fails twice",
        job: "print hello exit 3",
        attributes: &[("longrun-max-attempts", "2")],
        cloud: |cloud| cloud,
        reason: "Error",
        exit_code: 3,
        attempts: 2,
    },
    Course {
        name: "a job that is stopped and then killed at its deadline",
        job: "print hello ignore-term wait",
        attributes: &[("longrun-timeout", "500ms"), ("longrun-stop-grace", "500ms")],
        cloud: |cloud| cloud,
        reason: "DeadlineExceeded",
        exit_code: 137,
        attempts: 1,
    },
    Course {
        name: "a job that cannot run",
        job: "",
        attributes: &[("longrun-timeout", "soon")],
        cloud: |cloud| cloud,
        reason: "InvalidJob",
        exit_code: 0,
        attempts: 0,
    },
];

on_both! {
    an_agent_that_is_killed_at_any_step_does_nothing_twice_and_tells_one_ending,
    agents_that_are_killed_at_random_do_nothing_twice_and_tell_one_ending,
}

async fn an_agent_that_is_killed_at_any_step_does_nothing_twice_and_tells_one_ending(runtime: Runtime) {
    let mut covered = 0;
    for course in &COURSES {
        let points = points_of(course, runtime).await;
        assert!(points.len() >= 8, "{}: {points:?}", course.name);
        covered += in_parallel(points.into_iter().map(|point| kill_at(course, runtime, point))).await;
    }
    let courses = COURSES.len();
    let told = format!("{runtime:?}: agents were killed at {covered} points of {courses} courses\n");
    // Not captured, as what is printed would be.
    std::io::stderr().write_all(told.as_bytes()).unwrap();
}

async fn agents_that_are_killed_at_random_do_nothing_twice_and_tell_one_ending(runtime: Runtime) {
    let seed = std::env::var("LONGRUN_KILL_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(()));
    in_parallel((0..20).map(|round| kill_at_random(seed, round, runtime))).await;
}

/// Does all of it, and answers how many there were.
async fn in_parallel(tasks: impl Iterator<Item: Future<Output = ()> + Send + 'static>) -> usize {
    let (places, mut running) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    for task in tasks {
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        running.spawn(async move {
            task.await;
            drop(place);
        });
    }
    running.join_all().await.len()
}

/// The points that a run passes, in order, each with its number.
async fn points_of(course: &Course, runtime: Runtime) -> Vec<String> {
    let vm = Vm::new(course, runtime);
    let log = vm.folder.path().join("points");
    let agent = vm.start(course, &[("LONGRUN_FAIL_LOG", log.to_str().unwrap())]).await;
    vm.check(course, &agent.ended().await, 1);
    fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect()
}

async fn kill_at(course: &'static Course, runtime: Runtime, point: String) {
    let vm = Vm::new(course, runtime);
    let agent = vm.start(course, &[("LONGRUN_FAIL_AT", &point)]).await;
    let agent = agent.killed_at_its_fail_point().await;
    // What was accepted and not yet written down is told again, under the same key: nobody else can know.
    let untold = usize::from(!agent.sandbox.reports().is_empty() && !is_told(agent.state_dir()));
    let ended = agent.ended().await;
    assert!(
        vm.is_right(course, &ended, 1 + untold),
        "killed at {point:?} of {}: {:#?}",
        course.name,
        ended.log
    );
}

async fn kill_at_random(seed: u64, round: u64, runtime: Runtime) {
    let course = &COURSES[1];
    let vm = Vm::new(course, runtime);
    let mut agent = vm.start(course, &[]).await;
    let mut random = seed ^ round.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for _ in 0..6 {
        // xorshift64; the wait is what is random, it waits for nothing.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        tokio::time::sleep(Duration::from_millis(random % 700)).await;
        agent = agent.killed_and_started_again().await;
    }
    let ended = agent.ended().await;
    let told = ended.sandbox.reports().len();
    let right = vm.is_right(course, &ended, told);
    assert!(right, "round {round} with LONGRUN_KILL_SEED={seed}: {:#?}", ended.log);
}

/// Whether the journal knows that the report was accepted.
fn is_told(state_dir: &Path) -> bool {
    let journal = fs::read_to_string(state_dir.join("journal.json")).unwrap();
    serde_json::from_str::<serde_json::Value>(&journal).unwrap()["run"]["phase"]["name"] == "told"
}

/// A folder that outlives the agents, in which the job counts its starts.
struct Vm {
    folder: TempDir,
    command: String,
    runtime: Runtime,
}

impl Vm {
    fn new(course: &Course, runtime: Runtime) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let command = format!("docker run --volume {path}:/vm IMAGE append /vm/starts once {}", course.job);
        Self { folder, command, runtime }
    }

    async fn start(&self, course: &Course, environment: &[(&str, &str)]) -> Agent {
        let (attributes, cloud, runtime) = (course.attributes, course.cloud, self.runtime);
        start(Given { command: &self.command, attributes, environment, cloud, runtime, ..GIVEN }).await
    }

    #[track_caller]
    fn check(&self, course: &Course, ended: &Ended, accepted: usize) {
        assert!(self.is_right(course, ended, accepted), "{}: {:#?}", course.name, ended.log);
    }

    /// Whether each attempt was started once, and one ending was told and accepted, so many times.
    fn is_right(&self, course: &Course, ended: &Ended, accepted: usize) -> bool {
        let starts = fs::read_to_string(self.folder.path().join("starts")).unwrap_or_default();
        let reports = ended.sandbox.reports();
        let report = reports.first().cloned().unwrap_or_default();
        let bodies: Vec<_> = ended.calls().iter().map(Call::report).collect();
        let tail = if course.attempts == 0 { "" } else { "hello\n" };
        starts.lines().count() == course.attempts
            && ended.status.code() == Some(0)
            && reports.len() == accepted
            && bodies.iter().all(|body| *body == report)
            && report["reason"] == course.reason
            && report["exitCode"].as_u64().unwrap_or(0) == u64::from(course.exit_code)
            && report["attempts"].as_array().map(Vec::len) == Some(course.attempts)
            && report["logs"]["tail"].as_str().is_some_and(|found| found.starts_with(tail))
    }
}
