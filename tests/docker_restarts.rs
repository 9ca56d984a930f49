//! Promises 1 and 2 while Docker restarts under the job: with live-restore it costs nothing, without it the
//! job was stopped by Docker, and nobody is told that it completed.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use std::{fs, time::Duration};

use machinery::{Agent, GIVEN, Given, private_engine::PrivateEngine, start};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// Longer than Docker's own restart, shorter than the agent's patience.
const AWAY: Duration = Duration::from_secs(10);

/// What is left to a VM that shuts down.
const SECONDS: Duration = Duration::from_secs(8);

/// How the daemon ends.
#[derive(Clone, Copy, Debug)]
enum How {
    Stopped,
    Killed,
}

#[tokio::test]
async fn with_live_restore_a_job_that_ends_after_docker_came_back_is_told_whole() {
    let row = async |how| {
        let mut vm = Vm::start(true).await;
        let agent = vm.job("print early await /vm/one print between await /vm/two print late exit 3").await;
        vm.end(how).await;
        vm.let_pass("one");
        sleep(AWAY).await;
        vm.engine.start_again().await;
        vm.let_pass("two");
        let report = agent.ended().await.report();
        told_as_its_own_end(&report);
        assert_eq!(report["logs"]["tail"], "early\nbetween\nlate\n", "{how:?} {report:#}");
        assert_eq!(report["logs"]["unavailable"], Value::Null, "{how:?} {report:#}");
        assert_eq!(vm.engine.docker(&["ps", "-aq"]), "");
    };
    tokio::join!(row(How::Stopped), row(How::Killed));
}

#[tokio::test]
async fn with_live_restore_a_job_that_ends_while_docker_is_away_is_told_and_so_is_what_docker_lost() {
    let row = async |how| {
        let mut vm = Vm::start(true).await;
        let agent = vm.job("print early await /vm/one print lost exit 3").await;
        vm.end(how).await;
        vm.let_pass("one");
        sleep(AWAY).await;
        vm.engine.start_again().await;
        let report = agent.ended().await.report();
        told_as_its_own_end(&report);
        // Docker keeps nothing of what a job writes that ends before it is back.
        assert_eq!(report["logs"]["tail"], "early\n", "{how:?} {report:#}");
        assert!(report["logs"]["unavailable"].is_string(), "{how:?} {report:#}");
        assert_eq!(vm.engine.docker(&["ps", "-aq"]), "");
    };
    tokio::join!(row(How::Stopped), row(How::Killed));
}

#[tokio::test]
async fn a_job_that_docker_stopped_is_never_told_as_completed() {
    for how in [How::Stopped, How::Killed] {
        let mut vm = Vm::start(false).await;
        let agent = vm.job("exit-on-term 0 print early wait").await;
        vm.end(how).await;
        vm.engine.start_again().await;
        let report = agent.ended().await.report();
        told_as_ended_by_docker(&report, 0);
        assert_eq!(report["attempts"].as_array().map(Vec::len), Some(1), "{how:?} {report:#}");
        assert_eq!(report["logs"]["tail"], "early\n", "{how:?} {report:#}");
    }
}

#[tokio::test]
async fn a_job_that_docker_stopped_is_not_told_as_completed_though_its_socket_goes_on_listening() {
    let mut vm = Vm::with(PrivateEngine::start_on_held_socket().await);
    let agent = vm.job("exit-on-term 0 print early wait").await;
    vm.end(How::Stopped).await;
    vm.engine.start_again().await;
    told_as_ended_by_docker(&agent.ended().await.report(), 0);
}

#[tokio::test]
async fn a_job_that_docker_killed_for_its_slowness_is_told_the_same() {
    let mut vm = Vm::start(false).await;
    let agent = vm.job("ignore-term print early wait").await;
    vm.end(How::Stopped).await;
    vm.engine.start_again().await;
    told_as_ended_by_docker(&agent.ended().await.report(), 137);
}

#[tokio::test]
async fn a_job_that_ended_by_itself_before_a_killed_docker_came_back_is_told_as_its_own_end() {
    let mut vm = Vm::start(false).await;
    let agent = vm.job("print early await /vm/one file /vm/done yes exit 3").await;
    vm.end(How::Killed).await;
    vm.let_pass("one");
    vm.passed("done").await;
    vm.engine.start_again().await;
    told_as_its_own_end(&agent.ended().await.report());
}

