//! One started container, from its start to its end: what happens is turned into events, the pure
//! `state` decides, and its action is carried out here.
//!
//! Leaves out everything before the start and after the end.

mod output;
mod state;
mod stop;
mod verdict;

use std::{pin::pin, time::Duration};

use tokio::time::{Instant, sleep, timeout};

pub(crate) use output::{OutputOf, OutputTask};
pub use stop::{Stop, StopHandle, stop};
pub(crate) use verdict::Ended;
pub use verdict::Verdict;

use crate::{
    backoff,
    engine::{Container, ContainerState, EngineError, Exit, patiently},
    http,
    progress::{Phase, Progress, Watcher},
};
use state::{Action, Cause, Event, State};

/// How often a wait that is silent is checked by an inspect: a minute of a long job's time is nothing, and a
/// job that ended unseen would bill for ever.
const CHECK: Duration = Duration::from_secs(60);
/// From one SIGKILL to the next.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// From one try to send a signal to the next, to an Engine that is away.
const RESEND: Duration = Duration::from_secs(1);
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
}

/// How a started container ended.
#[derive(Debug)]
pub(crate) enum End {
    /// It ended, and was made to for `cause`.
    Exited { code: i64, cause: Option<Cause> },
    /// Nobody knows, and why.
    Lost(String),
}

/// Follows a container to its end: `exit` is its end, asked for before the start.
pub(crate) async fn supervise(
    container: &Container,
    exit: Exit,
    bounds: Bounds,
    stop: &mut Stop,
    watcher: &Watcher,
) -> End {
    let mut state = State::Running;
    let mut exit = pin!(watch_exit(container, exit, bounds.engine));
    let mut deadline = pin!(sleep(bounds.timeout.unwrap_or(NEVER)));
    let mut patience = pin!(sleep(NEVER));
    let mut unsent = None;
    // What is known of the end, until it is seen.
    let mut end: Result<i64, String> = Err("the container does not go, even on SIGKILL".to_owned());
    loop {
        let event = tokio::select! {
            // An end that was seen goes before whatever came at the same time.
            biased;
            seen = &mut exit => {
                end = seen;
                if end.is_ok() { Event::Exited } else { Event::EngineLost }
            }
            () = stop.asked() => Event::StopAsked,
            () = &mut deadline, if bounds.timeout.is_some() && state == State::Running => Event::DeadlinePassed,
            () = &mut patience => Event::PatienceOver,
            () = sleep(RESEND), if unsent.is_some() => {
                unsent = send(container, unsent.take()).await;
                continue;
            }
        };
        let (next, action) = state.on(event);
        tracing::debug!(?state, ?event, ?next, ?action, "supervising");
        state = next;
        match (state, end) {
            (State::Ended(cause), Ok(code)) => return End::Exited { code, cause },
            (State::Ended(_) | State::Lost, Err(why)) => return End::Lost(why),
            (_, before) => end = before,
        }
        if let Some((signal, wait)) = plan(action, event, bounds.grace, watcher) {
            patience.as_mut().reset(Instant::now() + wait);
            unsent = send(container, Some(signal)).await;
        }
    }
}

/// A signal that the container is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ToSend {
    /// The one that asks it to end.
    Stop,
    /// SIGKILL.
    Kill,
}

/// What to send for an action, and how long to wait for what it should bring about.
fn plan(action: Action, event: Event, grace: Duration, watcher: &Watcher) -> Option<(ToSend, Duration)> {
    match action {
        Action::Nothing => None,
        Action::Kill => Some((ToSend::Kill, KILL_PATIENCE)),
        Action::Stop => {
            let why = match event {
                Event::DeadlinePassed => "its time is over",
                Event::StopAsked => "the agent was told to stop",
                Event::Exited | Event::EngineLost | Event::PatienceOver => "it must end",
            };
            tracing::info!(why, grace = ?grace, "stopping the job");
            watcher(Progress::Phase(Phase::Stopping { why }));
            Some((ToSend::Stop, grace))
        }
    }
}

/// Sends a signal; answers it if the Engine is away and it must be sent again.
async fn send(container: &Container, signal: Option<ToSend>) -> Option<ToSend> {
    let sent = match signal? {
        ToSend::Kill => container.signal("SIGKILL").await,
        ToSend::Stop => match container.stop_signal().await {
            Ok(stop) => container.signal(&stop).await,
            Err(error) => Err(error),
        },
    };
    let error = sent.err()?;
    // A container that is not running ended just now.
    tracing::debug!(?signal, error = http::chain(&error), "the signal was not sent");
    signal.filter(|_| error.may_pass())
}

/// The container's exit code, whatever the Engine does meanwhile. `Err` says why nobody can know.
async fn watch_exit(container: &Container, mut exit: Exit, engine_wait: Duration) -> Result<i64, String> {
    let mut delays = backoff::delays(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        if let Some(code) = follow_wait(container, exit).await {
            return Ok(code);
        }
        // An Engine that answers every wait at once with an error must not be asked without a pause.
        sleep(delays.next().unwrap_or(RESEND)).await;
        let state = state_in(container, engine_wait).await.map_err(|error| http::chain(&error))?;
        if !state.running {
            return Ok(state.exit_code);
        }
        let again = patiently(engine_wait, EngineError::may_pass, || container.not_running());
        exit = again.await.map_err(|error| http::chain(&error))?;
    }
}

/// The exit code that a wait brings; `None` if it brings none, and the container is to be looked at. One that
/// stays silent is checked by an inspect.
async fn follow_wait(container: &Container, exit: Exit) -> Option<i64> {
    let mut code = pin!(exit.code());
    loop {
        match timeout(CHECK, &mut code).await {
            Ok(Ok(code)) => return Some(code),
            Ok(Err(error)) => {
                tracing::warn!(error = http::chain(&error), "the wait for the container broke");
                return None;
            }
            Err(_) => match container.state().await {
                Ok(state) if !state.running => return Some(state.exit_code),
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
