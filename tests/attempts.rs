//! Attempts: a job that fails is tried again where its attributes say so, each attempt is told with its own end,
//! and none is made twice.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use machinery::{Agent, GIVEN, Given, Runtime, docker, host::Shared, on_both, start};
use serde_json::{Value, json};
use tokio::{join, task::JoinSet};

const TWICE: (&str, &str) = ("longrun-max-attempts", "2");
const THRICE: (&str, &str) = ("longrun-max-attempts", "3");

on_both! {
    each_attempt_is_told_with_its_own_end_and_the_report_with_the_last_ones,
    an_agent_that_is_killed_between_two_attempts_goes_on_with_the_right_one,
    an_agent_that_is_killed_in_the_pause_or_in_the_next_attempt_goes_on_with_the_right_one,
    a_stop_between_two_attempts_is_told_and_so_is_the_one_that_failed,
    a_stop_of_the_second_attempt_is_not_followed_by_a_third,
}

#[tokio::test]
async fn a_job_is_tried_again_until_it_succeeds_or_may_not() {
    let fails_twice = "once /vm/a 3 once /vm/b 4 exit 0";
    let rows: [(_, &[_], &[_]); 7] = [
        (fails_twice, &[THRICE], &["Error 3", "Error 4", "Completed 0"]),
        (fails_twice, &[TWICE], &["Error 3", "Error 4"]),
        (fails_twice, &[], &["Error 3"]),
        (fails_twice, &[THRICE, ("longrun-retry-exit-codes", "1-3,9")], &["Error 3", "Error 4"]),
        ("once /vm/a 143 exit 0", &[THRICE], &["Error 143", "Completed 0"]),
        ("hog", &[TWICE, ("longrun-retry-exit-codes", "137")], &["OOMKilled 137", "OOMKilled 137"]),
        ("hog", &[TWICE, ("longrun-retry-exit-codes", "1-136")], &["OOMKilled 137"]),
    ];
    let mut running = JoinSet::new();
    for (words, attributes, ends) in rows {
        running.spawn(async move {
            let shared = Shared::folder();
            let command = shared.command(words).replace("IMAGE", "--memory 32m --memory-swap 32m IMAGE");
            let report = machinery::run(Given { command: &command, attributes, ..GIVEN }).await.report();
            assert_eq!(attempts(&report), json!(ends), "{words} {attributes:?} {report:#}");
        });
    }
    running.join_all().await;
}

#[tokio::test]
async fn what_another_attempt_would_not_mend_is_not_tried_again() {
    let rows: [(_, &[_], _, &[&str]); 5] = [
        ("IMAGE wait", &[THRICE, ("longrun-timeout", "1s")], "DeadlineExceeded", &["DeadlineExceeded 143"]),
        ("--entrypoint /nope IMAGE", &[THRICE], "ContainerCannotRun", &[]),
        ("--network nope IMAGE", &[THRICE], "ContainerCannotRun", &[]),
        ("--pull never nope:1", &[THRICE], "ImagePullFailed", &[]),
        ("--nope IMAGE", &[THRICE], "InvalidJob", &[]),
    ];
    let mut running = JoinSet::new();
    for (words, attributes, reason, ends) in rows {
        running.spawn(async move {
            let command = format!("docker run {words}");
            let report = machinery::run(Given { command: &command, attributes, ..GIVEN }).await.report();
            assert_eq!((&report["reason"], attempts(&report)), (&json!(reason), json!(ends)), "{report:#}");
        });
    }
    running.join_all().await;
}

async fn each_attempt_is_told_with_its_own_end_and_the_report_with_the_last_ones(runtime: Runtime) {
    let shared = Shared::folder();
    let command = shared.command("print first once /vm/failed 3 print second exit 143");
    let given = Given { command: &command, attributes: &[TWICE], runtime, ..GIVEN };
    let report = machinery::run(given).await.report();
    let [first, second] = [0, 1].map(|at| &report["attempts"][at]);
    assert_eq!(first["message"], "the job exited with code 3");
    assert_eq!((&first["signal"], &second["signal"]), (&Value::Null, &json!("SIGTERM")));
    for field in ["reason", "exitCode", "signal", "message", "finishedAt"] {
        assert_eq!(report[field], second[field], "{field}");
    }
    let times = [first, second]
        .map(|attempt| ["startedAt", "finishedAt"].map(|time| attempt[time].as_str().unwrap()));
    assert!(times.concat().is_sorted(), "{report:#}");
    assert_eq!(
        (&report["startedAt"], &report["logs"]["tail"]),
        (&first["startedAt"], &json!("first\nsecond\n"))
    );
}

