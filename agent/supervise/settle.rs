//! After the end: what the Engine knows of it, and whether it was the Engine that brought it about.
//!
//! A Docker that stops without live-restore ends its containers, and a job that obeys its SIGTERM then exits with
//! 0, as one that completed does. Two things tell them apart (seen on 20.10): Docker closes its socket before it
//! ends the containers, so that a new connection fails just then; and a Docker that crashed ends them when it
//! starts again, which is the first that its events tell of them.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep, timeout};

use super::{Cause, End, Exited, Stop, Verdict, state_in, verdict::Ended};
use crate::{
    engine::{Container, ContainerState, EngineError, MemorySeen},
    http,
    job::Job,
};

/// For the log to end after the job did, if it goes on flowing all the time.
pub(crate) const DRAIN: Duration = Duration::from_secs(300);
/// The same where the agent has not long to live: on preemption (see `state`, "the longest grace"), and after a
/// SIGTERM, as Docker kills it ten seconds after.
const DRAIN_IN_HASTE: Duration = Duration::from_secs(3);
/// The same where the Engine is gone, and the agent will soon be.
const DRAIN_WHEN_LOST: Duration = Duration::from_secs(1);
/// For the result to be read out of the container.
pub(crate) const RESULT: Duration = Duration::from_secs(30);
/// The same on preemption, after what the log takes.
const RESULT_AT_PREEMPTION: Duration = Duration::from_secs(1);

/// For the Engine to hear that memory ran out; on a busy VM half a second was not enough.
const OOM_SHOWS: Duration = Duration::from_secs(2);
const OOM_LOOK: Duration = Duration::from_millis(50);
/// 128 and the signal's number.
const SIGKILLED: i64 = 137;

/// A container's end, with all that is known of it.
#[derive(Debug)]
pub(crate) struct Settled {
    end: End,
    look: Look,
}

/// What a look at a container that has ended brings.
#[derive(Debug, Default)]
struct Look {
    state: Option<ContainerState>,
    /// Whether the Engine ended it, by going itself.
    by_engine: bool,
    /// Whether the Engine was away when it ended.
    unseen: bool,
}

/// Looks at a container that has ended. `patience` is for an Engine that is away; who waits may be told to stop.
pub(crate) async fn settle(
    container: &Container,
    mut end: End,
    patience: Duration,
    stop: &mut Stop,
) -> Settled {
    let Ok(exited) = &mut end.seen else {
        return Settled { end, look: Look::default() };
    };
    if let Some(cause) = end.cause {
        let state = timeout(cause.engine_patience(patience), container.state()).await;
        let state = state.ok().and_then(Result::ok);
        return Settled { end, look: Look { state, ..Look::default() } };
    }
    let look = tokio::select! {
        look = look(container, exited, patience) => look,
        cause = stop.asked() => {
            end.cause = Some(cause);
            Look::default()
        }
    };
    Settled { end, look }
}

async fn look(container: &Container, exited: &mut Exited, patience: Duration) -> Look {
    if let Some(teller) = &mut exited.teller
        && teller.is_there(container).await
    {
        let state = match exited.lifetime {
            Some(lifetime) => Ok(lifetime.into()),
            None => container.state().await,
        };
        match state {
            Ok(state) => {
                let state = until_oom_shows(container, exited.code, state).await;
                return Look { state: Some(state), ..Look::default() };
            }
            // An Engine that answers is there: somebody removed the container, say.
            Err(error) if !error.is_away() => {
                tracing::warn!(error = http::chain(&error), "the times are the agent's");
                return Look::default();
            }
            Err(_) => {}
        }
    }
    tracing::warn!(seen = exited.teller.is_some(), "Docker was away around the job's end");
    look_closer(container, exited, patience).await.unwrap_or_else(|error| {
        tracing::warn!(error = http::chain(&error), "how the job ended is not known for sure");
        Look { state: None, by_engine: true, unseen: true }
    })
}

/// The state of a container that SIGKILL ended, once the Engine had the time to hear that memory ran out: that comes
/// to it by another way than the end, and may come later (seen on 20.10). A shim looks for itself.
async fn until_oom_shows(container: &Container, code: i64, mut state: ContainerState) -> ContainerState {
    let deadline = Instant::now() + OOM_SHOWS;
    let is_container = state.left_behind.is_none();
    while code == SIGKILLED && is_container && !state.oom_killed && Instant::now() < deadline {
        sleep(OOM_LOOK).await;
        match container.state().await {
            Ok(later) => state = later,
            Err(_) => break,
        }
    }
    state
}

