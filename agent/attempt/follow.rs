//! A started container to its end: its output, its supervision, its verdict, its result.

use std::time::{Duration, SystemTime};

use super::{Attempt, start::Started};
use crate::{
    archive::{Archive, LogOf},
    engine::{Container, ContainerState, MemoryWatch, OutputReader},
    host,
    job::{Command, Job},
    lifecycle::Event,
    report::{Logs, Outcome},
    result_file,
    sinks::Sinks,
    supervise::{self, Bounds, Cause, End, OutputOf, OutputTask, Verdict},
};

/// What becomes of a container's output.
pub(super) struct Listening {
    pub(super) output: OutputTask,
    /// Its way into Cloud Storage, if it is wanted there.
    pub(super) archive: Option<Archive>,
}

impl Attempt<'_> {
    /// Reads the output from now on, or from its beginning if the job was started before.
    pub(super) fn output(
        &self,
        attached: Option<OutputReader>,
        container: &Container,
        job: &Job,
        started_before: Option<SystemTime>,
    ) -> Listening {
        let archive = self.archive(container, job, started_before);
        let watcher = archive.as_ref().map(|archive| archive.before(self.watcher));
        let watcher = watcher.as_ref().unwrap_or(self.watcher);
        let (of, sinks) = (self.output_of(container, job), self.sinks(job));
        let output = match attached {
            Some(reader) => OutputTask::attached(reader, of, sinks, watcher),
            None => OutputTask::taking_over(of, sinks, watcher),
        };
        Listening { output, archive }
    }

    fn archive(
        &self,
        container: &Container,
        job: &Job,
        started_before: Option<SystemTime>,
    ) -> Option<Archive> {
        let bucket = job.sinks.storage.as_ref()?;
        let of = LogOf {
            container: container.clone(),
            tty: job.command.tty(),
            redaction: self.seen.redaction.clone(),
            attempt: self.journal.run().attempt(),
            image: job.command.image().map(ToString::to_string),
            started_before,
        };
        Some(self.archives.open(bucket, of))
    }

    fn sinks(&self, job: &Job) -> Sinks {
        self.sinks.open(&job.sinks, self.journal.run().attempt())
    }

    fn output_of(&self, container: &Container, job: &Job) -> OutputOf {
        let (container, tty) = (container.clone(), job.command.tty());
        let redaction = self.seen.redaction.clone();
        OutputOf { container, tty, tail: job.log_tail, redaction, engine: self.patience }
    }

    /// Brings a started container to its end.
    pub(super) async fn follow(&mut self, started: Started, job: &Job) -> Verdict {
        let Started { container, exit, output, run_before, stopping } = started;
        let memory = MemoryWatch::start(&container.id, job.command.cgroup_parent());
        let timeout = job.timeout.map(|timeout| timeout.saturating_sub(run_before));
        tracing::info!(container = container.id, time_left = ?timeout, "the job runs");
        let bounds = Bounds { timeout, grace: job.grace, engine: self.patience, stopping };
        let journal = &mut *self.journal;
        let note = async |cause| journal.note(Event::Stopping(cause)).await;
        let mut end = supervise::supervise(&container, exit, bounds, self.stop, self.watcher, note).await;
        let nobody_left = self.replace_lost_shim(&container.id, job, &mut end).await;
        let memory = memory.seen();
        // Both at once: when the VM shuts down there is no time for one after the other.
        let Listening { output, archive } = output;
        let rest_of_log = output.finish(end.drain());
        let settling = supervise::settle(&container, end, bounds.engine, self.stop);
        let (end, logs) = tokio::join!(settling, rest_of_log);
        self.seen.started_at = end.started_at().or(self.seen.started_at);
        self.seen.finished_at = Some(end.finished_at().unwrap_or_else(SystemTime::now));
        match end.is_known() || nobody_left {
            true => self.seen.spent = Some(container.id.clone()),
            // It may still run, unseen, and is not ended by a tidying hand.
            false => tracing::warn!(container = container.id, "the container is left where it is"),
        }
        let unavailable = [logs.unavailable, end.log_gap()].into_iter().flatten();
        let unavailable = unavailable.reduce(|both, one| both + "; " + &one);
        let logs = Logs { unavailable, ..logs };
        self.seen.logs = self.archived(archive, end.cause(), logs).await;
        let verdict = end.verdict(job, memory);
        match end.time_for_result() {
            Some(time) => self.read_result(&container, job, time, verdict).await,
            None => verdict,
        }
    }

    /// Starts another shim where a command's was lost: it ends who is left of the command, and has its log. Answers
    /// whether it did.
    async fn replace_lost_shim(&self, id: &str, job: &Job, end: &mut End) -> bool {
        let (Command::Host(_), Err(why)) = (&job.command, &mut end.seen) else { return false };
        match host::engine(&self.settings.state_dir, self.run_id).await {
            Ok(engine) => {
                let state = engine.container(id).state().await;
                let is_gone = state.is_ok_and(|state| state.unseen);
                tracing::warn!(why, is_gone, "the command's shim was lost");
                if is_gone {
                    *why = supervise::LOST_SHIM.to_owned();
                }
                is_gone
            }
            Err(error) => {
                tracing::warn!(error, "the command's shim was lost, and there is no other");
                false
            }
        }
    }

    /// Reads the result of a job that ended. What is wrong with it is told, and changes nothing else.
    async fn read_result(
        &mut self,
        container: &Container,
        job: &Job,
        within: Duration,
        mut verdict: Verdict,
    ) -> Verdict {
        let Some(path) = &job.result_file else { return verdict };
        match result_file::read(container, path, within).await {
            Ok(result) => self.seen.result = Some(result),
            // It did not come so far.
            Err(error) if error.is_missing() && verdict.outcome() == Outcome::Failed => {}
            Err(error) => verdict.message += &format!("; its result file {path} {error}"),
        }
        verdict
    }

    /// What is known of a job that the VM's last boot took with it.
    pub(super) async fn rebooted(
        &mut self,
        container: &Container,
        job: &Job,
        state: &ContainerState,
        stopping: Option<Cause>,
    ) -> Verdict {
        tracing::warn!(container = container.id, "the VM was started anew since the job was");
        (self.seen.started_at, self.seen.finished_at) = (state.started_at, state.finished_at);
        self.seen.spent = Some(container.id.clone());
        let Listening { output, archive } = self.output(None, container, job, state.started_at);
        let logs = output.finish(supervise::DRAIN).await;
        self.seen.logs = self.archived(archive, None, logs).await;
        let verdict = Verdict::rebooted(state.exit_code, stopping);
        self.read_result(container, job, supervise::RESULT, verdict).await
    }

    /// Waits for the log to be in Cloud Storage.
    async fn archived(&mut self, archive: Option<Archive>, cause: Option<Cause>, logs: Logs) -> Logs {
        match archive {
            Some(archive) => archive.finish(cause, self.stop).await.told_in(logs),
            None => logs,
        }
    }
}
