//! `host-command`: a command that runs on the VM itself, under a shim that outlives the agent.
//!
//! ```text
//!   agent ──Engine API over a unix socket──▶ shim ──▶ launcher ═exec═▶ /bin/sh -c … ──▶ whatever it starts
//!                                             │ output, rotated and bounded; exit status
//!                                             ▼
//!                                     <state folder>/host/<run>/
//! ```
//!
//! The **shim** is this program again, in another process. To the agent it is one more Engine, of one container and
//! with the few calls that the agent makes: so everything that holds for containers (supervision, take-over, attempts,
//! logs, results, secrets) holds for commands, by the same code. It keeps what must not go with the agent: the pipes,
//! the exit status, and the processes, which are all its descendants, since the kernel gives it those whose parents
//! ended (child subreaper, prctl(2)).
//!
//! The **launcher** is this program once more, and becomes the command: between the two it is made a session of its
//! own, with the user, the folder, the cgroup and the environment that it shall have. What is wrong with those is
//! told before anything ran.
//!
//! In the agent's container (Container-Optimized OS) the shim enters the VM's namespaces first, which takes
//! `--pid=host --privileged`.
//!
//! Leaves out what `supervise` decides; of the Engine's API, all that the agent does not call.

mod cgroup;
mod held;
mod launch;
mod log;
mod namespaces;
mod output;
mod processes;
mod record;
mod serve;
mod shim;

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use tokio::{task::spawn_blocking, time::timeout};

use crate::{engine::Engine, http, job::SHIM_PATIENCE, settings::DockerHost};

/// This program, wherever its file is seen from.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// The words by which it becomes a shim, and a launcher.
const SHIM: &str = "shim";
const LAUNCH: &str = "launch";
/// In a run's folder.
const SOCKET: &str = "shim.sock";
/// What a shim says when its socket is there.
const READY: &str = "ready\n";
/// For a shim to come up: it opens a few files.
const START: Duration = Duration::from_secs(10);

/// Does what this process was started for, if it is one of the helpers and not an agent.
pub fn helper(words: &[&str]) -> Option<ExitCode> {
    match words {
        [SHIM, folder] => Some(shim::run(Path::new(folder))),
        [LAUNCH] => Some(launch::run()),
        _ => None,
    }
}

/// The shim of a run: the one that is there, else a new one. `Err` says why there is none.
pub(crate) async fn engine(state_dir: &Path, run_id: &str) -> Result<Engine, String> {
    let (folder, address) = (folder(state_dir, run_id), address(state_dir, run_id));
    if let Ok(engine) = Engine::connect(&address, Duration::ZERO).await {
        return Ok(engine);
    }
    start(&folder).await?;
    Engine::connect(&address, SHIM_PATIENCE).await.map_err(|error| {
        format!(
            "the shim in {} does not answer: {}; in a container, the folder has to have the VM's own path for it",
            folder.display(),
            http::chain(&error)
        )
    })
}

/// Ends the shim of a run, if there is one and it holds no command any more.
pub(crate) async fn dismiss(state_dir: &Path, run_id: &str) {
    let address = address(state_dir, run_id);
    let dismissed = async { Engine::connect(&address, Duration::ZERO).await?.dismiss().await };
    if let Err(error) = dismissed.await {
        tracing::debug!(error = http::chain(&error), "no shim was dismissed");
    }
}

/// Where the shim of a run listens, if there is one.
pub(crate) fn address(state_dir: &Path, run_id: &str) -> DockerHost {
    DockerHost::Unix(folder(state_dir, run_id).join(SOCKET))
}

/// Where the shim of a run keeps everything.
fn folder(state_dir: &Path, run_id: &str) -> PathBuf {
    // The command begins in another folder.
    let state_dir = std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
    state_dir.join("host").join(&run_id[..12])
}

/// Starts a shim, and waits until its socket is there.
async fn start(folder: &Path) -> Result<(), String> {
    let cannot = |why: String| format!("no shim for the command can be started: {why}");
    let mut shim = Command::new(THIS_PROGRAM);
    shim.arg(SHIM)
        .arg(folder)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let starting = spawn_blocking(move || -> io::Result<String> {
        let mut shim = shim.spawn()?;
        let mut said = String::new();
        // It closes this when it is ready, or when it ends.
        if let Some(mut stdout) = shim.stdout.take() {
            stdout.read_to_string(&mut said)?;
        }
        if said != READY {
            shim.wait()?;
        }
        Ok(said)
    });
    let started = timeout(START, starting).await.map_err(|_| cannot("it does not come up".to_owned()))?;
    match started.map_err(io::Error::other).flatten() {
        Ok(said) if said == READY => Ok(()),
        Ok(why) if why.is_empty() => Err(cannot("it ended at once".to_owned())),
        Ok(why) => Err(cannot(why.trim().to_owned())),
        Err(error) => Err(cannot(error.to_string())),
    }
}
