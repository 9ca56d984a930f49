//! Which address gets which credential: promise 3, "The token stays home", in one place.
//!
//! Everything that sends a credential asks here. Pure, and leaves out fetching any.

use reqwest::Url;

use crate::job::{Auth, Callback};

/// What goes along with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Nothing.
    None,
    /// The service account's OAuth access token.
    AccessToken,
    /// An OpenID Connect token whose audience is the address.
    IdentityToken,
}

/// The audience that a service checks: Cloud Run's is the service's root, a function's is its address
/// without the query (cloud.google.com/run/docs/authenticating/service-to-service,
/// cloud.google.com/functions/docs/securing/authenticating).
pub fn audience(url: &Url) -> String {
    let mut audience = url.clone();
    audience.set_query(None);
    audience.set_fragment(None);
    if host_is_under(url, "run.app") {
        audience.set_path("");
        return audience.as_str().trim_end_matches('/').to_owned();
    }
    audience.into()
}

/// The credential for a callback, or why the one that was asked for must not be sent there.
pub fn for_callback(callback: &Callback) -> Result<Credential, String> {
    let url = &callback.url;
    match callback.auth {
        Auth::None => Ok(Credential::None),
        Auth::Auto if is_google_api(url) => Ok(Credential::AccessToken),
        Auth::Auto if is_google_run(url) => Ok(Credential::IdentityToken),
        Auth::Auto => Ok(Credential::None),
        Auth::AccessToken if is_google_api(url) => Ok(Credential::AccessToken),
        Auth::AccessToken => Err(format!(
            "longrun-callback-auth: an access token goes to https://*.googleapis.com alone, and the callback's \
             host is {}; use identity-token or none",
            url.host_str().unwrap_or_default()
        )),
        Auth::IdentityToken if is_plain_https(url) => Ok(Credential::IdentityToken),
        Auth::IdentityToken => {
            Err("longrun-callback-auth: an identity token goes to https addresses alone; use https, or none"
                .to_owned())
        }
    }
}

/// Whether the address is a Google API's: https, its own port, no user name in it.
pub fn is_google_api(url: &Url) -> bool {
    is_plain_https(url) && host_is_under(url, "googleapis.com")
}

/// Whether a registry takes the service account's access token. `registry` is a host as an image reference
/// has it; one with a port is not Google's.
pub fn registry_takes_token(registry: &str) -> bool {
    registry == "gcr.io" || [".gcr.io", ".pkg.dev"].iter().any(|suffix| is_under(registry, suffix))
}

fn is_google_run(url: &Url) -> bool {
    is_plain_https(url) && (host_is_under(url, "run.app") || host_is_under(url, "cloudfunctions.net"))
}

fn is_plain_https(url: &Url) -> bool {
    url.scheme() == "https" && url.port().is_none() && url.username().is_empty() && url.password().is_none()
}

fn host_is_under(url: &Url, domain: &str) -> bool {
    // A parsed URL's host is lower-case ASCII: IDN look-alikes have become xn-- names.
    url.domain().is_some_and(|host| is_under(host, &format!(".{domain}")))
}

