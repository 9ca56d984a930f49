//! The HTTP clients: one set of rules for every request that the agent makes.
//!
//! Redirects are not followed, because a credential would go along to a place that nobody checked. Every
//! caller sets a deadline of its own on each request.

use std::{error::Error, sync::Arc, time::Duration};

use reqwest::{Client, ClientBuilder, header::HeaderMap, redirect};

/// To open a connection. Every peer is on this machine, in its network, or one of Google's front ends.
const CONNECT: Duration = Duration::from_secs(10);

/// A client for addresses outside: TLS by ring against Mozilla's roots, since the image has no CA files;
/// `HTTPS_PROXY` and its kin are honoured.
pub(crate) fn outside() -> Client {
    build(builder())
}

/// A client for the metadata server and for stand-ins: an environment's proxy must not see its tokens.
pub(crate) fn inside() -> Client {
    build(builder().no_proxy())
}

/// A client for the Engine, at its socket if it has one. Each call has a connection of its own: on one that is
/// open, an Engine that is going still answers as if nothing were (seen on 20.10).
pub(crate) fn engine(socket: Option<&std::path::Path>) -> Client {
    let builder = builder().no_proxy().pool_max_idle_per_host(0);
    build(match socket {
        Some(path) => builder.unix_socket(path.to_owned()),
        None => builder,
    })
}

fn builder() -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("longrun-agent/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT)
        .tls_backend_preconfigured(tls())
}

fn build(builder: ClientBuilder) -> Client {
    builder.build().expect("a client with a preconfigured TLS backend reads nothing from outside")
}

fn tls() -> rustls::ClientConfig {
    let roots = rustls::RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the default protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// How long to wait before the next try, as the server asks, but `longest` at most: its clock may be wrong. Google's
/// services give seconds; RFC 9110's other form, a date, is not read.
pub(crate) fn retry_after(headers: &HeaderMap, longest: Duration) -> Option<Duration> {
    let seconds = headers.get("Retry-After")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(longest))
}

/// An error with its causes, in one line. reqwest's own text is the outermost and says the least.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_seconds_and_bounded() {
        let longest = Duration::from_secs(300);
        for (value, expected) in [
            ("7", Some(Duration::from_secs(7))),
            (" 0 ", Some(Duration::ZERO)),
            ("99999999", Some(longest)),
            ("Wed, 21 Oct 2026 07:28:00 GMT", None),
            ("-1", None),
        ] {
            let headers = HeaderMap::from_iter([(reqwest::header::RETRY_AFTER, value.parse().unwrap())]);
            assert_eq!(retry_after(&headers, longest), expected, "{value}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), longest), None);
    }
}
