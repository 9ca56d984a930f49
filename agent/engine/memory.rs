//! A container's memory, as the kernel counts it: how many of its processes were killed for want of it, the
//! most that it had, and the most that it may have.
//!
//! An inspect's `OOMKilled` misses the kill of a child process on cgroup v2 (FACTS), so the container's own
//! cgroup is read. It is gone as soon as the container has ended, so it is read while the job lives, whenever
//! the kernel says that it changed. Leaves out cgroup v1, where an inspect tells of a child too.
//!
//! Source of the files: docs.kernel.org/admin-guide/cgroup-v2.html, "Memory Interface Files".

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::{io::AsyncReadExt, net::unix::pipe, sync::watch};

/// Where the tree of cgroups is mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// Follows one container's memory, until it is dropped.
#[derive(Debug)]
pub struct MemoryWatch(Option<Watched>);

/// What was seen of a container's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemorySeen {
    /// How many of its processes were killed for want of memory.
    pub oom_kills: u64,
    /// The most that it had, in bytes; before Linux 5.19 nobody knows.
    pub peak: Option<u64>,
    /// The most that it may have, in bytes; `None` if that is all that the VM has.
    pub limit: Option<u64>,
}

#[derive(Debug)]
struct Watched {
    cgroup: Cgroup,
    seen: watch::Receiver<MemorySeen>,
}

/// The folder of a container in the tree of cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cgroup(PathBuf);

impl MemoryWatch {
    /// Follows a container that was started, by its id and its `HostConfig.CgroupParent`. Where its cgroup
    /// cannot be read (cgroup v1, or not mounted where the agent runs), nothing will be seen.
    pub fn start(container: &str, cgroup_parent: Option<&str>) -> Self {
        match Cgroup::find(Path::new(ROOT), container, cgroup_parent) {
            Some(cgroup) => Self(Some(Watched::start(cgroup))),
            None => {
                tracing::debug!(container, "the job's memory cannot be watched: it has no cgroup v2 here");
                Self(None)
            }
        }
    }

    /// What was seen until now.
    pub fn seen(&self) -> MemorySeen {
        self.0.as_ref().map(Watched::seen).unwrap_or_default()
    }
}

impl Watched {
    fn start(cgroup: Cgroup) -> Self {
        // Before the first look, so that nothing happens unseen between the two.
        let changes = changes(&cgroup.events());
        let (sender, seen) = watch::channel(cgroup.look());
        match changes {
            Ok(changes) => drop(tokio::spawn(follow(cgroup.clone(), changes, sender))),
            Err(error) => tracing::debug!(%error, "the job's memory will be looked at only when it ends"),
        }
        Self { cgroup, seen }
    }

    /// The cgroup may still be there, and know more.
    fn seen(&self) -> MemorySeen {
        self.seen.borrow().and(self.cgroup.look())
    }
}

impl MemorySeen {
    /// What two looks saw, one of which may have come too late.
    fn and(self, later: Self) -> Self {
        Self {
            oom_kills: self.oom_kills.max(later.oom_kills),
            peak: self.peak.max(later.peak),
            limit: later.limit.or(self.limit),
        }
    }
}

impl Cgroup {
    fn find(root: &Path, container: &str, parent: Option<&str>) -> Option<Self> {
        let mut places = places(container, parent).into_iter().map(|place| Self(root.join(place)));
        places.find(|cgroup| cgroup.events().exists())
    }

    fn events(&self) -> PathBuf {
        self.0.join("memory.events")
    }

    /// All zero once it is gone.
    fn look(&self) -> MemorySeen {
        MemorySeen {
            oom_kills: self.oom_kills(),
            peak: number(&self.0.join("memory.peak")),
            // A cgroup is bound by those that it is in, too.
            limit: self.0.ancestors().filter_map(|folder| number(&folder.join("memory.max"))).min(),
        }
    }

    fn oom_kills(&self) -> u64 {
        let events = fs::read_to_string(self.events()).unwrap_or_default();
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.and_then(|kills| kills.parse().ok()).unwrap_or(0)
    }
}

/// Where a container's cgroup can be: Docker's driver is systemd or cgroupfs.
fn places(container: &str, parent: Option<&str>) -> [PathBuf; 2] {
    let parent = parent.map(|parent| parent.trim_start_matches('/'));
    [
        slice(parent.unwrap_or("system.slice")).join(format!("docker-{container}.scope")),
        Path::new(parent.unwrap_or("docker")).join(container),
    ]
}

