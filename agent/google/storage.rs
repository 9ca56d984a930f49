//! Cloud Storage: an object by a resumable upload, request by request.
//!
//! ```text
//!   start ──▶ Session ──▶ put, put, … ──▶ put with the total: the object is there
//!                          ▲   │ no answer
//!                          └─ probe: how much is stored
//! ```
//!
//! Until its last byte is stored the object does not exist, and its session lives for a week. Leaves out when
//! to try again, which is whoever uploads' affair.
//!
//! Source: cloud.google.com/storage/docs/performing-resumable-uploads.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use bytes::{Buf, Bytes};
use gcp_auth::TokenProvider;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, header::HeaderMap};
use serde::Deserialize;
use serde_json::Value;

use super::{MetadataError, Outside, SCOPES, Tokens, credential};
use crate::http;

/// Every part but the last is a multiple of this.
const GRAIN: usize = 256 << 10;
/// One request with its answer. The largest part takes a second on Compute Engine.
const TRY: Duration = Duration::from_secs(60);
/// Of an answer; an object's resource is a few KB.
const LONGEST_ANSWER: usize = 64 << 10;
/// A Retry-After is honoured up to here; a server's clock may be wrong.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Uploads as the service account.
#[derive(Clone)]
pub(crate) struct Storage {
    outside: Outside,
    tokens: Arc<Tokens>,
}

/// An object's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    /// The bucket's name.
    pub(crate) bucket: String,
    /// The object's name in it.
    pub(crate) name: String,
}

/// Why a request did not bring what it should. Holds neither a token nor what a peer wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It may go better later, and the service may say when.
    Passing(String, Option<Duration>),
    /// Somebody must mend it.
    Refused(String),
    /// The session is over, and with it everything that was stored.
    Gone,
    /// There is an object of that name.
    Exists,
}

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    /// So many bytes are stored.
    Bytes(u64),
    /// The object is there, with so many bytes.
    Object(u64),
}

/// An upload's address. Whoever knows it can upload, so it is not shown.
#[derive(Clone)]
struct Session(Url);

/// An object on its way.
pub(crate) struct Upload {
    session: Session,
    /// How much of it is stored for sure.
    stored: u64,
    /// What comes after that.
    rest: Bytes,
    /// Once all of it is here.
    total: Option<u64>,
    /// Whether more may be stored than is known: a request was not answered.
    unsure: bool,
}

/// What is left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Another step.
    Next,
    /// Nothing until there is more to store.
    Idle,
    /// Nothing: the object is there.
    Finished,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gs://{}/{}", self.bucket, self.name)
    }
}

impl Object {
    /// Where its upload begins. `ifGenerationMatch=0`: an object that is there is not replaced, which the
    /// permission to create does not cover either.
    fn address(&self) -> Url {
        let mut url = Url::parse("https://storage.googleapis.com/upload/storage/v1/b/").expect("a constant");
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend([&*self.bucket, "o"]);
        }
        url.query_pairs_mut()
            .append_pair("uploadType", "resumable")
            .append_pair("name", &self.name)
            .append_pair("ifGenerationMatch", "0");
        url
    }
}

impl Storage {
    /// Requests go out by `outside`, with a token of `tokens`.
    pub(crate) fn new(outside: Outside, tokens: Arc<Tokens>) -> Self {
        Self { outside, tokens }
    }

    /// Begins an upload of an object that is not there yet; `resource` has its metadata.
    pub(crate) async fn start(&self, object: &Object, resource: &Value) -> Result<Upload, Trouble> {
        let url = object.address();
        let request = self.outside.request(Method::POST, &url).json(resource);
        let (status, headers, _) = self.send(request).await?;
        match status.as_u16() {
            200 | 201 => {
                let session = session(&headers).ok_or_else(|| foreign(status))?;
                Ok(Upload { session, stored: 0, rest: Bytes::new(), total: None, unsure: false })
            }
            404 => Err(Trouble::Refused(format!("there is no bucket {}", object.bucket))),
            _ => Err(trouble(status, &headers)),
        }
    }

    /// Stores a part that begins at `offset`; it is the last one if the total is known.
    async fn put(
        &self,
        session: &Session,
        offset: u64,
        part: Bytes,
        total: Option<u64>,
    ) -> Result<Stored, Trouble> {
        let range = content_range(offset, part.len() as u64, total);
        let request = self.outside.request(Method::PUT, &session.0).header("Content-Range", range);
        let (status, headers, body) = self.send(request.body(part)).await?;
        judge(status, &headers, &body)
    }

    async fn send(&self, request: RequestBuilder) -> Result<(StatusCode, HeaderMap, Vec<u8>), Trouble> {
        let token = self.tokens.token(SCOPES).await.map_err(|error| no_token(&error))?;
        let answer = async {
            let response = request.bearer_auth(token.as_str()).timeout(TRY).send().await?;
            let (status, headers) = (response.status(), response.headers().clone());
            Ok::<_, reqwest::Error>((status, headers, read(response).await?))
        };
        let answer = answer.await;
        let answer = answer.map_err(|error| Trouble::Passing(http::chain(&error.without_url()), None))?;
        if answer.0 == StatusCode::UNAUTHORIZED {
            self.tokens.drop_refused().await;
        }
        Ok(answer)
    }
}

