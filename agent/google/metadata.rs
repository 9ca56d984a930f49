//! The metadata server: who this VM is, what it was ordered to do, and tokens of its service account.
//!
//! Source: FACTS, "Metadata server"; cloud.google.com/compute/docs/metadata/querying-metadata.

use std::time::Duration;

use reqwest::{Client, Method, StatusCode, Url, header::ETAG};
use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;
use tokio::time::{Instant, sleep_until};

use crate::{backoff, http, job::Attributes, report::Instance};

/// One answer. The server is on the host itself and answers in milliseconds, or it is in maintenance.
const TRY: Duration = Duration::from_secs(10);
/// One answer to a long poll, which the server gives after a minute at the latest; Google's guest agent waits
/// for as long (FACTS).
const TRY_TO_WAIT: Duration = Duration::from_secs(70);
/// One write, which nobody waits for.
const TRY_TO_WRITE: Duration = Duration::from_secs(5);
/// Attributes of the instance and of the project are 512 KB each at most (FACTS); as JSON, six times that.
const MOST_BYTES: usize = 8 << 20;
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
    /// Its service account, if it has one.
    pub account: Option<Account>,
    /// Whether the VM, or else the project, has `enable-guest-attributes=TRUE`.
    pub guest_attributes: bool,
}

/// A VM's service account.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Account {
    /// Its name, `NAME@PROJECT.iam.gserviceaccount.com`.
    pub email: String,
    /// What the VM's access tokens are good for at most, whatever the account may do.
    pub scopes: Vec<String>,
}

/// A value, and what tells it from the values that the same key had before.
#[derive(Debug)]
pub(super) struct Tagged {
    pub(super) value: String,
    pub(super) etag: Option<String>,
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
        read_vm(&self.get(path, wait).await?)
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

    /// The value of `key`, such as `instance/preempted`: at once if its ETag is another one than `last_etag`,
    /// else when it changes, and after a minute as it is. Tried once.
    pub(super) async fn wait_for_change(&self, key: &str, last_etag: &str) -> Result<Tagged, MetadataError> {
        let mut url = self.address.clone();
        url.query_pairs_mut()
            .append_pair("wait_for_change", "true")
            .append_pair("timeout_sec", "60")
            .append_pair("last_etag", last_etag);
        let path = format!("/computeMetadata/v1/{key}?{}", url.query().unwrap_or_default());
        self.ask(&path, TRY_TO_WAIT).await
    }

    /// Puts a value where `gcloud compute instances get-guest-attributes` finds it, as `longrun/KEY`. Tried once.
    pub(super) async fn set_guest_attribute(&self, key: &str, value: String) -> Result<(), MetadataError> {
        let path = format!("/computeMetadata/v1/instance/guest-attributes/longrun/{key}");
        self.send(Method::PUT, &path, Some(value), TRY_TO_WRITE).await.map(drop)
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
        let left = deadline.saturating_duration_since(Instant::now()).min(TRY);
        Ok(self.ask(path, left).await?.value)
    }

    async fn ask(&self, path: &str, patience: Duration) -> Result<Tagged, MetadataError> {
        self.send(Method::GET, path, None, patience).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        value: Option<String>,
        patience: Duration,
    ) -> Result<Tagged, MetadataError> {
        // Not its own address: the query of an identity token names the callback, whose path is a capability.
        let unreachable = |source: reqwest::Error| MetadataError::Unreachable {
            address: self.address.clone(),
            source: source.without_url(),
        };
        let shown = || path.split('?').next().unwrap_or_default().to_owned();
        let url = self
            .address
            .join(path)
            .map_err(|error| MetadataError::Undecodable { path: path.to_owned(), why: error.to_string() })?;
        let request = self.client.request(method, url).header("Metadata-Flavor", "Google").timeout(patience);
        let request = match value {
            Some(value) => request.body(value),
            None => request,
        };
        let mut response = request.send().await.map_err(unreachable)?;

        if response.headers().get("Metadata-Flavor").is_none_or(|flavor| flavor != "Google") {
            return Err(MetadataError::Impostor { address: self.address.clone() });
        }
        if !response.status().is_success() {
            return Err(MetadataError::Status { status: response.status(), path: shown() });
        }
        let etag = response.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            body.extend_from_slice(&chunk);
            if body.len() > MOST_BYTES {
                return Err(MetadataError::Undecodable { path: shown(), why: "it does not end".to_owned() });
            }
        }
        let value = String::from_utf8(body)
            .map_err(|error| MetadataError::Undecodable { path: shown(), why: error.to_string() })?;
        Ok(Tagged { value, etag })
    }
}

