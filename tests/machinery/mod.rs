//! What the suites share: an agent in a sandbox, from its start to its end.
//!
//! The agent is the real binary, the Engine a real one, and what is Google's is a fake on a real socket.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    clippy::allow_attributes,
    reason = "every suite compiles this, and none uses all of it"
)]

pub(crate) mod agent_image;
pub(crate) mod engine_proxy;
pub(crate) mod host;
pub(crate) mod private_engine;

use std::{
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::OnceLock,
    time::Duration,
};

use sandbox::{Builder, Call, Sandbox};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// No test's agent may take longer: a test that hangs tells nothing.
const PATIENCE: Duration = Duration::from_secs(120);

/// What runs the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// The Docker Engine, in a container.
    Docker,
    /// The agent's shim, on this machine itself.
    Host,
}

/// A test for each runtime, of functions that take one: `in_a_container::name` and `on_the_vm::name`.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod in_a_container {
            $(#[tokio::test] async fn $name() { super::$name(super::machinery::Runtime::Docker).await; })*
        }
        mod on_the_vm {
            $(#[tokio::test] async fn $name() { super::$name(super::machinery::Runtime::Host).await; })*
        }
    };
}
pub(crate) use on_both;

/// What an agent finds.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a> {
    /// `docker-command`; `IMAGE` in it is the sandbox's job. Empty: the attribute is not there.
    pub(crate) command: &'a str,
    /// What runs it. On the machine itself the job is the same program, in a `host-command`.
    pub(crate) runtime: Runtime,
    /// Other attributes.
    pub(crate) attributes: &'a [(&'a str, &'a str)],
    /// The agent's settings, beside where the fakes are.
    pub(crate) environment: &'a [(&'a str, &'a str)],
    /// How the cloud is.
    pub(crate) cloud: fn(Builder) -> Builder,
    /// Whose callback it is.
    pub(crate) callback: Callback,
    /// The words of a command that runs the agent, whose path is appended to them; it must become the agent, as
    /// `exec` does. Empty: the agent runs by itself.
    pub(crate) under: &'a [&'a str],
}

/// Whose callback it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Callback {
    /// The workflow's.
    Workflow,
    /// A web server's that is not Google's.
    Plain,
    /// There is none.
    Missing,
}

/// A job that ends at once in a cloud where all goes well.
pub(crate) const GIVEN: Given<'static> = Given {
    command: "docker run --rm IMAGE exit 0",
    runtime: Runtime::Docker,
    attributes: &[],
    environment: &[],
    cloud: |cloud| cloud,
    callback: Callback::Workflow,
    under: &[],
};

/// A running agent.
pub(crate) struct Agent {
    pub(crate) sandbox: Sandbox,
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    log: Vec<Value>,
    launch: Launch,
}

/// How an agent is started, and started again.
struct Launch {
    environment: Vec<(String, String)>,
    under: Vec<String>,
    /// Its state folder, which the next agent finds as it is.
    state: TempDir,
    /// Whether there may be containers.
    uses_docker: bool,
}

impl Drop for Launch {
    /// Shims outlive their agents, and are not to outlive their test.
    fn drop(&mut self) {
        for folder in shims(self.state.path()) {
            kill_shim(&folder);
        }
    }
}

/// The folders of the shims that are there.
fn shims(state_dir: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(state_dir.join("host")).into_iter().flatten().flatten();
    folders.map(|folder| folder.path()).filter(|folder| folder.join("shim.sock").exists()).collect()
}

