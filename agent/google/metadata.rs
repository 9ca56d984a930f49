//! The metadata server: who this VM is, what it was ordered to do, and tokens of its service account.
//!
//! Source: FACTS, "Metadata server"; cloud.google.com/compute/docs/metadata/querying-metadata.

use std::time::Duration;

use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;
use thiserror::Error;
use tokio::time::{Instant, sleep_until};

use crate::{backoff, http, job::Attributes, report::Instance};

/// One answer. The server is on the host itself and answers in milliseconds, or it is in maintenance.
const TRY: Duration = Duration::from_secs(10);
/// Attributes are 512 KB at most (FACTS).
const MOST_BYTES: usize = 2 << 20;
/// For a token: an outage that lasts longer is waited for by whoever delivers.
const TOKEN_WAIT: Duration = Duration::from_secs(20);

/// A client of the metadata server.
#[derive(Clone, Debug)]
pub struct Metadata {
    client: Client,
    address: Url,
}

/// What the metadata server says of this VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    /// The instance's own attributes; the project's are other people's.
    pub attributes: Attributes,
    /// The VM, for the report; `None` at a desk.
    pub instance: Option<Instance>,
}

/// What can go wrong.
#[derive(Debug, Error)]
pub enum MetadataError {
    /// No connection, or no answer in time.
    #[error("the metadata server at {address} does not answer")]
    Unreachable {
        /// Where it should be.
        address: Url,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// An answer other than 200.
    #[error("the metadata server answered {status} for {path}")]
    Status {
        /// Its answer.
        status: StatusCode,
        /// What was asked for.
        path: String,
    },
    /// Something else answers there, a proxy for example: its answers lack the header `Metadata-Flavor`.
    #[error(
        "what answers at {address} is not a metadata server: its answer has no header Metadata-Flavor: Google"
    )]
    Impostor {
        /// Where.
        address: Url,
    },
    /// An answer that is not what Google documents.
    #[error("the metadata server's answer for {path} cannot be read: {why}")]
    Undecodable {
        /// What was asked for.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

impl MetadataError {
    /// Whether the same request may succeed later. 404 is final, 503 is maintenance, 429 and 500 are to be
    /// tried again, and at boot the server can be unreachable or answered for by somebody else (FACTS).
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Impostor { .. } => true,
            Self::Status { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Undecodable { .. } => false,
        }
    }

    /// Whether the key does not exist.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Status { status: StatusCode::NOT_FOUND, .. })
    }
}

impl Metadata {
    /// A client for the server at `address` (`http://host:port`).
    pub fn new(address: Url) -> Self {
        Self { client: http::inside(), address }
    }

    /// Everything about this VM in one request, tried for as long as `wait`.
    pub async fn vm(&self, wait: Duration) -> Result<Vm, MetadataError> {
        let path = "/computeMetadata/v1/?recursive=true&alt=json";
        let body = self.get(path, wait).await?;
        let tree: Tree = decode(path, &body)?;
        let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
        let instance = Instance {
            name: tree.instance.name,
            id: tree.instance.id.to_string(),
            zone: last(&tree.instance.zone),
            project: tree.project.project_id,
            machine_type: last(&tree.instance.machine_type),
        };
        Ok(Vm { attributes: tree.instance.attributes, instance: Some(instance) })
    }

    /// An access token of the default service account, as `{access_token, expires_in, token_type}`. A VM
    /// without a service account answers 404.
    pub(super) async fn access_token(&self) -> Result<String, MetadataError> {
        self.get("/computeMetadata/v1/instance/service-accounts/default/token", TOKEN_WAIT).await
    }

    /// An identity token of the default service account.
    pub(super) async fn identity_token(&self, audience: &str) -> Result<String, MetadataError> {
        let mut url = self.address.clone();
        url.query_pairs_mut().append_pair("audience", audience).append_pair("format", "full");
        let query = url.query().unwrap_or_default();
        let path = format!("/computeMetadata/v1/instance/service-accounts/default/identity?{query}");
        self.get(&path, TOKEN_WAIT).await
    }

    /// The body at `path`, tried again for as long as `wait` while there is hope.
    async fn get(&self, path: &str, wait: Duration) -> Result<String, MetadataError> {
        let deadline = Instant::now() + wait;
        let mut delays = backoff::delays(Duration::from_millis(250), Duration::from_secs(5));
        let mut told = false;
        loop {
            let error = match self.get_once(path, deadline).await {
                Ok(body) => return Ok(body),
                Err(error) => error,
            };
            let next = Instant::now() + delays.next().unwrap_or(wait);
            if !error.is_transient() || next >= deadline {
                return Err(error);
            }
            if !told {
                tracing::warn!(error = http::chain(&error), "waiting for the metadata server");
                told = true;
            }
            sleep_until(next).await;
        }
    }

    async fn get_once(&self, path: &str, deadline: Instant) -> Result<String, MetadataError> {
        let unreachable = |source| MetadataError::Unreachable { address: self.address.clone(), source };
        let url = self
            .address
            .join(path)
            .map_err(|error| MetadataError::Undecodable { path: path.to_owned(), why: error.to_string() })?;
        let left = deadline.saturating_duration_since(Instant::now()).min(TRY);
        let request = self.client.get(url).header("Metadata-Flavor", "Google").timeout(left);
        let mut response = request.send().await.map_err(unreachable)?;

        if response.headers().get("Metadata-Flavor").is_none_or(|flavor| flavor != "Google") {
            return Err(MetadataError::Impostor { address: self.address.clone() });
        }
        if response.status() != StatusCode::OK {
            let path = path.split('?').next().unwrap_or_default().to_owned();
            return Err(MetadataError::Status { status: response.status(), path });
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            body.extend_from_slice(&chunk);
            if body.len() > MOST_BYTES {
                return Err(MetadataError::Undecodable {
                    path: path.to_owned(),
                    why: "it does not end".to_owned(),
                });
            }
        }
        String::from_utf8(body)
            .map_err(|error| MetadataError::Undecodable { path: path.to_owned(), why: error.to_string() })
    }
}

fn decode<'a, T: Deserialize<'a>>(path: &str, body: &'a str) -> Result<T, MetadataError> {
    // serde_json's text has a line and a column, never the value.
    serde_json::from_str(body)
        .map_err(|error| MetadataError::Undecodable { path: path.to_owned(), why: error.to_string() })
}

/// The parts of the recursive answer that the agent reads.
#[derive(Deserialize)]
struct Tree {
    instance: InstanceTree,
    project: ProjectTree,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InstanceTree {
    #[serde(default)]
    attributes: Attributes,
    name: String,
    id: u64,
    zone: String,
    machine_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProjectTree {
    project_id: String,
}
