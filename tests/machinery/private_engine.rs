//! An Engine of a test's own, to stop, kill and start again.
//!
//! It lives in namespaces of its own: of mounts, because it mounts; of the network, because without a bridge
//! `dockerd` deletes the `docker0` that it finds; of processes, because with live-restore the containers of a
//! killed one live on. A shell is the first process there. It reads from a pipe that this process holds, so
//! however this process ends, the shell does too, and with it the kernel ends and unmounts all that is inside.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::{self, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};

/// For the daemon's answer after its start: one that kills a container of the last one takes ten seconds more.
const START: Duration = Duration::from_secs(60);
/// For the daemon's end: its containers have ten seconds from SIGTERM to SIGKILL.
const STOP: Duration = Duration::from_secs(60);
/// Between two looks at what tells nobody that it is there.
const GLANCE: Duration = Duration::from_millis(20);

const NEEDS: &str = "a private Engine needs root and dockerd (Debian: apt-get install docker.io)";

/// The first process: it reaps what its children leave, until nobody holds the pipe any more. Its `/run` keeps
/// the sockets of the shims from those of the machine's.
const FIRST_PROCESS: &str = "mount -t tmpfs tmpfs /run && echo ready && cat; true";

/// A daemon whose socket is its stdin, as systemd hands over one that it holds (sd_listen_fds(3)).
const ON_HELD_SOCKET: &str = "export LISTEN_FDS=1 LISTEN_PID=$$; exec dockerd \"$@\" 3<&0 </dev/null";

/// A private Engine; it and all that it started are gone when dropped.
pub(crate) struct PrivateEngine {
    folder: TempDir,
    inside: process::Child,
    daemon: Option<Child>,
    live_restore: bool,
    /// Its socket, if it is somebody else's who holds it while no daemon runs, as systemd does.
    socket: Option<UnixListener>,
}

impl PrivateEngine {
    /// One that answers; with live-restore its containers outlive it.
    pub(crate) async fn start(live_restore: bool) -> Self {
        Self::start_with(live_restore, false).await
    }

    /// One whose socket goes on listening while the daemon is away.
    pub(crate) async fn start_on_held_socket() -> Self {
        Self::start_with(false, true).await
    }

    async fn start_with(live_restore: bool, holds_socket: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("longrun-engine-").tempdir().expect("a folder");
        // Else it would read the machine's.
        fs::write(folder.path().join("daemon.json"), "{}").expect("a file");
        let bind = || UnixListener::bind(folder.path().join("docker.sock")).expect("a socket");
        let socket = holds_socket.then(bind);
        let mut engine = Self { folder, inside: namespaces(), daemon: None, live_restore, socket };
        engine.start_again().await;
        engine
    }

    /// `DOCKER_HOST` for an agent.
    pub(crate) fn docker_host(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    /// Sends the daemon a signal, and waits for nothing.
    pub(crate) fn signal(&self, signal: &str) {
        let outside = self.daemon.as_ref().and_then(Child::id).expect("a daemon that runs");
        super::send(signal, child(outside).expect("a daemon that runs"));
    }

    /// Stops the daemon as an init system does: by SIGTERM, and waits for its end.
    pub(crate) async fn stop(&mut self) {
        self.end("TERM").await;
    }

    /// Kills the daemon, and nothing else.
    pub(crate) async fn kill(&mut self) {
        self.end("KILL").await;
    }

    /// Starts the daemon that was ended, and waits until it answers.
    pub(crate) async fn start_again(&mut self) {
        assert!(self.daemon.is_none(), "the daemon runs");
        self.daemon = Some(self.spawn());
        timeout(START, self.answer()).await.unwrap_or_else(|_| panic!("no answer: {}", self.log()));
    }

    /// What a docker command prints.
    #[track_caller]
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        super::docker(&[&["--host", &self.docker_host()], arguments].concat())
    }

