//! A client that sends exactly what a test says.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use sandbox::Sandbox;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// No answer here takes longer than a second; the rest is for a busy machine.
const LONGEST: Duration = Duration::from_secs(10);

/// A request to a sandbox.
#[derive(Debug)]
pub(crate) struct Ask(hyper::http::request::Builder, Bytes);

impl Ask {
    /// As it stands.
    pub(crate) fn new(method: &str, path: &str) -> Self {
        Self(hyper::Request::builder().method(method).uri(path).header("host", "sandbox"), Bytes::new())
    }

    /// To the metadata server.
    pub(crate) fn metadata(path: &str) -> Self {
        Self::new("GET", &format!("/computeMetadata/v1/{path}")).header("Metadata-Flavor", "Google")
    }

    /// To Google, sent as the agent sends it when `LONGRUN_GOOGLE_ENDPOINT` is set.
    pub(crate) fn google(method: &str, url: &str) -> Self {
        let (host, path) = url.strip_prefix("https://").and_then(|url| url.split_once('/')).expect("a URL");
        Self::new(method, &format!("/{path}")).header("X-Forwarded-Host", host)
    }

    pub(crate) fn header(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value), self.1)
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn body(self, body: impl Into<Bytes>) -> Self {
        Self(self.0, body.into())
    }

    /// Sends it on a connection of its own.
    pub(crate) async fn send(self, sandbox: &Sandbox) -> hyper::Result<Answer> {
        let stream = TcpStream::connect(sandbox.address()).await.expect("a sandbox listens");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = self.0.body(Full::new(self.1)).expect("a request");
        let exchange = async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            Ok(Answer { head, body: body.collect().await?.to_bytes() })
        };
        tokio::select! {
            answer = exchange => answer,
            Err(error) = connection => Err(error),
        }
    }

    /// The same where an answer is sure to come.
    pub(crate) async fn answer(self, sandbox: &Sandbox) -> Answer {
        timeout(LONGEST, self.send(sandbox)).await.expect("an answer in time").expect("an answer")
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    head: hyper::http::response::Parts,
    body: Bytes,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    /// A header, empty if it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.head.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).expect("text")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// The access token that the metadata server hands out now.
pub(crate) async fn token(sandbox: &Sandbox) -> String {
    let answer = Ask::metadata("instance/service-accounts/default/token").answer(sandbox).await.json();
    answer["access_token"].as_str().expect("a token").to_owned()
}
