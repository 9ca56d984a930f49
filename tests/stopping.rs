//! Stopping: the agent passes a stop on to its job, and tells who stopped it, in the time that there is.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use std::time::{Duration, Instant};

use machinery::{
    GIVEN, Given, Runtime,
    engine_proxy::{EngineProxy, Fault},
    host::Shared,
    on_both, start, start_in,
};
use sandbox::Sandbox;
use serde_json::{Value, json};

/// Of the 30 seconds from Compute Engine's notice to the power-off, those that can be counted on.
const FROM_NOTICE_TO_REPORT: Duration = Duration::from_secs(25);

/// Docker kills an agent's container ten seconds after its SIGTERM.
const FROM_SIGTERM_TO_REPORT: Duration = Duration::from_secs(9);

const PREEMPTED: (&str, &str) = ("instance/preempted", "TRUE");
const STOPPING: (&str, &str) = ("instance/shutdown-details/stop-state", "PENDING_STOP");
const AN_HOUR_OF_GRACE: (&str, &str) = ("longrun-stop-grace", "1h");

on_both! {
    a_stop_of_the_agent_stops_the_job_and_is_told,
    a_second_stop_hastens_the_first,
    a_preempted_job_that_ignores_everything_is_told_in_time,
    a_job_that_obeys_is_told_with_whoever_gave_the_notice,
    the_signal_that_comes_with_a_preemption_neither_hides_nor_hastens_it,
    a_vm_that_is_preempted_already_does_not_start_its_job,
    a_job_that_is_stopped_by_a_notice_while_its_report_waits_is_told_as_it_ended,
}

async fn a_stop_of_the_agent_stops_the_job_and_is_told(runtime: Runtime) {
    for signal in ["TERM", "INT"] {
        let report = stopped(runtime, "docker run IMAGE wait", &[], signal, 1).await;
        told(
            &report,
            143,
            "SIGTERM",
            "the agent was told to stop; it stopped the job, which was ended by SIGTERM",
        );
    }
}

#[tokio::test]
async fn a_job_that_ignores_the_stop_is_killed_after_the_commands_own_grace() {
    let report =
        stopped(Runtime::Docker, "docker run --stop-timeout 1 IMAGE ignore-term wait", &[], "TERM", 1).await;
    told(&report, 137, "SIGKILL", "the agent was told to stop");
}

async fn a_second_stop_hastens_the_first(runtime: Runtime) {
    let attributes = [AN_HOUR_OF_GRACE];
    let report = stopped(runtime, "docker run IMAGE ignore-term wait", &attributes, "TERM", 2).await;
    told(&report, 137, "SIGKILL", "the agent was told to stop");
}

#[tokio::test]
async fn an_agent_that_is_stopped_before_it_knows_its_job_ends_with_75() {
    let cloud = |cloud: sandbox::Builder| cloud.metadata_answers([503; 99]);
    let mut agent = start(Given { cloud, ..GIVEN }).await;
    agent.says("waiting for the metadata server").await;
    agent.signal("TERM");
    assert_eq!(agent.ended().await.status.code(), Some(75));
}

async fn a_preempted_job_that_ignores_everything_is_told_in_time(runtime: Runtime) {
    let given = Given { command: "docker run IMAGE ignore-term lines 99999 99 wait", runtime, ..GIVEN };
    let cloud = |cloud: sandbox::Builder| cloud.callback_answers([503]);
    let mut agent = start(Given { attributes: &[AN_HOUR_OF_GRACE], cloud, ..given }).await;
    agent.says("the job runs").await;
    let notice = Instant::now();
    agent.sandbox.set_metadata(PREEMPTED.0, PREEMPTED.1);
    let report = agent.sandbox.next_report().await;
    assert!(notice.elapsed() < FROM_NOTICE_TO_REPORT, "{:?}", notice.elapsed());
    let message =
        "the agent was told that the VM is preempted; it stopped the job, which was ended by SIGKILL";
    told_as("Preempted", &report, json!(137), message);
    agent.ended().await.report();
}

