//! The VMs that a workflow inserts: each is an agent of its own with a metadata server of its own.
//!
//! A VM's attributes are the metadata that it was inserted with, its agent is the real one, and its containers
//! are on this machine's Engine. Leaves out the operating system: the startup script is not run.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::events::Events;
use crate::vm::Identity;
use crate::{Sandbox, unique};

/// From the shutdown signal of a VM that is deleted to the end of its agent.
const SHUTDOWN: Duration = Duration::from_secs(30);

/// What happens to a VM, once its job runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Compute Engine wants it back, and says so.
    Preempted,
    /// The same, and its report comes in twice.
    ToldTwice,
    /// It stands still from one moment to the next, and nobody says anything.
    Lost,
    /// No agent starts on it.
    Mute,
    /// Its zone has no room for it.
    Refused,
    /// What was said when it was ordered got lost, and it is there a moment later.
    Late,
    /// Nothing.
    Spared,
}

/// How VMs are made.
#[derive(Debug)]
pub(crate) struct Machines {
    /// The words of a command that is the agent.
    agent: Vec<OsString>,
    /// What happens to the first VM, to the second, and so on.
    fates: Mutex<VecDeque<Fate>>,
    pub(crate) events: Arc<Events>,
}

/// A VM that runs. Dropped, it is gone as if the power was cut, but for its containers, which go too.
#[derive(Debug)]
pub(crate) struct Machine {
    sandbox: Arc<Sandbox>,
    /// `None` where none ever started.
    agent: Option<Child>,
    state: TempDir,
    /// What happens to it.
    _tasks: JoinSet<()>,
}

impl Machines {
    pub(crate) fn new(agent: Vec<OsString>, fates: Vec<Fate>) -> Self {
        Self { agent, fates: Mutex::new(fates.into()), events: Arc::default() }
    }

    /// What is to happen to the next VM.
    pub(crate) fn next_fate(&self) -> Fate {
        self.fates.lock().unwrap_or_else(PoisonError::into_inner).pop_front().unwrap_or(Fate::Spared)
    }

    /// Boots a VM as it was ordered; `stands` is called when it stands still.
    pub(crate) async fn boot(
        &self,
        name: &str,
        zone: &str,
        order: &Value,
        fate: Fate,
        stands: impl FnOnce() + Send + 'static,
    ) -> io::Result<Machine> {
        let attributes = attributes(order);
        let callback = attributes.iter().find(|(key, _)| key == "callback-url").map(|(_, url)| url.clone());
        let callback = callback.unwrap_or_default();
        let machine_type = order["machineType"].as_str().and_then(|path| path.rsplit('/').next());
        let identity = Identity {
            name: name.to_owned(),
            id: unique() >> 1,
            zone: zone.to_owned(),
            machine_type: machine_type.unwrap_or_default().to_owned(),
        };
        let mut builder = Sandbox::builder().identity(identity).callback_at(&callback);
        for (key, value) in &attributes {
            builder = builder.attribute(key, value);
        }
        let sandbox = Arc::new(builder.start().await?);
        let state = tempfile::tempdir()?;
        let agent = match fate {
            Fate::Mute => None,
            _ => Some(self.start_agent(&sandbox, state.path())?),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(pass_on(Arc::clone(&sandbox), Arc::clone(&self.events), callback, fate));
        tasks.spawn(befall(Arc::clone(&sandbox), fate, agent.as_ref().and_then(Child::id), stands));
        Ok(Machine { sandbox, agent, state, _tasks: tasks })
    }

    fn start_agent(&self, sandbox: &Sandbox, state: &Path) -> io::Result<Child> {
        let mut words = self.agent.iter();
        let program = words.next().ok_or_else(|| io::Error::other("no agent to run on VMs"))?;
        let docker_host = std::env::var_os("DOCKER_HOST").map(|host| ("DOCKER_HOST", host));
        let log = std::env::var_os("LONGRUN_LOG").unwrap_or_else(|| "warn".into());
        Command::new(program)
            .args(words)
            .env_clear()
            .envs(docker_host)
            .envs(sandbox.environment())
            .env("LONGRUN_STATE_DIR", state)
            .env("LONGRUN_LOG", log)
            // A desk has Docker or it has not.
            .env("LONGRUN_ENGINE_WAIT", "20s")
            .stdin(Stdio::null())
            .stdout(io::stderr())
            .kill_on_drop(true)
            .spawn()
    }
}

impl Machine {
    /// Shuts the VM down and takes it away, with everything that ran on it.
    pub(crate) async fn delete(mut self) {
        if let Some(agent) = &mut self.agent {
            if let Some(id) = agent.id() {
                send("TERM", id);
            }
            if timeout(SHUTDOWN, agent.wait()).await.is_err() {
                let _ = agent.kill().await;
            }
        }
        let _ = tokio::task::spawn_blocking(|| drop(self)).await;
    }

