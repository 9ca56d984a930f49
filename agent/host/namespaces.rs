//! Out of the agent's container and into the VM: its files, its network, its names.
//!
//! Leaves out user namespaces, which a privileged container does not have.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use nix::sched::{CloneFlags, setns};

use super::launch::SHELL;

/// The VM's first process; in a container with `--pid=host` it is seen by its number.
const FIRST: &str = "/proc/1";
/// Mounts last: the paths of the others are read before.
const KINDS: [(&str, CloneFlags); 5] = [
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("net", CloneFlags::CLONE_NEWNET),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("mnt", CloneFlags::CLONE_NEWNS),
];
const REMEDY: &str = "start the agent's container with --pid=host --privileged";

/// Whose files this process sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The VM's own from the beginning.
    Vm,
    /// The VM's, after it left a container.
    LeftContainer,
}

/// Enters the VM's namespaces, if this process is in a container of it. It must have one thread. `Err` says what
/// to do.
pub(super) fn enter_vm() -> Result<Place, String> {
    match is_elsewhere() {
        Ok(false) => return Ok(Place::Vm),
        // Who may not look at the first process could not enter either. The agent's own image holds the agent and
        // nothing else: where there is a shell, it is at a desk, or was put there by hand.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && Path::new(SHELL).exists() => {
            return Ok(Place::Vm);
        }
        Err(error) => return Err(format!("the VM cannot be entered from this container: {error}; {REMEDY}")),
        Ok(true) => {}
    }
    let open = |(name, kind)| fs::File::open(format!("{FIRST}/ns/{name}")).map(|file| (file, kind));
    let opened = KINDS.into_iter().map(open).collect::<io::Result<Vec<_>>>();
    let entered = opened.and_then(|kinds| {
        kinds.into_iter().try_for_each(|(file, kind)| setns(file, kind).map_err(io::Error::from))
    });
    entered.map_err(|error| format!("the VM cannot be entered from this container: {error}; {REMEDY}"))?;
    Ok(Place::LeftContainer)
}

/// Whether the first process has another root, in another namespace of mounts: one that was but unshared has the
/// same files, and its process is where it should be.
fn is_elsewhere() -> io::Result<bool> {
    if fs::read_link(format!("{FIRST}/ns/mnt"))? == fs::read_link("/proc/self/ns/mnt")? {
        return Ok(false);
    }
    let id = |path: &str| fs::metadata(path).map(|root| (root.dev(), root.ino()));
    Ok(id(&format!("{FIRST}/root/"))? != id("/")?)
}
