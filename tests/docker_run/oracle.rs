//! The docker CLI as the judge, and the Engine that it talks to: one that only records.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The oldest CLI whose bodies are the ones that we send.
const OLDEST: u32 = 28;

/// Seconds that one CLI call may take; it takes 20 ms.
const PATIENCE: &str = "20";

/// The files that lines name as `FILES/…`: what the CLI reads at the client, we read where the agent runs.
const FILES: [(&str, &str); 11] = [
    ("env", "A=1\n  B=2\n# a comment\n\nNOT_SET\nC= x \nD=\"q\"\nA=3\n  # another\nE=\nF=a=b\n"),
    ("env-bom", "\u{feff}A=1\r\nB=2"),
    ("env-blank-in-name", "A =1\n"),
    ("env-no-name", "=1\n"),
    ("env-tab", "\tA=1\n"),
    ("labels", "a=b\nc\n\nd=\n# e=f\n  g=h\n"),
    ("empty", ""),
    (
        "seccomp.json",
        "{ \"defaultAction\" : \"SCMP_ACT_ALLOW\",\n  \"a b\": [ 1.50, \"\\u0041 <&> \\\" é\" ] }\n",
    ),
    ("not.json", "nojson\n"),
    ("two.json", "{} {}"),
    ("cid", "there is one\n"),
];

/// What came of a line.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// A create call.
    Created(Container),
    /// No container, and the reason.
    Refused(String),
    /// The CLI crashed, which judges nothing.
    Crashed,
}

/// A create call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Container {
    pub(crate) name: Option<String>,
    pub(crate) platform: Option<String>,
    pub(crate) body: Value,
}

/// One recording Engine with a working folder; asks one line at a time.
pub(crate) struct Oracle {
    folder: TempDir,
    record: Arc<Mutex<Record>>,
}

#[derive(Default)]
struct Record {
    api: String,
    created: Option<Container>,
    unexpected: Vec<String>,
}

impl Oracle {
    /// Starts one.
    pub(crate) fn start() -> Self {
        let folder = TempDir::with_prefix("docker-run-").expect("a folder");
        for (name, content) in FILES {
            fs::write(folder.path().join(name), content).expect("a file");
        }
        fs::create_dir_all(folder.path().join(HERE)).expect("a folder");
        let listener = UnixListener::bind(folder.path().join("engine.sock")).expect("a socket");
        let record = Arc::new(Mutex::new(Record::default()));
        let shared = Arc::clone(&record);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(client, &shared));
            }
        });
        Self { folder, record }
    }

    /// The line as it is given to both sides.
    pub(crate) fn fill(&self, line: &str) -> String {
        line.replace("FILES", &self.folder.path().display().to_string())
    }

    /// Whether this path was relative before the CLI made it absolute.
    pub(crate) fn was_relative(&self, path: &str) -> bool {
        path.starts_with(&self.folder.path().display().to_string())
    }

    /// What the CLI makes of `docker create LINE`, or of `docker run LINE`, with an Engine of this version.
    pub(crate) fn ask(&self, api: &str, verb: &str, line: &str) -> Verdict {
        *self.record() = Record { api: api.to_owned(), ..Record::default() };
        // The shell is a judge too: of quoting. No globs, since nothing is expanded on a VM.
        let script = format!("set -f; exec \"$0\" -H \"unix://$1\" {verb} {}", self.fill(line));
        let output = Command::new("timeout")
            .args([PATIENCE, "sh", "-c", &script])
            .arg(cli())
            .arg(self.folder.path().join("engine.sock"))
            .current_dir(self.folder.path().join(HERE))
            .env_clear()
            .env("DOCKER_CONFIG", self.folder.path())
            // A CLI lives for 20 ms: no collection and no second thread make it a fifth quicker.
            .envs([("GOGC", "off"), ("GOMAXPROCS", "1")])
            .output()
            .expect("timeout and sh");
        let _ = fs::remove_file(self.folder.path().join("new-cid"));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_ne!(output.status.code(), Some(124), "the CLI hangs on `{line}`: {stderr}");
        let record = std::mem::take(&mut *self.record());
        assert_eq!(record.unexpected, [""; 0], "calls of `{line}` that the recording Engine does not know");
        match record.created {
            Some(container) if output.status.success() => Verdict::Created(container),
            _ if stderr.starts_with("panic: ") => Verdict::Crashed,
            _ => Verdict::Refused(stderr.split("\n\n").next().unwrap_or_default().replace('\n', " ")),
        }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the CLI runs: deep, so that `../..` can be told from any other path.
const HERE: &str = "a/b/c/d";

/// The CLI's path.
fn cli() -> &'static Path {
    static CLI: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = CLI.get_or_init(|| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut candidates = std::env::split_paths(&path).map(|folder| folder.join("docker"));
        let missing =
            || format!("the suite docker_run needs the docker CLI, version {OLDEST} or newer, in PATH");
        let docker = candidates.find(|file| file.is_file()).ok_or_else(missing)?;
        let version = Command::new(&docker).arg("--version").output().map_err(|_| missing())?;
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        let major = version.split([' ', '.']).find_map(|word| word.parse::<u32>().ok());
        match major.is_some_and(|major| major >= OLDEST) {
            true => Ok(docker),
            false => Err(format!("{}, but {} is: {}", missing(), docker.display(), version.trim())),
        }
    });
    found.as_deref().unwrap_or_else(|missing| panic!("{missing}"))
}

