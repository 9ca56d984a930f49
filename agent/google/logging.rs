//! Cloud Logging: where the entries of a run go, and how they are found again.
//!
//! Leaves out what an entry says, and when it is sent.
//!
//! Source: cloud.google.com/logging/docs/reference/v2/rest/v2/entries/write.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use gcp_auth::TokenProvider;
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Outside, SCOPES, Tokens, credential};
use crate::{http, report::Instance};

/// One try, from connecting to the end of the answer.
const TRY: Duration = Duration::from_secs(10);
/// Of an answer; one that refuses 500 entries with a sentence each has some 100 KB.
const LONGEST_ANSWER: usize = 1 << 20;
/// A Retry-After is honoured up to here; a server's clock may be wrong.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// The labels of all entries of a run.
const RUN_LABEL: &str = "longrun.run-id";
const ATTEMPT_LABEL: &str = "longrun.attempt";
/// The VM's name, where Google's own agents put it.
const NAME_LABEL: &str = "compute.googleapis.com/resource_name";

/// What an attempt at `entries.write` came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Cloud Logging has them.
    All,
    /// It has all but so many, which it will never take.
    AllBut(u64, String),
    /// It will never take any of them.
    None(String),
    /// It may take them later, and says when, or not.
    NotYet(String, Option<Duration>),
    /// It takes none from this account.
    Forbidden(String),
}

impl Written {
    /// Why it does not have all of them, for people, and what there is to do about it.
    pub(crate) fn why(&self) -> Option<&str> {
        match self {
            Self::All => None,
            Self::AllBut(_, why) | Self::None(why) | Self::NotYet(why, _) | Self::Forbidden(why) => Some(why),
        }
    }
}

/// The entries of one attempt at a run.
#[derive(Clone)]
pub(crate) struct LogWriter {
    outside: Outside,
    tokens: Arc<Tokens>,
    url: Url,
    /// The request up to its first entry.
    head: String,
}

impl LogWriter {
    /// For the entries of an attempt at a run on this VM.
    pub(crate) fn new(
        outside: Outside,
        tokens: Arc<Tokens>,
        instance: &Instance,
        run_id: &str,
        attempt: u32,
    ) -> Self {
        Self { outside, tokens, url: address(), head: head(instance, run_id, attempt) }
    }

    /// Sends entries: JSON objects with commas between them.
    pub(crate) async fn write(&self, entries: &[u8]) -> Written {
        let not_yet = |why: String| Written::NotYet(why, None);
        let mut request = self.outside.request(Method::POST, &self.url);
        if credential::is_google_api(&self.url) {
            match self.tokens.token(SCOPES).await {
                Ok(token) => request = request.bearer_auth(token.as_str()),
                Err(error) => return not_yet(http::chain(&error)),
            }
        }
        let body = [self.head.as_bytes(), entries, b"]}"].concat();
        let request = request.header("Content-Type", "application/json").body(body).timeout(TRY);
        let answer = async {
            let mut response = request.send().await?;
            let body = read(&mut response).await?;
            Ok::<_, reqwest::Error>((response, body))
        };
        let (response, body) = match answer.await {
            Ok(answer) => answer,
            Err(error) => return not_yet(http::chain(&error.without_url())),
        };
        if response.status() == StatusCode::UNAUTHORIZED {
            // The next try has a fresh one.
            self.tokens.drop_refused().await;
        }
        judge(response.status(), http::retry_after(response.headers(), LONGEST_RETRY_AFTER), &body)
    }
}

/// Finds a run's entries, in the language of `gcloud logging read` and the Logs Explorer. `since` is when its first
/// attempt started; without a time `gcloud` looks at the last day alone.
pub(crate) fn query(instance: &Instance, run_id: &str, since: SystemTime) -> String {
    let Instance { project, id, .. } = instance;
    let since = humantime::format_rfc3339_seconds(since);
    format!(
        r#"logName="{}" AND resource.type="gce_instance" AND resource.labels.instance_id="{id}" AND labels."{RUN_LABEL}"="{run_id}" AND timestamp>="{since}""#,
        log_name(project)
    )
}

fn address() -> Url {
    Url::parse("https://logging.googleapis.com/v2/entries:write").expect("a constant address")
}

fn log_name(project: &str) -> String {
    format!("projects/{project}/logs/longrun")
}

/// The request up to its first entry. One entry that cannot be taken does not keep out the others.
fn head(instance: &Instance, run_id: &str, attempt: u32) -> String {
    let Instance { name, id, zone, project, .. } = instance;
    let common = json!({
        "logName": log_name(project),
        "resource": {
            "type": "gce_instance",
            "labels": { "project_id": project, "instance_id": id, "zone": zone },
        },
        "labels": { RUN_LABEL: run_id, ATTEMPT_LABEL: attempt.to_string(), NAME_LABEL: name },
        "partialSuccess": true,
    });
    let common = common.to_string();
    format!(r#"{},"entries":["#, common.strip_suffix('}').unwrap_or(&common))
}

async fn read(response: &mut Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > LONGEST_ANSWER {
            break;
        }
    }
    Ok(body)
}