fn is_under(host: &str, suffix: &str) -> bool {
    host.strip_suffix(suffix).is_some_and(|labels| {
        !labels.is_empty()
            && labels.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
            && labels.split('.').all(|label| !label.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use reqwest::Method;

    use super::*;
    use Credential::{AccessToken, IdentityToken};

    #[test]
    fn by_itself_the_access_token_goes_to_google_apis_and_the_identity_token_to_google_run() {
        auto("https://workflowexecutions.googleapis.com/v1/x", AccessToken);
        auto("https://WorkflowExecutions.GoogleAPIs.com/v1/x", AccessToken);
        auto("https://workflowexecutions.googleapis.com:443/v1/x", AccessToken);
        auto("https://us-central1-p.cloudfunctions.net/f", IdentityToken);
        auto("https://service-abc-uc.a.run.app/done", IdentityToken);
        auto("https://example.com/done", Credential::None);
    }

    #[test]
    fn the_audience_is_what_the_service_checks() {
        let audience = |url: &str| audience(&Url::parse(url).unwrap());
        assert_eq!(audience("https://s-uc.a.run.app/done?x=1"), "https://s-uc.a.run.app");
        assert_eq!(audience("https://r-p.cloudfunctions.net/f?x=1#y"), "https://r-p.cloudfunctions.net/f");
        assert_eq!(audience("https://example.com/done?x=1"), "https://example.com/done");
    }

    #[test]
    fn nothing_that_only_looks_like_google_gets_a_credential() {
        for url in [
            "http://workflowexecutions.googleapis.com/v1/x",
            "https://workflowexecutions.googleapis.com:8443/v1/x",
            "https://workflowexecutions.googleapis.com.evil.example/v1/x",
            "https://evilgoogleapis.com/v1/x",
            "https://googleapis.com.evil.example/",
            "https://googleapis.com/",
            "https://.googleapis.com/",
            "https://workflowexecutions.googleapis.com@evil.example/v1/x",
            "https://user@workflowexecutions.googleapis.com/v1/x",
            "https://user:secret@workflowexecutions.googleapis.com/v1/x",
            "https://workflowexecutions.googleapis.com./v1/x",
            "https://evil.example/?x=.googleapis.com",
            "https://evil.example/.googleapis.com",
            "https://evil.example#.googleapis.com",
            "https://googleapis.c\u{43e}m/",
            "https://workflowexecutions.g\u{43e}ogleapis.com/v1/x",
            "https://evil.example\\.googleapis.com/",
            "https://service.a.run.app.evil.example/",
            "http://service.a.run.app/",
            "https://127.0.0.1/",
            "https://[::1]/",
        ] {
            auto(url, Credential::None);
        }
    }

    #[test]
    fn a_credential_that_was_asked_for_is_refused_where_it_must_not_go() {
        let api = "https://workflowexecutions.googleapis.com/v1/x";
        assert_eq!(ask(api, Auth::AccessToken), Ok(AccessToken));
        assert_eq!(ask(api, Auth::IdentityToken), Ok(IdentityToken));
        assert_eq!(ask(api, Auth::None), Ok(Credential::None));
        assert_eq!(ask("https://example.com/", Auth::IdentityToken), Ok(IdentityToken));
        assert!(ask("http://example.com/", Auth::IdentityToken).is_err());
        assert!(ask("https://example.com/", Auth::AccessToken).is_err());
        assert!(ask("https://x.run.app/", Auth::AccessToken).is_err());
        assert!(ask("http://x.googleapis.com/", Auth::AccessToken).is_err());
    }

    #[test]
    fn google_registries_get_the_token_and_no_other() {
        for registry in ["gcr.io", "eu.gcr.io", "us-docker.pkg.dev", "europe-west1-docker.pkg.dev"] {
            assert!(registry_takes_token(registry), "{registry}");
        }
        for registry in [
            "docker.io",
            "ghcr.io",
            "quay.io",
            "pkg.dev",
            "evilgcr.io",
            "evilpkg.dev",
            "gcr.io.evil.example",
            "gcr.io:5000",
            "us-docker.pkg.dev:443",
            "us-docker.pkg.dev.evil.example",
            "user@us-docker.pkg.dev",
            ".pkg.dev",
            "..pkg.dev",
            "127.0.0.1:5000",
            "",
        ] {
            assert!(!registry_takes_token(registry), "{registry}");
        }
    }

    #[track_caller]
    fn auto(url: &str, expected: Credential) {
        // An address that cannot be read never gets as far as a credential.
        match Url::parse(url) {
            Ok(_) => assert_eq!(ask(url, Auth::Auto), Ok(expected), "{url}"),
            Err(error) => assert_eq!(expected, Credential::None, "{url}: {error}"),
        }
    }

    fn ask(url: &str, auth: Auth) -> Result<Credential, String> {
        for_callback(&Callback { url: Url::parse(url).unwrap(), method: Method::POST, auth })
    }
}
