//! Promise 2, "Never twice": a job starts once, whatever happens to the agent, and other people's containers
//! are left alone.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use machinery::{Agent, GIVEN, Given, docker, start};

#[tokio::test]
async fn an_agent_that_is_killed_takes_the_running_job_over() {
    let (agent, container) = running("docker run IMAGE pause 1000 print late exit 3").await;
    let mut agent = agent.killed_and_started_again().await;
    let took_over = agent.says("the job was started before; taking it over").await;
    assert_eq!(took_over["container"], container);
    let report = agent.ended().await.report();
    assert_eq!((&report["reason"], &report["exitCode"]), (&"Error".into(), &3.into()), "{report:#}");
    assert_eq!(report["attempts"].as_array().map(Vec::len), Some(1));
    assert_eq!(report["logs"]["tail"], "late\n");
}

#[tokio::test]
async fn a_job_that_ended_while_no_agent_ran_is_told_and_not_run_again() {
    let (agent, container) = running("docker run IMAGE pause 200 exit 4").await;
    let agent = agent.killed_and_started_after(|| docker(&["wait", &container])).await;
    let report = agent.ended().await.report();
    assert_eq!(report["exitCode"], 4, "{report:#}");
    let missing = "the agent was started again; what the job wrote before is not here";
    assert_eq!(report["logs"]["unavailable"], missing);
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
    let message = report["message"].as_str().unwrap();
    assert!(
        message.contains(&format!("the container name {name} is taken by another container")),
        "{message}"
    );
}

/// An agent whose job runs, and the job's container.
async fn running(command: &str) -> (Agent, String) {
    let mut agent = start(Given { command, ..GIVEN }).await;
    let line = agent.says("the job runs").await;
    (agent, line["container"].as_str().unwrap().to_owned())
}
