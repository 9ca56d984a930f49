//! What the agent makes of a VM that is not ready, or that tells it nothing.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use std::net::{SocketAddr, TcpListener};

use machinery::{Callback, GIVEN, Given, docker, run, start_in};
use sandbox::Sandbox;

#[tokio::test]
async fn a_metadata_server_that_answers_late_is_waited_for() {
    for answers in [vec![503, 503], vec![429], vec![500]] {
        let sandbox = Sandbox::builder().metadata_answers(answers).start().await.unwrap();
        let ended = start_in(sandbox, GIVEN).ended().await;
        assert_eq!(ended.report()["reason"], "Completed");
        assert!(ended.logged("waiting for the metadata server"));
    }
}

#[tokio::test]
async fn a_metadata_server_that_refuses_connections_at_first_is_waited_for() {
    let address = unused_address();
    let environment = [("GCE_METADATA_HOST", &*address.to_string())];
    let sandbox = Sandbox::builder().start().await.unwrap();
    let mut agent = start_in(sandbox, Given { environment: &environment, ..GIVEN });
    agent.says("waiting for the metadata server").await;
    agent.sandbox = Sandbox::builder().listen(address).start().await.unwrap();
    agent.sandbox.set_attribute("docker-command", &format!("docker run {} exit 0", machinery::image()));
    agent.sandbox.set_attribute("callback-url", &agent.sandbox.plain_callback_url());
    assert_eq!(agent.ended().await.report()["reason"], "Completed");
}

#[tokio::test]
async fn without_a_metadata_server_the_agent_ends_with_69_after_a_bounded_wait() {
    let environment =
        [("GCE_METADATA_HOST", unused_address().to_string()), ("LONGRUN_METADATA_WAIT", "1s".to_owned())];
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let ended = run(Given { environment: &environment, ..GIVEN }).await;
    assert_eq!(ended.status.code(), Some(69));
    assert!(ended.logged("the metadata server at http://127.0.0.1:"), "{:?}", ended.log);
}

#[tokio::test]
async fn a_metadata_server_that_knows_no_vm_is_final() {
    let ended = run(Given { cloud: |cloud| cloud.metadata_answers([404]), ..GIVEN }).await;
    assert_eq!(ended.status.code(), Some(69));
    assert!(!ended.logged("waiting"));
}

#[tokio::test]
async fn without_a_callback_nothing_runs_and_the_agent_ends_with_64() {
    let named = format!("longrun-test-{}", std::process::id());
    let command = format!("docker run --name {named} IMAGE");
    let ended = run(Given { command: &command, callback: Callback::Missing, ..GIVEN }).await;
    assert_eq!(ended.status.code(), Some(64));
    assert!(ended.logged("the attribute callback-url is missing"));
    assert_eq!(docker(&["ps", "-aq", "--filter", &format!("name={named}")]), "");
}

#[tokio::test]
async fn a_callback_that_is_no_address_ends_the_agent_with_64() {
    let attributes = [("callback-url", "workflowexecutions")];
    let ended = run(Given { attributes: &attributes, callback: Callback::Missing, ..GIVEN }).await;
    assert_eq!(ended.status.code(), Some(64));
    assert!(ended.logged("the attribute callback-url is not an http or https address"));
}

#[tokio::test]
async fn a_setting_that_cannot_be_used_ends_the_agent_with_64() {
    let ended = run(Given { environment: &[("LONGRUN_ENGINE_WAIT", "soon")], ..GIVEN }).await;
    assert_eq!(ended.status.code(), Some(64));
    assert!(ended.stderr.contains("LONGRUN_ENGINE_WAIT=`soon` cannot be used"), "{}", ended.stderr);
}

#[test]
fn an_agent_that_is_given_arguments_says_where_its_orders_come_from() {
    for (word, code, text) in
        [("--version", 0, "longrun-agent 0."), ("--halp", 64, "the agent takes no arguments but --help")]
    {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_longrun-agent")).arg(word).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.code() == Some(code) && said.contains(text), "{word}: {said}");
    }
}

#[test]
fn help_names_every_setting_of_the_readme() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_longrun-agent")).arg("--help").output();
    let output = output.unwrap();
    let (help, readme) = (String::from_utf8(output.stdout).unwrap(), include_str!("../README.md"));
    let section = readme.split("settings and exit codes\n").nth(1).unwrap();
    let rows =
        section.lines().skip_while(|line| !line.starts_with("| `")).take_while(|line| !line.is_empty());
    let settings: Vec<_> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    assert!(output.status.success() && settings.len() > 10, "{settings:?}");
    for setting in settings {
        assert!(help.split_whitespace().any(|word| word == setting), "{setting} is not in:\n{help}");
    }
}

#[tokio::test]
async fn off_compute_engine_a_file_says_what_to_run() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let command = format!("docker run {} exit 4", machinery::image());
    let job = serde_json::json!({ "docker-command": command, "callback-url": sandbox.plain_callback_url() });
    std::fs::write(file.path(), job.to_string()).unwrap();
    let environment = [("LONGRUN_JOB_FILE", file.path().to_str().unwrap())];
    let given = Given { command: "", callback: Callback::Missing, environment: &environment, ..GIVEN };
    let report = start_in(sandbox, given).ended().await.report();
    assert_eq!((report["exitCode"].as_u64(), report["instance"].is_null()), (Some(4), true));
}

#[tokio::test]
async fn a_job_file_that_cannot_be_read_ends_the_agent_with_66() {
    let ended = run(Given { environment: &[("LONGRUN_JOB_FILE", "/nowhere.json")], ..GIVEN }).await;
    assert_eq!(ended.status.code(), Some(66));
    assert!(ended.logged("the job file /nowhere.json cannot be used"));
}

/// An address where nothing listens.
fn unused_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap()
}