/// Ends a shim by SIGKILL, and waits until its command is gone with it.
pub(crate) fn kill_shim(folder: &Path) {
    let record = std::fs::read(folder.join("record.json")).unwrap_or_default();
    let record: Value = serde_json::from_slice(&record).unwrap_or_default();
    // One that is about to go needs no help.
    let Ok(id) = std::fs::read_to_string(folder.join("lock")) else { return };
    let _ = std::process::Command::new("kill").args(["-s", "KILL", id.trim()]).status();
    let Some(first) = record["session"].as_i64() else { return };
    let until = std::time::Instant::now() + PATIENCE;
    while Path::new(&format!("/proc/{first}")).exists() {
        assert!(std::time::Instant::now() < until, "the command goes on without its shim");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Launch {
    fn command(&self) -> Command {
        let docker_host = std::env::var("DOCKER_HOST").map(|host| ("DOCKER_HOST".to_owned(), host));
        let mut words = self.under.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_longrun-agent")]);
        let mut command = Command::new(words.next().expect("the agent's path, if no other word"));
        command
            .args(words)
            .env_clear()
            .envs(docker_host.ok())
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// An agent that ended.
pub(crate) struct Ended {
    pub(crate) sandbox: Sandbox,
    pub(crate) status: ExitStatus,
    /// The agent's own log.
    pub(crate) log: Vec<Value>,
    pub(crate) stderr: String,
}

/// Runs an agent to its end.
pub(crate) async fn run(given: Given<'_>) -> Ended {
    start(given).await.ended().await
}

/// Starts an agent.
pub(crate) async fn start(given: Given<'_>) -> Agent {
    let sandbox = (given.cloud)(Sandbox::builder()).start().await.expect("a free port");
    start_in(sandbox, given)
}

/// Starts an agent in a sandbox.
pub(crate) fn start_in(sandbox: Sandbox, given: Given<'_>) -> Agent {
    match given.callback {
        Callback::Workflow => sandbox.set_attribute("callback-url", &sandbox.callback_url()),
        Callback::Plain => sandbox.set_attribute("callback-url", &sandbox.plain_callback_url()),
        Callback::Missing => {}
    }
    match given.runtime {
        _ if given.command.is_empty() => {}
        Runtime::Docker => {
            sandbox.set_attribute("docker-command", &given.command.replace("IMAGE", image()));
        }
        Runtime::Host => sandbox.set_attribute("host-command", &on_host(given.command)),
    }
    for (name, value) in given.attributes {
        sandbox.set_attribute(name, value);
    }
    let fakes = sandbox.environment().map(|(name, value)| (name.to_owned(), value));
    // Short where a VM's patience would only make a failing test slow.
    let quick = [("LONGRUN_ENGINE_WAIT", "10s"), ("LONGRUN_DELIVERY_DEADLINE", "60s")];
    let own = quick.iter().chain(given.environment).map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
    let state = tempfile::tempdir().expect("a folder");
    let state_dir = ("LONGRUN_STATE_DIR".to_owned(), state.path().display().to_string());
    let environment = fakes.into_iter().chain([state_dir]).chain(own).collect();
    let under = given.under.iter().map(|word| (*word).to_owned()).collect();
    let uses_docker = given.runtime == Runtime::Docker;
    Agent::spawn(sandbox, Launch { environment, under, state, uses_docker })
}

impl Agent {
    fn spawn(sandbox: Sandbox, launch: Launch) -> Self {
        let mut child = launch.command().kill_on_drop(true).spawn().expect("the agent's binary");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { sandbox, child, stdout, log: Vec::new(), launch }
    }

    /// Waits for a line of the agent's log whose message begins so, and answers it.
    pub(crate) async fn says(&mut self, message: &str) -> Value {
        let said = timeout(PATIENCE, async {
            while let Some(line) = self.stdout.next_line().await.expect("the agent's log") {
                let line: Value = serde_json::from_str(&line).expect("one JSON object a line");
                self.log.push(line.clone());
                if line["message"].as_str().is_some_and(|text| text.starts_with(message)) {
                    return line;
                }
            }
            panic!("the agent ended without saying {message:?}: {:#?}", self.log)
        });
        said.await.unwrap_or_else(|_| panic!("the agent never said {message:?}"))
    }

    /// Sends the agent a signal.
    pub(crate) fn signal(&self, signal: &str) {
        send(signal, self.id());
    }

    /// Waits until the agent is gone: it ended, or came to where `LONGRUN_FAIL_AT` kills it. One that is started
    /// after it passes that point.
    pub(crate) async fn is_gone(&mut self) {
        let to_its_end = async {
            while let Some(line) = self.stdout.next_line().await.expect("the agent's log") {
                self.log.push(serde_json::from_str(&line).expect("one JSON object a line"));
            }
        };
        timeout(PATIENCE, to_its_end).await.expect("the agent goes on and on");
    }

    /// Ends the agent by SIGKILL and starts another one in its place.
    pub(crate) async fn killed_and_started_again(self) -> Self {
        self.killed_and_started_after(|| ()).await
    }

    /// The same, with something that happens while no agent runs.
    pub(crate) async fn killed_and_started_after<T>(mut self, happens: impl FnOnce() -> T) -> Self {
        self.child.kill().await.expect("an agent that runs, or has just ended");
        happens();
        self.launch.environment.retain(|(name, _)| name != "LONGRUN_FAIL_AT");
        Self::spawn(self.sandbox, self.launch)
    }

    /// Waits for its end, and starts another one in its place.
    pub(crate) async fn ended_and_started_again(mut self) -> Self {
        timeout(PATIENCE, self.child.wait()).await.expect("the agent goes on and on").expect("its end");
        Self::spawn(self.sandbox, self.launch)
    }

    /// Another agent, started beside it as it was, after its end.
    pub(crate) async fn second_agent(&self) -> std::process::Output {
        let second = self.launch.command().kill_on_drop(true).output();
        timeout(PATIENCE, second).await.expect("it goes on and on").expect("the agent's binary")
    }

    /// Waits until it was killed at a fail point, and starts another one that has none.
    pub(crate) async fn killed_at_its_fail_point(mut self) -> Self {
        let status = timeout(PATIENCE, self.child.wait()).await.expect("the agent never came there");
        assert_eq!(status.expect("its end").signal(), Some(9), "it ended before it came there");
        self.launch.environment.retain(|(name, _)| name != "LONGRUN_FAIL_AT");
        Self::spawn(self.sandbox, self.launch)
    }

    /// Waits until it is gone, and removes the container that it left behind.
    pub(crate) async fn removed(mut self) {
        self.is_gone().await;
        let run_id = self.log.iter().find_map(|line| line["run_id"].as_str()).expect("a run");
        let left = docker(&["ps", "-aq", "--filter", &format!("label=longrun.run-id={run_id}")]);
        if !left.is_empty() {
            docker(&["rm", "-f", "-v", &left]);
        }
    }

    /// The folder of its job's shim.
    pub(crate) fn shim(&self) -> PathBuf {
        shims(self.state_dir()).pop().expect("a shim")
    }

    /// Where it keeps what must outlive it.
    pub(crate) fn state_dir(&self) -> &Path {
        self.launch.state.path()
    }

    /// The agent's process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("a running agent")
    }

    /// The agent's largest resident memory so far, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("a running agent");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells it");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// Waits for the agent's end, and checks what holds at every end: no credential went where it must not,
    /// no request was made that the fakes do not know, no token was logged, and no container was left.
    pub(crate) async fn ended(mut self) -> Ended {
        self.is_gone().await;
        let output = self.child.wait_with_output().await.expect("the agent's end");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let ended = Ended { sandbox: self.sandbox, status: output.status, log: self.log, stderr };
        assert_eq!(ended.sandbox.complaints(), [""; 0]);
        let log = format!("{:?}{}", ended.log, ended.stderr);
        for token in ended.sandbox.tokens() {
            assert!(!log.contains(&token), "a token is in the log");
        }
        let shims = shims(self.launch.state.path());
        // A job that could not be told keeps its shim, for the next agent.
        assert!(shims.is_empty() || ended.status.code() == Some(75), "a shim was left: {shims:?}");
        if let Some(run_id) = ended.run_id().filter(|_| self.launch.uses_docker) {
            let left = docker(&["ps", "-aq", "--filter", &format!("label=longrun.run-id={run_id}")]);
            if !left.is_empty() {
                docker(&["rm", "-f", "-v", &left]);
                // A job that could not be told keeps its container, for the next agent.
                assert_eq!(ended.status.code(), Some(75), "a container was left");
            }
        }
        ended
    }
}

impl Ended {
    /// The only report that was accepted.
    #[track_caller]
    pub(crate) fn report(&self) -> Value {
        let mut reports = self.sandbox.reports();
        assert_eq!(reports.len(), 1, "reports accepted; the log: {:#?} {}", self.log, self.stderr);
        reports.remove(0)
    }

    /// Every call of the callback.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.sandbox.calls()
    }

    /// Whether a line of the agent's log holds this.
    pub(crate) fn logged(&self, text: &str) -> bool {
        self.log.iter().any(|line| line["message"].as_str().is_some_and(|message| message.contains(text)))
    }

    fn run_id(&self) -> Option<&str> {
        self.log.iter().find_map(|line| line["run_id"].as_str())
    }
}

/// Sends a process a signal.
fn send(signal: &str, process: u32) {
    let sent = std::process::Command::new("kill").args(["-s", signal, &process.to_string()]).status();
    assert!(sent.expect("kill").success());
}

/// The name of the sandbox's job image, made once.
pub(crate) fn image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| sandbox::job::image().unwrap_or_else(|error| panic!("{error}")))
}

