//! A call to one of Google's JSON APIs, tried until there is an answer or no hope.
//!
//! Leaves out what is asked for and what the answer means, which is each service's own file's.

use std::{error::Error, sync::Arc, time::Duration};

use gcp_auth::TokenProvider;
use reqwest::{Method, Response, StatusCode, Url, header::HeaderMap};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;
use tokio::time::{Instant, sleep_until};

use super::{MetadataError, Outside, SCOPES, Tokens, credential};
use crate::{backoff, http, report};

/// One try, from connecting to the last byte of the answer.
const TRY: Duration = Duration::from_secs(30);
/// Between two tries.
const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(20);
/// A Retry-After is honoured up to here; a server's clock may be wrong.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);
/// The longest answer that is read: a secret is 64 KiB, and what else is asked for is shorter.
const MOST_BYTES: usize = 1 << 20;
/// Of an error's text. Google's are sentences.
const MOST_TEXT_BYTES: usize = 1 << 10;

/// Calls Google's APIs as the VM's service account.
#[derive(Clone)]
pub struct Api {
    /// Sends the requests.
    pub(crate) outside: Outside,
    /// Whose credential goes along.
    pub(crate) tokens: Arc<Tokens>,
}

/// Why a call brought nothing.
#[derive(Debug, Error)]
pub enum ApiError {
    /// The address is not one of Google's APIs, and nothing was sent.
    #[error("{host} is not a Google API, and gets no access token")]
    NotGoogle {
        /// The host that was meant.
        host: String,
    },
    /// There is no access token.
    #[error("no access token for {host}")]
    NoToken {
        /// The service.
        host: String,
        /// Why.
        #[source]
        source: gcp_auth::Error,
    },
    /// No connection, it broke, or no answer in time.
    #[error("{host} does not answer")]
    Unreachable {
        /// The service.
        host: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The service says no, in the form that Google's services have for that.
    #[error("{host} answered {}: {message}", status.as_u16())]
    Refused {
        /// The service.
        host: String,
        /// Its answer.
        status: StatusCode,
        /// The name of its `google.rpc.Code`, such as `FAILED_PRECONDITION`.
        code: String,
        /// Its words.
        message: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// Something else than the service's answer, a proxy's page for example.
    #[error("the answer of {host} cannot be read: {why}")]
    Undecodable {
        /// The service.
        host: String,
        /// What is wrong with it; does not quote it.
        why: String,
    },
}

impl ApiError {
    /// The service's status, if it said no.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// How long the service wants to be left alone.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the same call may have another answer later. A 401 may with a fresh token.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotGoogle { .. } => false,
            Self::NoToken { source, .. } => {
                let of_metadata = source.source().and_then(|source| source.downcast_ref());
                of_metadata.is_some_and(MetadataError::is_transient)
            }
            Self::Unreachable { .. } | Self::Undecodable { .. } => true,
            Self::Refused { status, .. } => {
                status.is_server_error() || matches!(status.as_u16(), 401 | 408 | 425 | 429)
            }
        }
    }
}

impl Api {
    /// Calls go out by `outside`, with a token of `tokens`.
    pub fn new(outside: Outside, tokens: Arc<Tokens>) -> Self {
        Self { outside, tokens }
    }

    /// Asks once, for JSON; a token that is refused is renewed once.
    pub(super) async fn ask<T: DeserializeOwned>(&self, method: Method, url: &Url) -> Result<T, ApiError> {
        let deadline = Instant::now() + TRY;
        let answer = match self.call_once(&method, url, None, deadline).await {
            Err(error) if error.status() == Some(StatusCode::UNAUTHORIZED) => {
                self.tokens.drop_refused().await;
                self.call_once(&method, url, None, deadline).await?
            }
            answer => answer?,
        };
        json(&answer).map_err(|why| ApiError::Undecodable { host: host(url), why })
    }

    /// Calls until `deadline` for as long as there is hope, and at least once. `read` reads the body of a good
    /// answer; its error must not quote what it read.
    pub async fn call<T>(
        &self,
        method: Method,
        url: &Url,
        body: Option<&Value>,
        deadline: Instant,
        read: impl Fn(&[u8]) -> Result<T, String>,
    ) -> Result<T, ApiError> {
        let mut delays = backoff::delays(FIRST_DELAY, LONGEST_DELAY);
        let mut told = false;
        loop {
            let error = match self.call_once(&method, url, body, deadline).await {
                Ok(answer) => match read(&answer) {
                    Ok(read) => return Ok(read),
                    Err(why) => ApiError::Undecodable { host: host(url), why },
                },
                Err(error) => error,
            };
            let delay = delays.next().unwrap_or(LONGEST_DELAY);
            let next = Instant::now() + delay.max(error.retry_after().unwrap_or_default());
            if !error.is_transient() || next >= deadline {
                return Err(error);
            }
            if !told {
                tracing::warn!(error = http::chain(&error), "waiting for a service of Google's");
                told = true;
            }
            if error.status() == Some(StatusCode::UNAUTHORIZED) {
                self.tokens.drop_refused().await;
            }
            sleep_until(next).await;
        }
    }

