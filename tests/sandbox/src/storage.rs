//! storage.googleapis.com: one bucket, and objects that come into it by resumable uploads.
//!
//! An object is there once its last byte is. Until then its upload has an address of its own, takes parts of
//! multiples of 256 KiB, and tells whoever asks how much it has.
//!
//! Leaves out every other way to upload, reading, listing, and the permission to replace an object, which the
//! service account does not have here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::header::{CONTENT_RANGE, HeaderValue, LOCATION, RANGE};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::google::{Refusal, json};
use crate::script::Answer;
use crate::server::{Complaints, Reply, Request, Response, plain};
use crate::token::Tokens;
use crate::unique;

/// The only bucket there is.
pub const BUCKET: &str = "longrun-sandbox-logs";

/// Every part but the last is a multiple of this.
const GRAIN: usize = 256 * 1024;

/// An object that is there.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its name in the bucket.
    pub name: String,
    /// What is stored.
    pub bytes: Vec<u8>,
    /// Its metadata, as they were sent.
    pub resource: Value,
}

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Mishap {
    /// It gets this answer.
    Answered(Answer),
    /// Half of the part is stored, which the answer says.
    Short,
    /// Half of the part is stored, and then the connection breaks.
    Cut,
    /// The upload is forgotten, with all that was stored of it.
    Forgotten,
}

#[derive(Debug)]
pub(crate) struct Storage {
    /// What every request gets.
    always: Option<Answer>,
    /// What single requests get, by their number from one.
    mishaps: BTreeMap<usize, Mishap>,
    requests: AtomicUsize,
    stored: Mutex<Stored>,
    tokens: Arc<Tokens>,
    complaints: Arc<Complaints>,
}

#[derive(Debug, Default)]
struct Stored {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
}

#[derive(Debug)]
struct Upload {
    object: Object,
    complete: bool,
}

impl Storage {
    pub(crate) fn new(
        always: Option<Answer>,
        mishaps: BTreeMap<usize, Mishap>,
        tokens: Arc<Tokens>,
        complaints: Arc<Complaints>,
    ) -> Self {
        let (requests, stored) = <(AtomicUsize, Mutex<Stored>)>::default();
        Self { always, mishaps, requests, stored, tokens, complaints }
    }

    /// Every object that is there, by name.
    pub(crate) fn objects(&self) -> Vec<Object> {
        self.stored().objects.values().cloned().collect()
    }

