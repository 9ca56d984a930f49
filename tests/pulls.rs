//! Pulls: from a real registry, with the right credential and no other, and told when they fail.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gcp_auth::TokenProvider;
use longrun_agent::google::{Metadata, Tokens};
use machinery::{Callback, Ended, GIVEN, Given, docker, image, run, start_in};
use sandbox::Sandbox;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

#[tokio::test]
async fn a_missing_image_is_pulled_and_its_digest_told() {
    let registry = Registry::open();
    let (name, digest) = registry.push("present:1");
    let ended = run(Given { command: &format!("docker run {name} exit 5"), ..GIVEN }).await;
    let report = ended.report();
    assert_eq!(report["exitCode"], 5, "{report:#}");
    assert_eq!(report["image"], json!({ "reference": name, "digest": digest }));
    assert!(ended.logged("pulling the image"));

    let again = run(Given { command: &format!("docker run {name} exit 0"), ..GIVEN }).await;
    assert_eq!(again.report()["image"]["digest"], digest);
    assert!(!again.logged("pulling the image"), "it is there now");

    let pinned = format!("docker run --pull always {}@{digest} exit 0", name.trim_end_matches(":1"));
    assert_eq!(run(Given { command: &pinned, ..GIVEN }).await.report()["image"]["digest"], digest);
    docker(&["rmi", &name]);
}

#[tokio::test]
async fn an_image_that_is_there_is_pulled_only_if_the_command_wants_another() {
    let registry = Registry::open();
    let name = registry.name("local:1");
    docker(&["tag", image(), &name]);
    let missing = run(Given { command: &format!("docker run {name} exit 0"), ..GIVEN }).await;
    let always = run(Given { command: &format!("docker run --pull always {name} exit 0"), ..GIVEN }).await;
    let foreign = format!("--platform linux/s390x {name} exit 0");
    let other = run(Given { command: &format!("docker run {foreign}"), ..GIVEN }).await;
    let never = run(Given { command: &format!("docker run --pull never {foreign}"), ..GIVEN }).await;
    docker(&["rmi", &name]);
    assert_eq!(missing.report()["reason"], "Completed");
    told_once(&always, "manifest unknown");
    told_once(&other, "manifest unknown");
    told_once(&never, "alone, and --pull never forbids to fetch it");
}

#[tokio::test]
async fn a_name_that_the_registry_does_not_know_is_told_after_one_try() {
    let registry = Registry::open();
    let command = format!("docker run {}", registry.name("nope:1"));
    told_once(&run(Given { command: &command, ..GIVEN }).await, "manifest unknown");
}

#[tokio::test]
async fn a_pull_that_is_denied_is_told_after_one_try_and_other_registries_get_no_token() {
    let registry = Registry::for_user("oauth2accesstoken", "somebody's password");
    let command = format!("docker run {}", registry.name("private:1"));
    told_once(&run(Given { command: &command, ..GIVEN }).await, "no basic auth credentials");
}

#[tokio::test]
async fn googles_registries_get_the_service_accounts_token() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    let metadata = Metadata::new(format!("http://{}", sandbox.address()).parse().unwrap());
    let token = Tokens::of_vm(metadata).token(&[]).await.unwrap();
    let registry = Registry::for_user("oauth2accesstoken", token.as_str());
    let (name, digest) = registry.push("private:1");

    let engine = GoogleRegistry::in_front_of(&registry);
    let command = format!("docker run {} exit 6", name.replace(&registry.host, GoogleRegistry::HOST));
    let given = Given { command: &command, environment: &[("DOCKER_HOST", &*engine.docker_host())], ..GIVEN };
    let report = start_in(sandbox, given).ended().await.report();
    docker(&["rmi", &name]);
    assert_eq!((&report["exitCode"], &report["image"]["digest"]), (&json!(6), &json!(digest)), "{report:#}");
}

#[tokio::test]
async fn a_vm_without_service_account_pulls_googles_public_images() {
    let registry = Registry::open();
    let (name, _) = registry.push("public:1");
    let engine = GoogleRegistry::in_front_of(&registry);
    let command = format!("docker run {} exit 0", name.replace(&registry.host, GoogleRegistry::HOST));
    let given = Given {
        command: &command,
        environment: &[("DOCKER_HOST", &*engine.docker_host())],
        cloud: |cloud| cloud.without_service_account(),
        callback: Callback::Plain,
        ..GIVEN
    };
    let ended = run(given).await;
    docker(&["rmi", &name]);
    assert_eq!(ended.report()["reason"], "Completed");
    assert!(ended.logged("pulling without a credential"));
}

#[tokio::test]
async fn a_pull_without_progress_is_tried_five_times_and_told() {
    let host = stalling_registry().await;
    let command = format!("docker run {host}/stalls:1");
    let given = Given { command: &command, environment: &[("LONGRUN_PULL_STALL", "500ms")], ..GIVEN };
    told_after_five_tries(&run(given).await, "no progress for 500ms");
}

#[tokio::test]
async fn a_registry_that_is_away_is_tried_five_times_and_told() {
    let command = "docker run 127.0.0.1:1/nope:1";
    told_after_five_tries(&run(Given { command, ..GIVEN }).await, "connection refused");
}

#[tokio::test]
async fn an_agent_that_is_stopped_while_it_pulls_tells_so() {
    let command = format!("docker run {}/stalls:1", stalling_registry().await);
    let mut agent = machinery::start(Given { command: &command, ..GIVEN }).await;
    agent.says("pulling the image").await;
    agent.signal("TERM");
    let report = agent.ended().await.report();
    assert_eq!((&report["reason"], &report["attempts"]), (&json!("Stopped"), &json!([])), "{report:#}");
}