    async fn call_once(
        &self,
        method: &Method,
        url: &Url,
        body: Option<&Value>,
        deadline: Instant,
    ) -> Result<Vec<u8>, ApiError> {
        if !credential::is_google_api(url) {
            return Err(ApiError::NotGoogle { host: host(url) });
        }
        let token = self.tokens.token(SCOPES).await;
        let token = token.map_err(|source| ApiError::NoToken { host: host(url), source })?;
        let unreachable =
            |source: reqwest::Error| ApiError::Unreachable { host: host(url), source: source.without_url() };
        let left = deadline.saturating_duration_since(Instant::now());
        let request = self.outside.request(method.clone(), url).bearer_auth(token.as_str());
        let request = request.timeout(left.clamp(Duration::from_secs(1), TRY));
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let response = request.send().await.map_err(unreachable)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let answer = read_body(response).await.map_err(unreachable)?;
        match status.is_success() {
            true => Ok(answer),
            false => Err(refusal(host(url), status, &headers, &answer, token.as_str())),
        }
    }
}

fn host(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}

/// The body, or as much of it as any answer has.
async fn read_body(mut response: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MOST_BYTES {
            break;
        }
    }
    Ok(body)
}

/// A service's no. What echoes the request's headers is not passed on with the token in it.
fn refusal(host: String, status: StatusCode, headers: &HeaderMap, body: &[u8], token: &str) -> ApiError {
    #[derive(Deserialize)]
    struct Answer {
        error: Words,
    }
    // cloud.google.com/apis/design/errors, "HTTP mapping".
    #[derive(Deserialize)]
    struct Words {
        code: u16,
        #[serde(default)]
        message: String,
        #[serde(default)]
        status: String,
    }
    let error = match serde_json::from_slice(body) {
        Ok(Answer { error }) if error.code == status.as_u16() => error,
        _ => {
            let why = format!("{} with what is no error of Google's", status.as_u16());
            return ApiError::Undecodable { host, why };
        }
    };
    let shown = |text: String| report::cut(&text.replace(token, "[token]"), MOST_TEXT_BYTES);
    ApiError::Refused {
        host,
        status,
        code: shown(error.status),
        message: shown(error.message),
        retry_after: http::retry_after(headers, LONGEST_RETRY_AFTER),
    }
}

/// Reads JSON. Where it is something else, says where in it, and does not quote it: it may hold a secret.
pub(crate) fn json<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T, String> {
    let why = |error: serde_json::Error| {
        format!("not the expected JSON at line {}, column {}", error.line(), error.column())
    };
    serde_json::from_slice(body).map_err(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_known_by_its_status() {
        for (status, may_pass) in [
            (400, false),
            (401, true),
            (403, false),
            (404, false),
            (408, true),
            (429, true),
            (500, true),
            (503, true),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let body = format!(r#"{{ "error": {{ "code": {} }} }}"#, status.as_u16());
            let error = refusal(String::new(), status, &HeaderMap::new(), body.as_bytes(), "t");
            assert_eq!((error.status(), error.is_transient()), (Some(status), may_pass), "{status}");
        }
    }

    #[test]
    fn a_refusal_has_the_services_words_and_never_the_token() {
        let body =
            br#"{ "error": { "code": 403, "message": "No, ya29.x!", "status": "PERMISSION_DENIED" } }"#;
        let error =
            refusal("x.googleapis.com".to_owned(), StatusCode::FORBIDDEN, &HeaderMap::new(), body, "ya29.x");
        assert_eq!(error.to_string(), "x.googleapis.com answered 403: No, [token]!");
        assert!(matches!(error, ApiError::Refused { code, .. } if code == "PERMISSION_DENIED"));

        let page = refusal(
            "x.googleapis.com".to_owned(),
            StatusCode::BAD_GATEWAY,
            &HeaderMap::new(),
            b"<html>ya29.x",
            "ya29.x",
        );
        assert!(page.is_transient() && page.status().is_none(), "a proxy's page is nobody's answer: {page}");
    }

    #[test]
    fn what_is_not_json_is_not_quoted() {
        assert_eq!(json::<u8>(b"\"hunter2\"").unwrap_err(), "not the expected JSON at line 1, column 9");
    }
}
