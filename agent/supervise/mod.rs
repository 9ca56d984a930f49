//! One started container, from its start to its end: what happens is turned into events, the pure
//! `state` decides, and its action is carried out here.
//!
//! Leaves out everything before the start and after the end.

mod output;
mod patience;
mod settle;
mod state;
mod stop;
mod verdict;

use std::{future::ready, pin::pin, time::Duration};

use reqwest::StatusCode;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

pub(crate) use output::{OutputOf, OutputTask};
pub(crate) use settle::{DRAIN, RESULT, settle};
pub use state::Cause;
pub use stop::{Stop, StopHandle, stop};
pub use verdict::Verdict;

use crate::{
    backoff,
    engine::{Container, ContainerState, Ended, EngineError, Exit, Lifetime, Teller, patiently},
    http,
    progress::{Phase, Progress, Watcher},
};
use state::{Action, Event, State};

/// How often a wait that is silent is checked by an inspect: a minute of a long job's time is nothing, and a
/// job that ended unseen would bill for ever.
const CHECK: Duration = Duration::from_secs(60);
/// From one SIGKILL to the next.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// For the Engine to pass a signal on. Nothing else is seen meanwhile, so it is short.
const SEND: Duration = Duration::from_secs(3);
/// From one try to send a signal to the next, to an Engine that is away.
const RESEND: Duration = Duration::from_secs(1);
/// Why nobody knows how a command ended.
pub(crate) const LOST_SHIM: &str =
    "the shim that kept the command's exit status was killed, and the command with it";
/// A timer that is not needed yet.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// The bounds of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Longest run.
    pub(crate) timeout: Option<Duration>,
    /// Between the stop signal and SIGKILL.
    pub(crate) grace: Duration,
    /// Longest absence of the Engine.
    pub(crate) engine: Duration,
    /// Why an agent before this one was already ending it.
    pub(crate) stopping: Option<Cause>,
}

/// How a started container ended.
#[derive(Debug)]
pub(crate) struct End {
    /// Why it was made to, if it was.
    pub(crate) cause: Option<Cause>,
    /// What was seen of it; `Err` if nobody knows, and why.
    pub(crate) seen: Result<Exited, String>,
}

/// A container's end.
#[derive(Debug)]
pub(crate) struct Exited {
    /// Its exit code.
    pub(crate) code: i64,
    /// When it lived, if that was told along with its success.
    pub(crate) lifetime: Option<Lifetime>,
    /// Who told it; `None` if nobody was listening when it ended: the wait had broken, and the Engine may have been
    /// away.
    pub(crate) teller: Option<Teller>,
}

/// Follows a container to its end: `exit` is its end, asked for before the start. `note` writes down why it is
/// made to end, before it is.
pub(crate) async fn supervise(
    container: &Container,
    exit: Exit,
    bounds: Bounds,
    stop: &mut Stop,
    watcher: &Watcher,
    mut note: impl AsyncFnMut(Cause),
) -> End {
    let (away, mut away_seen) = watch::channel(None);
    let mut exit = pin!(watch_exit(container, exit, &away));
    let mut deadline = pin!(sleep(bounds.timeout.unwrap_or(NEVER)));
    let mut hand = Hand { container, away: &away, unsent: None, patience: Instant::now() + NEVER };
    let mut state = State::Running;
    let mut first = bounds.stopping.map(Event::of_cause);
    // What is known of the end, until it is seen.
    let mut seen = Err("the container does not go, even on SIGKILL".to_owned());
    while !state.is_final() {
        let give_up = give_up_at(&away_seen, state, bounds.engine);
        let event = tokio::select! {
            // An end that was seen goes before whatever came at the same time.
            biased;
            end = &mut exit => {
                seen = end;
                if seen.is_ok() { Event::Exited } else { Event::EngineLost }
            }
            Some(event) = ready(first.take()) => event,
            cause = stop.asked() => Event::StopAsked(cause),
            () = &mut deadline, if bounds.timeout.is_some() && state == State::Running => Event::DeadlinePassed,
            () = sleep_until(hand.patience) => Event::PatienceOver,
            () = sleep_until(give_up) => {
                seen = Err(away_seen.borrow().as_ref().map(|away| away.why.clone()).unwrap_or_default());
                Event::EngineLost
            }
            _ = away_seen.changed() => continue,
            () = sleep(RESEND), if hand.unsent.is_some() => {
                hand.send_again().await;
                continue;
            }
        };
        let (next, action) = state.on(event);
        tracing::debug!(?state, ?event, ?next, ?action, "supervising");
        if let Some(cause) = next.cause().filter(|cause| state.cause() != Some(*cause)) {
            note(cause).await;
        }
        state = next;
        hand.act(action, state, bounds.grace, watcher).await;
    }
    End { cause: state.cause(), seen }
}

/// When an Engine that is away is given up.
fn give_up_at(away: &watch::Receiver<Option<Away>>, state: State, usual: Duration) -> Instant {
    match &*away.borrow() {
        Some(away) => away.since + state.engine_patience(usual),
        None => Instant::now() + NEVER,
    }
}

/// Carries out what was decided.
struct Hand<'a> {
    container: &'a Container,
    away: &'a watch::Sender<Option<Away>>,
    /// What the Engine did not take.
    unsent: Option<ToSend>,
    /// Until when what was sent may take to have its effect.
    patience: Instant,
}

/// A signal that the container is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ToSend {
    /// The one that asks it to end.
    Stop,
    /// SIGKILL.
    Kill,
}