    /// Puts an object there.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        let object = Object { name: name.to_owned(), bytes: bytes.to_vec(), resource: Value::Null };
        self.stored().objects.insert(name.to_owned(), object);
    }

    pub(crate) fn answer(&self, request: &Request) -> Reply {
        let number = self.requests.fetch_add(1, Ordering::SeqCst) + 1;
        let itself = |length| self.respond(request, length).unwrap_or_else(Response::from);
        let (whole, half) = (request.body().len(), request.body().len() / 2 / GRAIN * GRAIN);
        let mishap = self.always.clone().map(Mishap::Answered);
        match mishap.or_else(|| self.mishaps.get(&number).cloned()) {
            None => Reply::Answer(itself(whole)),
            Some(Mishap::Answered(answer)) => {
                if answer.is_lost() {
                    itself(whole);
                }
                answer.reply(|status| Refusal::from(status).into())
            }
            Some(Mishap::Short) => Reply::Answer(itself(half)),
            Some(Mishap::Cut) => {
                itself(half);
                Reply::HangUp
            }
            Some(Mishap::Forgotten) => {
                self.stored().uploads.clear();
                Reply::Answer(itself(whole))
            }
        }
    }

    /// Takes no more than `length` bytes of the request's.
    fn respond(&self, request: &Request, length: usize) -> Result<Response, Refusal> {
        self.tokens.check(request)?;
        let query: BTreeMap<_, _> = request
            .uri()
            .query()
            .map(|query| form_urlencoded::parse(query.as_bytes()).into_owned().collect())
            .unwrap_or_default();
        let bucket = request.uri().path().strip_prefix("/upload/storage/v1/b/");
        let bucket = bucket.and_then(|path| path.strip_suffix("/o"));
        match (request.method(), query.get("upload_id"), query.get("name")) {
            (&Method::POST, None, Some(name)) => self.begin(request, bucket, name, &query),
            (&Method::PUT, Some(id), _) => self.take(request, id, length),
            _ => {
                self.complaints.unknown(request);
                Err(StatusCode::NOT_FOUND.into())
            }
        }
    }

    fn begin(
        &self,
        request: &Request,
        bucket: Option<&str>,
        name: &str,
        query: &BTreeMap<String, String>,
    ) -> Result<Response, Refusal> {
        if bucket != Some(BUCKET) {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "The specified bucket does not exist."));
        }
        let mut stored = self.stored();
        if stored.objects.contains_key(name) {
            return Err(match query.get("ifGenerationMatch").is_some_and(|generation| generation == "0") {
                true => StatusCode::PRECONDITION_FAILED.into(),
                false => StatusCode::FORBIDDEN.into(),
            });
        }
        let resource = serde_json::from_slice(request.body()).unwrap_or_else(|error| {
            self.complaints.note(format!("an object's resource is not JSON: {error}"));
            Value::Null
        });
        let id = format!("{:016x}", unique());
        let location = format!("https://storage.googleapis.com{}&upload_id={id}", request.uri());
        let object = Object { name: name.to_owned(), bytes: Vec::new(), resource };
        stored.uploads.insert(id, Upload { object, complete: false });
        let mut response = plain(StatusCode::OK);
        response.headers_mut().insert(LOCATION, HeaderValue::from_str(&location).expect("it was an address"));
        Ok(response)
    }

    fn take(&self, request: &Request, id: &str, length: usize) -> Result<Response, Refusal> {
        let range = request.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
        let Some(range) = range.and_then(ContentRange::of) else {
            self.complaints.note("a part without a Content-Range");
            return Err(StatusCode::BAD_REQUEST.into());
        };
        let mut stored = self.stored();
        let Stored { objects, uploads } = &mut *stored;
        let upload = uploads.get_mut(id).ok_or(Refusal::from(StatusCode::GONE))?;
        if !upload.complete {
            if let Some((first, last)) = range.part {
                self.check(request, &upload.object, first, last, range.total)?;
                let from = upload.object.bytes.len() - first;
                upload.object.bytes.extend_from_slice(&request.body()[from.min(length)..length]);
            }
            upload.complete = range.total == Some(upload.object.bytes.len());
        }
        if !upload.complete {
            return Ok(incomplete(upload.object.bytes.len()));
        }
        objects.insert(upload.object.name.clone(), upload.object.clone());
        Ok(json(StatusCode::OK, &resource(&upload.object)))
    }

    /// Refuses a part that is not where it should be or not as long.
    fn check(
        &self,
        request: &Request,
        object: &Object,
        first: usize,
        last: usize,
        total: Option<usize>,
    ) -> Result<(), Refusal> {
        let length = request.body().len();
        let wrong = if first + length != last + 1 {
            "its Content-Range is not its length"
        } else if total.is_none() && !length.is_multiple_of(GRAIN) {
            "it is not a multiple of 256 KiB, nor the last one"
        } else if first != object.bytes.len() {
            "it does not begin where the one before it ended"
        } else {
            return Ok(());
        };
        self.complaints.note(format!("a part cannot be taken: {wrong}"));
        Err(Refusal::new(StatusCode::BAD_REQUEST, wrong))
    }

    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `bytes 0-99/*`, or `bytes */100`.
struct ContentRange {
    part: Option<(usize, usize)>,
    total: Option<usize>,
}

impl ContentRange {
    fn of(text: &str) -> Option<Self> {
        let (part, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let part = match part {
            "*" => None,
            part => {
                part.split_once('-').map(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)))?
            }
        };
        let total = if total == "*" { None } else { Some(total.parse().ok()?) };
        Some(Self { part, total })
    }
}

/// So much is stored.
fn incomplete(length: usize) -> Response {
    let mut response = plain(StatusCode::PERMANENT_REDIRECT);
    if let Some(last) = length.checked_sub(1) {
        let range = HeaderValue::from_str(&format!("bytes=0-{last}")).expect("digits");
        response.headers_mut().insert(RANGE, range);
    }
    response
}

/// An object as the service tells of it. Numbers of 64 bits are strings in Google's JSON.
fn resource(object: &Object) -> Value {
    json!({
        "kind": "storage#object",
        "bucket": BUCKET,
        "name": object.name,
        "size": object.bytes.len().to_string(),
    })
}
