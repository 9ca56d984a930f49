//! The shim's process: where it is, whom it answers, and when it ends.
//!
//! One thread does everything, but for what a disk may take long for. It ends when it is told to, since an agent that
//! was killed is followed by another one, or with the VM.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    future::pending,
    io::{self, Write},
    os::unix::{
        fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
        process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::{
        prctl,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{dup2_stderr, dup2_stdout, setsid},
};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

use super::{READY, SOCKET, cgroup, held::Held, namespaces, record::owned, serve};
use crate::clock::Clock;

/// Held for as long as it lives, with its number in it.
const LOCK: &str = "lock";
/// What it has to say after it is ready.
const LOG: &str = "shim.log";

/// What a shim holds.
pub(super) struct Shim {
    pub(super) folder: PathBuf,
    pub(super) boot_id: String,
    held: Mutex<Option<Arc<Held>>>,
    /// It was told to end.
    pub(super) dismissed: Notify,
}

impl Shim {
    /// The command, if there is one.
    pub(super) fn held(&self) -> Option<Arc<Held>> {
        self.slot().clone()
    }

    /// The place of the command.
    pub(super) fn slot(&self) -> MutexGuard<'_, Option<Arc<Held>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The process from its beginning to its end. It says on stdout that it is ready, or why it is not.
pub(super) fn run(folder: &Path) -> ExitCode {
    match serve_in(folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn serve_in(folder: &Path) -> Result<(), String> {
    // A terminal's signals and a unit's are for the agent.
    let _ = setsid();
    let place = namespaces::enter_vm()?;
    cgroup::leave_containers(place);
    let unusable = |error: io::Error| {
        format!(
            "the folder {} cannot be used: {error}; LONGRUN_STATE_DIR names its parent's",
            folder.display()
        )
    };
    make(folder).map_err(unusable)?;
    let lock = locked(&folder.join(LOCK)).map_err(unusable)?;
    let mut lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        // Another one is faster.
        Err((_, Errno::EWOULDBLOCK)) => {
            print!("{READY}");
            return Ok(());
        }
        Err((_, error)) => return Err(unusable(error.into())),
    };
    lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id())).map_err(unusable)?;
    prctl::set_child_subreaper(true).map_err(|error| format!("this kernel has no subreapers: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.and_then(|runtime| runtime.block_on(serve(folder))).map_err(unusable)
}

/// The lock's file, which may be another's.
fn locked(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(path)
}

/// The folder and its parent; the state folder itself has to be there.
fn make(folder: &Path) -> io::Result<()> {
    for folder in [folder.parent().unwrap_or(folder), folder] {
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

async fn serve(folder: &Path) -> io::Result<()> {
    let socket = folder.join(SOCKET);
    let _ = fs::remove_file(&socket);
    let boot_id = Clock::read().boot_id().to_owned();
    let held = Held::found(folder, &boot_id).await.map(Arc::new);
    let shim = Arc::new(Shim {
        folder: folder.to_owned(),
        boot_id,
        held: Mutex::new(held),
        dismissed: Notify::new(),
    });
    let listener = UnixListener::bind(&socket)?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
    let children = signal(SignalKind::child())?;
    let log = owned(&folder.join(LOG))?;
    io::stdout().write_all(READY.as_bytes())?;
    io::stdout().flush()?;
    // Who waits for the end of these must not wait for this process.
    dup2_stdout(&log)?;
    dup2_stderr(&log)?;
    tokio::select! {
        () = reap(&shim, children) => {}
        () = deaf_to_stops() => {}
        () = serve::accept(&shim, &listener) => {}
        () = shim.dismissed.notified() => {}
    }
    let _ = fs::remove_dir_all(folder);
    Ok(())
}

/// Hears of every child that ends: the command's first process, and all that became children of this one.
async fn reap(shim: &Shim, mut children: tokio::signal::unix::Signal) {
    loop {
        loop {
            if let Some(held) = shim.held() {
                held.look();
            }
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, ExitStatus::from_raw(code << 8)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, ExitStatus::from_raw(signal as i32)),
                // One that was ended by a real-time signal, for which nix has no name, was taken off all the same.
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(_) | Err(_) => continue,
            };
            if let Some(held) = shim.held() {
                held.reaped(pid.as_raw(), status);
            }
        }
        children.recv().await;
    }
}

/// What stops an agent, or a unit as a whole, is for the agent to deal with.
async fn deaf_to_stops() {
    let _heard: Vec<_> = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
        .into_iter()
        .filter_map(|kind| signal(kind).ok())
        .collect();
    pending::<()>().await;
}