/// `a-b.slice` is in `a.slice`. Source: systemd.slice(5).
fn slice(name: &str) -> PathBuf {
    let stem = name.strip_suffix(".slice").unwrap_or_default();
    let outer = stem.match_indices('-').map(|(at, _)| format!("{}.slice", &stem[..at]));
    outer.chain([name.to_owned()]).collect()
}

/// The number in a file; there is none in one that says `max`.
fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// What can be read from whenever `watched` was changed: an inotify is read as a pipe is.
fn changes(watched: &Path) -> io::Result<pipe::Receiver> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(watched, AddWatchFlags::IN_MODIFY)?;
    pipe::Receiver::from_owned_fd_unchecked(inotify.into())
}

/// Looks at every change until nobody wants to know any more; of the cgroup's end nothing is heard (FACTS).
async fn follow(cgroup: Cgroup, mut changes: pipe::Receiver, seen: watch::Sender<MemorySeen>) {
    let mut events = [0; 4096];
    loop {
        let read = tokio::select! {
            () = seen.closed() => return,
            read = changes.read(&mut events) => read,
        };
        if let Err(error) = read {
            tracing::debug!(%error, "the job's memory will be looked at only when it ends");
            return;
        }
        // A job that lives at its limit changes the file a hundred times a second: a kill alone is worth more.
        let oom_kills = cgroup.oom_kills();
        if oom_kills > seen.borrow().oom_kills {
            tracing::warn!(oom_kills, "a process of the job was killed for want of memory");
            let now = MemorySeen { oom_kills, ..cgroup.look() };
            seen.send_modify(|seen| *seen = seen.and(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn a_cgroup_is_where_docker_puts_it() {
        for (parent, expected) in [
            (None, ["system.slice/docker-c.scope", "docker/c"]),
            (Some("jobs.slice"), ["jobs.slice/docker-c.scope", "jobs.slice/c"]),
            (Some("a-b-c.slice"), ["a.slice/a-b.slice/a-b-c.slice/docker-c.scope", "a-b-c.slice/c"]),
            (Some("/my-jobs/big"), ["my-jobs/big/docker-c.scope", "my-jobs/big/c"]),
        ] {
            assert_eq!(places("c", parent), expected.map(PathBuf::from), "{parent:?}");
        }
    }

    #[test]
    fn what_the_kernel_counts_is_read() {
        let root = tempfile::tempdir().unwrap();
        let folder = container_in(root.path());
        let look = || Cgroup::find(root.path(), "c", None).map(|cgroup| cgroup.look());
        assert_eq!(look(), None);
        kills(&folder, 2);
        assert_eq!(look(), Some(MemorySeen { oom_kills: 2, peak: None, limit: None }));
        fs::write(folder.join("memory.peak"), "4096\n").unwrap();
        fs::write(folder.join("memory.max"), "max\n").unwrap();
        assert_eq!(look(), Some(MemorySeen { oom_kills: 2, peak: Some(4096), limit: None }));
        for (file, bytes, limit) in [("memory.max", "8192\n", 8192), ("../memory.max", "4096\n", 4096)] {
            fs::write(folder.join(file), bytes).unwrap();
            assert_eq!(look(), Some(MemorySeen { oom_kills: 2, peak: Some(4096), limit: Some(limit) }));
        }
    }

    #[tokio::test]
    async fn a_kill_is_known_when_its_cgroup_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let folder = container_in(root.path());
        kills(&folder, 0);
        let mut watched = Watched::start(Cgroup::find(root.path(), "c", None).unwrap());
        fs::write(folder.join("memory.peak"), "4096\n").unwrap();
        kills(&folder, 1);
        timeout(Duration::from_secs(10), watched.seen.changed()).await.unwrap().unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(watched.seen(), MemorySeen { oom_kills: 1, peak: Some(4096), limit: None });
    }

    #[tokio::test]
    async fn a_watch_that_nobody_has_any_more_ends() {
        let root = tempfile::tempdir().unwrap();
        kills(&container_in(root.path()), 0);
        let cgroup = Cgroup::find(root.path(), "c", None).unwrap();
        let (sender, seen) = watch::channel(MemorySeen::default());
        let following = follow(cgroup.clone(), changes(&cgroup.events()).unwrap(), sender);
        drop(seen);
        timeout(Duration::from_secs(10), following).await.unwrap();
    }

    fn container_in(root: &Path) -> PathBuf {
        let folder = root.join("docker/c");
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn kills(folder: &Path, count: u64) {
        let events = format!("low 0\nhigh 0\nmax 7\noom 5\noom_kill {count}\noom_group_kill 0\n");
        fs::write(folder.join("memory.events"), events).unwrap();
    }
}