#[tokio::test]
async fn a_job_that_docker_stopped_is_tried_again_if_it_may_be() {
    for how in [How::Stopped, How::Killed] {
        let mut vm = Vm::start(false).await;
        vm.attributes = &[("longrun-max-attempts", "2")];
        let agent = vm.job("exit-on-term 0 print early await /vm/one print late exit 0").await;
        vm.end(how).await;
        vm.engine.start_again().await;
        vm.let_pass("one");
        let report = agent.ended().await.report();
        assert_eq!((&report["reason"], &report["exitCode"]), (&json!("Completed"), &json!(0)), "{report:#}");
        let attempts = &report["attempts"];
        assert_eq!(attempts.as_array().map(Vec::len), Some(2), "{how:?} {report:#}");
        assert_eq!(attempts[0]["reason"], "EngineLost", "{how:?} {report:#}");
        assert_eq!(attempts[1]["reason"], "Completed", "{how:?} {report:#}");
        assert_eq!(report["logs"]["tail"], "early\nlate\n", "{how:?} {report:#}");
    }
}

#[tokio::test]
async fn a_docker_that_stays_away_is_told_as_lost_and_the_job_runs_on() {
    let mut vm = Vm::start(true).await;
    vm.engine_wait = "2s";
    let agent = vm.job("print early wait").await;
    vm.end(How::Stopped).await;
    let ended = agent.ended().await;
    let report = ended.report();
    assert_eq!((&report["reason"], &report["exitCode"]), (&json!("EngineLost"), &Value::Null), "{report:#}");
    assert!(ended.logged("the container is left where it is"), "{:#?}", ended.log);
    vm.engine.start_again().await;
    let running = vm.engine.docker(&["inspect", "--format", "{{.State.Running}}", &vm.container]);
    assert_eq!(running, "true");
}

#[tokio::test]
async fn a_vm_that_shuts_down_is_told_within_seconds_as_a_stop() {
    for agent_first in [true, false] {
        let mut vm = Vm::start(false).await;
        // Nobody comes back to a VM that shuts down.
        vm.engine_wait = "5m";
        let agent = vm.job("print early wait").await;
        if agent_first {
            agent.signal("TERM");
            vm.engine.signal("TERM");
        } else {
            vm.engine.signal("TERM");
            agent.signal("TERM");
        }
        let report = timeout(SECONDS, agent.sandbox.next_report()).await.unwrap();
        assert_eq!((&report["reason"], &report["exitCode"]), (&json!("Stopped"), &json!(143)), "{report:#}");
    }
}

/// An Engine to end and start again, and a job on it that waits for the test.
struct Vm {
    engine: PrivateEngine,
    attributes: &'static [(&'static str, &'static str)],
    engine_wait: &'static str,
    /// What the job sees as `/vm`.
    folder: TempDir,
    /// The job's container.
    container: String,
}

impl Vm {
    async fn start(live_restore: bool) -> Self {
        Self::with(PrivateEngine::start(live_restore).await)
    }

    fn with(engine: PrivateEngine) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { engine, attributes: &[], engine_wait: "60s", folder, container: String::new() }
    }

    /// An agent whose job printed `early`.
    async fn job(&mut self, words: &str) -> Agent {
        let (image, folder) = (self.engine.image(), self.folder.path().display());
        let command = format!("docker run --volume {folder}:/vm {image} {words}");
        let host = self.engine.docker_host();
        let environment = [("DOCKER_HOST", &*host), ("LONGRUN_ENGINE_WAIT", self.engine_wait)];
        let given =
            Given { command: &command, attributes: self.attributes, environment: &environment, ..GIVEN };
        let mut agent = start(given).await;
        let line = agent.says("the job runs").await;
        self.container = line["container"].as_str().unwrap().to_owned();
        self.engine.logged(&self.container, "early").await;
        agent
    }

    async fn end(&mut self, how: How) {
        match how {
            How::Stopped => self.engine.stop().await,
            How::Killed => self.engine.kill().await,
        }
    }

    /// Lets the job go on that awaits `/vm/NAME`.
    fn let_pass(&self, name: &str) {
        fs::write(self.folder.path().join(name), "").unwrap();
    }

    /// Waits until the job wrote `/vm/NAME`.
    async fn passed(&self, name: &str) {
        while !self.folder.path().join(name).exists() {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

#[track_caller]
fn told_as_its_own_end(report: &Value) {
    assert_eq!((&report["reason"], &report["exitCode"]), (&json!("Error"), &json!(3)), "{report:#}");
    assert_eq!(report["attempts"].as_array().map(Vec::len), Some(1), "{report:#}");
}

#[track_caller]
fn told_as_ended_by_docker(report: &Value, code: u8) {
    assert_eq!(
        (&report["outcome"], &report["reason"]),
        (&json!("Failed"), &json!("EngineLost")),
        "{report:#}"
    );
    assert_eq!(report["exitCode"], code, "{report:#}");
    let message = report["message"].as_str().unwrap();
    assert!(message.contains("Docker") && message.contains("live-restore"), "{report:#}");
}
