//! The metadata server of a VM.
//!
//! Leaves out what the agent never asks for: disks, network interfaces, OS Login, the older versions of
//! the API, limits on the size of a value and the rate of writes; its error pages are shorter than the
//! real ones.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, ETAG, HeaderValue, LOCATION, SERVER};
use hyper::{Method, StatusCode};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::script::Script;
use crate::server::{Complaints, Reply, Request, Response, plain};
use crate::token::{Claims, Tokens, identity_token};
use crate::tree::{Format, Node};
use crate::vm::{self, Account, Identity};

#[derive(Debug)]
pub(crate) struct Metadata {
    tree: watch::Sender<Node>,
    script: Script,
    write_script: Script,
    tokens: Arc<Tokens>,
    complaints: Arc<Complaints>,
}

impl Metadata {
    pub(crate) fn new(
        identity: &Identity,
        account: Account,
        [script, write_script]: [Script; 2],
        tokens: Arc<Tokens>,
        complaints: Arc<Complaints>,
    ) -> Self {
        let tree = watch::Sender::new(vm::values(identity, account, tokens.scopes()));
        Self { tree, script, write_script, tokens, complaints }
    }

    /// The value at a path such as `instance/preempted`, as text.
    pub(crate) fn get(&self, path: &str) -> Option<String> {
        self.tree.borrow().find(&names(path)).map(|node| node.write(Format::Text))
    }

    /// Sets a value, or removes it, and wakes who waits for that.
    pub(crate) fn set(&self, path: &str, value: Option<&str>) {
        self.tree.send_modify(|tree| tree.set(&names(path), value.map(Node::text)));
    }

    pub(crate) async fn answer(&self, request: &Request) -> Reply {
        let script = if *request.method() == Method::PUT { &self.write_script } else { &self.script };
        let mut reply = match script.next() {
            Some(answer) => answer.reply(|status| error_page(status, "")),
            None => Reply::Answer(self.itself(request).await.unwrap_or_else(Response::from)),
        };
        if let Reply::Answer(response) = &mut reply {
            let headers = response.headers_mut();
            headers.insert("metadata-flavor", HeaderValue::from_static("Google"));
            headers.insert(SERVER, HeaderValue::from_static("Metadata Server for VM"));
        }
        reply
    }

    async fn itself(&self, request: &Request) -> Result<Response, Refusal> {
        // Only here the header is not asked for: this is how clients find out where they are.
        if request.uri().path() == "/" {
            return Ok(value("application/text", "computeMetadata/\n".to_owned()));
        }
        self.check_headers(request)?;
        let Some(path) = request.uri().path().strip_prefix("/computeMetadata/v1/") else {
            return self.above(request);
        };
        match *request.method() {
            Method::GET | Method::HEAD => self.read(request, path).await,
            Method::PUT => self.write(request, path),
            _ => {
                self.complaints.unknown(request);
                Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, ""))
            }
        }
    }

    fn check_headers(&self, request: &Request) -> Result<(), Refusal> {
        let headers = request.headers();
        if headers.contains_key("x-forwarded-for") {
            self.complaints.note("a request to the metadata server carried X-Forwarded-For");
            return Err(Refusal(StatusCode::FORBIDDEN, "X-Forwarded-For is not allowed."));
        }
        if headers.get("metadata-flavor").is_none_or(|flavor| flavor != "Google") {
            self.complaints.note("a request to the metadata server lacked Metadata-Flavor");
            return Err(Refusal(StatusCode::FORBIDDEN, "Missing Metadata-Flavor:Google header."));
        }
        Ok(())
    }

    /// What lies above the values, and beside them.
    fn above(&self, request: &Request) -> Result<Response, Refusal> {
        match request.uri().path() {
            "/computeMetadata/" => Ok(value("application/text", "v1/\n".to_owned())),
            "/computeMetadata" | "/computeMetadata/v1" => Ok(to_the_folder(request)),
            _ => {
                self.complaints.unknown(request);
                Err(NOT_FOUND)
            }
        }
    }

    async fn read(&self, request: &Request, path: &str) -> Result<Response, Refusal> {
        let (query, names) = (Query::of(request)?, names(path));
        self.check_guest_attributes(&names)?;
        let mut node = self.find(&names)?;
        let is_folder = matches!(node, Node::Folder(..));
        match (is_folder, path.is_empty() || path.ends_with('/')) {
            (true, true) | (false, false) => {}
            (true, false) => return Ok(to_the_folder(request)),
            (false, true) => return Err(NOT_FOUND),
        }
        if let Some(wait) = &query.wait {
            self.wait(&names, wait, &node).await?;
            node = self.find(&names)?;
        }
        if matches!(node, Node::Live) {
            return self.live(names.last().copied().unwrap_or_default(), &query);
        }
        let format = query.format.unwrap_or(node.usual_format());
        let response = match (is_folder, query.depth) {
            (true, Depth::Entries) => value("application/text", node.listing()),
            (true, Depth::Everything) | (false, _) => value(format.content_type(), node.write(format)),
        };
        Ok(tagged(response, &node.etag()))
    }

    fn find(&self, names: &[&str]) -> Result<Node, Refusal> {
        self.tree.borrow().find(names).cloned().ok_or(NOT_FOUND)
    }

    /// Until the value is another one than it was, or gone, or the time is over.
    async fn wait(&self, names: &[&str], wait: &Wait, now: &Node) -> Result<(), Refusal> {
        if matches!(now, Node::Live) {
            return Err(Refusal(StatusCode::BAD_REQUEST, "wait_for_change is not possible here."));
        }
        let last = wait.last_etag.clone().unwrap_or_else(|| now.etag());
        let mut changes = self.tree.subscribe();
        let change = changes.wait_for(|tree| tree.find(names).is_none_or(|node| node.etag() != last));
        match wait.longest {
            Some(longest) => drop(timeout(longest, change).await),
            None => drop(change.await),
        }
        Ok(())
    }

    fn live(&self, name: &str, query: &Query) -> Result<Response, Refusal> {
        let response = match (name, &query.audience) {
            ("token", _) => value("application/json", self.tokens.answer().to_string()),
            ("identity", Some(audience)) => value("text/html", identity_token(audience, query.claims)),
            ("identity", None) => {
                return Err(Refusal(StatusCode::BAD_REQUEST, "non-empty audience parameter required"));
            }
            _ => return Err(NOT_FOUND),
        };
        Ok(response)
    }

    fn write(&self, request: &Request, path: &str) -> Result<Response, Refusal> {
        let names = names(path);
        self.check_guest_attributes(&names)?;
        let (["instance", "guest-attributes", _, _], Ok(text)) = (&names[..], str::from_utf8(request.body()))
        else {
            self.complaints.unknown(request);
            return Err(NOT_FOUND);
        };
        self.set(path, Some(text));
        Ok(plain(StatusCode::OK))
    }

    fn check_guest_attributes(&self, names: &[&str]) -> Result<(), Refusal> {
        let enabled = self.get("instance/attributes/enable-guest-attributes");
        let enabled = enabled.is_some_and(|enabled| enabled.eq_ignore_ascii_case("true"));
        if names.starts_with(&["instance", "guest-attributes"]) && !enabled {
            return Err(Refusal(StatusCode::FORBIDDEN, "Guest attributes endpoint access is disabled."));
        }
        Ok(())
    }
}

