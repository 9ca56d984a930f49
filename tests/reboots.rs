//! Promises 1 and 2 over a reboot of the VM: the agent and the job are gone at once, and the next boot's agent
//! tells what became of the job, or runs it again if it may.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use machinery::{
    Agent, GIVEN, Given, Runtime, docker,
    engine_proxy::{EngineProxy, Fault},
    host::{Boot, Shared},
    kill_shim, on_both, start,
};
use serde_json::{Value, json};
use tokio::join;

/// A state folder that cannot be made: there is no journal.
const NO_JOURNAL: (&str, &str) = ("LONGRUN_STATE_DIR", "/proc/nowhere");

const RERUN: (&str, &str) = ("longrun-on-reboot", "rerun");

on_both! {
    a_reboot_under_the_job_is_told_with_what_is_known_of_it,
    a_job_that_may_be_run_again_is_and_the_lost_attempt_is_listed,
    a_reboot_does_not_use_up_an_attempt,
    a_reboot_before_the_job_started_costs_nothing,
    a_report_that_was_not_accepted_before_the_reboot_is_told_after_it,
    after_a_report_was_accepted_a_reboot_runs_and_tells_nothing,
    a_stop_that_was_under_way_goes_before_the_reboot,
}

async fn a_reboot_under_the_job_is_told_with_what_is_known_of_it(runtime: Runtime) {
    let row = async |environment| {
        let vm = Vm::new(runtime);
        let given = Given { environment, ..GIVEN };
        let (agent, container) = vm.running("print early file /vm/up yes wait", given).await;
        let report = vm.reboots(agent, &container).await.ended().await.report();
        let (code, signal, how) = match runtime {
            Runtime::Docker => (json!(137), json!("SIGKILL"), "it was ended by SIGKILL (exit code 137)"),
            Runtime::Host => (Value::Null, Value::Null, "how it ended is not known"),
        };
        assert_eq!((&report["outcome"], attempts(&report)), (&json!("Failed"), json!([["Rebooted", &code]])));
        assert_eq!((&report["reason"], &report["exitCode"]), (&json!("Rebooted"), &code), "{report:#}");
        assert_eq!((&report["signal"], &report["logs"]["tail"]), (&signal, &json!("early\n")));
        assert_eq!(report["logs"]["unavailable"], Value::Null, "{report:#}");
        assert_eq!(report["message"], format!("the VM was started anew while the job ran; {how}"));
        let times = ["startedAt", "finishedAt"].map(|time| report[time].as_str());
        assert!(code.is_null() && times[1].is_none() || times[0] < times[1], "{report:#}");
        assert_eq!(report["image"]["reference"].is_string(), runtime == Runtime::Docker, "{report:#}");
    };
    // Where there is no journal, the container's labels tell in which boot it was created.
    match runtime {
        Runtime::Docker => drop(join!(row(&[]), row(&[NO_JOURNAL]))),
        Runtime::Host => row(&[]).await,
    }
}

async fn a_job_that_may_be_run_again_is_and_the_lost_attempt_is_listed(runtime: Runtime) {
    let row = async |environment| {
        let vm = Vm::new(runtime);
        let given = Given { environment, attributes: &[RERUN], ..GIVEN };
        let words = "print early file /vm/up yes await /vm/go print late exit 0";
        let (agent, container) = vm.running(words, given).await;
        let agent = vm.reboots(agent, &container).await;
        vm.shared.let_pass("go");
        let report = agent.ended().await.report();
        assert_eq!(
            (&report["reason"], attempts(&report)),
            (&json!("Completed"), json!([["Rebooted", killed(runtime)], ["Completed", 0]]))
        );
        assert_eq!(report["logs"]["tail"], "early\nlate\n", "the log of both attempts");
        let [first, second] = [0, 1].map(|at| &report["attempts"][at]);
        assert!(first["finishedAt"].as_str() < second["startedAt"].as_str(), "{report:#}");
        assert!(first["startedAt"].as_str() < second["startedAt"].as_str(), "{report:#}");
        assert_eq!(
            (&report["startedAt"], &report["finishedAt"]),
            (&first["startedAt"], &second["finishedAt"])
        );
    };
    match runtime {
        Runtime::Docker => drop(join!(row(&[]), row(&[NO_JOURNAL]))),
        Runtime::Host => row(&[]).await,
    }
}

async fn a_reboot_does_not_use_up_an_attempt(runtime: Runtime) {
    let vm = Vm::new(runtime);
    let given = Given { attributes: &[RERUN, ("longrun-max-attempts", "2")], ..GIVEN };
    let (agent, container) = vm.running("file /vm/up yes await /vm/go once /vm/failed 3 exit 4", given).await;
    let agent = vm.reboots(agent, &container).await;
    vm.shared.let_pass("go");
    let report = agent.ended().await.report();
    assert_eq!(attempts(&report), json!([["Rebooted", killed(runtime)], ["Error", 3], ["Error", 4]]));
}

async fn a_reboot_before_the_job_started_costs_nothing(runtime: Runtime) {
    let row = async |point| {
        let vm = Vm::new(runtime);
        let given = Given { environment: &[("LONGRUN_FAIL_AT", point)], ..GIVEN };
        let mut agent = vm.start("once /vm/ran 3 exit 4", given).await;
        agent.is_gone().await;
        let report = agent.killed_and_started_after(|| vm.boot.again()).await.ended().await.report();
        assert_eq!(attempts(&report), json!([["Error", 3]]), "{point}");
    };
    join!(
        row("engine: creating the container, answered#1"),
        row("engine: attaching to the container, answered#1"),
        row("engine: starting the container#1"),
    );
}

