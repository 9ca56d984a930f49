//! Pulling an image.
//!
//! The Engine answers 200 before it has asked the registry, and errors come inside that stream; and a pull
//! can stand still for ever without any (FACTS). So the stream is read for errors and watched for progress.

use std::{collections::HashMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;
use tokio::time::{sleep, timeout};

use super::{Engine, EngineError, SLOW, call};
use crate::{backoff, job::ImageReference, progress::Pull};

/// How often a pull is tried, and the delays between: the ECS agent's numbers.
const TRIES: usize = 5;
const FIRST_DELAY: Duration = Duration::from_millis(1100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// One line of progress; the Engine's are some hundred bytes.
const MOST_LINE_BYTES: usize = 1 << 20;
const DOING: &str = "pulling the image";

/// A registry's credential as the Engine's header `X-Registry-Auth` wants it.
pub struct RegistryAuth(String);

/// An image that could not be fetched.
#[derive(Debug, Error)]
pub enum PullError {
    /// The registry says no: another try would be told the same.
    #[error("the image {image} cannot be pulled: {message}")]
    Refused {
        /// The image.
        image: String,
        /// The Engine's words.
        message: String,
    },
    /// Every try failed.
    #[error("the image {image} could not be pulled in {TRIES} tries; the last: {message}")]
    Failed {
        /// The image.
        image: String,
        /// The last try's error.
        message: String,
    },
}

/// Why one try failed.
#[derive(Debug, Error)]
enum TryError {
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Broken(String),
    #[error("no progress for {}", humantime::format_duration(*.0))]
    Stalled(Duration),
}

impl RegistryAuth {
    /// An access token, as gcr.io and Artifact Registry take it: as the password of a fixed user (FACTS).
    pub fn access_token(token: &str, registry: &str) -> Self {
        let auth = json!({ "username": "oauth2accesstoken", "password": token, "serveraddress": registry });
        Self(URL_SAFE.encode(auth.to_string()))
    }
}

impl Engine {
    /// Pulls `image`, in several tries if that may help. `auth` is asked for a credential before each try.
    /// A try that makes no progress for `stall` is given up.
    pub async fn pull(
        &self,
        image: &ImageReference,
        platform: Option<&str>,
        stall: Duration,
        auth: impl AsyncFn() -> Option<RegistryAuth>,
        mut progress: impl FnMut(Pull),
    ) -> Result<(), PullError> {
        let mut delays = backoff::delays(FIRST_DELAY, LONGEST_DELAY);
        let mut tries = 1;
        loop {
            let error = match self.try_pull(image, platform, stall, auth().await, &mut progress).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let (image, message) = (image.to_string(), error.to_string());
            match error {
                TryError::Refused(_) => return Err(PullError::Refused { image, message }),
                TryError::Broken(_) | TryError::Stalled(_) if tries == TRIES => {
                    return Err(PullError::Failed { image, message });
                }
                TryError::Broken(_) | TryError::Stalled(_) => {
                    tracing::warn!(image, error = message, tries, "the pull failed and is tried again");
                }
            }
            tries += 1;
            sleep(delays.next().unwrap_or(LONGEST_DELAY)).await;
        }
    }

    async fn try_pull(
        &self,
        image: &ImageReference,
        platform: Option<&str>,
        stall: Duration,
        auth: Option<RegistryAuth>,
        progress: &mut impl FnMut(Pull),
    ) -> Result<(), TryError> {
        let mut query = vec![("fromImage", image.name()), ("tag", image.version())];
        query.extend(platform.map(|platform| ("platform", platform)));
        let mut request = self.request(Method::POST, "/images/create", &query);
        if let Some(RegistryAuth(auth)) = auth {
            request = request.header("X-Registry-Auth", auth);
        }
        let response = call(DOING, SLOW.min(stall), request).await.map_err(|error| match error {
            EngineError::Refused { status, message, .. } => refused(Some(status), message),
            EngineError::Silent { after, .. } => TryError::Stalled(after),
            error @ (EngineError::Unreachable { .. } | EngineError::Undecodable { .. }) => {
                TryError::Broken(crate::http::chain(&error))
            }
        })?;
        follow(response, stall, progress).await
    }
}

/// Reads the progress of a pull to its end, or to its first error.
async fn follow(
    mut response: Response,
    stall: Duration,
    progress: &mut impl FnMut(Pull),
) -> Result<(), TryError> {
    let mut line = Vec::new();
    let mut layers = Layers::default();
    loop {
        let chunk = timeout(stall, response.chunk()).await.map_err(|_| TryError::Stalled(stall))?;
        let chunk = chunk.map_err(|error| TryError::Broken(crate::http::chain(&error)))?;
        let Some(chunk) = chunk else { return layers.take(&line) };
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                layers.take(&line)?;
                line.clear();
            }
        }
        if line.len() > MOST_LINE_BYTES {
            return Err(TryError::Broken("the Engine's progress cannot be read".to_owned()));
        }
        progress(layers.sum());
    }
}

