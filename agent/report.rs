//! The report: what the callback is told, field by field.
//!
//! Every field is always there, `null` where nothing is known: a workflow's expression that reads a missing
//! key raises a KeyError. Enums are frozen; detail goes into `message`. Names are Kubernetes' where it has one.
//!
//! Leaves out sending it.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A workflow's variables share 512 KB, and over that it dies although the callback answered 200 (FACTS).
const MOST_BYTES: usize = 256 << 10;
/// Enough for the Engine's longest sentence; a registry's HTML error page is cut.
const MOST_TEXT_BYTES: usize = 4 << 10;
/// Of all attempts' messages: there may be a hundred.
const MOST_ATTEMPTS_BYTES: usize = 12 << 10;
/// Enough for the longest name that Google allows.
const MOST_NAME_BYTES: usize = 256;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// `longrun/v1`.
    pub api_version: ApiVersion,
    /// Identifies the run; the same in every try of the delivery, and its `Idempotency-Key`.
    pub run_id: String,
    /// Whether the job did what it should.
    pub outcome: Outcome,
    /// Why it ended.
    pub reason: Reason,
    /// The job's exit code, 0 to 255.
    pub exit_code: Option<i64>,
    /// The signal that ended the job, such as `SIGKILL`.
    pub signal: Option<String>,
    /// One sentence for people.
    pub message: String,
    /// When the job's first attempt started.
    #[serde(with = "rfc3339")]
    pub started_at: Option<SystemTime>,
    /// When the job's last attempt ended.
    #[serde(with = "rfc3339")]
    pub finished_at: Option<SystemTime>,
    /// Every attempt, in order; empty if none started.
    pub attempts: Vec<Attempt>,
    /// The image, once the command could be read.
    pub image: Option<Image>,
    /// The job's output.
    pub logs: Logs,
    /// What the job wrote into its result file.
    pub result: Option<Value>,
    /// The VM; `null` off Compute Engine.
    pub instance: Option<Instance>,
}

/// The report's version, `longrun/v1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum ApiVersion {
    /// The only one so far.
    #[serde(rename = "longrun/v1")]
    V1,
}

/// Whether the job did what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Outcome {
    /// It ended by itself with exit code 0.
    Succeeded,
    /// Anything else.
    Failed,
}

/// Why a run or an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Reason {
    /// Exit code 0.
    Completed,
    /// Another exit code, or a signal that the job brought on itself.
    Error,
    /// The kernel ended it for want of memory.
    OOMKilled,
    /// It ran longer than `longrun-timeout`.
    DeadlineExceeded,
    /// Compute Engine took the VM away.
    Preempted,
    /// Somebody stopped the agent.
    Stopped,
    /// The VM started anew while the job ran.
    Rebooted,
    /// An attribute or the command cannot be used; nothing ran.
    InvalidJob,
    /// The image is not there and could not be fetched; nothing ran.
    ImagePullFailed,
    /// The Engine could not start the container; nothing ran.
    ContainerCannotRun,
    /// The VM could not start the command; nothing ran.
    CommandCannotRun,
    /// The Engine did not answer, so nobody knows how the job ended.
    EngineLost,
    /// The workflow that waited is gone.
    Orphaned,
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Why it ended.
    pub reason: Reason,
    /// Its exit code.
    pub exit_code: Option<i64>,
    /// The signal that ended it.
    pub signal: Option<String>,
    /// One sentence for people.
    pub message: String,
    /// When its container started.
    #[serde(with = "rfc3339")]
    pub started_at: Option<SystemTime>,
    /// When its container ended.
    #[serde(with = "rfc3339")]
    pub finished_at: Option<SystemTime>,
}

/// The image that ran.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Image {
    /// As the command names it.
    pub reference: String,
    /// What it was, `sha256:…`; `null` if it was not pulled from a registry.
    pub digest: Option<String>,
}

/// The job's output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Logs {
    /// Its last bytes, both streams in the order in which they came.
    pub tail: String,
    /// All bytes that the job wrote.
    pub bytes: u64,
    /// All lines that the job wrote.
    pub lines: u64,
    /// Bytes that are not in `tail`.
    pub truncated_bytes: u64,
    /// Where the whole log is, `gs://…`.
    pub uri: Option<String>,
    /// Finds the log in Cloud Logging.
    pub cloud_logging_query: Option<String>,
    /// Why there is no log, or why it may not be whole.
    pub unavailable: Option<String>,
}

