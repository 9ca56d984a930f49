//! Promise 2, "Never twice": a job starts once, whatever happens to the agent, and other people's containers
//! are left alone.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use machinery::{Agent, Callback, GIVEN, Given, Runtime, docker, on_both, start};
use serde_json::Value;

on_both! {
    an_agent_that_is_killed_takes_the_running_job_over,
    a_report_that_was_not_accepted_is_told_by_the_next_agent_and_the_job_is_not_run_again,
    the_time_that_a_job_ran_before_it_was_taken_over_counts,
    a_run_that_was_told_is_not_run_or_told_again,
    a_run_that_nobody_waits_for_any_more_is_not_run_again,
    another_callback_on_the_same_vm_is_another_run,
    of_two_agents_with_one_state_folder_the_second_one_does_nothing,
}

async fn an_agent_that_is_killed_takes_the_running_job_over(runtime: Runtime) {
    let (agent, container) =
        running(runtime, "docker run IMAGE print early pause 1000 print late exit 3").await;
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
    let (agent, container) = running(Runtime::Docker, "docker run IMAGE pause 200 write hello exit 4").await;
    let agent = agent.killed_and_started_after(|| docker(&["wait", &container])).await;
    let report = agent.ended().await.report();
    assert_eq!(report["exitCode"], 4, "{report:#}");
    assert_eq!(report["logs"]["tail"], "hello");
    assert_eq!((&report["logs"]["lines"], &report["logs"]["unavailable"]), (&1.into(), &Value::Null));
}

#[tokio::test]
async fn what_the_engine_dropped_of_a_log_before_it_was_taken_over_is_told() {
    let log = "--log-driver local --log-opt max-size=1k --log-opt max-file=2";
    let (agent, _) =
        running(Runtime::Docker, &format!("docker run {log} IMAGE lines 100 100 pause 500")).await;
    let report = agent.killed_and_started_again().await.ended().await.report();
    let why = "the job was taken over; lines may be missing or repeated";
    assert!(report["logs"]["unavailable"].as_str().unwrap().starts_with(why), "{report:#}");
}

#[tokio::test]
async fn a_job_whose_log_the_engine_does_not_keep_is_listened_to_from_the_take_over_on() {
    for (job, tail) in [("print early pause 2500 print late", "late\n"), ("pause 200 print early", "")] {
        let (agent, container) =
            running(Runtime::Docker, &format!("docker run --log-driver none IMAGE {job}")).await;
        let ends_first = || if tail.is_empty() { docker(&["wait", &container]) } else { String::new() };
        let report = agent.killed_and_started_after(ends_first).await.ended().await.report();
        assert!(report["logs"]["tail"].as_str().unwrap().ends_with(tail), "{report:#}");
        let why = report["logs"]["unavailable"].as_str().unwrap();
        assert!(why.contains("configured logging driver does not support reading"), "{why}");
    }
}

async fn a_report_that_was_not_accepted_is_told_by_the_next_agent_and_the_job_is_not_run_again(
    runtime: Runtime,
) {
    let attributes = [("longrun-callback-auth", "none")];
    let cloud = |cloud: sandbox::Builder| cloud.callback_answers([503, 503]);
    let given =
        Given { command: "docker run IMAGE exit 4", attributes: &attributes, cloud, runtime, ..GIVEN };
    let mut agent = start(Given { callback: Callback::Plain, ..given }).await;
    agent.says("the report was not accepted yet").await;
    agent.signal("TERM");
    agent.says("the container is left where it is").await;
    let ended = agent.killed_and_started_again().await.ended().await;
    assert_eq!(ended.report()["exitCode"], 4);
    let bodies: Vec<_> = ended.calls().iter().map(sandbox::Call::report).collect();
    assert!(bodies.iter().all(|body| *body == bodies[0]), "not the same report: {bodies:#?}");
}

