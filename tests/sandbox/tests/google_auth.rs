//! Clients of Google's own as judges of the metadata server: what they take for the real one is good enough.

use std::path::Path;
use std::process::Stdio;

use sandbox::{INSTANCE, PROJECT, SERVICE_ACCOUNT, Sandbox, tools};
use serde_json::Value;
use tokio::process::Command;

const PACKAGES: [&str; 2] = ["google-auth==2.40.3", "requests==2.32.4"];

const AUDIENCE: &str = "https://longrun.example/report";

/// Prints what google-auth finds, as JSON.
const SCRIPT: &str = r#"
import json, sys
import google.auth
from google.auth import compute_engine, jwt
from google.auth.compute_engine import _metadata
from google.auth.transport.requests import Request
from google.oauth2 import id_token

request = Request()
credentials, project = google.auth.default()
kind = type(credentials).__module__
credentials.refresh(request)

identity = compute_engine.IDTokenCredentials(
    request, sys.argv[1], use_metadata_identity_endpoint=True)
identity.refresh(request)

print(json.dumps({
    "on_gce": _metadata.ping(request),
    "kind": kind,
    "project": project,
    "token": credentials.token,
    "expired": credentials.expired,
    "email": credentials.service_account_email,
    "scopes": credentials.scopes,
    "universe": credentials.universe_domain,
    "attributes": _metadata.get(request, "instance/attributes/", recursive=True),
    "identity": jwt.decode(identity.token, verify=False),
    "fetched": jwt.decode(id_token.fetch_id_token(request, sys.argv[1]), verify=False),
}))
"#;

#[tokio::test]
async fn google_auth_takes_it_for_compute_engine() {
    let sandbox =
        Sandbox::builder().attribute("docker-command", "docker run a").start().await.expect("a sandbox");
    let found = google_auth(&sandbox).await;

    assert_eq!(found["on_gce"], true);
    assert_eq!(found["kind"], "google.auth.compute_engine.credentials");
    assert_eq!(found["project"], PROJECT);
    assert_eq!(sandbox.tokens(), [found["token"].as_str().expect("a token")]);
    assert_eq!(found["expired"], false);
    assert_eq!(found["email"], SERVICE_ACCOUNT);
    assert_eq!(found["scopes"][0], "https://www.googleapis.com/auth/cloud-platform");
    assert_eq!(found["universe"], "googleapis.com");
    assert_eq!(found["attributes"]["docker-command"], "docker run a");
    for token in ["identity", "fetched"] {
        assert_eq!(found[token]["aud"], AUDIENCE);
        assert_eq!(found[token]["email"], SERVICE_ACCOUNT, "google-auth asks for the full format");
        assert_eq!(found[token]["google"]["compute_engine"]["instance_name"], INSTANCE);
    }
    assert_eq!(sandbox.complaints(), [""; 0]);
}

#[tokio::test]
async fn gcloud_takes_it_for_compute_engine() {
    let installed =
        Command::new("gcloud").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !installed.await.is_ok_and(|status| status.success()) {
        println!("did not run: gcloud is not installed");
        return;
    }
    let sandbox = Sandbox::builder().start().await.expect("a sandbox");
    let folder = tempfile::tempdir().expect("a folder");
    let gcloud = async |words: &[&str]| gcloud(&sandbox, folder.path(), words).await;

    assert_eq!(gcloud(&["auth", "list", "--format=value(account)"]).await, SERVICE_ACCOUNT);
    assert_eq!(gcloud(&["config", "get", "project"]).await, PROJECT);
    assert_eq!([gcloud(&["auth", "print-access-token"]).await], sandbox.tokens()[..]);
    let identity = gcloud(&["auth", "print-identity-token", &format!("--audiences={AUDIENCE}")]).await;
    assert_eq!(identity.split('.').count(), 3, "{identity}");
    assert_eq!(sandbox.complaints(), [""; 0]);
}

/// What google-auth finds out about the sandbox.
async fn google_auth(sandbox: &Sandbox) -> Value {
    let home = tempfile::tempdir().expect("a folder");
    let python = tools::venv(&PACKAGES).expect("google-auth").join("bin/python");
    let address = sandbox.address().to_string();
    let mut python = Command::new(python);
    python.args(["-c", SCRIPT, AUDIENCE]).env_clear().env("HOME", home.path());
    python.env("GCE_METADATA_HOST", &address).env("GCE_METADATA_IP", &address);
    serde_json::from_str(&run(python).await).expect("JSON")
}

/// What gcloud prints.
async fn gcloud(sandbox: &Sandbox, folder: &Path, words: &[&str]) -> String {
    let mut gcloud = Command::new("gcloud");
    gcloud.args(words).env("CLOUDSDK_CONFIG", folder).env("CLOUDSDK_CORE_DISABLE_PROMPTS", "1");
    gcloud.env("GCE_METADATA_ROOT", sandbox.address().to_string());
    run(gcloud).await
}

async fn run(mut command: Command) -> String {
    let output = command.stdin(Stdio::null()).output().await.expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}