impl Upload {
    /// Adds what comes next.
    pub(crate) fn append(&mut self, more: Vec<u8>) {
        self.rest = match self.rest.is_empty() {
            true => more.into(),
            false => [&*self.rest, &more].concat().into(),
        };
    }

    /// There is nothing more to come.
    pub(crate) fn complete(&mut self) {
        self.total = Some(self.stored + self.rest.len() as u64);
    }

    /// Does the next thing, which may be to ask how far it is. Dropped halfway, it is asked for.
    pub(crate) async fn step(&mut self, storage: &Storage) -> Result<Step, Trouble> {
        let ask = self.unsure || (self.rest.is_empty() && self.total.is_some());
        let part = match (ask, self.total) {
            (true, _) => Bytes::new(),
            (false, Some(_)) => self.rest.clone(),
            (false, None) => self.rest.slice(..self.rest.len() - self.rest.len() % GRAIN),
        };
        if part.is_empty() && !ask {
            return Ok(Step::Idle);
        }
        self.unsure = true;
        let stored = storage.put(&self.session, self.stored, part, self.total).await?;
        self.unsure = false;
        self.learn(stored, ask)
    }

    fn learn(&mut self, stored: Stored, asked: bool) -> Result<Step, Trouble> {
        match stored {
            Stored::Object(size) if self.total == Some(size) => Ok(Step::Finished),
            Stored::Bytes(bytes) => {
                let news = bytes.checked_sub(self.stored).and_then(|news| usize::try_from(news).ok());
                // What was stored before may not be any more.
                let news = news.filter(|news| *news <= self.rest.len()).ok_or(Trouble::Gone)?;
                self.rest.advance(news);
                self.stored = bytes;
                match news == 0 && !asked {
                    true => Err(Trouble::Passing("Cloud Storage stored nothing of a part".to_owned(), None)),
                    false => Ok(Step::Next),
                }
            }
            // It has another end than this one.
            Stored::Object(_) => Err(Trouble::Gone),
        }
    }
}

/// The session's address, if it is one of Google's: a token goes there.
fn session(headers: &HeaderMap) -> Option<Session> {
    let url = Url::parse(headers.get("Location")?.to_str().ok()?).ok()?;
    credential::is_google_api(&url).then_some(Session(url))
}

/// `bytes 0-99/*`; without bytes, a question.
fn content_range(offset: u64, length: u64, total: Option<u64>) -> String {
    let total = total.map_or("*".to_owned(), |total| total.to_string());
    match length {
        0 => format!("bytes */{total}"),
        _ => format!("bytes {offset}-{}/{total}", offset + length - 1),
    }
}

