//! `longrun-logs` with `cloud-logging`: every line is an entry, once, and whatever the service does, the job and
//! its report do not wait for it.
//!
//! Google's own client library judges every request: it refuses unknown fields, bad enums and wrong types.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use std::{
    collections::BTreeSet,
    io::Write,
    iter::repeat_n,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use machinery::{Ended, GIVEN, Given, run, start};
use sandbox::{Answer, Builder, INSTANCE, INSTANCE_ID, PROJECT, ZONE, tools};
use serde_json::{Value, json};

const CLOUD_LOGGING: &[(&str, &str)] = &[("longrun-logs", "cloud-logging")];

/// More answers than are asked for: the service is so all the time.
const ALWAYS: usize = 1000;

/// Takes a request a line.
const JUDGE: &str = r#"
import sys
from google.cloud.logging_v2.types import WriteLogEntriesRequest
for line in sys.stdin:
    WriteLogEntriesRequest.from_json(line)
"#;

#[tokio::test]
async fn every_line_is_an_entry_with_its_stream_time_and_run() {
    let ended =
        logged("docker run IMAGE print one pause 50 eprint two pause 50 write three", |cloud| cloud).await;
    let (report, entries) = (ended.report(), ended.sandbox.log_entries());
    assert_eq!(texts(&entries), ["one", "two", "three"]);
    let streams: Vec<_> = entries.iter().map(|entry| &entry["labels"]["longrun.stream"]).collect();
    assert_eq!(streams, ["stdout", "stderr", "stdout"]);
    let run_id = report["runId"].as_str().unwrap();
    for entry in &entries {
        assert_eq!(entry["logName"], format!("projects/{PROJECT}/logs/longrun"));
        let labels = json!({ "project_id": PROJECT, "instance_id": INSTANCE_ID.to_string(), "zone": ZONE });
        assert_eq!(entry["resource"], json!({ "type": "gce_instance", "labels": labels }));
        assert_eq!(entry["labels"]["longrun.run-id"], run_id);
        assert_eq!(entry["labels"]["longrun.attempt"], "1");
        assert_eq!(entry["labels"]["compute.googleapis.com/resource_name"], INSTANCE);
        assert_eq!(entry.get("severity"), None, "nothing is known of it");
    }
    let query = report["logs"]["cloudLoggingQuery"].as_str().unwrap();
    assert!(query.contains(&format!(r#"labels."longrun.run-id"="{run_id}""#)), "{query}");
    assert_eq!(report["logs"]["unavailable"], Value::Null);
}

#[tokio::test]
async fn a_line_that_is_json_tells_its_severity_and_is_searched_by_its_fields() {
    let lines = [
        r#"{"severity":"ERROR","message":"oops","code":7}"#,
        r#"{"severity":"info","message":"only text"}"#,
        r#"{"httpRequest":{"status":"not a number"},"logging.googleapis.com/labels":{"a":1},"severity":{}}"#,
        r#"{"httpRequest":{"status":404,"latency":"0.25s"},"logging.googleapis.com/trace":"projects/p/traces/1"}"#,
        r#"{"logging.googleapis.com/labels":{"user":"u","longrun.run-id":"another"},"logging.googleapis.com/sourceLocation":{"file":"a.py","line":"1"}}"#,
        r#"{"time":"1999-01-01T00:00:00Z"}"#,
        r#"{"broken":"#,
        "\u{e9}\u{1f600}\u{7}",
    ];
    let words: Vec<_> = lines.iter().map(|line| format!("eprint '{line}'")).collect();
    let ended = logged(&format!("docker run IMAGE {}", words.join(" ")), |cloud| cloud).await;
    let entries = ended.sandbox.log_entries();
    assert_eq!(entries.len(), lines.len(), "{entries:#?}");
    assert_eq!(
        (&entries[0]["severity"], &entries[0]["jsonPayload"]),
        (&json!("ERROR"), &json!({ "message": "oops", "code": 7 }))
    );
    assert_eq!((&entries[1]["severity"], &entries[1]["textPayload"]), (&json!("INFO"), &json!("only text")));
    assert_eq!(entries[2]["jsonPayload"], serde_json::from_str::<Value>(lines[2]).unwrap());
    assert_eq!(
        (&entries[3]["httpRequest"]["status"], &entries[3]["trace"]),
        (&json!(404), &json!("projects/p/traces/1"))
    );
    assert_eq!(
        (&entries[4]["labels"]["user"], &entries[4]["sourceLocation"]["file"]),
        (&json!("u"), &json!("a.py"))
    );
    assert_eq!(entries[5]["jsonPayload"]["time"], "1999-01-01T00:00:00Z", "nobody believes it");
    assert_eq!([&entries[6]["textPayload"], &entries[7]["textPayload"]], [lines[6], lines[7]]);
    assert_eq!(ended.report()["logs"]["unavailable"], Value::Null);
}

#[tokio::test]
async fn a_line_longer_than_an_entry_is_cut_and_says_so() {
    let ended = logged("docker run IMAGE bytes 300000 print next", |cloud| cloud).await;
    let entries = ended.sandbox.log_entries();
    let text = entries[0]["textPayload"].as_str().unwrap();
    assert_eq!(text, "x".repeat(200 << 10) + "… [95200 more bytes were cut]");
    assert_eq!(entries[1]["textPayload"], "next");
}

#[tokio::test]
async fn a_hundred_thousand_lines_are_there_once_and_cost_no_memory() {
    let command = format!("docker run --log-driver none IMAGE{}", " lines 10000 20 pause 2000".repeat(10));
    let cloud: fn(Builder) -> Builder = |cloud| cloud.callback_answers([503]);
    let given = Given { command: &command, attributes: CLOUD_LOGGING, cloud, ..GIVEN };
    let mut agent = start(given).await;
    agent.says("the report was not accepted yet").await;
    let peak = agent.peak_memory();
    let ended = agent.ended().await;
    let entries = ended.sandbox.log_entries();
    assert_eq!(ended.report()["logs"]["unavailable"], Value::Null);
    assert_eq!((entries.len(), ids(&entries).len()), (100_000, 100_000));
    let numbers: BTreeSet<_> = texts(&entries).into_iter().collect();
    assert_eq!(numbers.len(), 10_000, "each line ten times");
    assert!(peak < 48 << 20, "{peak} bytes at the most");
    let requests = ended.sandbox.log_requests();
    let most = requests.iter().map(|request| request["entries"].as_array().unwrap().len()).max();
    assert_eq!(most, Some(1000));
    judge(&requests[..3]);
}

#[tokio::test]
async fn a_service_that_is_away_for_a_moment_gets_every_line_once() {
    type Cloud = fn(Builder) -> Builder;
    let clouds: [(&str, Cloud); 5] = [
        ("503", |cloud| cloud.logging_answers([503, 429])),
        ("a lost answer", |cloud| cloud.logging_answers([Answer::lost()])),
        ("a closed connection", |cloud| cloud.logging_answers([Answer::hang_up()])),
        ("a refused token", |cloud| cloud.logging_answers([401])),
        ("somebody else's page", |cloud| cloud.logging_answers([200])),
    ];
    for (what, cloud) in clouds {
        let ended = logged("docker run IMAGE print one pause 1200 print two pause 2500", cloud).await;
        let entries = ended.sandbox.log_entries();
        assert_eq!(texts(&entries), ["one", "two"], "{what}");
        assert_eq!(ended.report()["logs"]["unavailable"], Value::Null, "{what}");
        assert!(ended.logged("Cloud Logging does not take the job's lines"), "{what}");
    }
}

#[tokio::test]
async fn a_service_that_stays_away_delays_the_report_by_seconds_and_the_job_not_at_all() {
    type Cloud = fn(Builder) -> Builder;
    let clouds: [(&str, Cloud); 4] = [
        ("500 Internal Server Error (INTERNAL)", |cloud| cloud.logging_answers(repeat_n(500, ALWAYS))),
        ("error sending request", |cloud| cloud.logging_answers(repeat_n(Answer::hang_up(), ALWAYS))),
        ("it did not answer in time", |cloud| cloud.logging_answers(repeat_n(Answer::silence(), ALWAYS))),
        ("200 OK, but not in the words of Cloud Logging", |cloud| {
            cloud.logging_answers(repeat_n(200, ALWAYS))
        }),
    ];
    for (why, cloud) in clouds {
        let began = Instant::now();
        let ended = logged("docker run IMAGE print one print two eprint three", cloud).await;
        let unavailable = ended.report()["logs"]["unavailable"].clone();
        let expected = format!("3 lines are missing in Cloud Logging: {why}");
        assert!(unavailable.as_str().unwrap().starts_with(&expected), "{unavailable} is not {expected}");
        assert!(began.elapsed() < Duration::from_secs(30), "{why}: {:?}", began.elapsed());
        assert!(duration(&ended) < Duration::from_secs(3), "{why}: {:?}", duration(&ended));
        assert_eq!(ended.report()["logs"]["lines"], 3);
    }
}

#[tokio::test]
async fn a_job_that_writes_more_than_can_wait_is_not_held_up_and_the_rest_is_counted() {
    let cloud: fn(Builder) -> Builder =
        |cloud| cloud.logging_answers(repeat_n(Answer::silence(), 1)).callback_answers([503]);
    let command = "docker run --log-driver none IMAGE lines 200000 200 pause 14000 print last";
    let mut agent = start(Given { command, attributes: CLOUD_LOGGING, cloud, ..GIVEN }).await;
    agent.says("the report was not accepted yet").await;
    let peak = agent.peak_memory();
    let ended = agent.ended().await;
    assert!(peak < 48 << 20, "{peak} bytes at the most");
    assert_eq!(ended.report()["logs"]["lines"], 200_001);
    let entries = ended.sandbox.log_entries();
    let (notes, lines): (Vec<_>, Vec<_>) =
        entries.iter().partition(|entry| entry["labels"].get("longrun.stream").is_none());
    let missing = 200_001 - lines.len();
    assert!(missing > 100_000, "{missing}");
    let text = format!("longrun-agent: {missing} lines are missing here");
    assert!(notes[0]["textPayload"].as_str().unwrap().starts_with(&text), "{notes:?} {text}");
    assert_eq!((notes.len(), &notes[0]["severity"]), (1, &json!("WARNING")));
    assert_eq!(lines.last().unwrap()["textPayload"], "last");
    let unavailable = ended.report()["logs"]["unavailable"].clone();
    let expected = format!("{missing} lines are missing in Cloud Logging");
    assert!(unavailable.as_str().unwrap().starts_with(&expected), "{unavailable} is not {expected}");
}

#[tokio::test]
async fn an_account_that_must_not_write_is_told_what_to_grant_once() {
    let cloud: fn(Builder) -> Builder = |cloud| cloud.logging_answers(repeat_n(403, ALWAYS));
    let ended = logged("docker run IMAGE print one pause 1500 print two", cloud).await;
    let why =
        "403 Forbidden (IAM_PERMISSION_DENIED); grant roles/logging.logWriter to the VM's service account";
    let expected = format!("2 lines are missing in Cloud Logging: {why}");
    assert_eq!(ended.report()["logs"]["unavailable"], expected);
    let warned = ended.log.iter().filter(|line| line["why"] == why).count();
    assert_eq!(warned, 1, "{:#?}", ended.log);
}

#[tokio::test]
async fn an_entry_that_is_refused_does_not_keep_out_the_others() {
    let ended =
        logged("docker run IMAGE print one print bad print two", |cloud| cloud.refuses_entries_with("bad"))
            .await;
    assert_eq!(texts(&ended.sandbox.log_entries()), ["one", "two"]);
    let expected = "1 lines are missing in Cloud Logging: 400 Bad Request (INVALID_ARGUMENT)";
    assert_eq!(ended.report()["logs"]["unavailable"], expected);
}

#[tokio::test]
async fn an_agent_that_is_started_again_loses_no_line_and_sends_only_what_is_not_there() {
    let command = "docker run IMAGE print one pause 1500 print two pause 2500 print three";
    let agent = start(Given { command, attributes: CLOUD_LOGGING, ..GIVEN }).await;
    // Before the second request, the first was written down.
    agent.sandbox.requested(2, "entries:write").await;
    let ended = agent.killed_and_started_again().await.ended().await;
    let entries = ended.sandbox.log_entries();
    let texts = texts(&entries);
    assert_eq!(texts.iter().filter(|text| **text == "one").count(), 1, "{entries:#?}");
    assert_eq!(BTreeSet::from_iter(&texts), BTreeSet::from([&"one", &"two", &"three"]));
    assert_eq!(ids(&entries).len(), 3, "what was sent twice has one id: {entries:#?}");
    assert_eq!(ended.report()["logs"]["unavailable"], Value::Null);
    judge(&ended.sandbox.log_requests());
}

#[tokio::test]
async fn each_attempt_has_its_own_lines() {
    let attributes = [("longrun-logs", "cloud-logging"), ("longrun-max-attempts", "2")];
    let ended =
        run(Given { command: "docker run IMAGE print one exit 3", attributes: &attributes, ..GIVEN }).await;
    let entries = ended.sandbox.log_entries();
    let attempts: Vec<_> =
        entries.iter().map(|entry| entry["labels"]["longrun.attempt"].as_str().unwrap()).collect();
    assert_eq!((attempts, ids(&entries).len()), (vec!["1", "2"], 2));
}

/// Runs an agent whose job logs to Cloud Logging, and has its requests judged.
async fn logged(command: &str, cloud: fn(Builder) -> Builder) -> Ended {
    let ended = run(Given { command, attributes: CLOUD_LOGGING, cloud, ..GIVEN }).await;
    assert_eq!(ended.report()["reason"], "Completed");
    judge(&ended.sandbox.log_requests());
    ended
}

/// Has Google's client library read requests.
#[track_caller]
fn judge(requests: &[Value]) {
    assert!(!requests.is_empty());
    let python = tools::venv(&["google-cloud-logging==3.12.1"]).unwrap().join("bin/python");
    let judge = Command::new(python).args(["-c", JUDGE]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut judge = judge.unwrap();
    let mut stdin = judge.stdin.take().unwrap();
    for request in requests {
        writeln!(stdin, "{request}").unwrap();
    }
    drop(stdin);
    let judged = judge.wait_with_output().unwrap();
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr));
}

/// How long the job ran.
fn duration(ended: &Ended) -> Duration {
    let report = ended.report();
    let time = |field: &str| humantime::parse_rfc3339(report[field].as_str().unwrap()).unwrap();
    time("finishedAt").duration_since(time("startedAt")).unwrap()
}

fn texts(entries: &[Value]) -> Vec<&str> {
    entries.iter().filter_map(|entry| entry["textPayload"].as_str()).collect()
}

fn ids(entries: &[Value]) -> BTreeSet<&str> {
    entries.iter().filter_map(|entry| entry["insertId"].as_str()).collect()
}
