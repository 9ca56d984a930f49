//! Google's services, one file each, and the rules for the credentials that they get.

pub mod api;
pub mod compute;
pub mod credential;
pub mod executions;
mod guest_attributes;
mod logging;
mod metadata;
pub mod notices;
pub mod secrets;
mod storage;
mod token;

use reqwest::{Client, Method, RequestBuilder, Url};

pub use api::{Api, ApiError};
pub(crate) use guest_attributes::Board;
pub(crate) use logging::{LogWriter, Written, query as logging_query};
pub use metadata::{Account, Metadata, MetadataError, Vm};
pub(crate) use storage::{Object, Step, Storage, Trouble, Upload};
pub use token::Tokens;

use crate::http;

/// The OAuth scope of every access token that the agent asks for: a callback needs it (FACTS), and what the
/// service account may do is IAM's to say.
pub(crate) const SCOPES: &[&str] = &["https://www.googleapis.com/auth/cloud-platform"];

/// Sends requests to addresses outside the VM.
///
/// With a stand-in (`LONGRUN_GOOGLE_ENDPOINT`), a request to `https://<service>.googleapis.com/<path>` goes
/// to `<stand-in>/<path>`, with the host that was meant in `X-Forwarded-Host`. Every rule is applied to
/// the address that was meant.
#[derive(Clone, Debug)]
pub struct Outside {
    client: Client,
    inside: Client,
    stand_in: Option<Url>,
}

impl Outside {
    /// Requests go out as they are, or to the stand-in.
    pub fn new(stand_in: Option<Url>) -> Self {
        Self { client: http::outside(), inside: http::inside(), stand_in }
    }

    /// A request to `url`, or to its stand-in.
    pub fn request(&self, method: Method, url: &Url) -> RequestBuilder {
        let host = url.host_str().unwrap_or_default();
        match &self.stand_in {
            Some(stand_in) if credential::is_google_api(url) => {
                let mut address = stand_in.clone();
                address.set_path(url.path());
                address.set_query(url.query());
                self.inside.request(method, address).header("X-Forwarded-Host", host)
            }
            _ => self.client.request(method, url.clone()),
        }
    }
}