/// What a request says after its path.
#[derive(Debug)]
struct Query {
    depth: Depth,
    format: Option<Format>,
    wait: Option<Wait>,
    audience: Option<String>,
    claims: Claims,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Depth {
    Entries,
    Everything,
}

#[derive(Debug)]
struct Wait {
    last_etag: Option<String>,
    /// None: for ever.
    longest: Option<Duration>,
}

impl Query {
    fn of(request: &Request) -> Result<Self, Refusal> {
        let pairs = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
        let pairs: Vec<_> = pairs.into_owned().collect();
        let get =
            |wanted: &str| pairs.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        let is_true = |name: &str| get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let format = match get("alt").as_deref() {
            None => None,
            Some("json") => Some(Format::Json),
            Some("text") => Some(Format::Text),
            Some(_) => return Err(Refusal(StatusCode::BAD_REQUEST, "alt is json or text")),
        };
        let longest = match get("timeout_sec").map(|seconds| seconds.parse()) {
            None => None,
            Some(Ok(seconds)) => Some(Duration::from_secs(seconds)),
            Some(Err(_)) => return Err(Refusal(StatusCode::BAD_REQUEST, "timeout_sec is a number")),
        };
        Ok(Self {
            depth: if is_true("recursive") { Depth::Everything } else { Depth::Entries },
            format,
            wait: is_true("wait_for_change").then(|| Wait { last_etag: get("last_etag"), longest }),
            audience: get("audience").filter(|audience| !audience.is_empty()),
            claims: if get("format").as_deref() == Some("full") { Claims::Full } else { Claims::Standard },
        })
    }
}

impl Format {
    fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Text => "application/text",
        }
    }
}

/// A no, and why.
#[derive(Debug)]
struct Refusal(StatusCode, &'static str);

const NOT_FOUND: Refusal = Refusal(StatusCode::NOT_FOUND, "The requested URL was not found on this server.");

impl From<Refusal> for Response {
    fn from(Refusal(status, why): Refusal) -> Self {
        error_page(status, why)
    }
}

fn error_page(status: StatusCode, why: &str) -> Response {
    let page = format!(
        "<!DOCTYPE html>\n<html lang=en>\n<meta charset=utf-8>\n<title>Error {status}</title>\n<p>{why}\n"
    );
    let mut response = value("text/html; charset=UTF-8", page);
    *response.status_mut() = status;
    response
}

/// The same address with the slash that a folder's has at its end.
fn to_the_folder(request: &Request) -> Response {
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = format!("{}/{query}", request.uri().path());
    let mut response = plain(StatusCode::MOVED_PERMANENTLY);
    let location = HeaderValue::try_from(location).expect("it is made of a path and a query that were read");
    response.headers_mut().insert(LOCATION, location);
    response
}

/// An answer, tagged by its own bytes.
fn value(content_type: &'static str, body: String) -> Response {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    let etag = format!("{:016x}", hasher.finish());
    let mut response = Response::new(Bytes::from(body).into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    tagged(response, &etag)
}

fn tagged(mut response: Response, etag: &str) -> Response {
    response.headers_mut().insert(ETAG, HeaderValue::from_str(etag).expect("an etag is hexadecimal"));
    response
}

/// The names that a path is made of.
fn names(path: &str) -> Vec<&str> {
    path.split('/').filter(|name| !name.is_empty()).collect()
}