#[tokio::test]
async fn every_attempt_has_the_commands_name_and_volumes_and_no_other_ones_files() {
    let name = format!("longrun-test-attempts-{}", std::process::id());
    let row = async |volume: &str, ends: Value| {
        let command = format!("docker run --rm --name {name} --volume {volume} IMAGE once /data/a 3 exit 0");
        let given = Given { command: &command, attributes: &[TWICE], ..GIVEN };
        assert_eq!(attempts(&machinery::run(given).await.report()), ends, "{volume}");
    };
    row(&format!("{name}:/data"), json!(["Error 3", "Completed 0"])).await;
    docker(&["volume", "rm", &name]);
    row("/data", json!(["Error 3", "Error 3"])).await;
}

async fn an_agent_that_is_killed_between_two_attempts_goes_on_with_the_right_one(runtime: Runtime) {
    let mut running = JoinSet::new();
    for point in [
        "journal: to be written#2",
        "journal: in place#2",
        "engine: removing the container, answered#1",
        "journal: to be written#3",
        "journal: in place#3",
    ] {
        running.spawn(async move {
            let shared = Shared::folder();
            let command = shared.command("once /vm/a 3 once /vm/b 4 exit 5");
            let environment = [("LONGRUN_FAIL_AT", point)];
            let given = Given {
                command: &command,
                attributes: &[TWICE],
                environment: &environment,
                runtime,
                ..GIVEN
            };
            let mut agent = start(given).await;
            agent.is_gone().await;
            let report = agent.killed_and_started_again().await.ended().await.report();
            assert_eq!(attempts(&report), json!(["Error 3", "Error 4"]), "{point}: {report:#}");
        });
    }
    running.join_all().await;
}

async fn an_agent_that_is_killed_in_the_pause_or_in_the_next_attempt_goes_on_with_the_right_one(
    runtime: Runtime,
) {
    let row = async |says| {
        let shared = Shared::folder();
        let mut agent = failed_once(runtime, &shared, "await /vm/go exit 4").await;
        agent.says(says).await;
        let agent = agent.killed_and_started_again().await;
        shared.let_pass("go");
        assert_eq!(attempts(&agent.ended().await.report()), json!(["Error 3", "Error 4"]), "{says}");
    };
    join!(row("the job is tried again"), row("the job runs"));
}

#[tokio::test]
async fn without_a_journal_the_container_tells_which_attempt_it_is() {
    let shared = Shared::folder();
    let command = shared.command("once /vm/a 3 await /vm/go once /vm/b 4 exit 5");
    let environment = [("LONGRUN_STATE_DIR", "/proc/nowhere")];
    let given = Given { attributes: &[THRICE], environment: &environment, ..GIVEN };
    let mut agent = start(Given { command: &command, ..given }).await;
    agent.says("the job exited with code 3").await;
    agent.says("the job runs").await;
    let agent = agent.killed_and_started_again().await;
    shared.let_pass("go");
    // The first one is lost, and still counts.
    assert_eq!(attempts(&agent.ended().await.report()), json!(["Error 4", "Error 5"]));
}

async fn a_stop_between_two_attempts_is_told_and_so_is_the_one_that_failed(runtime: Runtime) {
    let shared = Shared::folder();
    let mut agent = failed_once(runtime, &shared, "exit 4").await;
    agent.says("the job is tried again").await;
    agent.signal("TERM");
    let report = agent.ended().await.report();
    assert_eq!((&report["reason"], &report["exitCode"]), (&json!("Stopped"), &Value::Null), "{report:#}");
    assert_eq!(attempts(&report), json!(["Error 3"]));
    assert_eq!(report["image"]["reference"].is_string(), runtime == Runtime::Docker, "{report:#}");
}

async fn a_stop_of_the_second_attempt_is_not_followed_by_a_third(runtime: Runtime) {
    let shared = Shared::folder();
    let agent = failed_once(runtime, &shared, "file /vm/up x wait").await;
    // Before, SIGTERM could come to a process 1 that has no handler for it yet, and is dropped.
    shared.passed("up").await;
    agent.signal("TERM");
    assert_eq!(attempts(&agent.ended().await.report()), json!(["Error 3", "Stopped 143"]));
}

/// An agent whose job's first attempt of two failed with 3; the other one does the rest of the words.
async fn failed_once(runtime: Runtime, shared: &Shared, rest: &str) -> Agent {
    let command = shared.command(&format!("once /vm/failed 3 {rest}"));
    let mut agent = start(Given { command: &command, attributes: &[TWICE], runtime, ..GIVEN }).await;
    agent.says("the job exited with code 3").await;
    agent
}

/// Each attempt's reason and exit code.
fn attempts(report: &Value) -> Value {
    let attempts = report["attempts"].as_array().unwrap().iter();
    attempts
        .map(|attempt| format!("{} {}", attempt["reason"].as_str().unwrap(), attempt["exitCode"]))
        .collect()
}