/// The VM that the job ran on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// Its name.
    pub name: String,
    /// Its number, as a string: it is larger than a JSON number can be.
    pub id: String,
    /// Its zone, `us-central1-a`.
    pub zone: String,
    /// The project's id.
    pub project: String,
    /// Its machine type, `e2-small`.
    pub machine_type: String,
}

impl Report {
    /// The body to send, under 256 KiB whatever the job printed and whoever wrote the other texts.
    pub fn body(&self) -> Vec<u8> {
        self.body_under(MOST_BYTES)
    }

    /// The same with another bound, as far as the log's tail can be cut for it.
    pub(crate) fn body_under(&self, most: usize) -> Vec<u8> {
        let mut report = self.clone();
        report.cut_texts();
        loop {
            let body = serde_json::to_vec(&report).expect("a report has only string keys");
            if body.len() < most || report.logs.tail.is_empty() {
                return body;
            }
            // A control character is six bytes of JSON, so half of a tail may be as far too long as the whole.
            report.logs.drop_front(report.logs.tail.len().div_ceil(2));
        }
    }

    /// Every text but the tail, cut to its share.
    fn cut_texts(&mut self) {
        let cut_to = |text: &mut String, bytes| *text = cut(text, bytes);
        cut_to(&mut self.message, MOST_TEXT_BYTES);
        let share = MOST_TEXT_BYTES.min(MOST_ATTEMPTS_BYTES / self.attempts.len().max(1));
        for attempt in &mut self.attempts {
            cut_to(&mut attempt.message, share);
        }
        if let Some(image) = &mut self.image {
            cut_to(&mut image.reference, MOST_TEXT_BYTES);
        }
        self.logs.unavailable.iter_mut().for_each(|text| cut_to(text, MOST_TEXT_BYTES));
        if let Some(Instance { name, id, zone, project, machine_type }) = &mut self.instance {
            for name in [name, id, zone, project, machine_type] {
                cut_to(name, MOST_NAME_BYTES);
            }
        }
    }

    /// The body for a callback that refused the whole one: without the log tail.
    pub fn body_without_tail(&self) -> Vec<u8> {
        self.without_tail().body()
    }

    /// The same report without its log tail.
    pub(crate) fn without_tail(&self) -> Self {
        let mut report = self.clone();
        report.logs.drop_front(report.logs.tail.len());
        report
    }
}

impl Logs {
    fn drop_front(&mut self, bytes: usize) {
        let cut = self.tail.ceil_char_boundary(bytes);
        self.tail.drain(..cut);
        self.truncated_bytes += cut as u64;
    }
}

/// The text, or its first bytes and a mark.
pub(crate) fn cut(text: &str, bytes: usize) -> String {
    match text.len() > bytes {
        true => format!("{}…", &text[..text.floor_char_boundary(bytes)]),
        false => text.to_owned(),
    }
}

