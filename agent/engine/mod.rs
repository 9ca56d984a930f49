//! The Docker Engine: the one place where its wire is spoken. The shim of a `host-command` speaks a part of it too
//! (`host/`), and is one more Engine from here.
//!
//! Beside it stands what the kernel says of a container's memory, since the Engine does not say all of it.
//! Leaves out deciding anything: calls go in, answers and errors come out. No client crate stands between,
//! FACTS says why ("Docker Engine").

mod archive;
mod container;
mod exit;
mod log_config;
mod memory;
mod output;
mod pull;
pub(crate) mod tar;

use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use thiserror::Error;
use tokio::time::{Instant, sleep_until, timeout};

pub use archive::FileError;
pub use container::{Container, ContainerState, Named, Remembered};
pub use exit::{Ended, Exit, Lifetime, Teller};
pub use log_config::LogConfig;
pub use memory::{MemorySeen, MemoryWatch};
pub use output::{Output, OutputReader};
pub use pull::{PullError, RegistryAuth};

use crate::{
    backoff, fail_point, http,
    job::{EngineApi, ImageReference},
    settings::DockerHost,
};

/// The newest API that this code was written against. An Engine that knows a newer one serves this too; an
/// older one is spoken to in its own (COS runs 1.43 to 1.52, FACTS).
const NEWEST: EngineApi = EngineApi { major: 1, minor: 52 };
/// What only reads the Engine's memory.
const QUICK: Duration = Duration::from_secs(30);
/// What writes to disks: an image's first container on a cold, small disk took most of a minute.
const SLOW: Duration = Duration::from_secs(180);
/// An error's text is a sentence; what is longer is somebody's page.
const MOST_ERROR_BYTES: usize = 64 << 10;

/// A connection to the Engine, in an API version that both sides know.
#[derive(Clone, Debug)]
pub struct Engine {
    client: Client,
    /// `http://host/v1.41`
    base: String,
    api: EngineApi,
}

/// An image that the Engine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresentImage {
    /// `sha256:…`; `None` if it was never in a registry.
    pub digest: Option<String>,
    /// `linux/amd64`.
    pub platform: String,
}

/// What can go wrong.
#[derive(Debug, Error)]
pub enum EngineError {
    /// No connection, or it broke.
    #[error("the Engine does not answer ({doing})")]
    Unreachable {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// No answer in time.
    #[error("the Engine took longer than {} to answer ({doing})", humantime::format_duration(*after))]
    Silent {
        /// What was being done.
        doing: &'static str,
        /// How long it had.
        after: Duration,
    },
    /// The Engine says no.
    #[error("the Engine answered {} ({doing}): {message}", status.as_u16())]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// Its answer.
        status: StatusCode,
        /// Its words.
        message: String,
    },
    /// An answer that is not the Engine's.
    #[error("the Engine's answer cannot be read ({doing}): {why}")]
    Undecodable {
        /// What was being done.
        doing: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl PresentImage {
    /// Whether it is what `--platform` asks for; a variant such as arm's v7 is left to the Engine.
    pub fn is_for(&self, platform: Option<&str>) -> bool {
        platform.is_none_or(|wanted| {
            let variant = wanted.strip_prefix(&self.platform);
            variant.is_some_and(|variant| variant.is_empty() || variant.starts_with('/'))
        })
    }
}

impl EngineError {
    /// The Engine's status, if it answered.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Unreachable { .. } | Self::Silent { .. } | Self::Undecodable { .. } => None,
        }
    }

    /// The Engine's own words, if it answered; else what is wrong.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Refused { message, .. } => message.clone(),
            Self::Unreachable { .. } | Self::Silent { .. } | Self::Undecodable { .. } => http::chain(self),
        }
    }

    /// Whether the same question may have another answer later: the Engine is away, or it is in trouble. For
    /// questions alone: what an Engine fails to do it answers 500 for too.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Silent { .. } | Self::Undecodable { .. } => true,
            Self::Refused { status, .. } => status.is_server_error(),
        }
    }

    /// Whether the Engine may be away for a moment, rather than saying no.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Silent { .. } => true,
            Self::Refused { .. } | Self::Undecodable { .. } => false,
        }
    }
}

impl Engine {
    /// Connects, trying for as long as `wait`, and asks which API version the Engine speaks.
    pub async fn connect(host: &DockerHost, wait: Duration) -> Result<Self, EngineError> {
        let (client, address) = match host {
            DockerHost::Unix(path) => (http::engine(Some(path)), "http://docker".to_owned()),
            DockerHost::Tcp(url) => (http::engine(None), url.as_str().trim_end_matches('/').to_owned()),
        };
        let api = patiently(wait, EngineError::may_pass, || ping(&client, &address)).await?.min(NEWEST);
        Ok(Self { client, base: format!("{address}/v{api}"), api })
    }

    /// The API version that both sides know.
    pub fn api(&self) -> EngineApi {
        self.api
    }

