//! logging.googleapis.com: `entries.write`, and what somebody who reads the log would see.
//!
//! Of entries with the same log, time and `insertId` one is seen. An entry that cannot be taken is refused for
//! itself where the request says `partialSuccess`, and with all others otherwise.
//!
//! Not known of the real service, and so a guess: how it counts an entry's bytes. Leaves out buckets, sinks,
//! quotas, and the types of fields, which Google's own client library judges in the tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::google::{Refusal, json};
use crate::script::Script;
use crate::server::{Complaints, Reply, Request, Response};
use crate::token::Tokens;
use crate::vm::PROJECT;

/// Of a request, and of an entry in it.
const LARGEST_REQUEST: usize = 10_000_000;
const LARGEST_ENTRY: usize = 256 * 1024;

/// Entries are taken from as far in the past as the log is kept, and from a day in the future.
const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);
const FUTURE: Duration = Duration::from_secs(24 * 3600);

const PAYLOADS: [&str; 3] = ["textPayload", "jsonPayload", "protoPayload"];

#[derive(Debug)]
pub(crate) struct Logging {
    script: Script,
    /// Entries with this in their payload are refused.
    refused: Option<String>,
    written: Mutex<Written>,
    tokens: Arc<Tokens>,
    complaints: Arc<Complaints>,
}

#[derive(Debug, Default)]
struct Written {
    /// By what makes a reader see one of two, which is their order too.
    entries: BTreeMap<[String; 3], Entry>,
    requests: Vec<Bytes>,
}

/// An entry, and what its request said for all.
#[derive(Debug)]
struct Entry {
    own: Value,
    common: Arc<Value>,
}

impl Logging {
    pub(crate) fn new(
        script: Script,
        refused: Option<String>,
        tokens: Arc<Tokens>,
        complaints: Arc<Complaints>,
    ) -> Self {
        Self { script, refused, written: Mutex::default(), tokens, complaints }
    }

    /// What a reader sees, by time.
    pub(crate) fn entries(&self) -> Vec<Value> {
        self.written().entries.values().map(Entry::complete).collect()
    }

    /// The body of every request that was JSON, whatever it was answered.
    pub(crate) fn requests(&self) -> Vec<Value> {
        let bodies = self.written().requests.clone();
        bodies.iter().filter_map(|body| serde_json::from_slice(body).ok()).collect()
    }

    pub(crate) fn answer(&self, request: &Request) -> Reply {
        if request.method() != Method::POST || request.uri().path() != "/v2/entries:write" {
            self.complaints.unknown(request);
            return Reply::Answer(Refusal::from(StatusCode::NOT_FOUND).into());
        }
        self.written().requests.push(request.body().clone());
        let write = || self.write(request).unwrap_or_else(Response::from);
        match self.script.next() {
            None => Reply::Answer(write()),
            Some(answer) => {
                if answer.is_lost() {
                    write();
                }
                answer.reply(page)
            }
        }
    }

    fn write(&self, request: &Request) -> Result<Response, Refusal> {
        self.tokens.check(request)?;
        let invalid = |message: &str| Refusal::new(StatusCode::BAD_REQUEST, message);
        if request.body().len() > LARGEST_REQUEST {
            return Err(invalid("Request payload size exceeds the limit: 10000000 bytes."));
        }
        let mut body: Value = serde_json::from_slice(request.body())
            .map_err(|_| invalid("Invalid JSON payload received. Unexpected end of string."))?;
        let Value::Array(entries) = body["entries"].take() else {
            return Err(invalid("Log entries are required."));
        };
        let (common, now) = (Arc::new(body), SystemTime::now());
        let entry = |own| Entry { own, common: common.clone() };
        let entries: Vec<_> = entries.into_iter().map(entry).collect();
        let wrong = entries.iter().enumerate();
        let wrong = wrong.filter_map(|(index, entry)| Some((index, self.fault(entry, now)?)));
        let wrong: BTreeMap<usize, &str> = wrong.collect();
        if !wrong.is_empty() && common["partialSuccess"] != true {
            return Err(invalid("Log entries are invalid."));
        }
        let taken = entries.into_iter().enumerate().filter(|(index, _)| !wrong.contains_key(index));
        let mut written = self.written();
        for (_, entry) in taken {
            let key = ["logName", "timestamp", "insertId"].map(|field| text(entry.field(field)));
            written.entries.entry(key).or_insert(entry);
        }
        Ok(if wrong.is_empty() { json(StatusCode::OK, &json!({})) } else { partial_errors(&wrong) })
    }

