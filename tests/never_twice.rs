//! Promise 2, "Never twice": a job starts once, whatever happens to the agent, and other people's containers
//! are left alone.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use machinery::{Agent, Callback, GIVEN, Given, docker, start};
use serde_json::Value;

#[tokio::test]
async fn an_agent_that_is_killed_takes_the_running_job_over() {
    let (agent, container) = running("docker run IMAGE print early pause 1000 print late exit 3").await;
    let mut agent = agent.killed_and_started_again().await;
    let took_over = agent.says("the job was started before; taking it over").await;
    assert_eq!(took_over["container"], container);
    let report = agent.ended().await.report();
    assert_eq!((&report["reason"], &report["exitCode"]), (&"Error".into(), &3.into()), "{report:#}");
    assert_eq!(report["attempts"].as_array().map(Vec::len), Some(1));
    assert_eq!(report["logs"]["tail"], "early\nlate\n", "{report:#}");
    assert_eq!((&report["logs"]["bytes"], &report["logs"]["unavailable"]), (&11.into(), &Value::Null));
}

#[tokio::test]
async fn a_job_that_ended_while_no_agent_ran_is_told_and_not_run_again() {
    let (agent, container) = running("docker run IMAGE pause 200 write hello exit 4").await;
    let agent = agent.killed_and_started_after(|| docker(&["wait", &container])).await;
    let report = agent.ended().await.report();
    assert_eq!(report["exitCode"], 4, "{report:#}");
    assert_eq!(report["logs"]["tail"], "hello");
    assert_eq!((&report["logs"]["lines"], &report["logs"]["unavailable"]), (&1.into(), &Value::Null));
}

#[tokio::test]
async fn what_the_engine_dropped_of_a_log_before_it_was_taken_over_is_told() {
    let log = "--log-driver local --log-opt max-size=1k --log-opt max-file=2";
    let (agent, _) = running(&format!("docker run {log} IMAGE lines 100 100 pause 500")).await;
    let report = agent.killed_and_started_again().await.ended().await.report();
    let why = "the job was taken over; lines may be missing or repeated";
    assert!(report["logs"]["unavailable"].as_str().unwrap().starts_with(why), "{report:#}");
}

#[tokio::test]
async fn a_job_whose_log_the_engine_does_not_keep_is_listened_to_from_the_take_over_on() {
    for (job, tail) in [("print early pause 2500 print late", "late\n"), ("pause 200 print early", "")] {
        let (agent, container) = running(&format!("docker run --log-driver none IMAGE {job}")).await;
        let ends_first = || if tail.is_empty() { docker(&["wait", &container]) } else { String::new() };
        let report = agent.killed_and_started_after(ends_first).await.ended().await.report();
        assert!(report["logs"]["tail"].as_str().unwrap().ends_with(tail), "{report:#}");
        let why = report["logs"]["unavailable"].as_str().unwrap();
        assert!(why.contains("configured logging driver does not support reading"), "{why}");
    }
}

#[tokio::test]
async fn a_report_that_was_not_accepted_is_told_by_the_next_agent_and_the_job_is_not_run_again() {
    let attributes = [("longrun-callback-auth", "none")];
    let cloud = |cloud: sandbox::Builder| cloud.callback_answers([503, 503]);
    let given = Given { command: "docker run IMAGE exit 4", attributes: &attributes, cloud, ..GIVEN };
    let mut agent = start(Given { callback: Callback::Plain, ..given }).await;
    agent.says("the report was not accepted yet").await;
    agent.signal("TERM");
    agent.says("the container is left where it is").await;
    let ended = agent.killed_and_started_again().await.ended().await;
    assert_eq!(ended.report()["exitCode"], 4);
    let bodies: Vec<_> = ended.calls().iter().map(sandbox::Call::report).collect();
    assert!(bodies.iter().all(|body| *body == bodies[0]), "not the same report: {bodies:#?}");
}

#[tokio::test]
async fn the_time_that_a_job_ran_before_it_was_taken_over_counts() {
    let attributes = [("longrun-timeout", "1s"), ("longrun-stop-grace", "1s")];
    let given = Given { command: "docker run IMAGE ignore-term wait", attributes: &attributes, ..GIVEN };
    let mut agent = start(given).await;
    agent.says("the job runs").await;
    let a_second = || docker(&["run", "--rm", machinery::image(), "pause", "1000"]);
    let mut agent = agent.killed_and_started_after(a_second).await;
    assert_eq!(agent.says("the job runs").await["time_left"], "Some(0ns)");
    assert_eq!(agent.ended().await.report()["reason"], "DeadlineExceeded");
}

#[tokio::test]
async fn a_name_that_is_taken_makes_the_job_invalid_and_the_other_container_stays() {
    let name = format!("longrun-test-foreign-{}", std::process::id());
    let foreign = docker(&["create", "--name", &name, machinery::image(), "exit", "0"]);
    let command = format!("docker run --name {name} IMAGE exit 0");
    let report = machinery::run(Given { command: &command, ..GIVEN }).await.report();
    let left = docker(&["inspect", "--format", "{{.Id}} {{.State.Status}}", &name]);
    docker(&["rm", &name]);
    assert_eq!(left, format!("{foreign} created"));
    assert_eq!(report["reason"], "InvalidJob");
    assert!(report["message"].as_str().unwrap().contains("is already in use by container"), "{report:#}");
}

/// An agent whose job runs, and the job's container.
async fn running(command: &str) -> (Agent, String) {
    let mut agent = start(Given { command, ..GIVEN }).await;
    let line = agent.says("the job runs").await;
    (agent, line["container"].as_str().unwrap().to_owned())
}
