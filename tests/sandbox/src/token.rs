//! The credentials of the VM's service account: who issues them is the metadata server, who checks them
//! is every service, and both ask here.
//!
//! Leaves out narrower tokens (`token?scopes=…`, which a VM's metadata server ignores too) and signatures
//! that hold: an identity token has the shape and the claims of Google's, and a fixed signature.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hyper::StatusCode;
use hyper::header::AUTHORIZATION;
use serde_json::{Value, json};

use crate::google::Refusal;
use crate::server::Request;
use crate::unique;
use crate::vm::{INSTANCE, INSTANCE_ID, PROJECT, PROJECT_NUMBER, SERVICE_ACCOUNT, ZONE};

/// The scope that covers every service here.
pub(crate) const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";

/// How long a token of Compute Engine lives.
const LIFETIME: Duration = Duration::from_secs(3599);

/// The metadata server hands out the same token until so long before its end.
const RENEWED_BEFORE_END: Duration = Duration::from_secs(300);

/// How long an identity token lives.
const IDENTITY_LIFETIME: Duration = Duration::from_secs(3600);

/// Every access token of one sandbox, and the clock that ages them.
#[derive(Debug)]
pub(crate) struct Tokens {
    scopes: Vec<String>,
    issued: Mutex<Issued>,
}

#[derive(Debug, Default)]
struct Issued {
    tokens: Vec<Token>,
    /// How far a test has moved the tokens' clock ahead of the real one.
    ahead: Duration,
}

#[derive(Clone, Debug)]
struct Token {
    text: String,
    good_until: Instant,
    revoked: bool,
}

impl Tokens {
    pub(crate) fn new(scopes: Vec<String>) -> Self {
        Self { scopes, issued: Mutex::default() }
    }

    pub(crate) fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// What the metadata server answers for `…/token`.
    pub(crate) fn answer(&self) -> Value {
        let (text, left) = self.issued().current(Instant::now());
        json!({ "access_token": text, "expires_in": left.as_secs(), "token_type": "Bearer" })
    }

    /// Lets a request in that carries a good token with the scope of Google Cloud.
    pub(crate) fn check(&self, request: &Request) -> Result<(), Refusal> {
        let Some(credential) = request.headers().get(AUTHORIZATION) else {
            return Err(unauthenticated("Request is missing required authentication credential."));
        };
        let token = credential.to_str().unwrap_or_default().strip_prefix("Bearer ");
        if !token.is_some_and(|token| self.issued().takes(token, Instant::now())) {
            return Err(unauthenticated("Request had invalid authentication credentials."));
        }
        if !self.scopes.iter().any(|scope| scope == CLOUD_PLATFORM) {
            let message = "Request had insufficient authentication scopes.";
            return Err(Refusal::new(StatusCode::FORBIDDEN, message));
        }
        Ok(())
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.issued().tokens.iter().map(|token| token.text.clone()).collect()
    }

    /// Whether a token of this sandbox stands somewhere in there, good or not.
    pub(crate) fn appear_in(&self, bytes: &[u8]) -> bool {
        let appears =
            |token: &Token| bytes.windows(token.text.len()).any(|part| part == token.text.as_bytes());
        self.issued().tokens.iter().any(appears)
    }

    pub(crate) fn age(&self, by: Duration) {
        self.issued().ahead += by;
    }

    pub(crate) fn expire(&self) {
        let mut issued = self.issued();
        let now = Instant::now() + issued.ahead;
        let left = issued.tokens.iter().map(|token| token.good_until.saturating_duration_since(now)).max();
        issued.ahead += left.unwrap_or_default();
    }

    pub(crate) fn revoke(&self) {
        self.issued().tokens.iter_mut().for_each(|token| token.revoked = true);
    }

    fn issued(&self) -> MutexGuard<'_, Issued> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Issued {
    /// The token of the hour and how long it is still good; a new one when the last is about to end.
    fn current(&mut self, now: Instant) -> (String, Duration) {
        let now = now + self.ahead;
        let fresh = |token: &&Token| token.good_until.saturating_duration_since(now) > RENEWED_BEFORE_END;
        let token = self.tokens.last().filter(fresh).cloned().unwrap_or_else(|| {
            let text = format!("ya29.sandbox.{:016x}{:016x}", unique(), unique());
            let token = Token { text, good_until: now + LIFETIME, revoked: false };
            self.tokens.push(token.clone());
            token
        });
        (token.text, token.good_until - now)
    }

    fn takes(&self, text: &str, now: Instant) -> bool {
        let good =
            |token: &Token| token.text == text && !token.revoked && token.good_until > now + self.ahead;
        self.tokens.iter().any(good)
    }
}

fn unauthenticated(first_sentence: &str) -> Refusal {
    let message = format!(
        "{first_sentence} Expected OAuth 2 access token, login cookie or other valid authentication credential."
    );
    Refusal::new(StatusCode::UNAUTHORIZED, message)
}

/// How much an identity token tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Claims {
    /// The account.
    Standard,
    /// The VM too.
    Full,
}

/// An identity token: a JWT with Google's claims, whose signature verifies against nobody's key.
pub(crate) fn identity_token(audience: &str, claims: Claims) -> String {
    let issued_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut payload = json!({
        "aud": audience,
        "azp": "108642975310864297531",
        "exp": issued_at + IDENTITY_LIFETIME.as_secs(),
        "iat": issued_at,
        "iss": "https://accounts.google.com",
        "sub": "108642975310864297531",
    });
    if claims == Claims::Full {
        payload["email"] = SERVICE_ACCOUNT.into();
        payload["email_verified"] = true.into();
        payload["google"]["compute_engine"] = json!({
            "instance_id": INSTANCE_ID.to_string(),
            "instance_name": INSTANCE,
            "project_id": PROJECT,
            "project_number": PROJECT_NUMBER,
            "zone": ZONE,
        });
    }
    let header = json!({ "alg": "RS256", "kid": "sandbox", "typ": "JWT" });
    let parts = [header.to_string(), payload.to_string(), "signed by nobody".to_owned()];
    parts.map(|part| BASE64_URL_SAFE_NO_PAD.encode(part)).join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_stays_the_same_until_five_minutes_before_its_end() {
        let (mut issued, start) = (Issued::default(), Instant::now());
        let (first, left) = issued.current(start);
        assert_eq!(left, LIFETIME);

        let nearly = start + LIFETIME - RENEWED_BEFORE_END - Duration::from_secs(1);
        assert_eq!(issued.current(nearly), (first.clone(), RENEWED_BEFORE_END + Duration::from_secs(1)));

        let (second, left) = issued.current(start + LIFETIME - RENEWED_BEFORE_END);
        assert_ne!(second, first);
        assert_eq!(left, LIFETIME);
    }

    #[test]
    fn a_token_that_was_replaced_is_good_until_its_end() {
        let (mut issued, start) = (Issued::default(), Instant::now());
        let (first, _) = issued.current(start);
        let (second, _) = issued.current(start + LIFETIME - RENEWED_BEFORE_END);
        assert!(issued.takes(&first, start + LIFETIME - Duration::from_secs(1)));
        assert!(!issued.takes(&first, start + LIFETIME));
        assert!(issued.takes(&second, start + LIFETIME));
    }
}