fn read_vm(body: &str) -> Result<Vm, MetadataError> {
    let unreadable = |error: serde_json::Error| {
        let why = format!("line {}, column {}", error.line(), error.column());
        MetadataError::Undecodable { path: "/computeMetadata/v1/".to_owned(), why }
    };
    let Tree { instance, project } = serde_json::from_str(body).map_err(unreadable)?;
    let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let texts = |values: Option<Map<String, Value>>| {
        values.unwrap_or_default().into_iter().map(|(name, value)| (name, text(value)))
    };
    let attributes: Attributes = texts(instance.attributes).collect();
    let of_project: Attributes = texts(project.attributes).collect();
    let name = "enable-guest-attributes";
    let guest_attributes = attributes.get(name).or_else(|| of_project.get(name));
    Ok(Vm {
        guest_attributes: guest_attributes.is_some_and(|value| value.trim().eq_ignore_ascii_case("true")),
        // Of no use where it is wrong, and no reason then to know nothing of the VM.
        account: serde_json::from_value(instance.service_accounts["default"].clone()).ok(),
        attributes,
        instance: Some(Instance {
            name: instance.name,
            id: text(instance.id),
            zone: last(&instance.zone),
            project: project.project_id,
            machine_type: last(&instance.machine_type),
        }),
    })
}

/// The parts of the recursive answer that the agent reads. What the report alone shows may be missing.
#[derive(Deserialize)]
struct Tree {
    instance: InstanceTree,
    #[serde(default)]
    project: ProjectTree,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InstanceTree {
    #[serde(default)]
    attributes: Option<Map<String, Value>>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    id: Value,
    #[serde(default)]
    zone: String,
    #[serde(default)]
    machine_type: String,
    #[serde(default)]
    service_accounts: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProjectTree {
    #[serde(default)]
    attributes: Option<Map<String, Value>>,
    #[serde(default)]
    project_id: String,
}

/// A value as text: attributes are strings, but a stand-in may give a number as one.
fn text(value: Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text,
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_is_read_however_little_the_server_says_of_it() {
        let vm = read_vm(r#"{ "instance": { "attributes": { "a": "b", "n": 7, "t": true, "z": null } } }"#)
            .unwrap();
        let attributes: Vec<_> = vm.attributes.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(attributes, [("a", "b"), ("n", "7"), ("t", "true"), ("z", "")]);
        assert!(read_vm(r#"{ "instance": { "attributes": null } }"#).unwrap().attributes.is_empty());
        assert!(read_vm("{}").is_err() && read_vm("<html>").is_err());
    }

    #[test]
    fn a_vms_service_account_is_the_default_one_if_there_is_one() {
        let account = |accounts: &str| {
            let body = format!(r#"{{ "instance": {{ "serviceAccounts": {accounts} }} }}"#);
            read_vm(&body).unwrap().account
        };
        let known =
            account(r#"{ "a@b": {}, "default": { "email": "a@b", "scopes": ["s"], "aliases": [] } }"#);
        assert_eq!(known, Some(Account { email: "a@b".to_owned(), scopes: vec!["s".to_owned()] }));
        for none in ["{}", "null", r#"{ "default": null }"#, r#"{ "default": { "email": 1 } }"#] {
            assert_eq!(account(none), None, "{none}");
        }
    }

    #[test]
    fn guest_attributes_are_allowed_by_the_vm_or_else_by_the_project() {
        for (vm, project, allowed) in [
            ("", "", false),
            ("TRUE", "", true),
            ("true", "", true),
            ("", "TRUE", true),
            ("FALSE", "TRUE", false),
            ("TRUE", "FALSE", true),
            ("1", "", false),
        ] {
            let attributes = |value: &str| match value {
                "" => "{}".to_owned(),
                value => format!(r#"{{ "enable-guest-attributes": "{value}" }}"#),
            };
            let (vm_has, project_has) = (attributes(vm), attributes(project));
            let body = format!(
                r#"{{ "instance": {{ "attributes": {vm_has} }}, "project": {{ "attributes": {project_has} }} }}"#
            );
            assert_eq!(read_vm(&body).unwrap().guest_attributes, allowed, "{vm} {project}");
        }
    }

    #[test]
    fn a_vms_names_are_the_last_parts_of_their_paths() {
        let body = r#"{ "instance": { "name": "vm", "id": 7723260132568912421, "zone": "projects/1/zones/z",
            "machineType": "projects/1/machineTypes/e2-small" }, "project": { "projectId": "p" } }"#;
        let instance = read_vm(body).unwrap().instance.unwrap();
        assert_eq!((&*instance.name, &*instance.id, &*instance.zone), ("vm", "7723260132568912421", "z"));
        assert_eq!((&*instance.project, &*instance.machine_type), ("p", "e2-small"));
    }
}