/// What an answer means. Of its text only Google's own keywords are repeated: another's server may echo the token.
fn judge(status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> Written {
    if status.is_success() {
        return match serde_json::from_slice::<Map<String, Value>>(body) {
            Ok(_) => Written::All,
            Err(_) => Written::NotYet(format!("{status}, but not in the words of Cloud Logging"), None),
        };
    }
    let Refusal { error } = serde_json::from_slice(body).unwrap_or_default();
    let reason = error.details.iter().find_map(|detail| keyword(detail.reason.as_deref()?));
    let why = match reason.or_else(|| keyword(&error.status)) {
        Some(word) => format!("{status} ({word})"),
        None => status.to_string(),
    };
    let refused: usize = error.details.iter().map(|detail| detail.log_entry_errors.len()).sum();
    match status.as_u16() {
        _ if refused > 0 => Written::AllBut(refused as u64, why),
        403 => Written::Forbidden(format!("{why}; {}", remedy(reason))),
        // A redirect is not followed.
        300..=399 | 401 | 408 | 425 | 429 | 500..=599 => Written::NotYet(why, retry_after),
        _ => Written::None(why),
    }
}

/// What to do about a 403, by the reason that `google.rpc.ErrorInfo` has.
fn remedy(reason: Option<&str>) -> &'static str {
    match reason {
        Some("SERVICE_DISABLED") => "enable logging.googleapis.com in the project",
        Some("ACCESS_TOKEN_SCOPE_INSUFFICIENT") => "give the VM the scope cloud-platform",
        _ => "grant roles/logging.logWriter to the VM's service account",
    }
}

fn keyword(text: &str) -> Option<&str> {
    let is_keyword = |byte: u8| byte.is_ascii_uppercase() || byte == b'_';
    ((1..=63).contains(&text.len()) && text.bytes().all(is_keyword)).then_some(text)
}

/// An answer that is no success, as far as it is understood.
#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    error: RefusalError,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RefusalError {
    status: String,
    details: Vec<Detail>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Detail {
    /// Of `google.rpc.ErrorInfo`.
    reason: Option<String>,
    /// Of `google.logging.v2.WriteLogEntriesPartialErrors`, by the entries' index.
    log_entry_errors: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn the_token_may_go_there() {
        assert!(credential::is_google_api(&address()));
    }

    #[test]
    fn a_request_says_once_what_holds_for_all_its_entries() {
        let request = head(&instance(), "run", 2) + "{},{}]}";
        assert_eq!(
            serde_json::from_str::<Value>(&request).unwrap(),
            json!({
                "logName": "projects/p/logs/longrun",
                "resource": {
                    "type": "gce_instance",
                    "labels": { "project_id": "p", "instance_id": "17", "zone": "z" }
                },
                "labels": {
                    "longrun.run-id": "run",
                    "longrun.attempt": "2",
                    "compute.googleapis.com/resource_name": "vm"
                },
                "partialSuccess": true,
                "entries": [{}, {}]
            })
        );
    }

    #[test]
    fn the_query_names_the_log_the_vm_the_run_and_a_time() {
        assert_eq!(
            query(&instance(), "run", UNIX_EPOCH + Duration::from_secs(1_795_428_000)),
            r#"logName="projects/p/logs/longrun" AND resource.type="gce_instance" AND resource.labels.instance_id="17" AND labels."longrun.run-id"="run" AND timestamp>="2026-11-23T10:00:00Z""#
        );
    }

    #[test]
    fn every_answer_has_its_meaning() {
        let not_yet = |why: &str| Written::NotYet(why.to_owned(), None);
        let html = "<html>";
        check(200, "{}", Written::All);
        check(200, html, not_yet("200 OK, but not in the words of Cloud Logging"));
        check(200, "[]", not_yet("200 OK, but not in the words of Cloud Logging"));
        check(302, html, not_yet("302 Found"));
        check(404, html, Written::None("404 Not Found".to_owned()));
        check(413, html, Written::None("413 Payload Too Large".to_owned()));
        for (status, why) in [
            (401, "401 Unauthorized"),
            (408, "408 Request Timeout"),
            (429, "429 Too Many Requests"),
            (500, "500 Internal Server Error"),
            (503, "503 Service Unavailable"),
        ] {
            check(status, html, not_yet(why));
        }
    }

    #[test]
    fn googles_keywords_are_repeated_and_nothing_else() {
        let error = |status: &str| json!({ "error": { "status": status, "message": "secret" } }).to_string();
        let none = |why: &str| Written::None(why.to_owned());
        check(400, &error("INVALID_ARGUMENT"), none("400 Bad Request (INVALID_ARGUMENT)"));
        check(400, &error("ya29.secret"), none("400 Bad Request"));
        check(400, &error(&"A".repeat(64)), none("400 Bad Request"));
    }

    #[test]
    fn entries_that_are_refused_one_by_one_are_counted() {
        let errors = json!({ "0": { "code": 3 }, "7": { "code": 3 } });
        let body =
            json!({ "error": { "status": "INVALID_ARGUMENT", "details": [{ "logEntryErrors": errors }] } });
        check(400, &body.to_string(), Written::AllBut(2, "400 Bad Request (INVALID_ARGUMENT)".to_owned()));
    }

    #[test]
    fn a_403_says_what_to_do() {
        for (reason, remedy) in [
            ("SERVICE_DISABLED", "enable logging.googleapis.com in the project"),
            ("ACCESS_TOKEN_SCOPE_INSUFFICIENT", "give the VM the scope cloud-platform"),
            ("IAM_PERMISSION_DENIED", "grant roles/logging.logWriter to the VM's service account"),
        ] {
            let body =
                json!({ "error": { "status": "PERMISSION_DENIED", "details": [{ "reason": reason }] } });
            check(403, &body.to_string(), Written::Forbidden(format!("403 Forbidden ({reason}); {remedy}")));
        }
    }

    #[track_caller]
    fn check(status: u16, body: &str, expected: Written) {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(judge(status, None, body.as_bytes()), expected, "{status} {body}");
    }

    fn instance() -> Instance {
        let [name, id, zone, project, machine_type] = ["vm", "17", "z", "p", "e2-small"].map(str::to_owned);
        Instance { name, id, zone, project, machine_type }
    }
}
