//! The one command that a shim holds: created, started, ended.
//!
//! ```text
//!   Created ──▶ Starting ──▶ Running ──▶ Ended
//!                  └──▶ Refused
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use serde::Deserialize;
use tokio::{net::unix::pipe, sync::watch, time::timeout};

use super::{
    LAUNCH, THIS_PROGRAM,
    cgroup::Cgroup,
    launch::{self, Launch, Refusal},
    log::{self, Log},
    output::Output,
    processes::{self, Left, Seen},
    record::{Ended, Record},
};

/// For the pipes to be closed after the command's end: who was left behind holds them, and who is ended closes them.
const CLOSE: Duration = Duration::from_secs(5);
/// For a launcher to become its command, or to say why not: it asks the VM for a user and a program.
const LAUNCHED: Duration = Duration::from_secs(30);
/// Of those who were left behind, so many are named.
const MOST_NAMED: usize = 10;
/// Looks that find nobody, until there is nobody.
const LOOKS: usize = 3;

/// A create call's body, as `job::HostCommand` writes it, with what the agent adds. It may hold secrets.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Order {
    pub(super) cmd: Vec<String>,
    user: Option<String>,
    script: Option<String>,
    program: Option<String>,
    #[serde(default)]
    pub(super) env: Vec<String>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    host_config: HostConfig,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    oom_score_adj: Option<i32>,
}

/// How a command is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Created,
    /// Its launcher is at work; it may be the command already.
    Starting,
    /// It could not be started, and why.
    Refused(Refusal),
    Running,
    Ended(Ended),
}

/// A command.
pub(super) struct Held {
    folder: PathBuf,
    /// Of one that another shim started there is none any more.
    pub(super) order: Order,
    record: Mutex<Record>,
    pub(super) output: Output,
    pub(super) state: watch::Sender<State>,
    /// Its first process.
    first: Mutex<Option<Child>>,
    /// How that ended, once it did; `None` within if the kernel's word for it was lost.
    exit: watch::Sender<Option<Option<ExitStatus>>>,
}

/// How starting it went.
pub(super) enum Start {
    Started,
    /// It was before.
    Already,
    Refused(Refusal),
}

impl Held {
    /// A command that was ordered.
    pub(super) fn create(folder: &Path, id: String, name: String, boot_id: String, order: Order) -> Self {
        let labels = order.labels.clone();
        log::remove(folder);
        let record =
            Record { id, name, labels, boot_id, started_at: None, session: None, began: None, ended: None };
        Self::new(folder, order, record, State::Created)
    }

    /// One that another shim started in this folder. It went with its shim, or with the boot; who is left of it is
    /// ended.
    pub(super) async fn found(folder: &Path, boot_id: &str) -> Option<Self> {
        let mut record = Record::read(folder)?;
        if record.ended.is_none() && record.boot_id == boot_id {
            let cgroup = Cgroup::of(&record.id);
            // A process that has the number and began at another time is somebody else's.
            let is_ours =
                |session: &i32| processes::began(*session).is_none_or(|began| Some(began) == record.began);
            let session = record.session.filter(is_ours);
            let left = OfLostShim { session, cgroup: &cgroup };
            match processes::end(&left).await {
                0 => {}
                survivors => eprintln!("{survivors} processes of the command could not be ended"),
            }
            cgroup.remove();
        }
        let unseen =
            || Ended { code: None, at: None, oom_killed: false, left_behind: Vec::new(), survivors: 0 };
        let ended = record.ended.get_or_insert_with(unseen).clone();
        Some(Self::new(folder, Order::default(), record, State::Ended(ended)))
    }

    fn new(folder: &Path, order: Order, record: Record, state: State) -> Self {
        Self {
            folder: folder.to_owned(),
            order,
            record: Mutex::new(record),
            output: Output::new(Log::open(folder)),
            state: watch::Sender::new(state),
            first: Mutex::default(),
            exit: watch::Sender::new(None),
        }
    }