    /// The guest attributes below `longrun/`.
    pub(crate) fn guest_attributes(&self) -> Vec<(&'static str, String)> {
        let read = |key| self.sandbox.metadata(&format!("instance/guest-attributes/longrun/{key}"));
        ["attempt", "heartbeat", "phase", "report"]
            .into_iter()
            .filter_map(|key| Some((key, read(key)?)))
            .collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The agent starts no container any more once it is gone.
        if let Some(id) = self.agent.as_mut().and_then(|agent| agent.start_kill().ok().and(agent.id())) {
            while is_running(id) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        end_host_command(self.state.path());
        remove_containers(&self.state.path().join("journal.json"));
    }
}

/// Whether the process is there and has not ended.
fn is_running(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

/// The shim of a command of the VM's own, and the command, outlive the agent, but not the VM.
fn end_host_command(state: &Path) {
    let folder = state.to_string_lossy();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for shim in numbers.filter(|number| command_line(*number).contains(&*folder)) {
        for process in with_descendants(shim) {
            send("KILL", process);
        }
    }
}

fn command_line(process: u32) -> String {
    let words = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words).into_owned()
}

fn with_descendants(process: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    let children = children.unwrap_or_default();
    let below = children.split_whitespace().filter_map(|child| child.parse().ok()).flat_map(with_descendants);
    std::iter::once(process).chain(below).collect()
}

/// Brings the VM's reports to the workflow.
async fn pass_on(vm: Arc<Sandbox>, events: Arc<Events>, callback: String, fate: Fate) {
    loop {
        let call = vm.next_accepted_call().await;
        let times = if fate == Fate::ToldTwice { 2 } else { 1 };
        (0..times).for_each(|_| events.push(&callback, &call));
    }
}

/// What happens to the VM once its job runs.
async fn befall(vm: Arc<Sandbox>, fate: Fate, agent: Option<u32>, stands: impl FnOnce()) {
    if matches!(fate, Fate::Spared | Fate::Mute | Fate::Refused | Fate::Late) {
        return;
    }
    let mut writes = 1;
    while vm.metadata("instance/guest-attributes/longrun/phase").as_deref() != Some("running") {
        vm.requested(writes, "guest-attributes/longrun/phase").await;
        writes += 1;
    }
    match (fate, agent) {
        (Fate::Preempted | Fate::ToldTwice, _) => vm.set_metadata("instance/preempted", "TRUE"),
        (_, Some(agent)) => {
            send("KILL", agent);
            stands();
        }
        (_, None) => stands(),
    }
}

/// The metadata that a VM is inserted with.
fn attributes(order: &Value) -> Vec<(String, String)> {
    let items = order["metadata"]["items"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    items.filter_map(|item| Some((text(&item["key"])?, text(&item["value"])?))).collect()
}

/// The disk goes with the VM, and the containers with the disk.
fn remove_containers(journal: &Path) {
    let run_id = std::fs::read(journal).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let Some(run_id) = run_id.as_ref().and_then(|page| page["runId"].as_str()) else { return };
    let label = format!("label=longrun.run-id={run_id}");
    let docker =
        |words: &[&str]| std::process::Command::new("timeout").arg("60").arg("docker").args(words).output();
    let found = docker(&["ps", "--all", "--quiet", "--filter", &label]);
    let found = found.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for container in found.split_whitespace() {
        let _ = docker(&["rm", "--force", "--volumes", container]);
    }
}

fn send(signal: &str, process: u32) {
    let _ = std::process::Command::new("kill").args(["-s", signal, &process.to_string()]).status();
}

/// The words of a command that is the agent: this program itself, with a word that `main` knows.
#[must_use]
pub fn agent_within(program: PathBuf) -> Vec<OsString> {
    vec![program.into(), "agent".into()]
}
