//! One listener that stands for everything: it reads requests whole and hands each to who answers it.
//!
//! A new service of Google's is a file of its own with an `answer(&Request) -> Reply`, a field in `Cloud`,
//! and a row in `Cloud::google`.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::callback::PlainCallback;
use crate::compute::Compute;
use crate::events::Events;
use crate::executions::Executions;
use crate::google::Refusal;
use crate::logging::Logging;
use crate::metadata::Metadata;
use crate::secret_manager::SecretManager;
use crate::storage::Storage;
use crate::token::Tokens;

/// More than any service takes in one request.
const LARGEST_BODY: usize = 64 * 1024 * 1024;

/// A request that has come in whole.
pub(crate) type Request = hyper::Request<Bytes>;

/// An answer.
pub(crate) type Response = hyper::Response<Full<Bytes>>;

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Reply {
    Answer(Response),
    /// The connection stays open and nothing comes.
    Silence,
    /// The connection closes.
    HangUp,
}

/// A status and nothing else.
pub(crate) fn plain(status: StatusCode) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

/// Everybody who answers at the address.
#[derive(Debug)]
pub(crate) struct Cloud {
    pub(crate) metadata: Metadata,
    pub(crate) plain_callback: PlainCallback,
    pub(crate) executions: Executions,
    pub(crate) events: Arc<Events>,
    pub(crate) secret_manager: SecretManager,
    pub(crate) compute: Compute,
    pub(crate) logging: Logging,
    pub(crate) storage: Storage,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) complaints: Arc<Complaints>,
    pub(crate) requests: Requests,
}

impl Cloud {
    async fn answer(&self, request: &Request) -> Reply {
        self.requests.record(request);
        self.keep_the_token_home(request);
        match service(request) {
            Some(host) => self.google(host, request).await,
            None => match request.uri().path() {
                path if path == "/" || path.starts_with("/computeMetadata") => {
                    self.metadata.answer(request).await
                }
                path if path.starts_with("/events/") => Reply::Answer(self.events.answer(request).await),
                path if path.starts_with("/callback/") => self.plain_callback.answer(request),
                _ => {
                    self.complaints.unknown(request);
                    Reply::Answer(plain(StatusCode::NOT_FOUND))
                }
            },
        }
    }

    async fn google(&self, host: &str, request: &Request) -> Reply {
        match host {
            "workflowexecutions.googleapis.com" => self.executions.answer(request),
            "secretmanager.googleapis.com" => self.secret_manager.answer(request),
            "compute.googleapis.com" => self.compute.answer(request).await,
            "logging.googleapis.com" => self.logging.answer(request),
            "storage.googleapis.com" => self.storage.answer(request),
            _ => {
                self.complaints.unknown(request);
                Reply::Answer(Refusal::from(StatusCode::NOT_FOUND).into())
            }
        }
    }

    /// An access token has one place, the header of a request to Google.
    fn keep_the_token_home(&self, request: &Request) {
        let is_google = service(request).is_some_and(|host| host.ends_with(".googleapis.com"));
        let allowed = |name| name == AUTHORIZATION && is_google;
        let mut headers = request.headers().iter().filter(|(name, _)| !allowed(*name));
        if headers.any(|(_, value)| self.tokens.appear_in(value.as_bytes())) {
            self.complaints.note(format!("the access token stands in a header of {}", line(request)));
        }
        if self.tokens.appear_in(request.uri().to_string().as_bytes()) {
            self.complaints.note(format!("the access token stands in the address of a {}", request.method()));
        }
        if self.tokens.appear_in(request.body()) {
            self.complaints.note(format!("the access token stands in the body of {}", line(request)));
        }
    }
}

/// The host of Google's that was meant, as `LONGRUN_GOOGLE_ENDPOINT` has it told.
fn service(request: &Request) -> Option<&str> {
    request.headers().get("x-forwarded-host")?.to_str().ok()
}

/// A request in one line.
fn line(request: &Request) -> String {
    format!("{} {}{}", request.method(), service(request).unwrap_or_default(), request.uri())
}

/// Every request, a line each.
#[derive(Debug, Default)]
pub(crate) struct Requests(watch::Sender<Vec<String>>);

impl Requests {
    fn record(&self, request: &Request) {
        self.0.send_modify(|lines| lines.push(line(request)));
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    pub(crate) async fn wait(&self, times: usize, text: &str) {
        let enough = |lines: &Vec<String>| lines.iter().filter(|line| line.contains(text)).count() >= times;
        self.0.subscribe().wait_for(enough).await.expect("the sender is here");
    }
}

/// What came in that nobody should have sent.
#[derive(Debug, Default)]
pub(crate) struct Complaints(Mutex<Vec<String>>);

impl Complaints {
    pub(crate) fn note(&self, complaint: impl Into<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(complaint.into());
    }

    /// A request that nobody answers.
    pub(crate) fn unknown(&self, request: &Request) {
        self.note(format!("nothing answers {}", line(request)));
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A listener and the task that serves it until this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _task: JoinSet<Infallible>,
}

impl Server {
    pub(crate) fn start(listener: TcpListener, cloud: Arc<Cloud>) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let mut task = JoinSet::new();
        task.spawn(accept(listener, cloud));
        Ok(Self { address, _task: task })
    }
}

async fn accept(listener: TcpListener, cloud: Arc<Cloud>) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // An error is of the connection that was about to come, not of the listener.
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(serve(stream, cloud.clone()));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, cloud: Arc<Cloud>) {
    let service = service_fn(|request| handle(&cloud, request));
    // How a connection ends is the client's affair, or was written down in a script.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn handle(cloud: &Cloud, request: hyper::Request<Incoming>) -> Result<Response, HangUp> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, LARGEST_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE)),
        Err(_) => return Err(HangUp),
    };
    match cloud.answer(&Request::from_parts(head, body)).await {
        Reply::Answer(mut response) => {
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().entry(CONTENT_TYPE).or_insert(text);
            Ok(response)
        }
        Reply::Silence => pending().await,
        Reply::HangUp => Err(HangUp),
    }
}

/// Makes hyper close the connection without an answer.
#[derive(Debug)]
struct HangUp;

impl fmt::Display for HangUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection ends here")
    }
}

impl Error for HangUp {}