    /// What is known of it.
    pub(super) fn record(&self) -> Record {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts it, and follows it to its end in a task of its own. Before, the disk knows that it is.
    pub(super) async fn start(self: &Arc<Self>) -> Start {
        // Of two who ask at once, one starts it.
        let is_first = self.state.send_if_modified(|state| match state {
            State::Created => {
                *state = State::Starting;
                true
            }
            _ => false,
        });
        if !is_first {
            let settled = self
                .state
                .subscribe()
                .wait_for(|state| *state != State::Starting)
                .await
                .map(|state| state.clone());
            return match settled {
                Ok(State::Refused(refusal)) => Start::Refused(refusal),
                _ => Start::Already,
            };
        }
        self.note(|record| record.started_at = Some(SystemTime::now())).await;
        let cgroup = Cgroup::create(&self.record().id);
        match self.launch(cgroup.as_ref()).await {
            Ok((pid, out, err)) => {
                self.state.send_replace(State::Running);
                let held = Arc::clone(self);
                tokio::spawn(async move { held.follow(cgroup, out, err).await });
                // Only who comes after a shim that was killed needs this.
                self.note(|record| record.session = Some(pid.as_raw())).await;
                Start::Started
            }
            Err(refusal) => {
                self.record.lock().unwrap_or_else(PoisonError::into_inner).started_at = None;
                Record::remove(&self.folder);
                if let Some(cgroup) = cgroup {
                    cgroup.remove();
                }
                self.state.send_replace(State::Refused(refusal.clone()));
                Start::Refused(refusal)
            }
        }
    }

    /// Starts the launcher and waits until it has become the command.
    async fn launch(
        &self,
        cgroup: Option<&Cgroup>,
    ) -> Result<(Pid, pipe::Receiver, pipe::Receiver), Refusal> {
        let failed = |error: io::Error| Refusal::new(126, format!("the command cannot be started: {error}"));
        let (mut ours, theirs) = UnixStream::pair().map_err(failed)?;
        let ((out, out_end), (err, err_end)) = (io::pipe().map_err(failed)?, io::pipe().map_err(failed)?);
        let mut launcher = Command::new(THIS_PROGRAM);
        let env = self.order.env.iter().filter_map(|variable| variable.split_once('='));
        launcher.arg(LAUNCH).env_clear().envs(env);
        launcher.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(out_end).stderr(err_end);
        // The reaper, which is on this thread too, waits for it.
        let child = launcher.spawn().map_err(failed)?;
        let pid = Pid::from_raw(child.id().try_into().unwrap_or(i32::MAX));
        {
            let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
            (record.session, record.began) = (Some(pid.as_raw()), processes::began(pid.as_raw()));
        }
        *self.first.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        // It holds the other ends of the pipes.
        drop(launcher);
        let orders = serde_json::to_vec(&self.orders(cgroup)).unwrap_or_default();
        let answer = tokio::task::spawn_blocking(move || {
            ours.set_read_timeout(Some(LAUNCHED))?;
            ours.set_write_timeout(Some(LAUNCHED))?;
            ours.write_all(&orders)?;
            ours.shutdown(Shutdown::Write)?;
            let mut answer = Vec::new();
            ours.read_to_end(&mut answer).map(|_| answer)
        });
        let answer = answer.await.map_err(io::Error::other).flatten();
        // Nobody hears any more of one that is late, so it must not become the command.
        let answer = answer.inspect_err(|_| _ = kill(pid, Signal::SIGKILL)).map_err(failed)?;
        if !answer.is_empty() {
            let unreadable = |error: serde_json::Error| failed(error.into());
            return Err(serde_json::from_slice(&answer).map_err(unreadable)?);
        }
        let receiver = |pipe: io::PipeReader| pipe::Receiver::from_owned_fd(pipe.into());
        Ok((pid, receiver(out).map_err(failed)?, receiver(err).map_err(failed)?))
    }

    fn orders(&self, cgroup: Option<&Cgroup>) -> Launch {
        let Order { cmd, user, script, program, host_config, .. } = &self.order;
        Launch {
            argv: cmd.clone(),
            script: script.clone(),
            program: program.clone(),
            user: user.clone(),
            folder: self.folder.clone(),
            oom_score_adj: host_config.oom_score_adj,
            cgroup: cgroup.map(Cgroup::procs),
        }
    }

    /// From its start to its end, and that of all that it left behind.
    async fn follow(&self, cgroup: Option<Cgroup>, out: pipe::Receiver, err: pipe::Receiver) {
        let of = cgroup.clone();
        let ended = async {
            let mut exit = self.exit.subscribe();
            let status = exit.wait_for(Option::is_some).await.ok().and_then(|status| *status).flatten();
            let at = SystemTime::now();
            let left = OfShim(of.as_ref());
            let left_behind = processes::that_stay(&left).await.map(|left| named(&left)).unwrap_or_default();
            let survivors = processes::end(&left).await;
            let oom_killed = of.as_ref().is_some_and(Cgroup::ran_out_of_memory);
            Ended { code: status.map(code), at: Some(at), oom_killed, left_behind, survivors }
        };
        let mut reading = std::pin::pin!(self.output.read(out, err));
        let mut ended = std::pin::pin!(ended);
        let ended = tokio::select! {
            ended = &mut ended => {
                let _ = timeout(CLOSE, reading).await;
                ended
            }
            () = &mut reading => ended.await,
        };
        self.record.lock().unwrap_or_else(PoisonError::into_inner).ended = Some(ended.clone());
        if let Some(cgroup) = cgroup {
            cgroup.remove();
        }
        self.state.send_replace(State::Ended(ended));
        self.output.close();
        self.note(|_| ()).await;
    }

    /// Looks whether its first process ended. Rust's own wait knows every signal, the kernel's real-time ones too.
    pub(super) fn look(&self) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        match first.as_mut().map(Child::try_wait) {
            None | Some(Ok(None)) => {}
            Some(Ok(Some(status))) => {
                *first = None;
                self.exit.send_replace(Some(Some(status)));
            }
            // Somebody else was told.
            Some(Err(_)) => {
                *first = None;
                self.exit.send_if_modified(|exit| exit.is_none() && exit.insert(None).is_none());
            }
        }
    }

