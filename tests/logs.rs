//! Promise 4, "Logs never cost the outcome": counts are exact, memory is flat, and the job is not held up.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use machinery::{Agent, GIVEN, Given, Runtime, on_both, run, start};
use sandbox::Builder;
use serde_json::{Value, json};

on_both! {
    both_streams_are_in_the_report_in_their_order,
    the_tail_is_as_long_as_the_attribute_says,
    a_line_of_a_hundred_megabytes_costs_no_memory,
    a_million_lines_cost_no_memory,
    a_long_log_of_a_job_that_is_taken_over_costs_no_memory,
}

async fn both_streams_are_in_the_report_in_their_order(runtime: Runtime) {
    let logs =
        logs_of(runtime, "docker run IMAGE print one pause 50 eprint two pause 50 write three", &[]).await;
    assert_eq!(logs["tail"], "one\ntwo\nthree");
    assert_eq!((&logs["bytes"], &logs["lines"], &logs["truncatedBytes"]), (&json!(13), &json!(3), &json!(0)));
}

#[tokio::test]
async fn a_job_with_a_terminal_is_logged_as_one_stream() {
    let logs = logs_of(Runtime::Docker, "docker run -t IMAGE tty eprint oops", &[]).await;
    assert_eq!(logs["tail"], "a terminal\r\noops\r\n", "{logs:#}");
}

#[tokio::test]
async fn a_job_that_reads_its_input_finds_it_empty() {
    assert_eq!(logs_of(Runtime::Docker, "docker run -i IMAGE stdin", &[]).await["tail"], "0\n");
}

async fn the_tail_is_as_long_as_the_attribute_says(runtime: Runtime) {
    let logs = logs_of(runtime, "docker run IMAGE lines 1000 10", &[("longrun-log-tail", "100")]).await;
    assert_eq!(logs["tail"].as_str().map(str::len), Some(100));
    assert_eq!(
        (&logs["lines"], &logs["truncatedBytes"]),
        (&json!(1000), &json!(logs["bytes"].as_u64().unwrap() - 100))
    );
}

#[tokio::test]
async fn the_log_is_read_whatever_the_driver() {
    for driver in ["none", "local", "json-file --log-opt max-size=10k --log-opt max-file=1"] {
        let logs =
            logs_of(Runtime::Docker, &format!("docker run --log-driver {driver} IMAGE lines 1000 100"), &[])
                .await;
        assert_eq!(
            (&logs["lines"], &logs["unavailable"]),
            (&json!(1000), &Value::Null),
            "{driver}: {logs:#}"
        );
    }
}

async fn a_line_of_a_hundred_megabytes_costs_no_memory(runtime: Runtime) {
    flat(runtime, "bytes 100000000", 1).await;
}

async fn a_million_lines_cost_no_memory(runtime: Runtime) {
    flat(runtime, "lines 1000000 100", 1_000_000).await;
}

async fn a_long_log_of_a_job_that_is_taken_over_costs_no_memory(runtime: Runtime) {
    let command = match runtime {
        Runtime::Docker => "docker run --log-opt max-size=1g IMAGE lines 1000000 100",
        Runtime::Host => "docker run IMAGE lines 1000000 100",
    };
    let cloud = |cloud: Builder| cloud.callback_answers([503]);
    let mut agent = start(Given { command, cloud, runtime, ..GIVEN }).await;
    agent.says("the job runs").await;
    flat_of(agent.killed_and_started_again().await, 1_000_000).await;
}

async fn logs_of(runtime: Runtime, command: &str, attributes: &[(&str, &str)]) -> Value {
    let ended = run(Given { command, attributes, runtime, ..GIVEN }).await;
    let report = ended.report();
    assert_eq!(report["reason"], "Completed", "{report:#}");
    report["logs"].clone()
}

/// A hundred megabytes are counted, and the agent's memory stays a small part of that. Its peak is read
/// while it waits to deliver once more.
async fn flat(runtime: Runtime, words: &str, lines: u64) {
    let command = match runtime {
        Runtime::Docker => format!("docker run --log-driver none IMAGE {words}"),
        Runtime::Host => format!("docker run IMAGE {words}"),
    };
    let cloud = |cloud: Builder| cloud.callback_answers([503]);
    flat_of(start(Given { command: &command, cloud, runtime, ..GIVEN }).await, lines).await;
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