async fn a_job_that_obeys_is_told_with_whoever_gave_the_notice(runtime: Runtime) {
    let (preempted, stopping) = ("the VM is preempted", "Compute Engine stops the VM");
    for (notice, before, reason, why) in
        [(PREEMPTED, "FALSE", "Preempted", preempted), (STOPPING, "UNSPECIFIED", "Stopped", stopping)]
    {
        let sandbox = Sandbox::builder().start().await.unwrap();
        sandbox.set_metadata(notice.0, before);
        let given = Given { command: "docker run IMAGE exit-on-term 7 wait", runtime, ..GIVEN };
        let mut agent = start_in(sandbox, given);
        agent.says("the job runs").await;
        agent.sandbox.set_metadata(notice.0, notice.1);
        let message = format!("the agent was told that {why}; it stopped the job, which exited with code 7");
        told_as(reason, &agent.ended().await.report(), json!(7), &message);
    }
}

async fn the_signal_that_comes_with_a_preemption_neither_hides_nor_hastens_it(runtime: Runtime) {
    for signal_first in [false, true] {
        let shared = Shared::folder();
        let command = shared.command("ignore-term file /vm/up yes await /vm/go exit 7");
        let (attributes, environment) = ([AN_HOUR_OF_GRACE], [("LONGRUN_LOG", "longrun_agent=debug")]);
        let given = Given { attributes: &attributes, environment: &environment, runtime, ..GIVEN };
        let mut agent = start(Given { command: &command, ..given }).await;
        shared.passed("up").await;
        for is_signal in [signal_first, !signal_first] {
            match is_signal {
                true => agent.signal("TERM"),
                false => agent.sandbox.set_metadata(PREEMPTED.0, PREEMPTED.1),
            }
            agent.says("supervising").await;
        }
        shared.let_pass("go");
        told_as("Preempted", &agent.ended().await.report(), json!(7), "the VM is preempted");
    }
}

async fn a_vm_that_is_preempted_already_does_not_start_its_job(runtime: Runtime) {
    let sandbox = Sandbox::builder().start().await.unwrap();
    sandbox.set_metadata(PREEMPTED.0, PREEMPTED.1);
    let ended = start_in(sandbox, Given { command: "docker run IMAGE wait", runtime, ..GIVEN }).ended().await;
    told_as_not_run("Preempted", &ended.report());
    assert!(!ended.logged("the job runs"), "{:#?}", ended.log);
}

#[tokio::test]
async fn a_stop_before_the_start_is_told_and_nothing_runs() {
    for (step, flags) in
        [("/images/create", "--pull always"), ("/containers/create", ""), ("/attach", ""), ("/wait", "")]
    {
        let proxy = EngineProxy::start(&[(step, Fault::Hang)]);
        let (command, host) = (format!("docker run {flags} IMAGE wait"), proxy.docker_host());
        // Neither the step nor the agent's patience with the Engine is over so soon.
        let environment = [("DOCKER_HOST", &*host), ("LONGRUN_ENGINE_WAIT", "5m")];
        let agent = start(Given { command: &command, environment: &environment, ..GIVEN }).await;
        proxy.requested(step).await;
        agent.signal("TERM");
        told_as_not_run("Stopped", &agent.ended().await.report());
        assert_eq!(proxy.count("/start"), 0, "{step}");
    }
}

#[tokio::test]
async fn an_engine_that_hangs_at_the_start_or_at_a_take_over_does_not_hold_up_the_end() {
    // The first agent, or the one after it, and where the Engine hangs.
    for (takes_over, step) in [(false, "/start"), (true, "/json"), (true, "not-running"), (true, "/logs")] {
        // Inspects are asked for before the start too, and those are of images.
        let parts = if step == "/json" { "/containers/ /json" } else { step };
        let proxy = EngineProxy::start(&[(parts, Fault::Hang); 99]);
        let host = proxy.docker_host();
        let environment = [("DOCKER_HOST", &*host), ("LONGRUN_ENGINE_WAIT", "5m")];
        let given = Given { command: "docker run IMAGE wait", environment: &environment, ..GIVEN };
        let mut agent = start(given).await;
        if takes_over {
            agent.says("the job runs").await;
            agent = agent.killed_and_started_again().await;
        }
        proxy.requested(parts).await;
        let told = Instant::now();
        agent.signal("TERM");
        let report = agent.sandbox.next_report().await;
        assert!(told.elapsed() < FROM_SIGTERM_TO_REPORT, "{step}: {:?}", told.elapsed());
        assert_eq!(report["reason"], "Stopped", "{step}: {report:#}");
        agent.signal("KILL");
        agent.removed().await;
    }
}

