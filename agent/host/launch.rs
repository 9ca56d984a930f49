//! The launcher: makes itself what the command shall be, and becomes it.
//!
//! It is given its orders through its stdin, a socket, and answers there why it cannot: the socket closes by itself
//! when it has become the command.

use std::{
    ffi::CString,
    fs,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{OpenOptionsExt, PermissionsExt, chown},
            net::UnixStream,
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use nix::{
    sys::{prctl, signal::Signal, stat},
    unistd::{
        AccessFlags, Gid, Pid, Uid, User, access, dup2_stdin, getppid, initgroups, setgid, setgroups, setsid,
        setuid,
    },
};
use serde::{Deserialize, Serialize};

/// What a command finds that is not told otherwise. Source: login(1) and Debian's /etc/login.defs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What a command without an interpreter of its own is given to.
pub(super) const SHELL: &str = "/bin/sh";
/// In the run's folder: where the command begins, and what its interpreter reads.
pub(super) const WORK: &str = "work";
pub(super) const SCRIPT: &str = "script";
/// What shells exit with.
const NOT_FOUND: i64 = 127;
const CANNOT: i64 = 126;

/// A launcher's orders. Its environment is that of its process.
#[derive(Deserialize, Serialize)]
pub(super) struct Launch {
    pub(super) argv: Vec<String>,
    pub(super) script: Option<String>,
    pub(super) program: Option<String>,
    pub(super) user: Option<String>,
    pub(super) folder: PathBuf,
    pub(super) oom_score_adj: Option<i32>,
    /// Where it writes its number.
    pub(super) cgroup: Option<PathBuf>,
}

/// Why there is no command.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Refusal {
    /// What a shell would exit with.
    pub(super) code: i64,
    pub(super) message: String,
}

/// Who a command runs as.
struct Identity {
    name: String,
    uid: Uid,
    gid: Gid,
    home: PathBuf,
}

/// The launcher's process, from its orders to the command.
pub(super) fn run() -> ExitCode {
    // Before all else, and again once it is another user: the kernel forgets it then.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    let shim = getppid();
    let Ok((mut socket, orders)) = orders() else {
        eprintln!("longrun-agent: the agent itself starts this, and gives it its orders");
        return ExitCode::FAILURE;
    };
    let refusal = become_command(&orders, shim);
    let refusal = serde_json::to_vec(&refusal).unwrap_or_default();
    // A shim that is gone needs no answer.
    let _ = socket.write_all(&refusal);
    ExitCode::FAILURE
}

/// The socket, which closes when the command begins, and what came through it.
fn orders() -> io::Result<(UnixStream, Launch)> {
    let socket: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let mut socket = UnixStream::from(socket);
    let mut text = Vec::new();
    socket.read_to_end(&mut text)?;
    dup2_stdin(fs::File::open("/dev/null")?)?;
    Ok((socket, serde_json::from_slice(&text)?))
}

/// Does not return, unless it cannot.
fn become_command(orders: &Launch, shim: Pid) -> Refusal {
    let prepared = Identity::find(orders.user.as_deref()).and_then(|identity| {
        let failed = |what: &str, error: io::Error| Refusal::new(CANNOT, format!("{what}: {error}"));
        settle(orders).map_err(|error| failed("the command's process cannot be made", error))?;
        lay_out(orders, &identity).map_err(|error| failed("the command's folder cannot be made", error))?;
        identity.assume().map_err(|error| failed("the command cannot run as its user", error))?;
        match getppid() == shim {
            true => Ok(identity),
            false => Err(Refusal::new(CANNOT, "the shim is gone".to_owned())),
        }
    });
    let identity = match prepared {
        Ok(identity) => identity,
        Err(refusal) => return refusal,
    };
    let (Some(name), arguments) = (orders.argv.first(), orders.argv.get(1..).unwrap_or_default()) else {
        return Refusal::new(CANNOT, "there is no command".to_owned());
    };
    let mut command = Command::new(name);
    command.args(arguments).args(orders.script.as_ref().map(|_| orders.folder.join(SCRIPT)));
    for (variable, value) in identity.variables() {
        if std::env::var_os(variable).is_none() {
            command.env(variable, value);
        }
    }
    command.current_dir(orders.folder.join(WORK));
    if let Some(refusal) = orders.program.as_deref().and_then(|program| missing(program, &command)) {
        return refusal;
    }
    not_executed(name, &command.exec())
}

/// Session, cgroup, scores and the like. The kernel ends the command with its shim: what nobody hears of must not go
/// on.
fn settle(orders: &Launch) -> io::Result<()> {
    setsid()?;
    stat::umask(stat::Mode::from_bits_truncate(0o022));
    if let Some(procs) = &orders.cgroup {
        fs::write(procs, "0")?;
    }
    if let Some(score) = orders.oom_score_adj {
        // Where that is not allowed, the command is killed no sooner than others.
        let _ = fs::write("/proc/self/oom_score_adj", score.to_string());
    }
    Ok(())
}