/// Answers one client's requests until it goes.
fn serve(client: UnixStream, record: &Mutex<Record>) {
    let mut reader = BufReader::new(client.try_clone().expect("a socket"));
    let mut writer = client;
    while let Some((method, target, body)) = request(&mut reader) {
        let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
        let (status, answer) = respond(&mut record, &method, &target, &body);
        let length = answer.len();
        let api = &record.api;
        let head = format!(
            "HTTP/1.1 {status}\r\nApi-Version: {api}\r\nOstype: linux\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        let answer = if method == "HEAD" { "" } else { &answer };
        if writer.write_all(format!("{head}{answer}").as_bytes()).is_err() {
            return;
        }
    }
}

fn respond(record: &mut Record, method: &str, target: &str, body: &[u8]) -> (&'static str, String) {
    let url = reqwest::Url::parse(&format!("http://engine{target}")).expect("a request's target");
    let path = url.path().trim_start_matches(&format!("/v{}", record.api));
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (method, &parts[..]) {
        ("HEAD" | "GET", ["_ping"]) => ("200 OK", "OK".to_owned()),
        ("GET", ["version"]) => (
            "200 OK",
            json!({ "ApiVersion": record.api, "MinAPIVersion": "1.24", "Os": "linux" }).to_string(),
        ),
        ("POST", ["images", "create"]) => ("200 OK", "{}".to_owned()),
        ("GET", ["images", .., "json"]) => ("200 OK", "{}".to_owned()),
        ("POST", ["containers", _, "wait"]) => ("200 OK", json!({ "StatusCode": 0 }).to_string()),
        ("POST", ["containers", _, "start"]) => ("204 No Content", String::new()),
        ("POST", ["containers", "create"]) => {
            let mut query: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
            record.created = Some(Container {
                name: query.remove("name"),
                platform: query.remove("platform"),
                body: serde_json::from_slice(body).expect("the CLI sends JSON"),
            });
            record.unexpected.extend(query.into_keys());
            ("201 Created", json!({ "Id": "0123456789ab", "Warnings": [] }).to_string())
        }
        _ => {
            record.unexpected.push(format!("{method} {target}"));
            ("404 Not Found", json!({ "message": "not known here" }).to_string())
        }
    }
}

/// The next request: method, target, body. `None` when the client is gone.
fn request(reader: &mut BufReader<UnixStream>) -> Option<(String, String, Vec<u8>)> {
    let first = line(reader)?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut chunked) = (0, false);
    loop {
        let header = line(reader)?.to_ascii_lowercase();
        match header.split_once(':') {
            None => break,
            Some(("content-length", value)) => length = value.trim().parse().ok()?,
            Some(("transfer-encoding", value)) => chunked = value.trim() == "chunked",
            Some(_) => {}
        }
    }
    let body = if chunked { chunks(reader)? } else { bytes(reader, length)? };
    Some((method, target, body))
}

fn chunks(reader: &mut BufReader<UnixStream>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let length = usize::from_str_radix(&line(reader)?, 16).ok()?;
        body.extend(bytes(reader, length)?);
        line(reader)?;
        if length == 0 {
            return Some(body);
        }
    }
}

fn bytes(reader: &mut BufReader<UnixStream>, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

fn line(reader: &mut BufReader<UnixStream>) -> Option<String> {
    let mut line = String::new();
    let length = reader.read_line(&mut line).ok()?;
    (length > 0).then(|| line.trim_end().to_owned())
}