#[tokio::test]
async fn an_engine_that_was_slow_once_is_not_given_up_while_the_job_has_its_grace() {
    let (shared, proxy) = (Shared::folder(), EngineProxy::start(&[("/kill", Fault::Hang)]));
    let (command, host) =
        (shared.command("ignore-term file /vm/up x pause 9000 exit 5"), proxy.docker_host());
    let (attributes, environment) = ([AN_HOUR_OF_GRACE], [("DOCKER_HOST", &*host)]);
    let given = Given { attributes: &attributes, environment: &environment, ..GIVEN };
    let agent = start(Given { command: &command, ..given }).await;
    shared.passed("up").await;
    agent.signal("TERM");
    let report = agent.ended().await.report();
    assert_eq!((&report["reason"], &report["exitCode"]), (&"Stopped".into(), &5.into()), "{report:#}");
}

#[tokio::test]
async fn an_engine_that_hangs_at_the_removal_does_not_hold_up_the_agents_end() {
    let proxy = EngineProxy::start(&[("DELETE", Fault::Hang); 99]);
    let host = proxy.docker_host();
    let mut agent = start(Given { environment: &[("DOCKER_HOST", &*host)], ..GIVEN }).await;
    proxy.requested("DELETE").await;
    agent.signal("TERM");
    agent.says("the container was not removed").await;
    agent.says("the report was accepted").await;
    agent.removed().await;
}

async fn a_job_that_is_stopped_by_a_notice_while_its_report_waits_is_told_as_it_ended(runtime: Runtime) {
    let cloud = |cloud: sandbox::Builder| cloud.callback_answers([503]);
    let mut agent = start(Given { cloud, runtime, ..GIVEN }).await;
    agent.says("the report was not accepted yet").await;
    agent.sandbox.set_metadata(PREEMPTED.0, PREEMPTED.1);
    let ended = agent.ended().await;
    assert_eq!((ended.status.code(), &ended.report()["reason"]), (Some(0), &json!("Completed")));
}

/// The report of a job whose agent got so many stops while it ran.
async fn stopped(
    runtime: Runtime,
    command: &str,
    attributes: &[(&str, &str)],
    signal: &str,
    times: usize,
) -> Value {
    let mut agent = start(Given { command, attributes, runtime, ..GIVEN }).await;
    agent.says("the job runs").await;
    agent.signal(signal);
    for _ in 1..times {
        agent.says("stopping the job").await;
        agent.signal(signal);
    }
    agent.ended().await.report()
}

#[track_caller]
fn told_as(reason: &str, report: &Value, code: Value, message: &str) {
    assert_eq!((&report["reason"], &report["exitCode"]), (&json!(reason), &code), "{report:#}");
    assert!(report["message"].as_str().unwrap().contains(message), "{report:#}");
    assert_eq!(report["attempts"].as_array().map(Vec::len), Some(1), "{report:#}");
}

#[track_caller]
fn told_as_not_run(reason: &str, report: &Value) {
    assert_eq!((&report["reason"], &report["attempts"]), (&json!(reason), &json!([])), "{report:#}");
    assert!(report["message"].as_str().unwrap().ends_with("before the job was running"), "{report:#}");
}

#[track_caller]
fn told(report: &Value, code: u8, signal: &str, message: &str) {
    assert_eq!(report["reason"], "Stopped", "{report:#}");
    assert_eq!((&report["exitCode"], &report["signal"]), (&json!(code), &json!(signal)), "{report:#}");
    assert!(report["message"].as_str().unwrap().contains(message), "{report:#}");
}
