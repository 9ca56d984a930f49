//! A line, written as an entry of Cloud Logging.
//!
//! A line that says nothing of itself has the severity DEFAULT, "no assigned severity level", on both streams:
//! that a program writes to stderr says little (Python's logging, progress bars), and alerts on errors must not
//! fire for it. Which stream it was is a label.

use std::{
    borrow::Cow,
    fmt,
    time::{Duration, SystemTime},
};

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::{Line, Structured};
use crate::progress::Stream;

/// Labels by which a run's lines are found; a line's own must not hide it.
const OUR_LABELS: &str = "longrun.";
/// A clock that goes back by more was set.
const SET_BACK: Duration = Duration::from_secs(1);

/// Writes lines as entries.
#[derive(Debug)]
pub(crate) struct EntryWriter {
    /// What the ids begin with: the run and the attempt.
    id: String,
    last: SystemTime,
}

impl EntryWriter {
    /// For an attempt at a run.
    pub(crate) fn new(run_id: &str, attempt: u32) -> Self {
        Self { id: format!("{run_id}-{attempt}"), last: SystemTime::UNIX_EPOCH }
    }

    /// Appends a line of this stream as a JSON object; `now` is when it was read.
    pub(crate) fn write_line(&mut self, to: &mut Vec<u8>, stream: Stream, line: &Line<'_>, now: SystemTime) {
        let read_at = self.in_order(now);
        // Of an object that was cut the beginning is only text.
        let structured = if line.cut == 0 { Structured::read(&line.text, now) } else { None };
        let Structured { time, insert_id, mut labels, fields } = structured.unwrap_or_default();
        labels.retain(|name, _| !name.starts_with(OUR_LABELS));
        let timestamp = time.unwrap_or(read_at);
        let marked = match line.cut {
            0 => Cow::Borrowed(&*line.text),
            cut => format!("{}… [{cut} more bytes were cut]", line.text).into(),
        };
        let text_payload = fields.is_empty().then_some(&*marked);
        let own = insert_id.as_deref().filter(|own| !own.is_empty());
        let insert_id = InsertId { of: &self.id, stream: name(stream), offset: line.offset, own };
        let labels = Labels { stream: name(stream), own: labels };
        write(
            to,
            &Entry { insert_id, timestamp, severity: None, labels: Some(labels), text_payload, fields },
        );
    }

    /// Appends what the agent has to say between two lines.
    pub(crate) fn write_note(&mut self, to: &mut Vec<u8>, note: &str, now: SystemTime) {
        let (timestamp, severity) = (self.in_order(now), Some("WARNING"));
        let since = timestamp.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let offset = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let insert_id = InsertId { of: &self.id, stream: "note", offset, own: None };
        let (text_payload, fields) = (Some(note), Map::new());
        write(to, &Entry { insert_id, timestamp, severity, labels: None, text_payload, fields });
    }

    /// A later time than that of the entry before: entries of one time are shown in any order.
    fn in_order(&mut self, now: SystemTime) -> SystemTime {
        let next = self.last + Duration::from_nanos(1);
        let was_set_back = next.duration_since(now).is_ok_and(|ahead| ahead > SET_BACK);
        self.last = if was_set_back { now } else { now.max(next) };
        self.last
    }
}

fn name(stream: Stream) -> &'static str {
    match stream {
        Stream::Out => "stdout",
        Stream::Err => "stderr",
    }
}

fn write(to: &mut Vec<u8>, entry: &Entry<'_>) {
    serde_json::to_writer(to, entry).expect("an entry has only string keys, and a Vec takes everything");
}

/// google.logging.v2.LogEntry, without what the request says for all of them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    insert_id: InsertId<'a>,
    #[serde(serialize_with = "rfc3339")]
    timestamp: SystemTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    severity: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Labels>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_payload: Option<&'a str>,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

#[derive(Serialize)]
struct Labels {
    #[serde(flatten)]
    own: Map<String, Value>,
    #[serde(rename = "longrun.stream")]
    stream: &'static str,
}

/// The same for the same line, whoever reads it: the line's own, or its place in the log.
struct InsertId<'a> {
    of: &'a str,
    stream: &'static str,
    offset: u64,
    own: Option<&'a str>,
}

impl fmt::Display for InsertId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, stream, offset, own } = self;
        match own {
            Some(own) => f.write_str(own),
            // Entries of one time are ordered by it.
            None => write!(f, "{of}-{stream}-{offset:016}"),
        }
    }
}

impl Serialize for InsertId<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

fn rfc3339<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&humantime::format_rfc3339_nanos(*time))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Duration = Duration::from_secs(1_795_428_000);

    #[test]
    fn a_line_has_its_id_time_stream_and_text() {
        let entry = write_all(&[("hello", 0)]).remove(0);
        assert_eq!(
            entry,
            json!({
                "insertId": "run-2-stderr-0000000000000042",
                "timestamp": "2026-11-23T10:00:00.000000000Z",
                "labels": { "longrun.stream": "stderr" },
                "textPayload": "hello"
            })
        );
    }

    #[test]
    fn a_structured_line_keeps_what_is_its_own() {
        let line = r#"{"severity":"WARN","time":"2026-11-23T09:59:59Z","a":1,"logging.googleapis.com/labels":{"b":"c","longrun.stream":"x"}}"#;
        let entry = write_all(&[(line, 0)]).remove(0);
        assert_eq!((&entry["severity"], &entry["jsonPayload"]), (&json!("WARNING"), &json!({ "a": 1 })));
        assert_eq!(entry["timestamp"], "2026-11-23T09:59:59.000000000Z");
        assert_eq!(entry["labels"], json!({ "b": "c", "longrun.stream": "stderr" }));
        assert_eq!(entry.get("textPayload"), None);
    }

    #[test]
    fn a_line_that_was_cut_says_so() {
        let entry = write_all(&[("{\"a\":1}", 1000)]).remove(0);
        assert_eq!(entry["textPayload"], "{\"a\":1}… [1000 more bytes were cut]");
    }

    #[test]
    fn lines_of_one_moment_stay_in_order() {
        let entries = write_all(&[("a", 0), ("b", 0), ("c", 0)]);
        let times: Vec<_> = entries.iter().map(|entry| entry["timestamp"].as_str().unwrap()).collect();
        assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    }

    #[test]
    fn a_clock_that_was_set_back_is_believed() {
        let mut writer = EntryWriter::new("run", 1);
        let now = SystemTime::UNIX_EPOCH + NOW;
        assert_eq!(writer.in_order(now), now);
        assert!(writer.in_order(now - Duration::from_millis(500)) > now);
        let hour_ago = now - Duration::from_secs(3600);
        assert_eq!(writer.in_order(hour_ago), hour_ago);
    }

    fn write_all(lines: &[(&str, u64)]) -> Vec<Value> {
        let mut writer = EntryWriter::new("run", 2);
        let write = |(text, cut): &(&str, u64)| {
            let mut json = Vec::new();
            let line = Line { offset: 42, end: 50, text: (*text).into(), cut: *cut };
            writer.write_line(&mut json, Stream::Err, &line, SystemTime::UNIX_EPOCH + NOW);
            serde_json::from_slice(&json).unwrap()
        };
        lines.iter().map(write).collect()
    }
}