    /// A child of this process ended; it may be the first of the command.
    pub(super) fn reaped(&self, pid: i32, status: ExitStatus) {
        if self.record().session == Some(pid) {
            *self.first.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.exit.send_replace(Some(Some(status)));
        }
    }

    /// Sends a signal to its process group; SIGKILL to all that it started, wherever they are. `false` if it does not
    /// run. Its launcher is waited for: a signal to that might be lost on the way to the command.
    pub(super) async fn signal(&self, signal: Signal) -> bool {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| *state != State::Starting).await;
        let Some(session) = self.record().session.filter(|_| *self.state.borrow() == State::Running) else {
            return false;
        };
        // A group that is gone is about to be reaped.
        let _ = killpg(Pid::from_raw(session), signal);
        if signal == Signal::SIGKILL {
            processes::kill_once(&OfShim(Some(&Cgroup::of(&self.record().id))));
        }
        true
    }

    /// Ends it, if it runs, and forgets everything.
    pub(super) async fn remove(&self) {
        let mut state = self.state.subscribe();
        if self.signal(Signal::SIGKILL).await {
            let over = state.wait_for(|state| *state != State::Running);
            let _ = timeout(CLOSE * 2, over).await;
        }
        Record::remove(&self.folder);
        log::remove(&self.folder);
        let _ = std::fs::remove_file(self.folder.join(launch::SCRIPT));
        let _ = std::fs::remove_dir_all(self.folder.join(launch::WORK));
    }

    /// Changes the record, and writes it down. A disk that is full costs what only it would know after a reboot.
    async fn note(&self, change: impl FnOnce(&mut Record)) {
        let record = {
            let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut record);
            record.clone()
        };
        let folder = self.folder.clone();
        let written = tokio::task::spawn_blocking(move || record.write(&folder)).await;
        if let Err(error) = written.map_err(io::Error::other).flatten() {
            eprintln!("the record cannot be written: {error}");
        }
    }
}

/// All that descend from this shim, and all in the command's cgroup.
struct OfShim<'a>(Option<&'a Cgroup>);

impl Left for OfShim<'_> {
    fn find(&self) -> Vec<Seen> {
        let descendants = processes::descendants(std::process::id().try_into().unwrap_or(i32::MAX));
        with_those_in(self.0, descendants)
    }

    fn is_nobody(&self) -> bool {
        processes::has_no_children() && self.0.is_none_or(|cgroup| cgroup.processes().is_empty())
    }

    fn kill(&self) {
        self.0.iter().for_each(|cgroup| cgroup.kill());
    }
}

/// All of a command whose shim was lost, and with it the way from parent to child.
struct OfLostShim<'a> {
    session: Option<i32>,
    cgroup: &'a Cgroup,
}

impl Left for OfLostShim<'_> {
    fn find(&self) -> Vec<Seen> {
        with_those_in(Some(self.cgroup), self.session.map(processes::of_session).unwrap_or_default())
    }

    fn is_nobody(&self) -> bool {
        // One look may fall between a process that is gone and the one that it forked.
        (0..LOOKS).all(|_| self.find().is_empty())
    }

    fn kill(&self) {
        self.cgroup.kill();
    }
}

/// Who was moved into the cgroup may have a group with others.
fn with_those_in(cgroup: Option<&Cgroup>, mut found: Vec<Seen>) -> Vec<Seen> {
    let known: BTreeSet<_> = found.iter().map(|seen| seen.id).collect();
    let inside = cgroup.map(Cgroup::processes).unwrap_or_default();
    let others = inside.into_iter().filter(|id| !known.contains(id));
    found.extend(others.map(|id| Seen { id, group: None }));
    found
}

fn named(left: &[Seen]) -> Vec<String> {
    let mut named: Vec<_> = left.iter().take(MOST_NAMED).map(|seen| processes::name(seen.id)).collect();
    if left.len() > MOST_NAMED {
        named.push(format!("{} more", left.len() - MOST_NAMED));
    }
    if named.is_empty() {
        named.push("some that are gone whenever they are looked up".to_owned());
    }
    named
}

/// As a shell and the Engine tell it.
fn code(status: ExitStatus) -> i64 {
    let signal = || 128 + status.signal().unwrap_or_default();
    status.code().unwrap_or_else(signal).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_that_comes_while_the_launcher_is_at_work_comes_to_the_command() {
        use std::os::unix::process::CommandExt;
        let folder = tempfile::tempdir().unwrap();
        let held = Held::create(folder.path(), "id".into(), "name".into(), "boot".into(), Order::default());
        assert!(!held.signal(Signal::SIGTERM).await, "it was not started");
        let mut command = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        held.record.lock().unwrap().session = Some(command.id().try_into().unwrap());
        held.state.send_replace(State::Starting);
        let mut signalling = Box::pin(held.signal(Signal::SIGTERM));
        assert!(timeout(Duration::from_millis(20), &mut signalling).await.is_err());
        assert!(command.try_wait().unwrap().is_none(), "nothing was sent");
        held.state.send_replace(State::Running);
        assert!(signalling.await);
        assert_eq!(command.wait().unwrap().signal(), Some(Signal::SIGTERM as i32));
    }
}
