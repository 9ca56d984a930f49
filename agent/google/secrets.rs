//! Secret Manager: the values behind `longrun-secret-env-NAME`.
//!
//! Source: cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets.versions/access.

use std::{fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use thiserror::Error;
use tokio::time::Instant;

use super::{Api, ApiError, api};
use crate::{
    http,
    job::{SecretEnv, SecretVersion},
};

/// How long an outage is waited for. Nothing runs meanwhile, and a VM costs money.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// A variable and its value, which no Debug shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// The variable.
    pub name: String,
    /// Its value: for the container's environment and for the redaction, and for nothing else.
    pub value: String,
}

/// A secret that cannot be read.
#[derive(Debug, Error)]
pub enum SecretError {
    /// Nobody says in which project it is.
    #[error("at a desk there is no VM whose project it could be in; write projects/PROJECT/secrets/{0}")]
    NoProject(String),
    /// Secret Manager does not give it.
    #[error("{resource} cannot be read: {}{}", http::chain(source), hint(source))]
    Unreadable {
        /// `projects/P/secrets/S/versions/V`.
        resource: String,
        /// Why.
        #[source]
        source: ApiError,
    },
    /// It cannot be a variable's value.
    #[error("{resource} cannot be a variable's value: {why}")]
    NotText {
        /// `projects/P/secrets/S/versions/V`.
        resource: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Reads all of them, or says of each that cannot be read why. A version without a project is in `project`.
pub async fn read(
    api: &Api,
    project: Option<&str>,
    wanted: &[SecretEnv],
    patience: Duration,
) -> Result<Vec<Secret>, Vec<String>> {
    let deadline = Instant::now() + patience;
    let (mut secrets, mut problems) = (Vec::new(), Vec::new());
    for SecretEnv { name, version } in wanted {
        match access(api, project, version, deadline).await {
            Ok(value) => secrets.push(Secret { name: name.clone(), value }),
            Err(error) => problems.push(format!("longrun-secret-env-{name}: {error}")),
        }
    }
    if problems.is_empty() { Ok(secrets) } else { Err(problems) }
}

/// One version's value.
async fn access(
    api: &Api,
    project: Option<&str>,
    version: &SecretVersion,
    deadline: Instant,
) -> Result<String, SecretError> {
    let resource = version.resource(project).ok_or_else(|| SecretError::NoProject(version.secret.clone()))?;
    let url = Url::parse(&format!("https://secretmanager.googleapis.com/v1/{resource}:access"))
        .expect("a resource's name has no character that an address could not have");
    let bytes = match api.call(Method::GET, &url, None, deadline, payload).await {
        Ok(bytes) => bytes,
        Err(source) => return Err(SecretError::Unreadable { resource, source }),
    };
    let value = String::from_utf8(bytes).map_err(|_| "it is not UTF-8; store it as base64");
    match value {
        Ok(value) if value.contains('\0') => {
            Err(SecretError::NotText { resource, why: "it has a NUL byte; store it as base64" })
        }
        Ok(value) => Ok(value),
        Err(why) => Err(SecretError::NotText { resource, why }),
    }
}

/// The bytes in an answer, if they came as they were sent.
fn payload(body: &[u8]) -> Result<Vec<u8>, String> {
    #[derive(Deserialize)]
    struct Answer {
        payload: Payload,
    }
    /// Google's JSON leaves out what is empty, and has numbers of 64 bits as strings.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Payload {
        #[serde(default)]
        data: String,
        data_crc32c: Option<String>,
    }
    let Answer { payload } = api::json(body)?;
    let data = STANDARD.decode(payload.data).map_err(|_| "its payload is not base64")?;
    match payload.data_crc32c {
        Some(sum) if sum != crc32c(&data).to_string() => Err("its payload was damaged on its way".to_owned()),
        _ => Ok(data),
    }
}

/// CRC-32C (Castagnoli; RFC 3720, B.4), bit by bit: a secret is short.
fn crc32c(data: &[u8]) -> u32 {
    let step = |sum: u32, _| if sum & 1 == 1 { (sum >> 1) ^ 0x82f6_3b78 } else { sum >> 1 };
    !data.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
}

/// What to do about a refusal.
fn hint(error: &ApiError) -> &'static str {
    match error.status() {
        Some(StatusCode::FORBIDDEN) => {
            "; grant the VM's service account roles/secretmanager.secretAccessor on the secret, and give the VM \
             the scope cloud-platform"
        }
        Some(StatusCode::NOT_FOUND) => "; create the secret and a version of it, or name another",
        Some(StatusCode::BAD_REQUEST) => "; enable the version, or name another",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_the_rfc() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn an_answer_is_read_and_checked() {
        let read = |body: &str| payload(body.as_bytes());
        let (data, sum) = (STANDARD.encode("123456789"), 0xe306_9283_u32);
        let good = format!(r#"{{ "name": "n", "payload": {{ "data": "{data}", "dataCrc32c": "{sum}" }} }}"#);
        assert_eq!(read(&good).unwrap(), b"123456789");
        let unchecked = format!(r#"{{ "payload": {{ "data": "{data}" }} }}"#);
        assert_eq!(read(&unchecked).unwrap(), b"123456789");
        assert_eq!(read(r#"{ "payload": { "dataCrc32c": "0" } }"#).unwrap(), b"");
        let damaged = good.replace(&sum.to_string(), "1");
        assert_eq!(read(&damaged).unwrap_err(), "its payload was damaged on its way");
        assert_eq!(read(r#"{ "payload": { "data": "?" } }"#).unwrap_err(), "its payload is not base64");
        assert!(read("{}").is_err() && read("<html>").is_err());
    }

    #[test]
    fn debug_does_not_show_a_value() {
        let secret = Secret { name: "KEY".to_owned(), value: "hunter2".to_owned() };
        assert_eq!(format!("{secret:?}"), r#"Secret { name: "KEY", .. }"#);
    }
}
