//! What of a command must outlive its shim: that it was started, in which boot, and how it ended.
//!
//! One file, replaced as a whole. Leaves out its environment, which may hold secrets.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use crate::report::rfc3339;

const FILE: &str = "record.json";
const NEW: &str = "record.json.new";

/// A command that was started, or is about to be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    /// The boot that it was started in.
    pub(super) boot_id: String,
    #[serde(with = "rfc3339")]
    pub(super) started_at: Option<SystemTime>,
    /// The session of its processes, once it is known.
    pub(super) session: Option<i32>,
    /// When the first of these began, in the kernel's ticks since the boot.
    #[serde(default)]
    pub(super) began: Option<u64>,
    /// How it ended, once it did.
    pub(super) ended: Option<Ended>,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ended {
    /// Its exit code, or 128 and the number of the signal that ended it; `None` if nobody saw.
    pub(super) code: Option<i64>,
    #[serde(with = "rfc3339")]
    pub(super) at: Option<SystemTime>,
    /// Whether the kernel killed any of its processes for want of memory.
    pub(super) oom_killed: bool,
    /// Processes that went on after it, and were ended, for people.
    pub(super) left_behind: Vec<String>,
    /// How many of them, or of their own, could not be ended.
    #[serde(default)]
    pub(super) survivors: usize,
}

impl Record {
    /// The one in this folder; what cannot be read is none.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join(FILE)).ok()?).ok()
    }

    /// Replaces the one in this folder. When this returns it outlives a loss of power too.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let mut file = owned(&folder.join(NEW))?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(folder.join(NEW), folder.join(FILE))?;
        File::open(folder)?.sync_all()
    }

    /// Forgets the one in this folder.
    pub(super) fn remove(folder: &Path) {
        let _ = fs::remove_file(folder.join(FILE));
    }
}

/// A new file for the shim's eyes alone.
pub(super) fn owned(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)
}
