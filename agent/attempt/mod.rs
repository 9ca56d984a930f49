//! One attempt at a job: Engine, image, container, start, supervision, verdict.
//!
//! A step that fails is a [`Verdict`], not an error: a job that cannot run is reported like one that ran. An
//! Engine that is away for a moment is waited for at every step, and what it may have done without being able
//! to say so is looked at before it is asked again. So is what an agent before this one did.
//!
//! Here is the order of the steps; each of the files is one of them.

mod claim;
mod follow;
mod secrets;
mod seen;
mod start;

use std::{future::Future, time::Duration};

use reqwest::StatusCode;
use tokio::task::yield_now;

use crate::{
    archive::Archives,
    clock::Clock,
    engine::{Engine, EngineError},
    fetch::fetch_image,
    google::Api,
    host, http,
    job::{Command, ContainerCommand, Job},
    journal::Journal,
    lifecycle::Action,
    progress::Watcher,
    report::Reason,
    settings::Settings,
    sinks::SinksOf,
    supervise::{Cause, Stop, Verdict},
    workflow::Gate,
};

pub(crate) use seen::Seen;

/// Takes a job from its command to its end.
pub(crate) struct Attempt<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) api: &'a Api,
    /// The VM's project; `None` at a desk.
    pub(crate) project: Option<&'a str>,
    pub(crate) run_id: &'a str,
    pub(crate) clock: &'a Clock,
    pub(crate) journal: &'a mut Journal,
    pub(crate) gate: &'a Gate,
    pub(crate) stop: &'a mut Stop,
    pub(crate) watcher: &'a Watcher,
    pub(crate) sinks: &'a SinksOf,
    pub(crate) archives: &'a Archives,
    /// Longest absence of whoever runs the job.
    pub(crate) patience: Duration,
    pub(crate) seen: Seen,
}

impl Attempt<'_> {
    /// Every step, in order. `Err` is the verdict of a job that did not come to its end.
    pub(crate) async fn run(&mut self, job: &Job) -> Result<Verdict, Verdict> {
        let started = match self.journal.run().next() {
            Action::Rejoin { container, at, stopping } => {
                let unknown = |cause| Verdict::lost(Some(cause), "the Engine was not reached before that");
                let engine = self.connect(job, Reason::EngineLost, unknown).await?;
                self.rejoin(&engine, job, &container, &at, stopping).await?
            }
            _ => None,
        };
        let started = match started {
            Some(started) => started,
            None => {
                let engine = self.connect(job, Reason::CommandCannotRun, Verdict::stopped_early).await?;
                // First, so that nothing is pulled for a job that cannot run.
                let secrets = self.read_secrets(job).await?;
                if let Some(command) = job.command.container() {
                    self.fetch_image(&engine, command).await?;
                }
                self.unless_stopped(passed(self.gate), Verdict::stopped_early).await?;
                let claim = self.claim(&engine, job, &secrets).await?;
                self.start(claim, job).await?
            }
        };
        Ok(self.follow(started, job).await)
    }

    /// Whoever runs the job. `without_shim` is the reason of a command's end for which there is none.
    async fn connect(
        &mut self,
        job: &Job,
        without_shim: Reason,
        stopped: fn(Cause) -> Verdict,
    ) -> Result<Engine, Verdict> {
        if let Command::Container(_) = job.command {
            return self.unless_stopped(connect(self.settings), stopped).await;
        }
        // A shim that comes up unheard would stay.
        let engine = host::engine(&self.settings.state_dir, self.run_id).await;
        let engine = async {
            yield_now().await;
            engine.map_err(|why| Verdict::without_exit(without_shim, why))
        };
        self.unless_stopped(engine, stopped).await
    }

    /// Does something that leaves nothing behind if it is dropped halfway.
    async fn unless_stopped<T>(
        &mut self,
        step: impl Future<Output = Result<T, Verdict>>,
        stopped: fn(Cause) -> Verdict,
    ) -> Result<T, Verdict> {
        tokio::select! {
            done = step => done,
            cause = self.stop.asked() => Err(stopped(cause)),
        }
    }

    /// What the Engine says where the job may run already. After a stop it has not long to answer.
    async fn hastened<T>(
        &mut self,
        answer: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, Verdict> {
        let answer = self.stop.hastens(self.patience, answer).await;
        let answer = answer.map_err(|cause| Verdict::lost(Some(cause), "the Engine does not answer"))?;
        answer.map_err(|error| engine_lost(&error))
    }

    async fn fetch_image(&mut self, engine: &Engine, command: &ContainerCommand) -> Result<(), Verdict> {
        let (settings, tokens, watcher) = (self.settings, &self.api.tokens, self.watcher);
        let fetching = fetch_image(engine, command, settings, tokens, watcher);
        let digest = self.unless_stopped(fetching, Verdict::stopped_early).await?;
        self.saw_digest(digest);
        Ok(())
    }

    fn saw_digest(&mut self, digest: Option<String>) {
        if let Some(image) = &mut self.seen.image {
            image.digest = digest;
        }
    }
}

/// What is required before anything runs; it was looked at meanwhile.
async fn passed(gate: &Gate) -> Result<(), Verdict> {
    let missing =
        |missing: &String| Verdict::without_exit(Reason::InvalidJob, format!("longrun-preflight: {missing}"));
    gate.wait().await.as_ref().copied().map_err(missing)
}

async fn connect(settings: &Settings) -> Result<Engine, Verdict> {
    Engine::connect(&settings.docker_host, settings.budgets.engine).await.map_err(|error| {
        let (host, error) = (&settings.docker_host, http::chain(&error));
        let message = format!("no Engine at {host}: {error}; is Docker running, and its socket mounted?");
        Verdict::without_exit(Reason::EngineLost, message)
    })
}

pub(crate) fn engine_lost(error: &EngineError) -> Verdict {
    let message = match error.status() {
        Some(StatusCode::NOT_FOUND) => format!("{}; somebody removed it", http::chain(error)),
        _ => http::chain(error),
    };
    Verdict::without_exit(Reason::EngineLost, message)
}
