//! The cgroup of a command: what it is, who is in it, and whether memory ran out in it. cgroup v2 alone.
//!
//! It stands in a folder of its own at the top of the tree, as those of Docker's cgroupfs driver do, so that it goes
//! with no unit of systemd and no container. Where there is none, descendants are found by their parents.
//!
//! Source: docs.kernel.org/admin-guide/cgroup-v2.html.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::namespaces::Place;
use crate::job::HOST_CGROUP;

/// Where the tree is mounted.
const ROOT: &str = "/sys/fs/cgroup";
const PROCS: &str = "cgroup.procs";
const SUBTREE: &str = "cgroup.subtree_control";
/// What of the VM's resources is counted.
const CONTROLLERS: &str = "+memory";

/// The cgroup of one command, for as long as it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cgroup(PathBuf);

impl Cgroup {
    /// A new one; `None` on cgroup v1, or where this process may not make any.
    pub(super) fn create(id: &str) -> Option<Self> {
        Self::create_in(Path::new(ROOT), id).ok()
    }

    fn create_in(root: &Path, id: &str) -> io::Result<Self> {
        // Only v2 has it, and only with the controller is there anything to see.
        let controllers = fs::read_to_string(root.join("cgroup.controllers"))?;
        if !controllers.split_whitespace().any(|controller| controller == "memory") {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let ours = root.join(HOST_CGROUP);
        let folder = ours.join(id);
        // systemd has enabled it at the top already.
        let _ = fs::write(root.join(SUBTREE), CONTROLLERS);
        make(&ours)?;
        fs::write(ours.join(SUBTREE), CONTROLLERS)?;
        make(&folder)?;
        Ok(Self(folder))
    }

    /// The one of that id, whether it is there or not.
    pub(super) fn of(id: &str) -> Self {
        Self(Path::new(ROOT).join(HOST_CGROUP).join(id))
    }

    /// Where a process writes its number to be in it.
    pub(super) fn procs(&self) -> PathBuf {
        self.0.join(PROCS)
    }

    /// Who is in it. One of another PID namespace is shown as 0, which to kill(2) is all of the caller's own group.
    pub(super) fn processes(&self) -> Vec<i32> {
        let procs = fs::read_to_string(self.procs()).unwrap_or_default();
        procs.lines().filter_map(|line| line.parse().ok()).filter(|id| *id > 1).collect()
    }

    /// Kills all that are in it at once, those too that are being forked. Kernels before 5.14 have no such file.
    pub(super) fn kill(&self) {
        let file = fs::OpenOptions::new().write(true).open(self.0.join("cgroup.kill"));
        let _ = file.and_then(|mut file| io::Write::write_all(&mut file, b"1"));
    }

    /// Whether the kernel killed any of them for want of memory.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.0.join("memory.events")).unwrap_or_default();
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.is_some_and(|kills| kills.trim() != "0")
    }

    /// Takes it away, once nobody is in it.
    pub(super) fn remove(&self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Leaves the cgroup of the container that this process came from: Docker kills all that is in it when the agent's
/// container ends.
pub(super) fn leave_containers(place: Place) {
    if place == Place::Vm {
        return;
    }
    let me = std::process::id().to_string();
    let v2 = Path::new(ROOT).join(HOST_CGROUP).join(super::SHIM);
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        let _ = fs::create_dir_all(&v2);
        let _ = fs::write(v2.join(PROCS), &me);
        return;
    }
    // On v1 each hierarchy has its own tree, at whose top is whoever belongs to nobody.
    for hierarchy in fs::read_dir(ROOT).into_iter().flatten().flatten() {
        let _ = fs::write(hierarchy.path().join(PROCS), &me);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_made_where_memory_can_be_counted_and_tells_who_is_in_it() {
        let root = tempfile::tempdir().unwrap();
        assert!(Cgroup::create_in(root.path(), "c").is_err(), "v1");
        fs::write(root.path().join("cgroup.controllers"), "cpu io\n").unwrap();
        assert!(Cgroup::create_in(root.path(), "c").is_err(), "without the controller");
        fs::write(root.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        let cgroup = Cgroup::create_in(root.path(), "c").unwrap();
        assert_eq!(Cgroup::create_in(root.path(), "c").unwrap(), cgroup, "it may be there");
        assert_eq!(cgroup.0, root.path().join("longrun/c"));
        assert!(cgroup.processes().is_empty() && !cgroup.ran_out_of_memory());
        fs::write(cgroup.procs(), "12\n345\n0\n1\n-7\n").unwrap();
        for (kills, out) in [(0, false), (2, true)] {
            fs::write(cgroup.0.join("memory.events"), format!("oom 1\noom_kill {kills}\n")).unwrap();
            assert_eq!(cgroup.ran_out_of_memory(), out);
        }
        assert_eq!(cgroup.processes(), [12, 345]);
        cgroup.kill();
        assert!(!cgroup.0.join("cgroup.kill").exists(), "an old kernel's has none");
        fs::write(cgroup.0.join("cgroup.kill"), "").unwrap();
        cgroup.kill();
        assert_eq!(fs::read(cgroup.0.join("cgroup.kill")).unwrap(), b"1");
    }
}