    /// The name of the sandbox's job image, which is there from now on.
    pub(crate) fn image(&self) -> String {
        sandbox::job::image_on(&self.docker_host()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Waits until a container's log has a line.
    pub(crate) async fn logged(&self, container: &str, line: &str) {
        let logged = async {
            while !self.docker(&["logs", container]).lines().any(|logged| logged == line) {
                sleep(GLANCE).await;
            }
        };
        timeout(START, logged).await.unwrap_or_else(|_| panic!("{container} never wrote {line:?}"));
    }

    /// Waits for a container's end, and answers its exit code. `docker wait` goes on for ever where there is a restart
    /// policy and the container has ended before (seen on 20.10).
    pub(crate) async fn ended(&self, container: &str) -> String {
        let format = "{{.State.Status}} {{.State.ExitCode}}";
        let ended = async {
            loop {
                let state = self.docker(&["inspect", "--format", format, container]);
                match state.split_once(' ') {
                    Some(("exited", code)) => return code.to_owned(),
                    _ => sleep(GLANCE).await,
                }
            }
        };
        timeout(START, ended).await.unwrap_or_else(|_| panic!("{container} goes on and on"))
    }

    fn spawn(&self) -> Child {
        let log = File::options().create(true).append(true).open(self.path("log")).expect("a log");
        let path = |name: &str| self.path(name).into_os_string();
        let mut dockerd = match self.socket {
            None => self.enter("dockerd"),
            Some(_) => self.enter("sh"),
        };
        match &self.socket {
            None => dockerd.arg("--host").arg(self.docker_host()).stdin(Stdio::null()),
            Some(socket) => {
                let socket = OwnedFd::from(socket.try_clone().expect("a socket"));
                dockerd.args(["-c", ON_HELD_SOCKET, "sh", "--host", "fd://"]).stdin(socket)
            }
        };
        dockerd.arg("--config-file").arg(path("daemon.json"));
        dockerd.arg("--data-root").arg(path("data")).arg("--pidfile").arg(path("pid"));
        // Not "exec-root": a socket below it has a long name, and a socket's path has at most 107 bytes.
        dockerd.arg("--exec-root").arg(path("run"));
        dockerd.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs"]);
        dockerd.arg(format!("--cgroup-parent=/{}", self.cgroup()));
        if self.live_restore {
            dockerd.arg("--live-restore");
        }
        dockerd.stdout(log.try_clone().expect("a file")).stderr(log);
        dockerd.spawn().expect(NEEDS)
    }

    /// The network namespace it is in.
    pub(crate) fn network(&self) -> PathBuf {
        let first = child(self.inside.id()).expect("it ends only when it is dropped");
        format!("/proc/{first}/ns/net").into()
    }

    /// A command in the Engine's namespaces; its process is the child of the one that is spawned.
    pub(crate) fn enter(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let first = child(self.inside.id()).expect("it ends only when it is dropped");
        command.args(["--target", &first.to_string(), "--mount", "--net", "--pid"]);
        command.arg(program);
        command
    }

    async fn answer(&mut self) {
        let host = self.docker_host();
        loop {
            let ended = self.daemon.as_mut().and_then(|daemon| daemon.try_wait().ok()).flatten();
            assert!(ended.is_none(), "dockerd ended with {ended:?}: {}", self.log());
            let mut version = Command::new("timeout");
            version.args(["5", "docker", "--host", &host, "version"]);
            let answered = version.stdout(Stdio::null()).stderr(Stdio::null()).status().await;
            if answered.expect("the docker command").success() {
                return;
            }
            sleep(GLANCE).await;
        }
    }

    async fn end(&mut self, signal: &str) {
        self.signal(signal);
        let mut daemon = self.daemon.take().expect("a daemon that runs");
        let ended = timeout(STOP, daemon.wait()).await;
        ended.unwrap_or_else(|_| panic!("dockerd goes on: {}", self.log())).expect("an end");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The name of the cgroups, as unique as the folder's.
    fn cgroup(&self) -> String {
        self.folder.path().file_name().expect("a name").to_string_lossy().into_owned()
    }
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        drop(self.inside.stdin.take());
        // It ends after all that is inside.
        drop(self.inside.wait());
        remove_cgroups(&self.cgroup());
    }
}

/// Namespaces with nothing but a shell in them.
fn namespaces() -> process::Child {
    let mut unshare = process::Command::new("unshare");
    unshare.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    unshare.args(["sh", "-c", FIRST_PROCESS]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut inside = unshare.spawn().expect(NEEDS);
    let mut said = [0; 6];
    let ready = inside.stdout.as_mut().expect("a pipe").read_exact(&mut said);
    ready.expect(NEEDS);
    inside
}

/// The one process that a process started.
fn child(parent: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Removes the cgroups of containers that ended without their Engine: below the root with version 2, below
/// each controller's with version 1.
fn remove_cgroups(name: &str) {
    let root = Path::new("/sys/fs/cgroup");
    for above in folders(root).into_iter().chain([root.to_owned()]) {
        let parent = above.join(name);
        for cgroup in folders(&parent).into_iter().chain([parent]) {
            // Not every one is there.
            drop(fs::remove_dir(cgroup));
        }
    }
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}
