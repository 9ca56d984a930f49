//! The start of the attempt's container, or the way back to one that was started before.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{Attempt, claim::Claim, engine_lost, follow::Listening};
use crate::{
    clock::Moment,
    engine::{Container, ContainerState, Engine, EngineError, Exit, OutputReader, patiently},
    http,
    job::{Command, Job},
    lifecycle::Event,
    progress::{Phase, Progress},
    report::Reason,
    supervise::{self, Cause, Verdict},
};

/// For a start that an agent before this one asked for, or whose answer was lost, to show.
const START_SHOWS: Duration = Duration::from_secs(2);

/// A container that was started.
pub(super) struct Started {
    pub(super) container: Container,
    pub(super) exit: Exit,
    pub(super) output: Listening,
    /// How long ago.
    pub(super) run_before: Duration,
    /// Why an agent before this one was already ending it.
    pub(super) stopping: Option<Cause>,
}

impl Attempt<'_> {
    /// The container that an agent before this one asked to start; `None` if it never did.
    pub(super) async fn rejoin(
        &mut self,
        engine: &Engine,
        job: &Job,
        id: &str,
        at: &Moment,
        stopping: Option<Cause>,
    ) -> Result<Option<Started>, Verdict> {
        let container = engine.container(id);
        if let Some(image) = job.command.image() {
            let image = self.hastened(async { Ok(engine.image(image).await.ok()) }).await?;
            self.saw_digest(image.and_then(|image| image.digest));
        }
        let Some(state) = self.started(&container).await? else {
            self.journal.note(Event::NotStarted).await;
            return Ok(None);
        };
        self.hide_those_of(&container, job).await?;
        if !state.running && at.boot_id() != self.clock.boot_id() {
            return Err(self.rebooted(&container, job, &state, stopping).await);
        }
        let run_before = at.until(&self.clock.now());
        self.take_over(container, job, &state, run_before, stopping).await.map(Some)
    }

    /// Starts the container with its end and its output already asked for. One that was started before is
    /// taken over, and never started again: whenever it may have been, that is looked at first.
    pub(super) async fn start(&mut self, claim: Claim, job: &Job) -> Result<Started, Verdict> {
        let Claim { container, attempt, mut may_have_started } = claim;
        let wait = self.patience;
        let deadline = Instant::now() + wait;
        loop {
            if may_have_started && let Some(state) = self.started(&container).await? {
                let run_before = state.started_at.and_then(|at| at.elapsed().ok()).unwrap_or_default();
                return self.take_over(container, job, &state, run_before, None).await;
            }
            // Nobody starts it once a stop ends this here.
            self.seen.spent = Some(container.id.clone());
            let (reader, exit) = self
                .unless_stopped(listen(&container, job.command.tty(), wait), Verdict::stopped_early)
                .await?;
            self.seen.spent = None;
            let output = self.output(Some(reader), &container, job, None);
            let at = self.clock.now();
            self.journal.note(Event::Starting { container: container.id.clone(), attempt, at }).await;
            (self.watcher)(Progress::Phase(Phase::Running { container: &container.id }));
            let starting = self.stop.hastens(wait, container.start()).await;
            let unknown = |cause| Verdict::lost(Some(cause), "the Engine did not say whether it started it");
            match starting.map_err(unknown)? {
                Ok(()) => {
                    self.seen.started_at = Some(SystemTime::now());
                    let (run_before, stopping) = (Duration::ZERO, None);
                    return Ok(Started { container, exit, output, run_before, stopping });
                }
                Err(error) if error.is_away() && Instant::now() < deadline => {
                    tracing::warn!(error = http::chain(&error), "whether the job started is not known");
                    may_have_started = true;
                }
                Err(error) => return Err(self.start_failed(&container, job, &error).await),
            }
        }
    }

    /// The state of a container that was started; `None` if it was not.
    async fn started(&mut self, container: &Container) -> Result<Option<ContainerState>, Verdict> {
        let wait = self.patience;
        self.hastened(state_if_started(container, wait)).await
    }

    /// Joins a job that was started before. Nothing is attached: the log is read from its beginning, and the
    /// Engine would keep a stream that is attached to an ended container open for ever.
    async fn take_over(
        &mut self,
        container: Container,
        job: &Job,
        state: &ContainerState,
        run_before: Duration,
        stopping: Option<Cause>,
    ) -> Result<Started, Verdict> {
        tracing::warn!(container = container.id, "the job was started before; taking it over");
        (self.watcher)(Progress::Phase(Phase::Running { container: &container.id }));
        self.seen.started_at = state.started_at;
        let output = self.output(None, &container, job, state.started_at);
        let exit = patiently(self.patience, EngineError::is_away, || container.not_running());
        let exit = self.hastened(exit).await?;
        Ok(Started { container, exit, output, run_before, stopping })
    }

    /// The Engine leaves the code that a shell would give (126, 127) in the container's state; its other
    /// codes there, such as 128 for a missing network, are nobody's.
    async fn start_failed(&mut self, container: &Container, job: &Job, error: &EngineError) -> Verdict {
        if error.is_away() {
            return engine_lost(error);
        }
        self.seen.spent = Some(container.id.clone());
        let state = container.state().await.ok();
        let exit_code = state.map(|state| state.exit_code).filter(|code| matches!(code, 126 | 127));
        let (reason, message) = match &job.command {
            Command::Container(_) => (Reason::ContainerCannotRun, error.to_string()),
            Command::Host(_) => (Reason::CommandCannotRun, error.words()),
        };
        Verdict { exit_code, ..Verdict::without_exit(reason, message) }
    }
}

/// Listens to a container that is about to start: to its output, and to its end.
async fn listen(container: &Container, tty: bool, wait: Duration) -> Result<(OutputReader, Exit), Verdict> {
    let listening = async {
        tokio::try_join!(
            patiently(wait, EngineError::is_away, || container.attach(tty)),
            patiently(wait, EngineError::is_away, || container.next_exit()),
        )
    };
    listening.await.map_err(|error: EngineError| engine_lost(&error))
}

/// The state of a container that was started, given the time for a start that is under way to show.
async fn state_if_started(
    container: &Container,
    wait: Duration,
) -> Result<Option<ContainerState>, EngineError> {
    let mut state = supervise::state_in(container, wait).await?;
    if state.started_at.is_none() {
        tokio::time::sleep(START_SHOWS).await;
        state = supervise::state_in(container, wait).await?;
    }
    Ok(state.started_at.is_some().then_some(state))
}
