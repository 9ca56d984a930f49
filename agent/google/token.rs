//! Access tokens, behind gcp_auth's [`TokenProvider`].
//!
//! Why not gcp_auth's own provider on a VM: its `MetadataServiceAccount` hard-codes the server's host, so
//! `GCE_METADATA_HOST` is not honoured; it has no timeout, and a server that hangs blocks every caller; it
//! cannot drop a token that was refused; it loses the status, so a VM without a service account looks like
//! an outage; a failed refresh is an error although the old token still lives (seen in 0.12.7). At a desk
//! none of this matters, and gcp_auth's chain finds a person's own credentials.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use gcp_auth::{Error, Token, TokenProvider};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::Metadata;

/// The metadata server hands out the same token until five minutes before it expires (FACTS): asking
/// earlier is of no use, asking much later risks a token that expires on its way.
const REFRESH_BEFORE: Duration = Duration::from_secs(240);
/// A token that lives for less than this is not used any more.
const MARGIN: Duration = Duration::from_secs(20);

/// In seconds; Google's live for an hour, and for twelve where an organisation allows it.
const LONGEST_LIFE: u64 = 12 * 3600;
/// For gcp_auth's search, which has no bound of its own.
const DESK_SEARCH: Duration = Duration::from_secs(30);

/// Where tokens come from.
pub enum Tokens {
    /// The VM's service account.
    Vm(VmTokens),
    /// A person's own credentials, found when they are first needed.
    Desk(Mutex<Option<Arc<dyn TokenProvider>>>),
}

/// Tokens of the VM's default service account: one request at a time however many ask, refreshed early, and
/// the old one used for as long as it lives if a refresh fails.
pub struct VmTokens {
    metadata: Metadata,
    /// Locked while a refresh is under way, so that all others wait for that one.
    cached: Mutex<Option<Cached>>,
}

struct Cached {
    token: Arc<Token>,
    expires: Instant,
}

impl Tokens {
    /// Tokens of the VM's service account.
    pub fn of_vm(metadata: Metadata) -> Self {
        Self::Vm(VmTokens { metadata, cached: Mutex::new(None) })
    }

    /// Tokens of a person.
    pub fn of_desk() -> Self {
        Self::Desk(Mutex::new(None))
    }

    /// Forgets the token, because a service refused it. A provider of gcp_auth cannot forget, so a new one
    /// takes its place.
    pub async fn drop_refused(&self) {
        match self {
            Self::Vm(vm) => *vm.cached.lock().await = None,
            Self::Desk(found) => *found.lock().await = None,
        }
    }

    /// An identity token for `audience`.
    pub async fn identity(&self, audience: &str) -> Result<String, Error> {
        match self {
            Self::Vm(vm) => vm
                .metadata
                .identity_token(audience)
                .await
                .map_err(|error| Error::Other("no identity token", Box::new(error))),
            Self::Desk(_) => Err(Error::Str("identity tokens come from a VM's metadata server alone")),
        }
    }
}

#[async_trait]
impl TokenProvider for Tokens {
    async fn token(&self, scopes: &[&str]) -> Result<Arc<Token>, Error> {
        match self {
            Self::Vm(vm) => vm.token().await,
            Self::Desk(found) => desk(found).await?.token(scopes).await,
        }
    }

    async fn project_id(&self) -> Result<Arc<str>, Error> {
        match self {
            Self::Vm(_) => Err(Error::Str("on a VM the project is known from its metadata")),
            Self::Desk(found) => desk(found).await?.project_id().await,
        }
    }
}

async fn desk(found: &Mutex<Option<Arc<dyn TokenProvider>>>) -> Result<Arc<dyn TokenProvider>, Error> {
    let mut found = found.lock().await;
    if let Some(provider) = &*found {
        return Ok(Arc::clone(provider));
    }
    let search = timeout(DESK_SEARCH, gcp_auth::provider());
    let provider = search.await.map_err(|_| Error::Str("no credentials were found in time"))??;
    Ok(Arc::clone(found.insert(provider)))
}

impl VmTokens {
    async fn token(&self) -> Result<Arc<Token>, Error> {
        let mut cached = self.cached.lock().await;
        let left = |cached: &Cached| cached.expires.saturating_duration_since(Instant::now());
        if let Some(cached) = &*cached
            && left(cached) > REFRESH_BEFORE
        {
            return Ok(Arc::clone(&cached.token));
        }
        match (self.fetch().await, &*cached) {
            (Ok(fresh), _) => Ok(Arc::clone(&cached.insert(fresh).token)),
            (Err(error), Some(old)) if left(old) > MARGIN => {
                tracing::warn!(%error, "the token could not be refreshed; the old one is still good");
                Ok(Arc::clone(&old.token))
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn fetch(&self) -> Result<Cached, Error> {
        let asked = Instant::now();
        let body = self.metadata.access_token().await.map_err(|error| {
            let text = match error.is_absent() {
                true => "this VM has no service account, so there is no access token",
                false => "no access token",
            };
            Error::Other(text, Box::new(error))
        })?;
        // serde_json's own text may quote what it found, and that may be the token.
        let unreadable = |_| Error::Str("the metadata server's token cannot be read");
        let answer: Answer = serde_json::from_str(&body).map_err(unreadable)?;
        // gcp_auth adds the lifetime to a date, which panics where it does not fit.
        let lifetime = answer.expires_in.min(LONGEST_LIFE);
        let token = json!({ "access_token": answer.access_token, "expires_in": lifetime });
        let token = Arc::new(serde_json::from_value::<Token>(token).map_err(unreadable)?);
        Ok(Cached { token, expires: asked + Duration::from_secs(lifetime) })
    }
}

/// The metadata server's answer. The lifetime is kept on the monotonic clock, which a wrong wall clock at boot
/// does not move.
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    expires_in: u64,
}
