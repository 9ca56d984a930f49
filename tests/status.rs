//! `longrun-agent status` tells people and scripts how the run stands, while an agent works and when none does.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use std::{fs, path::Path, process::Command, time::Duration};

use machinery::{
    GIVEN, Given,
    engine_proxy::{EngineProxy, Fault},
    start,
};
use sandbox::Builder;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

#[tokio::test]
async fn a_running_job_is_told_with_its_container_and_nothing_is_touched() {
    let mut agent = start(Given { command: "docker run IMAGE wait", ..GIVEN }).await;
    let container = agent.says("the job runs").await["container"].clone();
    let before = content(agent.state_dir());
    let (code, text, _) = status(agent.state_dir(), &["status"]);
    assert_eq!((code, phase(&text)), (0, "running"));
    assert!(text.contains(&format!("container  {}\n", container.as_str().unwrap())), "{text}");
    let running = as_json(agent.state_dir());
    let found = json!([running["phase"], running["attempt"], running["container"], running["report"]]);
    assert_eq!(found, json!(["running", 1, container, null]));
    assert_eq!(content(agent.state_dir()), before);
    agent.signal("TERM");
    assert_eq!(agent.ended().await.report()["reason"], "Stopped");
}

#[tokio::test]
async fn a_job_that_is_made_to_end_is_told_with_the_cause() {
    let command = "docker run IMAGE ignore-term wait";
    let attributes = [("longrun-stop-grace", "1h")];
    let mut agent = start(Given { command, attributes: &attributes, ..GIVEN }).await;
    agent.says("the job runs").await;
    agent.signal("TERM");
    agent.says("stopping the job").await;
    let (code, text, _) = status(agent.state_dir(), &["status"]);
    assert_eq!((code, phase(&text)), (0, "stopping"));
    assert_eq!(as_json(agent.state_dir())["stopping"], "stopped");
    agent.signal("TERM");
    agent.ended().await.report();
}

#[tokio::test]
async fn a_second_attempt_that_does_not_run_yet_is_told_with_the_first_one() {
    let engine = EngineProxy::start(&[("DELETE /containers", Fault::Hang)]);
    let environment = [("DOCKER_HOST", &*engine.docker_host())];
    let attributes = [("longrun-max-attempts", "2")];
    let given = Given { command: "docker run IMAGE exit 3", attributes: &attributes, ..GIVEN };
    let mut agent = start(Given { environment: &environment, ..given }).await;
    agent.says("the job is tried again").await;
    let (code, text, _) = status(agent.state_dir(), &["status"]);
    assert_eq!((code, phase(&text)), (0, "preparing: the job was not started yet"));
    assert!(text.contains("attempt    2, after 1 that ended\n"), "{text}");
    assert_eq!(as_json(agent.state_dir())["attempts"][0]["exitCode"], 3);
    // The fault is this agent's, and not the next one's.
    let asked = async {
        while engine.count("DELETE ") == 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(60), asked).await.unwrap();
    let report = agent.killed_and_started_again().await.ended().await.report();
    assert_eq!(report["attempts"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_report_that_is_not_accepted_yet_is_shown_and_the_exit_code_says_so() {
    let cloud = |cloud: Builder| cloud.callback_answers([503, 503, 503]);
    let mut agent = start(Given { command: "docker run IMAGE exit 3", cloud, ..GIVEN }).await;
    agent.says("the report was not accepted yet").await;
    let (code, text, _) = status(agent.state_dir(), &["status"]);
    assert_eq!((code, phase(&text)), (75, "ended: the callback has not accepted the report yet"));
    assert!(text.contains("outcome    Failed, Error\nmessage    the job exited with code 3\n"), "{text}");
    assert!(text.contains("last error the callback answered 503 Service Unavailable\n"), "{text}");
    let error = as_json(agent.state_dir())["lastError"].clone();
    assert_eq!(error, "the callback answered 503 Service Unavailable");
    let shown = as_json(agent.state_dir())["report"].clone();
    assert_eq!(agent.ended().await.report(), shown);
}

#[tokio::test]
async fn a_run_that_was_told_is_shown_as_it_ended() {
    for (is_over, code, phrase, word) in [
        (false, 0, "reported: the callback accepted the report", "reported"),
        (true, 76, "gone: nobody waits for the report", "gone"),
    ] {
        let state = tempfile::tempdir().unwrap();
        let environment = [("LONGRUN_STATE_DIR", state.path().to_str().unwrap())];
        let given = Given { command: "docker run IMAGE pause 300 exit 3", ..GIVEN };
        let mut agent = start(Given { environment: &environment, ..given }).await;
        agent.says("the job runs").await;
        if is_over {
            agent.sandbox.cancel_execution();
        }
        agent.ended().await;
        let (found, text, _) = status(state.path(), &["status"]);
        assert_eq!((found, phase(&text)), (code, phrase));
        assert!(text.contains("outcome    Failed, Error\n"), "{text}");
        let told = as_json(state.path());
        let found = json!([told["phase"], told["container"], told["report"]["exitCode"]]);
        assert_eq!(found, json!([word, null, 3]));
    }
}

#[test]
fn without_a_journal_there_is_no_status() {
    let folder = tempfile::tempdir().unwrap();
    for state_dir in [folder.path().to_owned(), folder.path().join("nowhere")] {
        let (code, text, why) = status(&state_dir, &["status", "--json"]);
        assert_eq!((code, &*text), (66, ""));
        assert!(why.contains(&format!("there is no journal {}/journal.json", state_dir.display())), "{why}");
        assert!(!folder.path().join("nowhere").exists() && content(folder.path()).is_empty());
    }
}

#[test]
fn a_journal_that_cannot_be_used_is_told_and_left_as_it_is() {
    let of_version = |version: u32| {
        format!(r#"{{"version":{version},"instanceId":"1","runId":"x","run":{{"anything":"else"}}}}"#)
    };
    for (journal, why) in [
        (String::new(), "EOF while parsing"),
        ("\0\0\0\0".to_owned(), "expected value"),
        ("{\"version\":1,".to_owned(), "EOF while parsing"),
        (of_version(1), "missing field"),
        (of_version(2), "it is of version 2, and this agent knows 1"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("journal.json"), &journal).unwrap();
        let (code, text, told) = status(folder.path(), &["status"]);
        assert_eq!((code, &*text), (65, ""), "{journal}");
        assert!(told.contains("journal.json cannot be used: ") && told.contains(why), "{journal}: {told}");
        assert_eq!(content(folder.path()), [("journal.json".to_owned(), journal.into_bytes())]);
    }
}

#[test]
fn what_the_agent_does_not_understand_it_does_not_do() {
    let folder = tempfile::tempdir().unwrap();
    for words in
        [&["status", "--yaml"][..], &["status", "--json", "x"], &["stat"], &["--json"], &["--version", "x"]]
    {
        let (code, _, why) = status(folder.path(), words);
        assert_eq!(code, 64, "{words:?}");
        assert!(why.contains(&format!("`{}` cannot be used", words.join(" "))), "{why}");
    }
}

/// Exit code, stdout and stderr of the agent's binary.
fn status(state_dir: &Path, words: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longrun-agent"));
    let output = command.args(words).env_clear().env("LONGRUN_STATE_DIR", state_dir).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn as_json(state_dir: &Path) -> Value {
    serde_json::from_str(&status(state_dir, &["status", "--json"]).1).unwrap()
}

fn phase(text: &str) -> &str {
    text.lines().find_map(|line| line.strip_prefix("phase      ")).unwrap()
}

/// The files of a folder, each with its bytes.
fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap())
        .map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap()))
        .collect();
    files.sort();
    files
}