/// The progress of each layer.
#[derive(Default)]
struct Layers(HashMap<String, Pull>);

/// One line of the Engine's answer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    error: Option<String>,
    #[serde(default)]
    id: String,
    #[serde(default)]
    status: String,
    progress_detail: Option<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    #[serde(default)]
    current: u64,
    #[serde(default)]
    total: u64,
}

impl Layers {
    fn take(&mut self, line: &[u8]) -> Result<(), TryError> {
        // A line that is not the Engine's own form tells nothing; an error in it would end the stream too.
        let Ok(line) = serde_json::from_slice::<Line>(line) else { return Ok(()) };
        if let Some(message) = line.error {
            return Err(refused(None, message));
        }
        match (line.status.as_str(), line.progress_detail) {
            ("Downloading", Some(Detail { current, total })) if total > 0 => {
                self.0.insert(line.id, Pull { done: current, total });
            }
            ("Download complete" | "Pull complete", _) => {
                if let Some(layer) = self.0.get_mut(&line.id) {
                    layer.done = layer.total;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn sum(&self) -> Pull {
        self.0.values().fold(Pull::default(), |sum, layer| Pull {
            done: sum.done + layer.done,
            total: sum.total + layer.total,
        })
    }
}

/// Whether a refusal is the registry's last word. The Engine wraps most answers into a 500, so its words
/// must be read (seen on 20.10; the words are containerd's and distribution's, and have not changed since).
fn refused(status: Option<StatusCode>, message: String) -> TryError {
    const FINAL: &[&str] = &[
        "not found",
        "manifest unknown",
        "does not exist",
        "no matching manifest",
        "denied",
        "unauthorized",
        "forbidden",
        "no basic auth credentials",
        "invalid reference",
        "unsupported media type",
    ];
    let words = message.to_lowercase();
    let client_error =
        status.is_some_and(|status| status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS);
    if client_error || FINAL.iter().any(|text| words.contains(text)) {
        TryError::Refused(message)
    } else {
        TryError::Broken(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_registry_will_not_change_its_mind_on_is_final() {
        last(404, "pull access denied for nope, repository does not exist or may require 'docker login'");
        last(500, "unauthorized: authentication required");
        last(500, "Head \"https://r/v2/a/manifests/1\": no basic auth credentials");
        last(
            500,
            "error parsing HTTP 403 response body: denied: Permission \"artifactregistry.repositories.downloadArtifacts\" denied",
        );
        last(404, "manifest for r/a:1 not found: manifest unknown: manifest unknown");
        last(500, "no matching manifest for linux/amd64 in the manifest list entries");
        last(400, "invalid tag format");
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        again(
            500,
            "Get \"https://registry-1.docker.io/v2/\": net/http: request canceled (Client.Timeout exceeded)",
        );
        again(500, "Get \"https://r/v2/\": dial tcp: lookup r: no such host");
        again(500, "Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused");
        again(500, "toomanyrequests: You have reached your pull rate limit");
        again(429, "too many requests");
        again(500, "received unexpected HTTP status: 503 Service Unavailable");
        again(500, "failed to register layer: write /x: no space left on device");
        again(500, "x509: certificate has expired or is not yet valid");
    }

    #[test]
    fn progress_is_the_sum_of_the_layers() {
        let mut layers = Layers::default();
        for line in [
            r#"{"status":"Pulling from library/a","id":"latest"}"#,
            r#"{"status":"Downloading","progressDetail":{"current":10,"total":100},"id":"a"}"#,
            r#"{"status":"Downloading","progressDetail":{"current":5,"total":50},"id":"b"}"#,
            r#"{"status":"Downloading","progressDetail":{"current":20,"total":100},"id":"a"}"#,
            r#"{"status":"Download complete","progressDetail":{},"id":"b"}"#,
            r#"{"status":"Extracting","progressDetail":{"current":1,"total":50},"id":"b"}"#,
            "not json",
        ] {
            layers.take(line.as_bytes()).unwrap();
        }
        assert_eq!(layers.sum(), Pull { done: 70, total: 150 });
        let error =
            layers.take(br#"{"errorDetail":{"message":"no"},"error":"manifest unknown"}"#).unwrap_err();
        assert!(matches!(error, TryError::Refused(message) if message == "manifest unknown"));
    }

    #[track_caller]
    fn last(status: u16, message: &str) {
        let error = refused(StatusCode::from_u16(status).ok(), message.to_owned());
        assert!(matches!(error, TryError::Refused(_)), "{status} {message}");
    }

    #[track_caller]
    fn again(status: u16, message: &str) {
        let error = refused(StatusCode::from_u16(status).ok(), message.to_owned());
        assert!(matches!(error, TryError::Broken(_)), "{status} {message}");
    }
}
