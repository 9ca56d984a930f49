//! Google's own client as the judge of Secret Manager: what it reads there, and takes for its errors.

use std::process::Stdio;

use sandbox::{Builder, Sandbox, tools};
use serde_json::{Value, json};
use tokio::process::Command;

const PACKAGES: [&str; 2] = ["google-cloud-secret-manager==2.32.0", "requests==2.34.2"];

/// Reads versions as google-auth's default account, and prints what came of it, as JSON. The answer is parsed
/// once more by the protocol's own definition, which refuses unknown fields and wrong types.
const SCRIPT: &str = r#"
import json, sys
import google.auth, requests
from google.api_core.exceptions import GoogleAPICallError
from google.auth.transport.requests import Request
from google.cloud import secretmanager_v1 as secretmanager
from google.rpc import code_pb2

address, *versions = sys.argv[1:]
host = {"X-Forwarded-Host": "secretmanager.googleapis.com"}
credentials, _ = google.auth.default()
client = secretmanager.SecretManagerServiceClient(
    transport="rest", credentials=credentials, client_options={"api_endpoint": address})

def read(version):
    try:
        answer = client.access_secret_version(
            name=version, metadata=[(k.lower(), v) for k, v in host.items()], retry=None)
    except GoogleAPICallError as error:
        code = error.response.json()["error"]["status"]
        assert code in code_pb2.Code.keys(), code
        # The client puts the request before the service's words.
        return [type(error).__name__, code, error.message.partition("enum-encoding%3Dint: ")[2]]
    credentials.refresh(Request())
    bare = requests.get(f"{address}/v1/{version}:access",
                        headers={**host, "Authorization": f"Bearer {credentials.token}"})
    parsed = secretmanager.AccessSecretVersionResponse.from_json(bare.text)
    assert parsed == answer, (parsed, answer)
    return [answer.name, answer.payload.data.decode(), answer.payload.data_crc32c]

print(json.dumps([read(version) for version in versions]))
"#;

#[tokio::test]
async fn googles_own_client_reads_the_secrets() {
    let sandbox =
        start(|cloud| cloud.secret("key", "123456788").secret("key", "123456789").secret("empty", "")).await;
    let name = "projects/421337000421/secrets/key/versions";
    // 0xe3069283, as RFC 3720 has it.
    assert_eq!(
        read(&sandbox, &["key/versions/latest", "key/versions/2", "empty/versions/1"]).await,
        json!([
            [format!("{name}/2"), "123456789", 3_808_858_755_u32],
            [format!("{name}/2"), "123456789", 3_808_858_755_u32],
            ["projects/421337000421/secrets/empty/versions/1", "", 0],
        ])
    );
    sandbox.add_secret_version("key", "three");
    assert_eq!(read(&sandbox, &["key/versions/latest"]).await[0][1], "three");
    assert_eq!(sandbox.complaints(), [""; 0]);
}

#[tokio::test]
async fn googles_own_client_knows_the_errors() {
    let sandbox = start(|cloud| {
        cloud.secret("key", "x").disabled_secret("key").destroyed_secret("key").forbidden_secret("forbidden")
    })
    .await;
    let denied = "Permission 'secretmanager.versions.access' denied for resource \
                  'projects/longrun-sandbox/secrets/forbidden/versions/1' (or it may not exist).";
    for (version, kind, code, message) in [
        ("forbidden/versions/1", "Forbidden", "PERMISSION_DENIED", denied),
        (
            "missing/versions/1",
            "NotFound",
            "NOT_FOUND",
            "Secret [SECRETS/missing] not found or has no versions.",
        ),
        ("key/versions/9", "NotFound", "NOT_FOUND", "Secret Version [SECRETS/key/versions/9] not found."),
        (
            "key/versions/2",
            "BadRequest",
            "FAILED_PRECONDITION",
            "Secret Version [SECRETS/key/versions/2] is in DISABLED state.",
        ),
        (
            "key/versions/latest",
            "BadRequest",
            "FAILED_PRECONDITION",
            "Secret Version [SECRETS/key/versions/3] is in DESTROYED state.",
        ),
    ] {
        let message = message.replace("SECRETS", "projects/421337000421/secrets");
        assert_eq!(read(&sandbox, &[version]).await, json!([[kind, code, message]]), "{version}");
    }
    assert_eq!(sandbox.complaints(), [""; 0]);
}

async fn start(cloud: fn(Builder) -> Builder) -> Sandbox {
    cloud(Sandbox::builder()).start().await.expect("a sandbox")
}

/// What the client makes of versions of the VM's project.
async fn read(sandbox: &Sandbox, versions: &[&str]) -> Value {
    let home = tempfile::tempdir().expect("a folder");
    let python = tools::venv(&PACKAGES).expect("google-cloud-secret-manager").join("bin/python");
    let address = sandbox.address().to_string();
    let mut python = Command::new(python);
    python.args(["-c", SCRIPT, &format!("http://{address}")]);
    python.args(versions.iter().map(|version| format!("projects/longrun-sandbox/secrets/{version}")));
    python.env_clear().env("HOME", home.path()).stdin(Stdio::null());
    python.env("GCE_METADATA_HOST", &address).env("GCE_METADATA_IP", &address);
    let output = python.output().await.expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}
