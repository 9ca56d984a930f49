//! What a VM does to an agent: another boot, a full disk, a clock that jumps; and a folder in which a test and a
//! job meet.
//!
//! A value lives as long as its test, and takes away what it mounted. What goes into [`super::Given::under`]
//! happens in a mount namespace that ends with the agent; two of them can be put one behind the other.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::PATIENCE;

/// What a boot or a clock is read from, in a folder of its own.
const FILE: &str = "file";

/// A folder of the VM that the job sees as `/vm`.
pub(crate) struct Shared(TempDir);

impl Shared {
    /// An empty one.
    pub(crate) fn folder() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// A `docker-command` with it, for these words of the sandbox's job.
    pub(crate) fn command(&self, words: &str) -> String {
        format!("docker run --volume {}:/vm IMAGE {words}", self.0.path().display())
    }

    /// Where a file of it is on this machine.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// Lets the job go on that awaits `/vm/NAME`.
    pub(crate) fn let_pass(&self, name: &str) {
        self.write(name, &[]);
    }

    /// Makes the job's `/vm/NAME`.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.path().join(name), bytes).expect("a file");
    }

    /// Waits until the job wrote `/vm/NAME`.
    pub(crate) async fn passed(&self, name: &str) {
        let passed = async {
            while !self.0.path().join(name).exists() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, passed).await.unwrap_or_else(|_| panic!("the job never wrote {name}"));
    }
}

/// Which boot of the VM it is.
pub(crate) struct Boot {
    folder: TempDir,
    under: Vec<String>,
}

impl Boot {
    /// A boot that is not this machine's.
    pub(crate) fn first() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let script = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
        let under = with_mounts(script, &folder.path().join(FILE));
        let boot = Self { folder, under };
        boot.again();
        boot
    }

    /// Boots again: whoever reads the boot's id from now on finds another one.
    pub(crate) fn again(&self) {
        let id = fs::read("/proc/sys/kernel/random/uuid").expect("Linux makes them");
        // In place: what is mounted is this file, not its name.
        fs::write(self.folder.path().join(FILE), id).expect("a file");
    }

    /// For [`super::Given::under`].
    pub(crate) fn under(&self) -> Vec<&str> {
        self.under.iter().map(String::as_str).collect()
    }
}

/// A file system of one mebibyte.
pub(crate) struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// An empty one.
    pub(crate) fn mount() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        mount(&["-t", "tmpfs", "-o", "size=1m", "tmpfs"], folder.path());
        Self { folder }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &str {
        self.folder.path().to_str().expect("text")
    }

    /// Leaves no byte free.
    pub(crate) fn fill(&self) {
        let full = fs::write(self.filling(), vec![0; 2 << 20]).expect_err("a full disk");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    /// Takes back what [`Self::fill`] took.
    pub(crate) fn free(&self) {
        fs::remove_file(self.filling()).expect("a disk that was filled");
    }

    /// Refuses every write from now on, root's too.
    pub(crate) fn make_read_only(&self) {
        // On top of it: a file system with a file that is open for writing, the agent's lock, stays writable.
        mount(&["--bind", self.path()], self.folder.path());
        mount(&["-o", "remount,bind,ro"], self.folder.path());
    }

    /// Takes writes again.
    pub(crate) fn make_writable(&self) {
        assert!(self.unmount(), "it was not read-only");
    }

    /// Takes away what was mounted last.
    fn unmount(&self) -> bool {
        // Lazy: an agent that is being killed may still have a file open.
        let unmounted =
            Command::new("umount").arg("--lazy").arg(self.folder.path()).stderr(Stdio::null()).status();
        unmounted.is_ok_and(|status| status.success())
    }

    fn filling(&self) -> PathBuf {
        self.folder.path().join("filling")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        while self.unmount() {}
    }
}

/// The wall clock of an agent. Its monotonic clock goes on as ever.
pub(crate) struct Clock {
    folder: TempDir,
    under: Vec<String>,
}

impl Clock {
    /// One that is right.
    pub(crate) fn right() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // The library leaves files in /dev/shm, so it is loaded when that is the agent's own.
        let script = format!(
            "mount -t tmpfs tmpfs /dev/shm && exec env LD_PRELOAD={} FAKETIME_TIMESTAMP_FILE=\"$0\" \
             FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 \"$@\"",
            libfaketime().display()
        );
        let under = with_mounts(&script, &folder.path().join(FILE));
        let clock = Self { folder, under };
        clock.jump(0);
        clock
    }

    /// Jumps to so many seconds after the right time, or before it.
    pub(crate) fn jump(&self, seconds: i64) {
        let next = self.folder.path().join("next");
        fs::write(&next, format!("{seconds:+}")).expect("a file");
        // The agent reads it at any time, and must find it whole.
        fs::rename(next, self.folder.path().join(FILE)).expect("a file");
    }

    /// For [`super::Given::under`].
    pub(crate) fn under(&self) -> Vec<&str> {
        self.under.iter().map(String::as_str).collect()
    }
}

/// Debian has the library in a folder named after the processor.
fn libfaketime() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("a folder").flatten();
    let mut files = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    files.find(|file| file.exists()).expect("libfaketime is missing (Debian: apt-get install faketime)")
}

/// A shell script in a mount namespace of its own, with `file` as `$0` and the agent as `$@`.
fn with_mounts(script: &str, file: &Path) -> Vec<String> {
    let unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script];
    unshare.into_iter().chain(file.to_str()).map(str::to_owned).collect()
}

fn mount(arguments: &[&str], folder: &Path) {
    let mounted = Command::new("mount").args(arguments).arg(folder).status();
    assert!(mounted.expect("the mount command").success(), "mounting takes root");
}