/// A `docker run` of the sandbox's job as a command of this machine: the program itself, and a volume's folder where
/// the container would have had it. Flags that only a container has are no test of both.
fn on_host(command: &str) -> String {
    let Some((flags, words)) = command.split_once(" IMAGE") else { return command.to_owned() };
    let flags: Vec<_> = flags.split_whitespace().skip(2).collect();
    let volume = match flags[..] {
        [] | ["--rm" | "--init"] => None,
        ["--volume", volume] => volume.split_once(':'),
        _ => panic!("{command:?} has flags that a host-command has not"),
    };
    let words = volume.map_or(words.to_owned(), |(folder, path)| words.replace(path, folder));
    format!("exec {}{words}", program())
}

/// The sandbox's job as a program of this machine, made once.
fn program() -> &'static str {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let new = folder.join(format!("job.{}", std::process::id()));
        std::fs::write(&new, sandbox::job::PROGRAM).expect("a file");
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).expect("its owner");
        // One that runs is not written to.
        let program = folder.join("job");
        std::fs::rename(new, &program).expect("a file");
        program.to_str().expect("text").to_owned()
    })
}

/// The socket of the machine's Engine.
pub(crate) fn engine_socket() -> String {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock").to_owned()
}

/// What a docker command prints. A wedged Engine must not hang a test (it was seen to).
#[track_caller]
pub(crate) fn docker(arguments: &[&str]) -> String {
    let output = std::process::Command::new("timeout").arg("60").arg("docker").args(arguments).output();
    let output = output.expect("the docker command");
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}