#[track_caller]
fn told_once(ended: &Ended, message: &str) {
    let report = told(ended, message);
    assert!(!ended.logged("tried again"), "{report:#}");
}

#[track_caller]
fn told_after_five_tries(ended: &Ended, message: &str) {
    let report = told(ended, message);
    assert!(report["message"].as_str().unwrap().contains("could not be pulled in 5 tries"), "{report:#}");
    let retries = ended.log.iter().filter(|line| line["tries"].is_u64()).count();
    assert_eq!(retries, 4);
}

#[track_caller]
fn told(ended: &Ended, message: &str) -> Value {
    let report = ended.report();
    assert_eq!(
        (&report["reason"], &report["attempts"]),
        (&json!("ImagePullFailed"), &json!([])),
        "{report:#}"
    );
    assert!(report["message"].as_str().unwrap().contains(message), "{report:#}");
    report
}

/// Debian's registry on a free port, with its images in a folder; gone when dropped.
struct Registry {
    host: String,
    folder: TempDir,
    process: Child,
}

impl Registry {
    /// One that serves everybody.
    fn open() -> Self {
        Self::start(tempfile::tempdir().unwrap(), "")
    }

    /// One that serves a single user, who is logged in for [`Self::push`].
    fn for_user(user: &str, password: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let users = folder.path().join("htpasswd");
        let hash = bcrypt::hash_with_result(password, 4).unwrap().format_for_version(bcrypt::Version::TwoY);
        fs::write(&users, format!("{user}:{hash}\n")).unwrap();
        let auth = format!("auth: {{htpasswd: {{realm: longrun, path: {}}}}}\n", users.display());
        let registry = Self::start(folder, &auth);
        let login = STANDARD.encode(format!("{user}:{password}"));
        let config = json!({ "auths": { &registry.host: { "auth": login } } });
        fs::write(registry.folder.path().join("config.json"), config.to_string()).unwrap();
        registry
    }

    fn start(folder: TempDir, auth: &str) -> Self {
        let program = sandbox::tools::docker_registry().unwrap_or_else(|error| panic!("{error}"));
        let config = folder.path().join("registry.yml");
        let data = folder.path().join("data");
        let text = format!(
            "version: 0.1\nlog: {{accesslog: {{disabled: true}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\n{auth}",
            data.display()
        );
        fs::write(&config, text).unwrap();
        let mut process =
            Command::new(program).arg("serve").arg(&config).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let listening = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, rest) = line.split_once("listening on ")?;
            Some(rest.split('"').next()?.to_owned())
        });
        // A pipe that nobody reads would stop the registry.
        thread::spawn(move || lines.for_each(drop));
        Self { host: listening.expect("the registry listens"), folder, process }
    }

    fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.host)
    }

    /// Puts the job's image there and takes the name away here; answers the name and the digest.
    fn push(&self, image: &str) -> (String, String) {
        let name = self.name(image);
        docker(&["tag", machinery::image(), &name]);
        let said = docker(&["--config", self.folder.path().to_str().unwrap(), "push", &name]);
        docker(&["rmi", &name]);
        let digest = said.split_whitespace().find(|word| word.starts_with("sha256:"));
        (name, digest.expect("the push tells the digest").to_owned())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A socket in front of the machine's Engine behind which a host of Google's stands for a local registry, as
/// DNS would have it: in what goes to the Engine, one name is replaced by the other, byte for byte.
struct GoogleRegistry {
    folder: TempDir,
}

impl GoogleRegistry {
    /// As long as `127.0.0.1:40000`, so that no length in a request changes.
    const HOST: &str = "us-east.pkg.dev";

    fn in_front_of(registry: &Registry) -> Self {
        assert_eq!(registry.host.len(), Self::HOST.len());
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(Self::socket(folder.path())).unwrap();
        let host = registry.host.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(Self::forward(client, host.clone()));
            }
        });
        Self { folder }
    }

    fn docker_host(&self) -> String {
        format!("unix://{}", Self::socket(self.folder.path()).display())
    }

    fn socket(folder: &Path) -> PathBuf {
        folder.join("docker.sock")
    }

    async fn forward(client: UnixStream, host: String) {
        let engine = UnixStream::connect(machinery::engine_socket()).await.unwrap();
        let (mut from_engine, mut to_engine) = engine.into_split();
        let (mut from_client, mut to_client) = client.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_engine, &mut to_client).await });
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            replace(&mut buffer[..length], Self::HOST.as_bytes(), host.as_bytes());
            if to_engine.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    }
}

fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    for start in 0..bytes.len().saturating_sub(from.len() - 1) {
        let window = &mut bytes[start..start + from.len()];
        if window == from {
            window.copy_from_slice(to);
        }
    }
}

/// The address of a registry that has every image and never sends a layer.
async fn stalling_registry() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(stall(client));
        }
    });
    host
}

async fn stall(mut client: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = client.read(&mut buffer).await {
        let request = String::from_utf8_lossy(&buffer[..length]);
        let kind = "application/vnd.docker.distribution.manifest.v2+json";
        let blob = |kind: &str, digit: &str| json!({ "mediaType": kind, "size": 1000, "digest": format!("sha256:{}", digit.repeat(64)) });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": kind,
            "config": blob("application/vnd.docker.container.image.v1+json", "1"),
            "layers": [blob("application/vnd.docker.image.rootfs.diff.tar.gzip", "2")],
        })
        .to_string();
        let body = match request.split(' ').nth(1) {
            Some("/v2/") => "{}",
            Some(path) if path.contains("/manifests/") => &manifest,
            Some(path) if path.contains("/blobs/") => return std::future::pending().await,
            // The Engine tries TLS first.
            _ => return,
        };
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
        let answer = if request.starts_with("HEAD") { head } else { head + body };
        if client.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