/// Times as RFC 3339 in milliseconds; a report is read again from the journal.
pub(crate) mod rfc3339 {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(time: &Option<SystemTime>, to: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => to.collect_str(&humantime::format_rfc3339_millis(*time)),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SystemTime>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| humantime::parse_rfc3339(&text).map_err(D::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_has_every_field_in_this_form() {
        let report: Value = serde_json::from_slice(&sample("boom\n").body()).unwrap();
        assert_eq!(
            report,
            json!({
                "apiVersion": "longrun/v1",
                "runId": "5d41402abc4b2a76b9719d911017c592",
                "outcome": "Failed",
                "reason": "Error",
                "exitCode": 137,
                "signal": "SIGKILL",
                "message": "the job was ended by SIGKILL",
                "startedAt": "2026-11-23T10:00:00.000Z",
                "finishedAt": "2026-11-23T10:00:01.500Z",
                "attempts": [{
                    "reason": "Error",
                    "exitCode": 137,
                    "signal": "SIGKILL",
                    "message": "the job was ended by SIGKILL",
                    "startedAt": "2026-11-23T10:00:00.000Z",
                    "finishedAt": "2026-11-23T10:00:01.500Z"
                }],
                "image": { "reference": "us-docker.pkg.dev/p/r/i:v1", "digest": null },
                "logs": {
                    "tail": "boom\n",
                    "bytes": 5,
                    "lines": 1,
                    "truncatedBytes": 0,
                    "uri": null,
                    "cloudLoggingQuery": null,
                    "unavailable": null
                },
                "result": null,
                "instance": {
                    "name": "vm",
                    "id": "1234567890123456789",
                    "zone": "us-central1-a",
                    "project": "p",
                    "machineType": "e2-small"
                }
            })
        );
    }

    #[test]
    fn the_body_stays_under_256_kib_whatever_was_printed() {
        for tail in ["\u{0}".repeat(128 << 10), "😀\"\\\n".repeat(16 << 10), "é\u{1}".repeat(40 << 10)] {
            let body = sample(&tail).body();
            assert!(body.len() < 256 << 10, "{}", body.len());
            assert!(body.len() > 60 << 10, "more was dropped than had to be: {}", body.len());
            let logs = &serde_json::from_slice::<Value>(&body).unwrap()["logs"];
            let kept = logs["tail"].as_str().unwrap();
            assert!(tail.ends_with(kept));
            assert_eq!(logs["truncatedBytes"].as_u64(), Some((tail.len() - kept.len()) as u64));
        }
    }

    #[test]
    fn the_body_stays_under_256_kib_whatever_else_is_long() {
        let long = "\u{0}".repeat(256 << 10);
        let mut report = sample(&long);
        report.message.clone_from(&long);
        report.attempts[0].message.clone_from(&long);
        report.attempts[0].signal = Some("SIGKILL".to_owned());
        report.attempts = vec![report.attempts[0].clone(); 100];
        report.image = Some(Image { reference: long.clone(), digest: None });
        report.logs.unavailable = Some(long.clone());
        report.instance.as_mut().unwrap().name = long;
        report.result = Some(Value::String("x".repeat(64 << 10)));
        assert!(report.body().len() < 256 << 10);
    }

    #[test]
    fn a_result_is_never_cut() {
        let mut report = sample(&"\u{0}".repeat(128 << 10));
        report.result = Some(Value::String("x".repeat((64 << 10) - 2)));
        report.message = "\u{0}".repeat(256 << 10);
        for body in [report.body(), report.body_without_tail()] {
            assert!(body.len() < 256 << 10, "{}", body.len());
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(Some(&body["result"]), report.result.as_ref());
        }
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let mut report = sample("");
        report.message = "é".repeat(4 << 10);
        let body: Value = serde_json::from_slice(&report.body()).unwrap();
        assert_eq!(body["message"].as_str().unwrap().chars().count(), (2 << 10) + 1);
    }

    #[test]
    fn the_shorter_body_has_no_tail_and_says_so() {
        let body: Value = serde_json::from_slice(&sample("boom\n").body_without_tail()).unwrap();
        assert_eq!((&body["logs"]["tail"], &body["logs"]["truncatedBytes"]), (&json!(""), &json!(5)));
    }

    fn sample(tail: &str) -> Report {
        let start = UNIX_EPOCH + Duration::from_secs(1_795_428_000);
        let attempt = Attempt {
            reason: Reason::Error,
            exit_code: Some(137),
            signal: Some("SIGKILL".to_owned()),
            message: "the job was ended by SIGKILL".to_owned(),
            started_at: Some(start),
            finished_at: Some(start + Duration::from_millis(1500)),
        };
        Report {
            api_version: ApiVersion::V1,
            run_id: "5d41402abc4b2a76b9719d911017c592".to_owned(),
            outcome: Outcome::Failed,
            reason: attempt.reason,
            exit_code: attempt.exit_code,
            signal: attempt.signal.clone(),
            message: attempt.message.clone(),
            started_at: attempt.started_at,
            finished_at: attempt.finished_at,
            attempts: vec![attempt],
            image: Some(Image { reference: "us-docker.pkg.dev/p/r/i:v1".to_owned(), digest: None }),
            logs: Logs { tail: tail.to_owned(), bytes: tail.len() as u64, lines: 1, ..Logs::default() },
            result: None,
            instance: Some(Instance {
                name: "vm".to_owned(),
                id: "1234567890123456789".to_owned(),
                zone: "us-central1-a".to_owned(),
                project: "p".to_owned(),
                machine_type: "e2-small".to_owned(),
            }),
        }
    }
}
