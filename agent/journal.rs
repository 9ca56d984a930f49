//! What must outlive a crash: the run, in one file of the state folder.
//!
//! The file is replaced as a whole: a new one is written and synced, renamed over the old one, and the folder
//! is synced, so that after a loss of power there is the old one or the new one, never half of either. Beside
//! it are a lock, so that two agents never work at once, and a reserve: space for the file on a disk that the
//! job filled.
//!
//! A folder that cannot be written costs what only the journal knows, never the job: the container's labels
//! carry enough to take it over.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg, OFlag};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::time::{Instant, sleep};

use crate::{
    fail_point,
    lifecycle::{Event, Run},
};

/// The form of the file. One that another version wrote is set aside.
const VERSION: u32 = 1;
const FILE: &str = "journal.json";
const NEW: &str = "journal.json.new";
const ASIDE: &str = "journal.json.set-aside";
const RESERVE: &str = "journal.reserve";
const LOCK: &str = "lock";
/// For a report with the default tail and a result, and for the entry that follows it; a longer one still fits where
/// the disk is not quite full.
const RESERVE_BYTES: u64 = 384 << 10;
/// The longest report in JSON, several times.
const MOST_BYTES: u64 = 8 << 20;
/// For an agent that was killed just now to be gone.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Whose journal it is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Owner {
    /// The VM; a disk that was cloned came from another one.
    pub(crate) instance_id: String,
    /// The run; a VM that was given another callback has another one.
    pub(crate) run_id: String,
}

/// The run, and where it is written down.
#[derive(Debug)]
pub(crate) struct Journal {
    run: Run,
    owner: Owner,
    folder: PathBuf,
    /// Held for as long as the agent lives; `None` where the folder cannot be written.
    _lock: Option<Flock<File>>,
    /// Whether what is on disk is the run as it is.
    behind: bool,
}

/// Another agent works in the same state folder.
#[derive(Debug, Error)]
#[error("another longrun-agent works with the state folder {}; one is enough", folder.display())]
pub struct Locked {
    folder: PathBuf,
}

/// The file's content.
#[derive(Deserialize, Serialize)]
struct Page<R> {
    version: u32,
    #[serde(flatten)]
    owner: Owner,
    run: R,
}

impl Journal {
    /// Takes the folder, and reads how far the run came before.
    pub(crate) async fn open(folder: &Path, owner: Owner) -> Result<Self, Locked> {
        let lock = match lock(folder).await {
            Ok(lock) => Some(lock),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(Locked { folder: folder.to_owned() });
            }
            Err(error) => {
                lost(folder, &error);
                None
            }
        };
        if lock.is_some()
            && let Err(error) = reserve(folder)
        {
            tracing::warn!(%error, "no space could be set aside for the journal");
        }
        let run = read(folder, &owner).unwrap_or_else(Run::new);
        let behind = lock.is_none();
        Ok(Self { run, owner, folder: folder.to_owned(), _lock: lock, behind })
    }

    /// The run as it is.
    pub(crate) fn run(&self) -> &Run {
        &self.run
    }

    /// Writes down what happened, or is about to. When this returns it is on disk; where that fails the run
    /// goes on without.
    pub(crate) async fn note(&mut self, event: Event) {
        self.run.on(event);
        let page = Page { version: VERSION, owner: self.owner.clone(), run: &self.run };
        let page = serde_json::to_vec(&page).expect("a run has only string keys");
        let folder = self.folder.clone();
        // Elsewhere than on the thread that reads the job's output: a disk may take seconds to sync.
        let written = tokio::task::spawn_blocking(move || replace(&folder, &page)).await;
        match written.map_err(io::Error::other).flatten() {
            Ok(()) => self.behind = false,
            Err(error) if !self.behind => {
                lost(&self.folder, &error);
                self.behind = true;
            }
            Err(error) => tracing::debug!(%error, "the journal is still not written"),
        }
    }
}

