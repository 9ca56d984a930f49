//! Answers that a test writes down beforehand: the first requests get those, then a fake is itself.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{HeaderMap, StatusCode};

use crate::server::{Reply, Response};

/// An answer written down beforehand. A bare number is a status: `[401.into(), Answer::hang_up()]`.
#[derive(Clone, Debug)]
pub struct Answer(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Status(StatusCode, HeaderMap),
    Page,
    Silence,
    HangUp,
    Lost,
}

impl Answer {
    /// This status.
    ///
    /// # Panics
    /// When HTTP has no such status.
    #[must_use]
    #[track_caller]
    pub fn status(status: u16) -> Self {
        let status = StatusCode::from_u16(status).expect("a scripted status is between 100 and 999");
        Self(Kind::Status(status, HeaderMap::new()))
    }

    /// With this header, such as `Retry-After`.
    ///
    /// # Panics
    /// When the answer is not a status, or the header is none.
    #[must_use]
    #[track_caller]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        let Kind::Status(_, headers) = &mut self.0 else { panic!("only a status carries headers") };
        let name: HeaderName = name.parse().expect("the name of a header");
        headers.insert(name, HeaderValue::from_str(value).expect("the value of a header"));
        self
    }

    /// A page of HTML with status 200, as a proxy puts in the place of what was asked for.
    #[must_use]
    pub fn page() -> Self {
        Self(Kind::Page)
    }

    /// None: the connection stays open and nothing comes.
    #[must_use]
    pub fn silence() -> Self {
        Self(Kind::Silence)
    }

    /// None: the connection closes.
    #[must_use]
    pub fn hang_up() -> Self {
        Self(Kind::HangUp)
    }

    /// The request is taken, but the answer is lost on its way: the connection closes.
    #[must_use]
    pub fn lost() -> Self {
        Self(Kind::Lost)
    }
}

impl Answer {
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self.0, Kind::Lost)
    }

    /// The answer on the wire; `page` dresses a bare status as the service would.
    pub(crate) fn reply(self, page: impl FnOnce(StatusCode) -> Response) -> Reply {
        match self.0 {
            Kind::Status(status, headers) => {
                let mut response = page(status);
                response.headers_mut().extend(headers);
                Reply::Answer(response)
            }
            Kind::Page => Reply::Answer(sign_in()),
            Kind::Silence => Reply::Silence,
            Kind::HangUp | Kind::Lost => Reply::HangUp,
        }
    }
}

fn sign_in() -> Response {
    let mut response = Response::new(Bytes::from("<!DOCTYPE html><title>Sign in</title>").into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

impl From<u16> for Answer {
    #[track_caller]
    fn from(status: u16) -> Self {
        Self::status(status)
    }
}

/// The answers that are still to be given.
#[derive(Debug, Default)]
pub(crate) struct Script(Mutex<VecDeque<Answer>>);

impl Script {
    pub(crate) fn new(answers: Vec<Answer>) -> Self {
        Self(Mutex::new(answers.into()))
    }

    /// The next of them, while there is one.
    pub(crate) fn next(&self) -> Option<Answer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}
