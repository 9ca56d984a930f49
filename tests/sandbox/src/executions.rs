//! workflowexecutions.googleapis.com: one execution of a workflow, and its callback endpoint.
//!
//! The endpoint has one slot. A call fills it, the workflow's `await_callback` empties it, and a call that
//! finds it full is answered 429. A workflow that awaits all the time, the default here, empties it at once.
//!
//! Not known of the real service, and so a guess: that a wrong method is 405, and where the body's own cap
//! is. Leaves out starting and cancelling executions, which the agent never does.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::callback::{Calls, payload};
use crate::google::{Refusal, json};
use crate::iam::Permissions;
use crate::script::Script;
use crate::server::{Complaints, Reply, Request, Response, plain};
use crate::token::Tokens;
use crate::unique;
use crate::vm::PROJECT;

/// Where executions are.
const SERVICE: &str = "https://workflowexecutions.googleapis.com/v1/";

/// All variables of an execution share so much; a body beyond it is taken, and then the execution dies.
const VARIABLES: usize = 512 * 1024;

/// A body beyond this is refused. Workflows' cap for the HTTP responses that it reads is the same 2 MB.
const LARGEST_BODY: usize = 2 * 1024 * 1024;

/// Whether the workflow awaits its callback.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Workflow {
    /// All the time.
    Awaits,
    /// Not before the test says so.
    IsBusy,
}

/// How an execution stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    Active,
    Succeeded,
    Failed,
    Cancelled,
    /// The service does not know it any more.
    Forgotten,
}

#[derive(Debug)]
pub(crate) struct Executions {
    /// `projects/P/locations/L/workflows/W/executions/E`
    name: String,
    callback: String,
    workflow: Workflow,
    execution: Mutex<Execution>,
    calls: Arc<Calls>,
    /// What reads are answered.
    script: Script,
    permissions: Arc<Permissions>,
    tokens: Arc<Tokens>,
    complaints: Arc<Complaints>,
}

#[derive(Debug)]
struct Execution {
    state: State,
    slot: Option<Bytes>,
}

impl Executions {
    /// The callback is at this address, or at one that nobody had before.
    pub(crate) fn new(
        callback: Option<&str>,
        workflow: Workflow,
        calls: Arc<Calls>,
        script: Script,
        permissions: Arc<Permissions>,
        tokens: Arc<Tokens>,
        complaints: Arc<Complaints>,
    ) -> Self {
        let execution = unique();
        let known = callback.and_then(|url| url.strip_prefix(SERVICE)?.split_once("/callbacks/"));
        let new = || {
            let path = "locations/europe-west1/workflows/longrun/executions";
            (format!("projects/{PROJECT}/{path}/{execution:016x}"), format!("{:016x}", unique()))
        };
        let (name, callback) = known.map_or_else(new, |(name, id)| (name.to_owned(), id.to_owned()));
        Self {
            name,
            callback,
            workflow,
            execution: Mutex::new(Execution { state: State::Active, slot: None }),
            calls,
            script,
            permissions,
            tokens,
            complaints,
        }
    }

    /// Where the workflow awaits the report.
    pub(crate) fn callback_url(&self) -> String {
        format!("{SERVICE}{}/callbacks/{}", self.name, self.callback)
    }

    /// The execution is over.
    pub(crate) fn end(&self, state: State) {
        let mut execution = self.execution();
        execution.state = state;
        execution.slot = None;
    }

    /// Somebody else's payload is in the slot.
    pub(crate) fn fill(&self, payload: &str) {
        self.execution().slot = Some(Bytes::copy_from_slice(payload.as_bytes()));
    }

    /// The workflow awaits its callback once: what was in the slot, if anything was.
    pub(crate) fn consume(&self) -> Option<Value> {
        let body = self.execution().slot.take()?;
        if body.len() > VARIABLES {
            self.complaints.note(format!("a report of {} bytes killed the execution", body.len()));
            self.end(State::Failed);
        }
        Some(payload(&body))
    }

    pub(crate) fn answer(&self, request: &Request) -> Reply {
        let refuse = |refusal: Refusal| Response::from(refusal);
        match Resource::of(request.uri().path()) {
            Some(Resource::Callback { execution, callback }) => {
                let called = || self.called(request, execution, callback);
                self.calls.take(request, page, || called().unwrap_or_else(refuse))
            }
            Some(resource) if request.method() == Method::GET => match self.script.next() {
                Some(answer) => answer.reply(page),
                None => Reply::Answer(self.read(request, &resource).unwrap_or_else(refuse)),
            },
            _ => {
                self.complaints.unknown(request);
                Reply::Answer(refuse(StatusCode::NOT_FOUND.into()))
            }
        }
    }

