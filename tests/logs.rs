//! Promise 4, "Logs never cost the outcome": counts are exact, memory is flat, and the job is not held up.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use machinery::{Agent, GIVEN, Given, run, start};
use serde_json::{Value, json};

#[tokio::test]
async fn both_streams_are_in_the_report_in_their_order() {
    let logs = logs_of("docker run IMAGE print one pause 50 eprint two pause 50 write three", &[]).await;
    assert_eq!(logs["tail"], "one\ntwo\nthree");
    assert_eq!((&logs["bytes"], &logs["lines"], &logs["truncatedBytes"]), (&json!(13), &json!(3), &json!(0)));
}

#[tokio::test]
async fn a_job_with_a_terminal_is_logged_as_one_stream() {
    let logs = logs_of("docker run -t IMAGE tty eprint oops", &[]).await;
    assert_eq!(logs["tail"], "a terminal\r\noops\r\n", "{logs:#}");
}

#[tokio::test]
async fn a_job_that_reads_its_input_finds_it_empty() {
    assert_eq!(logs_of("docker run -i IMAGE stdin", &[]).await["tail"], "0\n");
}

#[tokio::test]
async fn the_tail_is_as_long_as_the_attribute_says() {
    let logs = logs_of("docker run IMAGE lines 1000 10", &[("longrun-log-tail", "100")]).await;
    assert_eq!(logs["tail"].as_str().map(str::len), Some(100));
    assert_eq!(
        (&logs["lines"], &logs["truncatedBytes"]),
        (&json!(1000), &json!(logs["bytes"].as_u64().unwrap() - 100))
    );
}

#[tokio::test]
async fn the_log_is_read_whatever_the_driver() {
    for driver in ["none", "local", "json-file --log-opt max-size=10k --log-opt max-file=1"] {
        let logs = logs_of(&format!("docker run --log-driver {driver} IMAGE lines 1000 100"), &[]).await;
        assert_eq!(
            (&logs["lines"], &logs["unavailable"]),
            (&json!(1000), &Value::Null),
            "{driver}: {logs:#}"
        );
    }
}

#[tokio::test]
async fn a_line_of_a_hundred_megabytes_costs_no_memory() {
    flat("docker run --log-driver none IMAGE bytes 100000000", 1).await;
}

#[tokio::test]
async fn a_million_lines_cost_no_memory() {
    flat("docker run --log-driver none IMAGE lines 1000000 100", 1_000_000).await;
}

#[tokio::test]
async fn a_long_log_of_a_job_that_is_taken_over_costs_no_memory() {
    let command = "docker run --log-opt max-size=1g IMAGE lines 1000000 100";
    let mut agent = start(Given { command, cloud: |cloud| cloud.callback_answers([503]), ..GIVEN }).await;
    agent.says("the job runs").await;
    flat_of(agent.killed_and_started_again().await, 1_000_000).await;
}

async fn logs_of(command: &str, attributes: &[(&str, &str)]) -> Value {
    let ended = run(Given { command, attributes, ..GIVEN }).await;
    let report = ended.report();
    assert_eq!(report["reason"], "Completed", "{report:#}");
    report["logs"].clone()
}

/// A hundred megabytes are counted, and the agent's memory stays a small part of that. Its peak is read
/// while it waits to deliver once more.
async fn flat(command: &str, lines: u64) {
    let given = Given { command, cloud: |cloud| cloud.callback_answers([503]), ..GIVEN };
    flat_of(start(given).await, lines).await;
}

async fn flat_of(mut agent: Agent, lines: u64) {
    agent.says("the report was not accepted yet").await;
    let peak = agent.peak_memory();
    let logs = agent.ended().await.report()["logs"].clone();
    assert_eq!(logs["lines"], lines);
    assert!((100_000_000..=101_000_000).contains(&logs["bytes"].as_u64().unwrap()), "{}", logs["bytes"]);
    assert_eq!(logs["tail"].as_str().map(str::len), Some(32 << 10));
    assert!(peak < 32 << 20, "{peak} bytes at the most");
}