impl Hand<'_> {
    async fn act(&mut self, action: Action, state: State, grace: Duration, watcher: &Watcher) {
        let grace = state.cause().map_or(grace, |cause| cause.grace(grace));
        match action {
            Action::Nothing => {}
            Action::Shorten => self.patience = self.patience.min(Instant::now() + grace),
            Action::Stop => {
                tell_of_stop(state, grace, watcher);
                self.send(ToSend::Stop, grace).await;
            }
            Action::Kill => self.send(ToSend::Kill, KILL_PATIENCE).await,
        }
    }

    async fn send(&mut self, signal: ToSend, patience: Duration) {
        self.patience = Instant::now() + patience;
        self.unsent = Some(signal);
        self.send_again().await;
    }

    /// Sends what is unsent; it stays so if the Engine is away.
    async fn send_again(&mut self) {
        let container = self.container;
        let sending = async {
            match self.unsent {
                None => Ok(()),
                Some(ToSend::Kill) => container.signal("SIGKILL").await,
                Some(ToSend::Stop) => container.signal(&container.stop_signal().await?).await,
            }
        };
        let why = match timeout(SEND, sending).await {
            Ok(Err(error)) if error.may_pass() => http::chain(&error),
            // A container that is not running ended just now. Either way the Engine has answered.
            Ok(_) => {
                self.unsent = None;
                self.away.send_replace(None);
                return;
            }
            Err(_) => "the Engine does not answer (sending a signal to the container)".to_owned(),
        };
        tracing::debug!(signal = ?self.unsent, why, "the signal was not sent");
        mark(self.away, why);
    }
}

fn tell_of_stop(state: State, grace: Duration, watcher: &Watcher) {
    let why = match state.cause() {
        Some(Cause::Deadline) => "its time is over",
        Some(Cause::VmStopping) => "Compute Engine stops the VM",
        Some(Cause::Preempted) => "Compute Engine takes the VM away",
        Some(Cause::Orphaned) => "the workflow that waited is gone",
        Some(Cause::Stopped) | None => "the agent was told to stop",
    };
    tracing::info!(why, grace = ?grace, "stopping the job");
    watcher(Progress::Phase(Phase::Stopping { why }));
}

/// An Engine that does not answer.
#[derive(Debug)]
struct Away {
    since: Instant,
    why: String,
}

/// The container's exit code, whatever the Engine does meanwhile; while it does not answer, `away` says so. `Err`
/// says why nobody can know.
async fn watch_exit(
    container: &Container,
    mut exit: Exit,
    away: &watch::Sender<Option<Away>>,
) -> Result<Exited, String> {
    let mut delays = backoff::delays(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        if let Some(Ended { code, lifetime, teller }) = follow_wait(container, exit).await {
            return Ok(Exited { code, lifetime, teller: Some(teller) });
        }
        // An Engine that answers every wait at once with an error must not be asked without a pause.
        sleep(delays.next().unwrap_or(RESEND)).await;
        let state = insist(away, || container.state()).await?;
        if state.unseen {
            return Err(LOST_SHIM.to_owned());
        }
        if !state.running {
            return Ok(Exited { code: state.exit_code, lifetime: None, teller: None });
        }
        exit = insist(away, || container.not_running()).await?;
    }
}

/// Asks until there is an answer; whoever waits for it decides for how long.
async fn insist<T>(
    away: &watch::Sender<Option<Away>>,
    call: impl AsyncFn() -> Result<T, EngineError>,
) -> Result<T, String> {
    let mut delays = backoff::delays(Duration::from_millis(100), Duration::from_secs(5));
    let mut told = false;
    mark(away, "the Engine does not answer".to_owned());
    loop {
        let error = match call().await {
            Ok(answer) => {
                away.send_replace(None);
                return Ok(answer);
            }
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => {
                return Err("the container is gone: somebody removed it".to_owned());
            }
            Err(error) if !error.may_pass() => return Err(http::chain(&error)),
            Err(error) => error,
        };
        if !told {
            tracing::warn!(error = http::chain(&error), "waiting for the Engine");
        }
        told = true;
        mark(away, http::chain(&error));
        sleep(delays.next().unwrap_or(RESEND)).await;
    }
}

/// Notes that the Engine does not answer, from the first time on.
fn mark(away: &watch::Sender<Option<Away>>, why: String) {
    away.send_modify(|away| {
        let since = away.as_ref().map_or_else(Instant::now, |away| away.since);
        *away = Some(Away { since, why });
    });
}

/// The end that a wait brings; `None` if it brings none, and the container is to be looked at. One that
/// stays silent is checked by an inspect.
async fn follow_wait(container: &Container, exit: Exit) -> Option<Ended> {
    let mut ended = pin!(exit.code());
    loop {
        match timeout(CHECK, &mut ended).await {
            Ok(Ok(ended)) => return Some(ended),
            Ok(Err(error)) => {
                tracing::warn!(error = http::chain(&error), "the wait for the container broke");
                return None;
            }
            Err(_) => match container.state().await {
                Ok(state) if !state.running => {
                    return Some(Ended { code: state.exit_code, lifetime: None, teller: Teller::UNKNOWN });
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(error = http::chain(&error), "a check was not answered");
                    return None;
                }
            },
        }
    }
}

/// The container's state, from an Engine that may be away for as long as `wait`.
pub(crate) async fn state_in(container: &Container, wait: Duration) -> Result<ContainerState, EngineError> {
    patiently(wait, EngineError::may_pass, || container.state()).await
}