/// The folder in which the command begins, and its script.
fn lay_out(orders: &Launch, identity: &Identity) -> io::Result<()> {
    let own = |path: &Path| match Uid::effective().is_root() {
        true => chown(path, Some(identity.uid.as_raw()), Some(identity.gid.as_raw())),
        false => Ok(()),
    };
    let work = orders.folder.join(WORK);
    fs::create_dir_all(&work)?;
    fs::set_permissions(&work, fs::Permissions::from_mode(0o700))?;
    own(&work)?;
    if let Some(text) = &orders.script {
        let path = orders.folder.join(SCRIPT);
        let file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o500).open(&path);
        file?.write_all(text.as_bytes())?;
        own(&path)?;
    }
    if !identity.uid.is_root() {
        // Its user has to get there; to see what else is there it has not.
        for folder in orders.folder.ancestors().take(3) {
            let mode = fs::metadata(folder)?.permissions().mode();
            fs::set_permissions(folder, fs::Permissions::from_mode(mode | 0o011))?;
        }
    }
    Ok(())
}

impl Identity {
    /// A user by name or number; without one, whoever this process is.
    fn find(user: Option<&str>) -> Result<Self, Refusal> {
        let me = Uid::effective();
        let Some(user) = user else { return Ok(Self::of(me)) };
        let found = match user.parse() {
            Ok(number) => Self::of(Uid::from_raw(number)),
            Err(_) => match User::from_name(user) {
                Ok(Some(found)) => found.into(),
                _ => {
                    let message = format!("longrun-user: `{user}` is no user of this VM");
                    return Err(Refusal::new(CANNOT, message));
                }
            },
        };
        if !me.is_root() && found.uid != me {
            let message = format!("longrun-user: `{user}` cannot be assumed, since the agent is not root");
            return Err(Refusal::new(CANNOT, message));
        }
        Ok(found)
    }

    /// A number that nobody has is a user without a home.
    fn of(uid: Uid) -> Self {
        let nobody = || Self {
            name: uid.to_string(),
            uid,
            gid: Gid::from_raw(uid.as_raw()),
            home: PathBuf::from("/"),
        };
        User::from_uid(uid).ok().flatten().map_or_else(nobody, Self::from)
    }

    /// Becomes it. The kernel forgets whose death is to be heard of when the user changes, so that comes last.
    fn assume(&self) -> io::Result<()> {
        if Uid::effective().is_root() {
            let name = CString::new(self.name.as_str())?;
            // Who is in no group file has no other groups.
            initgroups(&name, self.gid).or_else(|_| setgroups(&[self.gid]))?;
            setgid(self.gid)?;
            setuid(self.uid)?;
        }
        Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)
    }

    fn variables(&self) -> [(&'static str, String); 5] {
        [
            ("PATH", PATH.to_owned()),
            ("HOME", self.home.display().to_string()),
            ("USER", self.name.clone()),
            ("LOGNAME", self.name.clone()),
            ("SHELL", SHELL.to_owned()),
        ]
    }
}

impl From<User> for Identity {
    fn from(user: User) -> Self {
        Self { name: user.name, uid: user.uid, gid: user.gid, home: user.dir }
    }
}

impl Refusal {
    pub(super) fn new(code: i64, message: String) -> Self {
        Self { code, message }
    }
}

/// Why a simple command's program cannot be run, if it cannot. A name without a slash the shell itself looks for: it
/// may be its own, or on the path.
fn missing(program: &str, command: &Command) -> Option<Refusal> {
    if !program.contains('/') {
        let mut shell = Command::new(SHELL);
        shell.args(["-c", "command -v \"$1\"", SHELL, program]).stdout(Stdio::null()).stderr(Stdio::null());
        let variables = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let found = shell.envs(variables).status();
        let message = format!("host-command: `{program}` is not found on this VM");
        return found.is_ok_and(|found| !found.success()).then(|| Refusal::new(NOT_FOUND, message));
    }
    let path = command.get_current_dir().unwrap_or(Path::new("/")).join(program);
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Some(Refusal::new(NOT_FOUND, format!("host-command: `{program}` is not there")))
        }
        Err(error) => Some(Refusal::new(CANNOT, format!("host-command: `{program}`: {error}"))),
        Ok(found) if found.is_dir() => {
            Some(Refusal::new(CANNOT, format!("host-command: `{program}` is a directory")))
        }
        // It asks the mount too: on Container-Optimized OS nothing below /home and most of /var can be executed.
        Ok(_) => access(&path, AccessFlags::X_OK).err().map(|_| {
            let message = format!(
                "host-command: `{program}` cannot be executed; is it a program (chmod +x), and not on a disk mounted \
                 noexec?"
            );
            Refusal::new(CANNOT, message)
        }),
    }
}

fn not_executed(program: &str, error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::NotFound if program == SHELL => Refusal::new(
            NOT_FOUND,
            format!(
                "{SHELL} is not there; if the agent is in a container, start that with --pid=host --privileged"
            ),
        ),
        io::ErrorKind::NotFound => {
            Refusal::new(NOT_FOUND, format!("host-command: the interpreter `{program}` is not on this VM"))
        }
        _ => Refusal::new(CANNOT, format!("host-command: `{program}` cannot be executed: {error}")),
    }
}