async fn the_time_that_a_job_ran_before_it_was_taken_over_counts(runtime: Runtime) {
    let attributes = [("longrun-timeout", "1s"), ("longrun-stop-grace", "1s")];
    let given =
        Given { command: "docker run IMAGE ignore-term wait", attributes: &attributes, runtime, ..GIVEN };
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

async fn a_run_that_was_told_is_not_run_or_told_again(runtime: Runtime) {
    let agent = start(Given { command: "docker run IMAGE exit 4", runtime, ..GIVEN }).await;
    let again = agent.ended_and_started_again().await.ended().await;
    assert_eq!((again.status.code(), again.calls().len()), (Some(0), 1));
    assert!(!again.logged("the job runs"), "{:#?}", again.log);
}

async fn a_run_that_nobody_waits_for_any_more_is_not_run_again(runtime: Runtime) {
    let (agent, _) = running(runtime, "docker run IMAGE pause 300 exit 4").await;
    agent.sandbox.cancel_execution();
    let again = agent.ended_and_started_again().await.ended().await;
    assert_eq!((again.status.code(), again.calls().len()), (Some(76), 1));
}

async fn another_callback_on_the_same_vm_is_another_run(runtime: Runtime) {
    let (agent, _) = running(runtime, "docker run IMAGE exit 0").await;
    agent.sandbox.set_attribute("callback-url", &agent.sandbox.plain_callback_url());
    let ended = agent.ended_and_started_again().await.ended().await;
    assert_eq!(ended.sandbox.reports().len(), 2);
    assert!(ended.logged("the job runs"), "{:#?}", ended.log);
}

async fn of_two_agents_with_one_state_folder_the_second_one_does_nothing(runtime: Runtime) {
    let (agent, _) = running(runtime, "docker run IMAGE wait").await;
    let second = agent.second_agent().await;
    assert_eq!(second.status.code(), Some(73));
    assert!(
        String::from_utf8_lossy(&second.stdout).contains("another longrun-agent works with the state folder")
    );
    agent.signal("TERM");
    assert_eq!(agent.ended().await.report()["reason"], "Stopped");
}

#[tokio::test]
async fn a_journal_that_cannot_be_used_is_set_aside_and_the_job_runs() {
    let foreign = r#"{"version":1,"instanceId":"1","runId":"x","run":{"attempt":1,"ended":[],"phase":{"name":"preparing"}}}"#;
    for (journal, why) in [
        ("{\"version\":1,", "EOF while parsing"),
        ("\0\0\0\0", "expected value"),
        ("[]", "invalid type"),
        (foreign, "it is of another VM, 1: was its disk cloned?"),
        (&foreign.replace("version\":1", "version\":2"), "it is of version 2"),
        (&foreign.replace("\"1\"", &format!("{:?}", sandbox::INSTANCE_ID.to_string())), "it is of the run x"),
    ] {
        let sandbox = sandbox::Sandbox::builder().start().await.unwrap();
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("journal.json"), journal).unwrap();
        let environment = [("LONGRUN_STATE_DIR", state.path().to_str().unwrap())];
        let ended = machinery::start_in(sandbox, Given { environment: &environment, ..GIVEN }).ended().await;
        assert_eq!(ended.report()["reason"], "Completed", "{journal}");
        let warned = ended.log.iter().find(|line| line["message"].as_str().unwrap().contains("set aside"));
        let warned = warned.unwrap_or_else(|| panic!("{journal}: {:#?}", ended.log));
        assert!(warned["why"].as_str().unwrap().contains(why), "{journal}: {warned:#}");
        let aside = std::fs::read_to_string(state.path().join("journal.json.set-aside")).unwrap();
        assert_eq!(aside, *journal);
    }
}

#[tokio::test]
async fn a_pipe_or_a_folder_where_a_file_should_be_does_not_keep_the_job_from_its_end() {
    for file in ["journal.json", "journal.json.new", "journal.reserve", "lock"] {
        for made_by in ["mkfifo", "mkdir"] {
            let sandbox = sandbox::Sandbox::builder().start().await.unwrap();
            let state = tempfile::tempdir().unwrap();
            let made = std::process::Command::new(made_by).arg(state.path().join(file)).status();
            assert!(made.unwrap().success());
            let environment = [("LONGRUN_STATE_DIR", state.path().to_str().unwrap())];
            let ended = machinery::start_in(sandbox, Given { environment: &environment, ..GIVEN });
            assert_eq!(ended.ended().await.report()["reason"], "Completed", "{made_by} {file}");
        }
    }
}

#[tokio::test]
async fn the_journal_is_for_the_agents_eyes_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (agent, _) = running(Runtime::Docker, "docker run IMAGE wait").await;
    for file in std::fs::read_dir(agent.state_dir()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
    agent.signal("TERM");
    agent.ended().await;
}

/// An agent whose job runs, and the job's container.
async fn running(runtime: Runtime, command: &str) -> (Agent, String) {
    let mut agent = start(Given { command, runtime, ..GIVEN }).await;
    let line = agent.says("the job runs").await;
    (agent, line["container"].as_str().unwrap().to_owned())
}
