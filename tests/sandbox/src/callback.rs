//! What came in at the callbacks, and the callback of somebody who is not Google.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use hyper::header::AUTHORIZATION;
use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio::sync::watch;

use crate::script::{Answer, Script};
use crate::server::{Complaints, Reply, Request, Response, plain};
use crate::unique;

/// One call of a callback.
#[derive(Clone, Debug)]
pub struct Call {
    /// When it had come in whole.
    pub at: Instant,
    /// `POST`, say.
    pub method: String,
    /// As it was asked for, with the query.
    pub path: String,
    /// Names in lower case; a header that came twice has its values joined by a comma.
    pub headers: BTreeMap<String, String>,
    /// As it came.
    pub body: Vec<u8>,
    /// What was decided on: of a lost answer too, which never went out; none when nothing was.
    pub status: Option<u16>,
}

impl Call {
    fn new(request: &Request, status: Option<StatusCode>) -> Self {
        let mut headers = BTreeMap::<String, String>::new();
        for (name, value) in request.headers() {
            let value = String::from_utf8_lossy(value.as_bytes());
            let known = headers.entry(name.to_string()).or_default();
            *known = if known.is_empty() { value.into_owned() } else { format!("{known}, {value}") };
        }
        Self {
            at: Instant::now(),
            method: request.method().to_string(),
            path: request.uri().to_string(),
            headers,
            body: request.body().to_vec(),
            status: status.map(|status| status.as_u16()),
        }
    }

    /// Whether it was taken.
    #[must_use]
    pub fn was_accepted(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    /// The body as a workflow sees it: JSON, else a string, and null when there was none.
    #[must_use]
    pub fn report(&self) -> Value {
        payload(&self.body)
    }
}

/// A body as a workflow sees it.
pub(crate) fn payload(body: &[u8]) -> Value {
    match body {
        [] => Value::Null,
        body => serde_json::from_slice(body).unwrap_or_else(|_| String::from_utf8_lossy(body).into()),
    }
}

/// The record of every call, of Google's callback and of the plain one.
#[derive(Debug)]
pub(crate) struct Calls {
    method: Method,
    script: Script,
    away: AtomicBool,
    seen: watch::Sender<Vec<Call>>,
    /// How many reports `next_report` has handed out, and how many calls `next_call` has.
    told: (AtomicUsize, AtomicUsize),
}

impl Calls {
    pub(crate) fn new(method: Method, script: Script) -> Self {
        Self {
            method,
            script,
            away: AtomicBool::new(false),
            seen: watch::Sender::default(),
            told: <(_, _)>::default(),
        }
    }

    /// Whether every call is answered 503, before any script.
    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// The method that both callbacks take.
    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    /// Answers a call from the script while that lasts, then from the callback `itself`, and records it.
    pub(crate) fn take(
        &self,
        request: &Request,
        page: impl FnOnce(StatusCode) -> Response,
        itself: impl FnOnce() -> Response,
    ) -> Reply {
        let outage = self.away.load(Ordering::SeqCst).then(|| Answer::status(503));
        let (status, reply) = match outage.or_else(|| self.script.next()) {
            None => decided(Reply::Answer(itself())),
            Some(answer) if answer.is_lost() => (Some(itself().status()), Reply::HangUp),
            Some(answer) => decided(answer.reply(page)),
        };
        self.seen.send_modify(|seen| seen.push(Call::new(request, status)));
        reply
    }

    pub(crate) fn all(&self) -> Vec<Call> {
        self.seen.borrow().clone()
    }

    pub(crate) async fn next_call(&self) -> Call {
        self.next(&self.told.1, |_| true).await
    }

    pub(crate) async fn next_report(&self) -> Call {
        self.next(&self.told.0, Call::was_accepted).await
    }

    /// The first of the calls in question that was not told yet, as soon as it is there.
    async fn next(&self, told: &AtomicUsize, in_question: fn(&Call) -> bool) -> Call {
        let nth = |seen: &[Call]| {
            seen.iter().filter(|call| in_question(call)).nth(told.load(Ordering::SeqCst)).cloned()
        };
        let mut seen = self.seen.subscribe();
        let seen = seen.wait_for(|seen| nth(seen).is_some()).await.expect("the sender is in self");
        let call = nth(&seen).expect("it was there when the wait ended");
        told.fetch_add(1, Ordering::SeqCst);
        call
    }
}

/// A reply, and the status that goes out with it.
fn decided(reply: Reply) -> (Option<StatusCode>, Reply) {
    match reply {
        Reply::Answer(response) => (Some(response.status()), Reply::Answer(response)),
        Reply::Silence | Reply::HangUp => (None, reply),
    }
}

/// A web server of somebody else that wants to hear of the end: no Google, and no business of his who
/// the VM's service account is.
#[derive(Debug)]
pub(crate) struct PlainCallback {
    path: String,
    calls: Arc<Calls>,
    complaints: Arc<Complaints>,
}

impl PlainCallback {
    pub(crate) fn new(calls: Arc<Calls>, complaints: Arc<Complaints>) -> Self {
        Self { path: format!("/callback/{:016x}", unique()), calls, complaints }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn answer(&self, request: &Request) -> Reply {
        if request.headers().contains_key(AUTHORIZATION) {
            self.complaints.note("a credential was sent to the plain callback");
        }
        self.calls.take(request, plain, || plain(self.status(request)))
    }

    fn status(&self, request: &Request) -> StatusCode {
        if request.uri().path() != self.path {
            StatusCode::NOT_FOUND
        } else if request.method() != self.calls.method() {
            StatusCode::METHOD_NOT_ALLOWED
        } else {
            StatusCode::OK
        }
    }
}