/// What a session's answer means.
fn judge(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<Stored, Trouble> {
    #[derive(Deserialize)]
    struct Resource {
        /// Numbers of 64 bits are strings in Google's JSON.
        size: String,
    }
    match status.as_u16() {
        200 | 201 => {
            let size = serde_json::from_slice::<Resource>(body).ok().and_then(|it| it.size.parse().ok());
            size.map(Stored::Object).ok_or_else(|| foreign(status))
        }
        308 => stored_range(headers).map(Stored::Bytes).ok_or_else(|| foreign(status)),
        404 | 410 => Err(Trouble::Gone),
        _ => Err(trouble(status, headers)),
    }
}

/// `bytes=0-99` is a hundred bytes, and no header none.
fn stored_range(headers: &HeaderMap) -> Option<u64> {
    let Some(range) = headers.get("Range") else { return Some(0) };
    let last: u64 = range.to_str().ok()?.strip_prefix("bytes=0-")?.parse().ok()?;
    last.checked_add(1)
}

/// What any other answer means.
fn trouble(status: StatusCode, headers: &HeaderMap) -> Trouble {
    let answered = format!("Cloud Storage answered {}", status.as_u16());
    match status.as_u16() {
        412 => Trouble::Exists,
        403 => Trouble::Refused(format!(
            "{answered}; grant the VM's service account roles/storage.objectCreator on the bucket, and give the \
             VM the scope cloud-platform"
        )),
        // With a fresh token; a redirect is not followed.
        401 | 408 | 425 | 429 | 300..=399 | 500..=599 => {
            Trouble::Passing(answered, http::retry_after(headers, LONGEST_RETRY_AFTER))
        }
        _ => Trouble::Refused(answered),
    }
}

fn foreign(status: StatusCode) -> Trouble {
    let why = format!("what answered {} is not Cloud Storage; is there a proxy?", status.as_u16());
    Trouble::Passing(why, None)
}

/// A VM without a service account will not get one while the job runs.
fn no_token(error: &gcp_auth::Error) -> Trouble {
    let of_metadata = error.source().and_then(|source| source.downcast_ref::<MetadataError>());
    match of_metadata.is_some_and(MetadataError::is_absent) {
        true => Trouble::Refused(http::chain(error)),
        false => Trouble::Passing(http::chain(error), None),
    }
}

/// The body, or as much of it as an object's resource has.
async fn read(mut response: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while body.len() <= LONGEST_ANSWER
        && let Some(chunk) = response.chunk().await?
    {
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_begins_at_an_address_of_googles_whatever_the_names() {
        let object = Object { bucket: "b".to_owned(), name: "a/é &?#.log".to_owned() };
        assert_eq!(
            object.address().as_str(),
            "https://storage.googleapis.com/upload/storage/v1/b/b/o?uploadType=resumable&name=a%2F%C3%A9+%26%3F%23.log&ifGenerationMatch=0"
        );
        assert!(credential::is_google_api(&object.address()));
    }

    #[test]
    fn a_session_that_is_not_googles_is_none() {
        for (location, is_one) in [
            ("https://storage.googleapis.com/upload/storage/v1/b/b/o?upload_id=x", true),
            ("http://storage.googleapis.com/upload?upload_id=x", false),
            ("https://storage.googleapis.com.evil.example/upload?upload_id=x", false),
            ("https://storage.googleapis.com@evil.example/upload?upload_id=x", false),
            ("https://storage.googleapis.com:444/upload?upload_id=x", false),
            ("/upload?upload_id=x", false),
        ] {
            let headers = headers(&[("Location", location)]);
            assert_eq!(session(&headers).is_some(), is_one, "{location}");
        }
        assert!(session(&HeaderMap::new()).is_none());
    }

    #[test]
    fn a_part_says_where_it_is_and_nothing_is_a_question() {
        assert_eq!(content_range(0, 100, None), "bytes 0-99/*");
        assert_eq!(content_range(100, 50, Some(150)), "bytes 100-149/150");
        assert_eq!(content_range(100, 0, None), "bytes */*");
        assert_eq!(content_range(100, 0, Some(100)), "bytes */100");
    }

    #[test]
    fn every_answer_of_a_session_has_its_meaning() {
        check(308, &[("Range", "bytes=0-99")], "", Ok(Stored::Bytes(100)));
        check(308, &[], "", Ok(Stored::Bytes(0)));
        check(200, &[], r#"{ "kind": "storage#object", "size": "7" }"#, Ok(Stored::Object(7)));
        check(201, &[], r#"{ "size": "7" }"#, Ok(Stored::Object(7)));
        for status in [404, 410] {
            check(status, &[], "", Err(Trouble::Gone));
        }
        check(412, &[], "", Err(Trouble::Exists));
        for status in [302, 401, 408, 429, 500, 502, 503, 504] {
            let why = format!("Cloud Storage answered {status}");
            check(status, &[], "<html>", Err(Trouble::Passing(why, None)));
        }
        let later = Trouble::Passing("Cloud Storage answered 503".to_owned(), Some(Duration::from_secs(7)));
        check(503, &[("Retry-After", "7")], "", Err(later));
        for status in [400, 403] {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(matches!(judge(status, &HeaderMap::new(), b""), Err(Trouble::Refused(_))));
        }
    }

    #[test]
    fn a_proxys_page_is_no_answer() {
        for (status, headers, body) in [
            (200, &[][..], "<html>"),
            (200, &[], "{}"),
            (200, &[], r#"{ "size": 7 }"#),
            (308, &[("Range", "bytes=5-9")], ""),
            (308, &[("Range", "bytes=0-18446744073709551615")], ""),
        ] {
            check(status, headers, body, Err(foreign(StatusCode::from_u16(status).unwrap())));
        }
    }

    #[test]
    fn what_is_stored_is_believed_only_if_it_can_be() {
        let some = || {
            let session = Session(Url::parse("https://storage.googleapis.com/").unwrap());
            Upload { session, stored: 10, rest: vec![0; 10].into(), total: None, unsure: false }
        };
        let left = |stored, asked| {
            let mut upload = some();
            upload.learn(stored, asked).map(|step| (step, upload.stored, upload.rest.len()))
        };
        assert_eq!(left(Stored::Bytes(13), false), Ok((Step::Next, 13, 7)));
        assert_eq!(left(Stored::Bytes(20), false), Ok((Step::Next, 20, 0)));
        assert_eq!(left(Stored::Bytes(10), true), Ok((Step::Next, 10, 10)));
        assert!(matches!(left(Stored::Bytes(10), false), Err(Trouble::Passing(..))), "no progress");
        for stored in [Stored::Bytes(9), Stored::Bytes(21), Stored::Object(20)] {
            assert_eq!(left(stored, true), Err(Trouble::Gone), "{stored:?}");
        }
    }

    #[track_caller]
    fn check(status: u16, fields: &[(&'static str, &str)], body: &str, expected: Result<Stored, Trouble>) {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(judge(status, &headers(fields), body.as_bytes()), expected, "{status} {fields:?} {body}");
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }
}