    /// Why an entry cannot be taken.
    fn fault(&self, entry: &Entry, now: SystemTime) -> Option<&'static str> {
        let mut payloads = PAYLOADS.iter().map(|payload| entry.own[*payload].to_string());
        let is_refused = |refused: &String| payloads.any(|payload| payload.contains(refused));
        match self.refused.as_ref().is_some_and(is_refused) {
            true => Some("Log entry is refused."),
            false => entry.fault(now),
        }
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn field(&self, name: &str) -> &Value {
        self.own.get(name).unwrap_or(&self.common[name])
    }

    /// As a reader sees it.
    fn complete(&self) -> Value {
        let mut entry = self.own.clone();
        for field in ["logName", "resource"] {
            entry[field] = self.field(field).clone();
        }
        let labels = |of: &Value| of["labels"].as_object().cloned().unwrap_or_default();
        let all: Map<_, _> = labels(&self.common).into_iter().chain(labels(&self.own)).collect();
        entry["labels"] = all.into();
        entry
    }

    /// Why nobody could take it.
    fn fault(&self, now: SystemTime) -> Option<&'static str> {
        let payloads: Vec<_> = PAYLOADS.iter().filter_map(|payload| self.own.get(*payload)).collect();
        let size: usize = payloads.iter().map(|payload| size(payload)).sum();
        let log = text(self.field("logName"));
        let time = humantime::parse_rfc3339(&text(self.field("timestamp"))).ok();
        match time {
            _ if payloads.len() != 1 => Some("Log entry payload is required and must be exactly one."),
            _ if size > LARGEST_ENTRY => Some("Log entry is too large."),
            _ if log != format!("projects/{PROJECT}/logs/longrun") => Some("Log name is unexpected."),
            _ if !self.field("resource").is_object() => Some("Monitored resource is required."),
            None => Some("Timestamp is invalid."),
            Some(time) if time > now + FUTURE || time < now - RETENTION => {
                Some("Timestamp is out of bounds.")
            }
            Some(_) => None,
        }
    }
}

fn size(payload: &Value) -> usize {
    payload.as_str().map_or_else(|| payload.to_string().len(), str::len)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The answer where some entries were taken.
fn partial_errors(wrong: &BTreeMap<usize, &str>) -> Response {
    let errors = wrong.iter().map(|(index, why)| (index.to_string(), json!({ "code": 3, "message": why })));
    let details = json!([{
        "@type": "type.googleapis.com/google.logging.v2.WriteLogEntriesPartialErrors",
        "logEntryErrors": errors.collect::<Map<_, _>>(),
    }]);
    let error = json!({ "code": 400, "message": wrong.values().next(), "status": "INVALID_ARGUMENT", "details": details });
    json(StatusCode::BAD_REQUEST, &json!({ "error": error }))
}

/// A bare status, dressed: a refusal as the service has it, and a success as a proxy that is not the service.
fn page(status: StatusCode) -> Response {
    if status == StatusCode::FORBIDDEN {
        return forbidden();
    }
    if !status.is_success() {
        return Refusal::from(status).into();
    }
    let mut response =
        Response::new(Bytes::from_static(b"<html><body>Welcome to the guest network</body></html>").into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    response
}

/// An account that must not write.
fn forbidden() -> Response {
    let permission = "logging.logEntries.create";
    let details = json!([{
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "IAM_PERMISSION_DENIED",
        "domain": "logging.googleapis.com",
        "metadata": { "permission": permission },
    }]);
    let message = format!("Permission '{permission}' denied on resource (or it may not exist).");
    let error = json!({ "code": 403, "message": message, "status": "PERMISSION_DENIED", "details": details });
    json(StatusCode::FORBIDDEN, &json!({ "error": error }))
}