    fn called(&self, request: &Request, execution: &str, callback: &str) -> Result<Response, Refusal> {
        self.tokens.check(request)?;
        self.permissions.check("workflows.callbacks.send", execution)?;
        let body = request.body();
        let mut state = self.execution();
        if execution != self.name || callback != self.callback || state.state != State::Active {
            return Err(not_found());
        }
        if request.method() != self.calls.method() {
            return Err(StatusCode::METHOD_NOT_ALLOWED.into());
        }
        if body.len() > LARGEST_BODY {
            return Err(StatusCode::PAYLOAD_TOO_LARGE.into());
        }
        if state.slot.is_some() {
            let message = "The callback has a payload that was not processed yet.";
            return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, message));
        }
        state.slot = Some(body.clone());
        drop(state);
        if self.workflow == Workflow::Awaits {
            self.consume();
        }
        Ok(plain(StatusCode::OK))
    }

    fn read(&self, request: &Request, resource: &Resource<'_>) -> Result<Response, Refusal> {
        self.tokens.check(request)?;
        let (permission, name) = match resource {
            Resource::Execution(name) => ("workflows.executions.get", *name),
            Resource::Callbacks(name) => ("workflows.callbacks.list", *name),
            Resource::Callback { .. } => return Err(not_found()),
        };
        self.permissions.check(permission, name)?;
        let execution = self.execution();
        if name != self.name || execution.state == State::Forgotten {
            return Err(not_found());
        }
        let body = match (resource, execution.state) {
            (Resource::Execution(_), state) => self.execution_as_seen(state, request)?,
            (_, State::Active) => json!({ "callbacks": [self.endpoint(&execution)] }),
            _ => json!({}),
        };
        Ok(json(StatusCode::OK, &body))
    }

    /// The execution in the view that was asked for.
    fn execution_as_seen(&self, state: State, request: &Request) -> Result<Value, Refusal> {
        let mut body = json!({
            "name": self.name,
            "startTime": "2026-11-23T10:00:00.123456789Z",
            "state": state.name(),
            "workflowRevisionId": "000001-a4d",
        });
        if state != State::Active {
            body["endTime"] = "2026-11-23T10:00:10.123456789Z".into();
            body["duration"] = "10s".into();
        }
        match view(request).as_deref() {
            Some("BASIC") => {}
            None | Some("FULL" | "EXECUTION_VIEW_UNSPECIFIED") => {
                body["argument"] = "null".into();
                body["callLogLevel"] = "LOG_ERRORS_ONLY".into();
                body["status"] = json!({ "currentSteps": [{ "routine": "main", "step": "await" }] });
            }
            Some(_) => return Err(StatusCode::BAD_REQUEST.into()),
        }
        Ok(body)
    }

    /// The callback as a listing shows it. Numbers of 64 bits are strings in Google's JSON.
    fn endpoint(&self, execution: &Execution) -> Value {
        let waiting = execution.slot.iter().map(|body| String::from_utf8_lossy(body));
        json!({
            "name": format!("{}/callbacks/{}", self.name, self.callback),
            "method": self.calls.method().as_str(),
            "availablePayloads": waiting.collect::<Vec<_>>(),
            "waiters": match self.workflow {
                Workflow::Awaits => "1",
                Workflow::IsBusy => "0",
            },
        })
    }

    fn execution(&self) -> MutexGuard<'_, Execution> {
        self.execution.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::Forgotten => "STATE_UNSPECIFIED",
        }
    }
}

/// What a path names; executions by their whole name.
#[derive(Debug)]
enum Resource<'a> {
    Execution(&'a str),
    Callbacks(&'a str),
    Callback { execution: &'a str, callback: &'a str },
}

impl<'a> Resource<'a> {
    fn of(path: &'a str) -> Option<Self> {
        let path = path.strip_prefix("/v1/")?;
        let segments: Vec<_> = path.split('/').collect();
        let execution = path.find("/callbacks").map_or(path, |at| &path[..at]);
        match segments[..] {
            ["projects", _, "locations", _, "workflows", _, "executions", id, ref below @ ..] => {
                match below {
                    // E:cancel and its like are methods, not names.
                    [] if !id.contains(':') => Some(Self::Execution(execution)),
                    ["callbacks"] => Some(Self::Callbacks(execution)),
                    ["callbacks", callback] => Some(Self::Callback { execution, callback }),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// How much of an execution is asked for.
fn view(request: &Request) -> Option<Cow<'_, str>> {
    let query = request.uri().query().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "view").map(|(_, value)| value)
}

fn not_found() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "Requested entity was not found.")
}

/// A bare status, dressed as the service does.
fn page(status: StatusCode) -> Response {
    if status.is_success() { plain(status) } else { Refusal::from(status).into() }
}