/// Where a folder's journal is.
pub(crate) fn file(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

/// Reads a journal without taking it, whoever works with it; `None` if there is none. One of another version is
/// invalid data.
pub(crate) fn peek(folder: &Path) -> io::Result<Option<(Owner, Run)>> {
    let Some(page) = read_page::<serde_json::Value>(&file(folder))? else { return Ok(None) };
    if page.version != VERSION {
        let why = format!("it is of version {}, and this agent knows {VERSION}", page.version);
        return Err(io::Error::new(ErrorKind::InvalidData, why));
    }
    Ok(Some((page.owner, serde_json::from_value(page.run)?)))
}

/// Says what is lost, once.
fn lost(folder: &Path, error: &io::Error) {
    tracing::warn!(
        %error,
        folder = %folder.display(),
        "the journal cannot be written; until it can, a job whose container is gone would be run again, and an \
         accepted report told again, if the agent or the VM starts anew (in a container, mount the folder)"
    );
}

/// Waits for an agent that is on its way out; `WouldBlock` if it stays.
async fn lock(folder: &Path) -> io::Result<Flock<File>> {
    // Not its parents: in a container without the folder mounted they are not there, and what were written
    // there would be gone with the container.
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let mut file = owned().create(true).truncate(false).open(folder.join(LOCK))?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, nix::errno::Errno::EWOULDBLOCK)) if Instant::now() < deadline => file,
            Err((_, error)) => return Err(error.into()),
        };
        sleep(LOCK_RETRY).await;
    }
}

/// Only for the agent's own eyes: a report holds the end of the job's log.
fn owned() -> OpenOptions {
    let mut options = opening();
    options.write(true).mode(0o600);
    options
}

/// What has a file's name and is a pipe must not keep the agent waiting for who never comes.
fn opening() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(OFlag::O_NONBLOCK.bits());
    options
}

/// Occupies blocks with a file of zeros.
fn reserve(folder: &Path) -> io::Result<()> {
    let file = owned().create(true).truncate(false).open(folder.join(RESERVE))?;
    let have = file.metadata()?.len();
    io::copy(&mut io::repeat(0).take(RESERVE_BYTES.saturating_sub(have)), &mut end_of(file)?)?;
    Ok(())
}

fn end_of(mut file: File) -> io::Result<File> {
    io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
    Ok(file)
}

/// What the file says, if it is this owner's. What cannot be used is kept beside it, for people.
fn read(folder: &Path, owner: &Owner) -> Option<Run> {
    let path = file(folder);
    let unusable = match read_page::<Run>(&path) {
        Ok(None) => return None,
        Ok(Some(page)) if page.version == VERSION && page.owner == *owner => return Some(page.run),
        Ok(Some(page)) if page.version != VERSION => format!("it is of version {}", page.version),
        Ok(Some(page)) if page.owner.instance_id != owner.instance_id => {
            format!("it is of another VM, {}: was its disk cloned?", page.owner.instance_id)
        }
        Ok(Some(page)) if page.run.is_told() => {
            tracing::info!(run_id = page.owner.run_id, "the run before this one was told");
            return None;
        }
        Ok(Some(page)) => format!("it is of the run {}, which was not told to its end", page.owner.run_id),
        Err(error) => error.to_string(),
    };
    tracing::warn!(why = unusable, "the journal {} is not this run's; set aside as {ASIDE}", path.display());
    if let Err(error) = fs::rename(&path, folder.join(ASIDE)) {
        tracing::warn!(%error, "the journal could not be set aside");
    }
    None
}

fn read_page<R: DeserializeOwned>(path: &Path) -> io::Result<Option<Page<R>>> {
    let file = match opening().read(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut text)?;
    Ok(Some(serde_json::from_slice(&text)?))
}

/// Replaces the file. On a full disk the reserve makes room for it.
fn replace(folder: &Path, page: &[u8]) -> io::Result<()> {
    let new = folder.join(NEW);
    fail_point::pass(format_args!("journal: to be written"));
    match write(&new, page) {
        Err(error) if error.kind() == ErrorKind::StorageFull => {
            owned().open(folder.join(RESERVE))?.set_len(0)?;
            write(&new, page)?;
        }
        written => written?,
    }
    fail_point::pass(format_args!("journal: written, not in place"));
    fs::rename(&new, folder.join(FILE))?;
    File::open(folder)?.sync_all()?;
    fail_point::pass(format_args!("journal: in place"));
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = owned().create(true).truncate(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
