//! Stopping: the agent passes a stop on to its job, and tells who stopped it.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use machinery::{GIVEN, Given, start};
use serde_json::{Value, json};

#[tokio::test]
async fn a_stop_of_the_agent_stops_the_job_and_is_told() {
    for signal in ["TERM", "INT"] {
        let report = stopped("docker run IMAGE wait", &[], signal, 1).await;
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
    let report = stopped("docker run --stop-timeout 1 IMAGE ignore-term wait", &[], "TERM", 1).await;
    told(&report, 137, "SIGKILL", "the agent was told to stop");
}

#[tokio::test]
async fn a_second_stop_hastens_the_first() {
    let attributes = [("longrun-stop-grace", "1h")];
    let report = stopped("docker run IMAGE ignore-term wait", &attributes, "TERM", 2).await;
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

/// The report of a job whose agent got so many stops while it ran.
async fn stopped(command: &str, attributes: &[(&str, &str)], signal: &str, times: usize) -> Value {
    let mut agent = start(Given { command, attributes, ..GIVEN }).await;
    agent.says("the job runs").await;
    agent.signal(signal);
    for _ in 1..times {
        agent.says("stopping the job").await;
        agent.signal(signal);
    }
    agent.ended().await.report()
}

#[track_caller]
fn told(report: &Value, code: u8, signal: &str, message: &str) {
    assert_eq!(report["reason"], "Stopped", "{report:#}");
    assert_eq!((&report["exitCode"], &report["signal"]), (&json!(code), &json!(signal)), "{report:#}");
    assert!(report["message"].as_str().unwrap().contains(message), "{report:#}");
}
