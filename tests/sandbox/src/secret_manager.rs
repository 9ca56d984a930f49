//! secretmanager.googleapis.com: the secrets of the VM's project, as far as reading a version goes.
//!
//! Leaves out everything else that can be done with them, aliases of versions, and other projects: those the
//! service account may not read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::{Method, StatusCode};
use serde_json::json;

use crate::google::{Refusal, json};
use crate::script::Script;
use crate::server::{Complaints, Reply, Request, Response};
use crate::token::Tokens;
use crate::vm::{PROJECT, PROJECT_NUMBER};

/// One version of a secret.
#[derive(Clone, Debug)]
pub(crate) enum Version {
    Enabled(Vec<u8>),
    Disabled,
    Destroyed,
}

/// A secret.
#[derive(Clone, Debug, Default)]
pub(crate) struct Secret {
    /// The first is number 1.
    pub(crate) versions: Vec<Version>,
    /// Whether the VM's service account lacks `roles/secretmanager.secretAccessor`.
    pub(crate) forbidden: bool,
}

#[derive(Debug)]
pub(crate) struct SecretManager {
    secrets: Mutex<BTreeMap<String, Secret>>,
    script: Script,
    tokens: Arc<Tokens>,
    complaints: Arc<Complaints>,
}

impl SecretManager {
    pub(crate) fn new(
        secrets: BTreeMap<String, Secret>,
        script: Script,
        tokens: Arc<Tokens>,
        complaints: Arc<Complaints>,
    ) -> Self {
        Self { secrets: Mutex::new(secrets), script, tokens, complaints }
    }

    /// Adds a version, which is the latest from now on.
    pub(crate) fn add_version(&self, secret: &str, version: Version) {
        self.secrets().entry(secret.to_owned()).or_default().versions.push(version);
    }

    pub(crate) fn answer(&self, request: &Request) -> Reply {
        let Some(wanted) = Wanted::of(request) else {
            self.complaints.unknown(request);
            return Reply::Answer(Refusal::from(StatusCode::NOT_FOUND).into());
        };
        match self.script.next() {
            Some(answer) => answer.reply(|status| Refusal::from(status).into()),
            None => Reply::Answer(self.access(request, &wanted).unwrap_or_else(Response::from)),
        }
    }

    fn access(&self, request: &Request, wanted: &Wanted<'_>) -> Result<Response, Refusal> {
        self.tokens.check(request)?;
        let Wanted { project, secret, version } = *wanted;
        let secrets = self.secrets();
        let known = secrets.get(secret);
        if !is_ours(project) || known.is_some_and(|known| known.forbidden) {
            let resource = format!("projects/{project}/secrets/{secret}/versions/{version}");
            let message = format!(
                "Permission 'secretmanager.versions.access' denied for resource '{resource}' (or it may not exist)."
            );
            return Err(Refusal::new(StatusCode::FORBIDDEN, message));
        }
        let name = format!("projects/{PROJECT_NUMBER}/secrets/{secret}");
        let versions = known.map(|known| &known.versions[..]).unwrap_or_default();
        if versions.is_empty() {
            let message = format!("Secret [{name}] not found or has no versions.");
            return Err(Refusal::new(StatusCode::NOT_FOUND, message));
        }
        // The latest is the last one made, whether it can be read or not.
        let number = if version == "latest" { versions.len() } else { version.parse().unwrap_or(0) };
        let name = format!("{name}/versions/{number}");
        let state = match number.checked_sub(1).and_then(|index| versions.get(index)) {
            Some(Version::Enabled(data)) => return Ok(payload(&name, data)),
            Some(Version::Disabled) => "DISABLED",
            Some(Version::Destroyed) => "DESTROYED",
            None => {
                let message = format!("Secret Version [{name}] not found.");
                return Err(Refusal::new(StatusCode::NOT_FOUND, message));
            }
        };
        let message = format!("Secret Version [{name}] is in {state} state.");
        Err(Refusal::new(StatusCode::BAD_REQUEST, message).with_code("FAILED_PRECONDITION"))
    }

    fn secrets(&self) -> MutexGuard<'_, BTreeMap<String, Secret>> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The version that a request is to read.
#[derive(Debug)]
struct Wanted<'a> {
    project: &'a str,
    secret: &'a str,
    version: &'a str,
}

impl<'a> Wanted<'a> {
    fn of(request: &'a Request) -> Option<Self> {
        let path = request.uri().path().strip_prefix("/v1/")?.strip_suffix(":access")?;
        let segments: Vec<_> = path.split('/').collect();
        match segments[..] {
            ["projects", project, "secrets", secret, "versions", version]
                if request.method() == Method::GET =>
            {
                Some(Self { project, secret, version })
            }
            _ => None,
        }
    }
}

fn is_ours(project: &str) -> bool {
    project == PROJECT || project == PROJECT_NUMBER.to_string()
}

fn payload(name: &str, data: &[u8]) -> Response {
    let payload = json!({ "data": BASE64_STANDARD.encode(data), "dataCrc32c": crc32c(data).to_string() });
    json(StatusCode::OK, &json!({ "name": name, "payload": payload }))
}

/// The checksum of RFC 3720.
fn crc32c(data: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in data {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0x82f6_3b78 * (sum & 1));
        }
    }
    !sum
}
