//! One started container, from its start to its end: what happens is turned into events, the pure
//! `state` decides, and its action is carried out here.
//!
//! Leaves out everything before the start and after the end.

mod state;
mod stop;
mod verdict;

use std::{pin::pin, time::Duration};

use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

pub use stop::{Stop, StopHandle, stop};
pub(crate) use verdict::Ended;
pub use verdict::Verdict;

use crate::{
    backoff,
    engine::{Container, ContainerState, EngineError, Exit, Output, OutputReader},
    http,
    logs::Tail,
    progress::{Phase, Progress, Stream, Watcher},
    report::Logs,
};
use state::{Action, Cause, Event, State};

/// How often a wait that is silent is checked by an inspect: a minute of a long job's time is nothing, and a
/// job that ended unseen would bill for ever.
const CHECK: Duration = Duration::from_secs(60);
/// From one SIGKILL to the next.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// For the log to end after the job did: the Engine closes it within half a second (FACTS).
const DRAIN: Duration = Duration::from_secs(10);
/// Between two calls of an Engine that is away.
const LONGEST_DELAY: Duration = Duration::from_secs(5);
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
            () = &mut deadline, if state == State::Running => Event::DeadlinePassed,
            () = &mut patience => Event::PatienceOver,
        };
        let (next, action) = state.on(event);
        tracing::debug!(?state, ?event, ?next, ?action, "supervising");
        state = next;
        match (state, end) {
            (State::Ended(cause), Ok(code)) => return End::Exited { code, cause },
            (State::Ended(_) | State::Lost, Err(why)) => return End::Lost(why),
            (_, before) => end = before,
        }
        if let Some(wait) = act(container, action, event, bounds.grace, watcher).await {
            patience.as_mut().reset(Instant::now() + wait);
        }
    }
}

/// Carries out an action, and answers how long to wait for what it should bring about.
async fn act(
    container: &Container,
    action: Action,
    event: Event,
    grace: Duration,
    watcher: &Watcher,
) -> Option<Duration> {
    let (signal, patience) = match action {
        Action::Nothing => return None,
        Action::Kill => ("SIGKILL".to_owned(), KILL_PATIENCE),
        Action::Stop => {
            let why = match event {
                Event::DeadlinePassed => "its time is over",
                Event::StopAsked => "the agent was told to stop",
                Event::Exited | Event::EngineLost | Event::PatienceOver => "it must end",
            };
            tracing::info!(why, grace = ?grace, "stopping the job");
            watcher(Progress::Phase(Phase::Stopping { why }));
            let signal = container.stop_signal().await;
            (signal.unwrap_or_else(|_| "SIGTERM".to_owned()), grace)
        }
    };
    if let Err(error) = container.signal(&signal).await {
        // It may have ended just now; if not, the next signal is due when the patience is over.
        tracing::debug!(signal, error = http::chain(&error), "the signal could not be sent");
    }
    Some(patience)
}

/// The container's exit code, whatever the Engine does meanwhile. `Err` says why nobody can know.
async fn watch_exit(container: &Container, mut exit: Exit, engine_wait: Duration) -> Result<i64, String> {
    loop {
        if let Some(code) = follow_wait(container, exit).await {
            return Ok(code);
        }
        exit = loop {
            let state = state_in(container, engine_wait).await.map_err(|error| http::chain(&error))?;
            if !state.running {
                return Ok(state.exit_code);
            }
            match container.not_running().await {
                Ok(exit) => break exit,
                Err(error) if error.is_away() => sleep(LONGEST_DELAY).await,
                Err(error) => return Err(http::chain(&error)),
            }
        };
    }
}

/// The exit code that a wait brings; `None` if the wait broke. One that stays silent is checked by an inspect.
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
                Err(error) => tracing::warn!(error = http::chain(&error), "a check was not answered"),
            },
        }
    }
}

/// The container's state, from an Engine that may be away for as long as `wait`.
pub(crate) async fn state_in(container: &Container, wait: Duration) -> Result<ContainerState, EngineError> {
    let deadline = Instant::now() + wait;
    let mut delays = backoff::delays(Duration::from_millis(100), LONGEST_DELAY);
    loop {
        let error = match container.state().await {
            Ok(state) => return Ok(state),
            Err(error) => error,
        };
        let next = Instant::now() + delays.next().unwrap_or(wait);
        if !error.is_away() || next >= deadline {
            return Err(error);
        }
        sleep_until(next).await;
    }
}

/// A container's output on its way into the tail.
#[derive(Debug)]
pub(crate) struct OutputTask {
    task: JoinHandle<(Tail, Output)>,
    cut: oneshot::Sender<()>,
}

impl OutputTask {
    /// Reads from now on, in a task of its own: nothing else may keep the reader from its socket.
    pub(crate) fn spawn(reader: OutputReader, tail: usize, watcher: &Watcher) -> Self {
        let (cut, cut_asked) = oneshot::channel();
        let (mut tail, watcher) = (Tail::new(tail), Watcher::clone(watcher));
        let task = tokio::spawn(async move {
            let take = |stream: Stream, piece: &[u8]| {
                tail.push(piece);
                watcher(Progress::Output(stream, piece));
            };
            let output = reader.read(cut_asked, take).await;
            (tail, output)
        });
        Self { task, cut }
    }

    /// What was read, once the job ended. A stream that does not end then is cut.
    pub(crate) async fn finish(self) -> Logs {
        let mut task = self.task;
        let done = match timeout(DRAIN, &mut task).await {
            Ok(done) => done,
            Err(_) => {
                // The task may have just ended by itself.
                let _ = self.cut.send(());
                task.await
            }
        };
        let (tail, output) = match done {
            Ok(done) => done,
            Err(error) => return Logs { unavailable: Some(error.to_string()), ..Logs::default() },
        };
        let (text, truncated_bytes) = tail.text();
        let unavailable = match output {
            Output::Whole => None,
            Output::Broken(why) => Some(why),
        };
        let (bytes, lines) = (tail.bytes(), tail.lines());
        Logs { tail: text, bytes, lines, truncated_bytes, unavailable, ..Logs::default() }
    }
}