#[tokio::test]
async fn a_reboot_under_the_pull_costs_nothing() {
    let pulled = Fault::Say("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{\"status\":\"pulled\"}\n");
    let proxy = EngineProxy::start(&[("/images/create", Fault::Hang), ("/images/create", pulled)]);
    let (vm, host) = (Vm::new(Runtime::Docker), proxy.docker_host());
    let given = Given { environment: &[("DOCKER_HOST", &host)], ..GIVEN };
    let command = vm.shared.command("once /vm/ran 3 exit 4").replace("IMAGE", "--pull always IMAGE");
    let agent = start(Given { command: &command, under: &vm.boot.under(), ..given }).await;
    proxy.requested("/images/create").await;
    let report = agent.killed_and_started_after(|| vm.boot.again()).await.ended().await.report();
    assert_eq!(attempts(&report), json!([["Error", 3]]));
    assert_eq!(proxy.count("/images/create"), 2);
}

async fn a_report_that_was_not_accepted_before_the_reboot_is_told_after_it(runtime: Runtime) {
    let vm = Vm::new(runtime);
    let given = Given { cloud: |cloud| cloud.callback_answers([503]), ..GIVEN };
    let mut agent =
        vm.start("write hello once /vm/ran 3 exit 4", Given { attributes: &[RERUN], ..given }).await;
    agent.says("the report was not accepted yet").await;
    let ended = agent.killed_and_started_after(|| vm.boot.again()).await.ended().await;
    assert_eq!((attempts(&ended.report()), ended.calls().len()), (json!([["Error", 3]]), 2));
    assert_eq!(ended.calls()[0].report(), ended.calls()[1].report());
}

async fn after_a_report_was_accepted_a_reboot_runs_and_tells_nothing(runtime: Runtime) {
    let vm = Vm::new(runtime);
    let mut agent = vm.start("once /vm/ran 3 exit 4", Given { attributes: &[RERUN], ..GIVEN }).await;
    agent.is_gone().await;
    let ended = agent.killed_and_started_after(|| vm.boot.again()).await.ended().await;
    assert_eq!((ended.status.code(), ended.calls().len()), (Some(0), 1));
    assert_eq!(attempts(&ended.report()), json!([["Error", 3]]));
    assert!(!ended.logged("the job runs"), "{:#?}", ended.log);
}

async fn a_stop_that_was_under_way_goes_before_the_reboot(runtime: Runtime) {
    let vm = Vm::new(runtime);
    let attributes = [RERUN, ("longrun-stop-grace", "1h"), ("longrun-max-attempts", "9")];
    let given = Given { attributes: &attributes, ..GIVEN };
    let (mut agent, container) = vm.running("ignore-term file /vm/up yes wait", given).await;
    agent.signal("TERM");
    agent.says("stopping the job").await;
    let report = vm.reboots(agent, &container).await.ended().await.report();
    assert_eq!(
        (&report["reason"], attempts(&report)),
        (&json!("Stopped"), json!([["Stopped", killed(runtime)]]))
    );
    let message = "the agent was told to stop, and the VM was started anew before that was told";
    assert!(report["message"].as_str().unwrap().starts_with(message), "{report:#}");
}

#[tokio::test]
async fn what_is_lost_with_both_journal_and_container_is_said_beforehand() {
    let vm = Vm::new(Runtime::Docker);
    let given = Given { environment: &[NO_JOURNAL], ..GIVEN };
    let command = vm.shared.command("file /vm/up yes await /vm/go");
    let mut agent = start(Given { command: &command, under: &vm.boot.under(), ..given }).await;
    let warning = agent.says("the journal cannot be written").await;
    let warning = warning["message"].as_str().unwrap();
    assert!(warning.contains("a job whose container is gone would be run again"), "{warning}");
    let container = agent.says("the job runs").await["container"].as_str().unwrap().to_owned();
    let agent = agent.killed_and_started_after(|| {
        docker(&["rm", "--force", &container]);
        vm.boot.again();
    });
    let agent = agent.await;
    vm.shared.let_pass("go");
    assert_eq!(attempts(&agent.ended().await.report()), json!([["Completed", 0]]));
}

/// What is known of the code of a job that was killed: of a command its shim goes too.
fn killed(runtime: Runtime) -> Option<u8> {
    (runtime == Runtime::Docker).then_some(137)
}

/// A VM that can be started anew, and a folder that its jobs see as `/vm`.
struct Vm {
    boot: Boot,
    shared: Shared,
    runtime: Runtime,
}

impl Vm {
    fn new(runtime: Runtime) -> Self {
        Self { boot: Boot::first(), shared: Shared::folder(), runtime }
    }

    /// An agent whose job has these words.
    async fn start(&self, words: &str, given: Given<'_>) -> Agent {
        let runtime = self.runtime;
        start(Given { command: &self.shared.command(words), under: &self.boot.under(), runtime, ..given })
            .await
    }

    /// The same once the job wrote `/vm/up`, and the job's container.
    async fn running(&self, words: &str, given: Given<'_>) -> (Agent, String) {
        let mut agent = self.start(words, given).await;
        let container = agent.says("the job runs").await["container"].as_str().unwrap().to_owned();
        self.shared.passed("up").await;
        (agent, container)
    }

    /// The next boot's agent.
    async fn reboots(&self, agent: Agent, container: &str) -> Agent {
        let shim = (self.runtime == Runtime::Host).then(|| agent.shim());
        let off = || {
            match &shim {
                Some(shim) => kill_shim(shim),
                None => drop(docker(&["kill", container])),
            }
            self.boot.again();
        };
        agent.killed_and_started_after(off).await
    }
}

/// Each attempt's reason and exit code.
fn attempts(report: &Value) -> Value {
    let attempts = report["attempts"].as_array().unwrap().iter();
    attempts.map(|attempt| json!([attempt["reason"], attempt["exitCode"]])).collect()
}