async fn look_closer(
    container: &Container,
    exited: &Exited,
    patience: Duration,
) -> Result<Look, EngineError> {
    let state = Some(state_in(container, patience).await?);
    let (lives_on, remembered) = (container.survives_the_engine().await?, container.remembered().await?);
    let by_engine = !lives_on
        && match exited.teller {
            // An Engine that was started since the job was, and sent it a signal.
            None => remembered.kill && !remembered.start,
            // It went when it had told the end.
            Some(_) => true,
        };
    Ok(Look { state, by_engine, unseen: exited.teller.is_none() && !remembered.die })
}

impl End {
    /// How long the rest of the log may take.
    pub(crate) fn drain(&self) -> Duration {
        match (self.cause, &self.seen) {
            (_, Err(_)) => DRAIN_WHEN_LOST,
            (Some(Cause::Preempted | Cause::Stopped), Ok(_)) => DRAIN_IN_HASTE,
            (None | Some(Cause::Deadline | Cause::VmStopping | Cause::Orphaned), Ok(_)) => DRAIN,
        }
    }
}

impl Settled {
    /// When the container started, by the Engine.
    pub(crate) fn started_at(&self) -> Option<SystemTime> {
        self.look.state.as_ref()?.started_at
    }

    /// When the container ended, by the Engine.
    pub(crate) fn finished_at(&self) -> Option<SystemTime> {
        self.look.state.as_ref()?.finished_at
    }

    /// Why it was made to end, if it was.
    pub(crate) fn cause(&self) -> Option<Cause> {
        self.end.cause
    }

    /// Whether the container is known to have ended.
    pub(crate) fn is_known(&self) -> bool {
        self.end.seen.is_ok()
    }

    /// How long the reading of the result may take; `None` if the job may still write it.
    pub(crate) fn time_for_result(&self) -> Option<Duration> {
        self.end.seen.as_ref().ok()?;
        Some(match self.end.cause {
            Some(Cause::Preempted) => RESULT_AT_PREEMPTION,
            Some(cause) => cause.engine_patience(RESULT),
            None => RESULT,
        })
    }

    /// Why the log may lack its end although its stream was whole. What a job writes while Docker is away is lost
    /// if it ends before Docker is back (seen on 20.10).
    pub(crate) fn log_gap(&self) -> Option<String> {
        self.look
            .unseen
            .then(|| "Docker was away when the job ended; what it wrote then may be missing".to_owned())
    }

    /// What the report says of it.
    pub(crate) fn verdict(&self, job: &Job, memory: MemorySeen) -> Verdict {
        match &self.end.seen {
            Err(why) => Verdict::lost(self.end.cause, why),
            Ok(exited) => self.with_left_behind(Verdict::of(Ended {
                code: exited.code,
                // On cgroup v2 the Engine misses a child that was killed (FACTS).
                oom_killed: memory.oom_kills > 0
                    || self.look.state.as_ref().is_some_and(|state| state.oom_killed),
                cause: self.end.cause,
                by_engine: self.look.by_engine,
                limit: job.command.memory().or(memory.limit),
                peak: memory.peak,
                timeout: job.timeout,
            })),
        }
    }

    /// A command's processes that went on after it are told, and what became of them.
    fn with_left_behind(&self, mut verdict: Verdict) -> Verdict {
        if let Some(state) = &self.look.state {
            verdict.message += &told_of(state.left_behind.as_deref().unwrap_or_default(), state.survivors);
        }
        verdict
    }
}

fn told_of(left_behind: &[String], survivors: u64) -> String {
    let left = left_behind.join(", ");
    match (left_behind, survivors) {
        ([], 0) => String::new(),
        (_, 0) => format!("; it left processes behind, which were ended: {left}"),
        _ => format!("; it left processes behind, of which {survivors} could not be ended: {left}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_left_behind_is_told_with_what_became_of_them() {
        let left = ["a".to_owned(), "b".to_owned()];
        assert_eq!(told_of(&[], 0), "");
        assert_eq!(told_of(&left, 0), "; it left processes behind, which were ended: a, b");
        assert_eq!(told_of(&left, 1), "; it left processes behind, of which 1 could not be ended: a, b");
    }
}