    /// An image that is there; `Err` with 404 if it is not.
    pub async fn image(&self, image: &ImageReference) -> Result<PresentImage, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Inspected {
            #[serde(default)]
            repo_digests: Option<Vec<String>>,
            #[serde(default)]
            os: String,
            #[serde(default)]
            architecture: String,
        }
        let doing = "inspecting the image";
        let request = self.request(Method::GET, &format!("/images/{}/json", image.as_str()), &[]);
        let inspected: Inspected = json(doing, call(doing, QUICK, request).await?).await?;
        let digests = inspected.repo_digests.unwrap_or_default();
        // An image may have come from several repositories; Docker Hub's are listed under their short name.
        let of = |digest: &&String| digest.split_once('@').is_some_and(|(name, _)| name == image.name());
        let digest = digests.iter().find(of).or_else(|| digests.first());
        let digest = digest.and_then(|digest| Some(digest.split_once('@')?.1.to_owned()));
        Ok(PresentImage { digest, platform: format!("{}/{}", inspected.os, inspected.architecture) })
    }

    /// Tells a shim that it is not needed any more (`host`); Docker's Engine has no such call.
    pub(crate) async fn dismiss(&self) -> Result<(), EngineError> {
        call("dismissing the shim", QUICK, self.request(Method::POST, "/exit", &[])).await.map(drop)
    }

    fn request(&self, method: Method, path: &str, query: &[(&str, &str)]) -> RequestBuilder {
        let mut url = match reqwest::Url::parse(&format!("{}{path}", self.base)) {
            Ok(url) => url,
            // A path holds a container's id or an image's checked reference.
            Err(error) => unreachable!("{path}: {error}"),
        };
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.client.request(method, url)
    }
}

/// Calls again and again while the error is one that `may_pass`, for as long as `wait`.
pub(crate) async fn patiently<T, F: Future<Output = Result<T, EngineError>>>(
    wait: Duration,
    may_pass: impl Fn(&EngineError) -> bool,
    call: impl Fn() -> F,
) -> Result<T, EngineError> {
    let deadline = Instant::now() + wait;
    let mut delays = backoff::delays(Duration::from_millis(100), Duration::from_secs(5));
    let mut told = false;
    loop {
        let error = match call().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let next = Instant::now() + delays.next().unwrap_or(wait);
        if !may_pass(&error) || next >= deadline {
            return Err(error);
        }
        if !told {
            tracing::warn!(error = http::chain(&error), "waiting for the Engine");
            told = true;
        }
        sleep_until(next).await;
    }
}

async fn ping(client: &Client, address: &str) -> Result<EngineApi, EngineError> {
    let doing = "connecting";
    let response = call(doing, QUICK, client.get(format!("{address}/_ping"))).await?;
    let header = response.headers().get("Api-Version").and_then(|value| value.to_str().ok());
    header.and_then(|version| version.parse().ok()).ok_or_else(|| EngineError::Undecodable {
        doing,
        why: "no header Api-Version; is this a Docker Engine?".to_owned(),
    })
}

/// Sends a request and waits for the head of a good answer. Its body is under the same deadline only as far
/// as the caller reads it with one.
async fn call(
    doing: &'static str,
    within: Duration,
    request: RequestBuilder,
) -> Result<Response, EngineError> {
    fail_point::pass(format_args!("engine: {doing}"));
    let answered = async {
        let response = request.send().await.map_err(|source| EngineError::Unreachable { doing, source })?;
        let status = response.status();
        if status.is_success() || status.is_informational() || status == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        Err(EngineError::Refused { doing, status, message: error_text(response).await })
    };
    let answer = timeout(within, answered).await;
    fail_point::pass(format_args!("engine: {doing}, answered"));
    answer.unwrap_or(Err(EngineError::Silent { doing, after: within }))
}

/// Reads a body.
async fn body(doing: &'static str, response: Response) -> Result<Vec<u8>, EngineError> {
    let body = timeout(QUICK, response.bytes()).await;
    let body = body.map_err(|_| EngineError::Silent { doing, after: QUICK })?;
    Ok(body.map_err(|source| EngineError::Unreachable { doing, source })?.into())
}

/// Reads a body that is an object of the Engine's.
async fn json<T: for<'a> Deserialize<'a>>(doing: &'static str, response: Response) -> Result<T, EngineError> {
    let body = body(doing, response).await?;
    serde_json::from_slice(&body).map_err(|error| EngineError::Undecodable { doing, why: error.to_string() })
}

/// The Engine's words in an error: `{"message": "…"}`, or whatever else answered.
async fn error_text(mut response: Response) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
    }
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > MOST_ERROR_BYTES {
            break;
        }
    }
    match serde_json::from_slice::<Refusal>(&body) {
        Ok(refusal) => refusal.message.trim().to_owned(),
        Err(_) => String::from_utf8_lossy(&body).trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_for_another_platform_is_not_the_one_that_is_wanted() {
        let image = PresentImage { digest: None, platform: "linux/arm".to_owned() };
        for (wanted, is) in [
            (None, true),
            (Some("linux/arm"), true),
            (Some("linux/arm/v7"), true),
            (Some("linux/arm64"), false),
        ] {
            assert_eq!(image.is_for(wanted), is, "{wanted:?}");
        }
    }
}
