//! One attempt at a job: Engine, image, container, start, supervision, verdict.
//!
//! A step that fails is a [`Verdict`], not an error: a job that cannot run is reported like one that ran. An
//! Engine that is away for a moment is waited for at every step, and what it may have done without being able
//! to say so is looked at before it is asked again.

use std::{
    future::Future,
    time::{Duration, SystemTime},
};

use gcp_auth::TokenProvider;
use reqwest::StatusCode;
use serde_json::{Map, Value, json};

use tokio::time::Instant;

use crate::{
    engine::{Container, ContainerState, Engine, EngineError, Exit, MemoryWatch, RegistryAuth, patiently},
    google::{SCOPES, Tokens, credential},
    http,
    job::{ContainerCommand, Job, Pull},
    oom_score,
    progress::{Phase, Progress, Watcher},
    report::{Image, Logs, Reason},
    settings::{Budgets, Settings},
    supervise::{self, Bounds, End, Ended, OutputOf, OutputTask, Stop, Verdict},
};

/// The label by which a run's container is found again.
const RUN_LABEL: &str = "longrun.run-id";
/// Between two looks at a create that an agent before this one asked for.
const CREATE_SHOWS: Duration = Duration::from_millis(200);
/// For a start that an agent before this one asked for, or whose answer was lost, to show.
const START_SHOWS: Duration = Duration::from_secs(2);
/// For the rest of the log to be read after the job's end. The Engine reads gigabytes of its own log in that.
const LOG_DRAIN: Duration = Duration::from_secs(5 * 60);

/// Takes a job from its command to its end.
pub(crate) struct Attempt<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) tokens: &'a Tokens,
    pub(crate) run_id: &'a str,
    pub(crate) stop: &'a mut Stop,
    pub(crate) watcher: &'a Watcher,
    pub(crate) seen: Seen,
}

/// What was seen on the way, whatever the end.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) image: Option<Image>,
    pub(crate) container: Option<Container>,
    pub(crate) started_at: Option<SystemTime>,
    pub(crate) finished_at: Option<SystemTime>,
    pub(crate) logs: Logs,
}

/// The run's container.
enum Claim {
    /// Created just now.
    New(Container),
    /// Created by an agent before this one.
    Found(Container),
}

impl Claim {
    fn container(&self) -> &Container {
        match self {
            Self::New(container) | Self::Found(container) => container,
        }
    }
}

impl Attempt<'_> {
    /// Every step, in order. `Err` is the verdict of a job that did not come to its end.
    pub(crate) async fn run(&mut self, job: &Job) -> Result<Verdict, Verdict> {
        let command = &job.command;
        let reference = command.image.to_string();
        self.seen.image = Some(Image { reference: reference.clone(), digest: None });

        let (settings, tokens, watcher) = (self.settings, self.tokens, self.watcher);
        let engine = self.unless_stopped(connect(settings)).await?;
        let digest = self.unless_stopped(fetch_image(&engine, command, settings, tokens, watcher)).await?;
        self.seen.image = Some(Image { reference, digest });

        let claim = self.claim(&engine, command).await?;
        let container = claim.container();
        let (exit, output) = self.start(&claim, job).await?;
        let memory = MemoryWatch::start(&container.id, command.cgroup_parent.as_deref());
        // A job that was taken over has run for a while.
        let run_before = self.seen.started_at.and_then(|started| started.elapsed().ok()).unwrap_or_default();
        let timeout = job.timeout.map(|timeout| timeout.saturating_sub(run_before));
        tracing::info!(container = container.id, time_left = ?timeout, "the job runs");

        let bounds = Bounds { timeout, grace: job.grace, engine: settings.budgets.engine };
        let end = supervise::supervise(container, exit, bounds, self.stop, watcher).await;
        self.seen.logs = output.finish(LOG_DRAIN).await;
        Ok(self.judge(container, job, end, &memory).await)
    }

    fn budgets(&self) -> &Budgets {
        &self.settings.budgets
    }

    /// Does something that leaves nothing behind if it is dropped halfway.
    async fn unless_stopped<T>(
        &mut self,
        step: impl Future<Output = Result<T, Verdict>>,
    ) -> Result<T, Verdict> {
        tokio::select! {
            done = step => done,
            () = self.stop.asked() => {
                Err(Verdict::without_exit(Reason::Stopped, "the agent was told to stop before the job started"))
            }
        }
    }

    /// The run's container, with what was known of it before: a new one, or the one that an agent before this
    /// one created.
    async fn claim(&mut self, engine: &Engine, command: &ContainerCommand) -> Result<Claim, Verdict> {
        let body = command.create_body(engine.api());
        let mut body = body.map_err(|error| Verdict::without_exit(Reason::InvalidJob, error.to_string()))?;
        body.entry("Labels").or_insert_with(|| json!({}))[RUN_LABEL] = self.run_id.into();
        oom_score::offer_the_job(&mut body);
        let name = command.name.clone().unwrap_or_else(|| format!("longrun-{}", &self.run_id[..12]));
        let wait = self.budgets().engine;
        let deadline = Instant::now() + wait;
        loop {
            let create = || self.create_or_find(engine, &name, command.platform.as_deref(), &body);
            let claim = patiently(wait, EngineError::is_away, create).await;
            match claim.map_err(|error| create_failed(&error))? {
                Some(claim) => {
                    self.seen.container = Some(claim.container().clone());
                    return Ok(claim);
                }
                None if Instant::now() < deadline => tokio::time::sleep(CREATE_SHOWS).await,
                None => {
                    let message = format!("the container name {name} is taken, and no container has it");
                    return Err(Verdict::without_exit(Reason::ContainerCannotRun, message));
                }
            }
        }
    }

    /// `None` while a create that nobody waits for any more is under way: the name is taken, and no container
    /// has it yet.
    async fn create_or_find(
        &self,
        engine: &Engine,
        name: &str,
        platform: Option<&str>,
        body: &Map<String, Value>,
    ) -> Result<Option<Claim>, EngineError> {
        let taken = match engine.create(name, platform, body).await {
            Ok(container) => return Ok(Some(Claim::New(container))),
            Err(error) if error.status() == Some(StatusCode::CONFLICT) => error,
            Err(error) => return Err(error),
        };
        match engine.find(name, (RUN_LABEL, self.run_id)).await {
            Ok(Some(container)) => Ok(Some(Claim::Found(container))),
            Ok(None) => Err(taken),
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Starts the container with its end and its output already asked for. One that was started before is
    /// taken over, and never started again: whenever it may have been, that is looked at first.
    async fn start(&mut self, claim: &Claim, job: &Job) -> Result<(Exit, OutputTask), Verdict> {
        let wait = self.budgets().engine;
        let deadline = Instant::now() + wait;
        let container = claim.container();
        let mut may_have_started = matches!(claim, Claim::Found(_));
        loop {
            if may_have_started
                && let Some(state) = self.started(container).await.map_err(|error| engine_lost(&error))?
            {
                return self.take_over(container, job, &state).await.map_err(|error| engine_lost(&error));
            }
            let attach = || self.attach(container, job);
            let output = patiently(wait, EngineError::is_away, attach).await;
            let output = output.map_err(|error| engine_lost(&error))?;
            let exit = patiently(wait, EngineError::is_away, || container.next_exit()).await;
            let exit = exit.map_err(|error| engine_lost(&error))?;
            (self.watcher)(Progress::Phase(Phase::Running { container: &container.id }));
            match container.start().await {
                Ok(()) => {
                    self.seen.started_at = Some(SystemTime::now());
                    return Ok((exit, output));
                }
                Err(error) if error.is_away() && Instant::now() < deadline => {
                    tracing::warn!(error = http::chain(&error), "whether the job started is not known");
                    may_have_started = true;
                }
                Err(error) => return Err(self.start_failed(container, &error).await),
            }
        }
    }

    /// The state of a container that was started, given the time for a start that is under way to show.
    async fn started(&self, container: &Container) -> Result<Option<ContainerState>, EngineError> {
        let wait = self.budgets().engine;
        let mut state = supervise::state_in(container, wait).await?;
        if state.started_at.is_none() {
            tokio::time::sleep(START_SHOWS).await;
            state = supervise::state_in(container, wait).await?;
        }
        Ok(state.started_at.is_some().then_some(state))
    }

    /// Joins a job that was started before. Nothing is attached: the log is read from its beginning, and the
    /// Engine would keep a stream that is attached to an ended container open for ever.
    async fn take_over(
        &mut self,
        container: &Container,
        job: &Job,
        state: &ContainerState,
    ) -> Result<(Exit, OutputTask), EngineError> {
        tracing::warn!(container = container.id, "the job was started before; taking it over");
        (self.watcher)(Progress::Phase(Phase::Running { container: &container.id }));
        self.seen.started_at = state.started_at;
        let output = OutputTask::taking_over(self.output_of(container, job), self.watcher);
        let exit = patiently(self.budgets().engine, EngineError::is_away, || container.not_running()).await?;
        Ok((exit, output))
    }

    async fn attach(&self, container: &Container, job: &Job) -> Result<OutputTask, EngineError> {
        let reader = container.attach(job.command.tty).await?;
        Ok(OutputTask::attached(reader, self.output_of(container, job), self.watcher))
    }

    fn output_of(&self, container: &Container, job: &Job) -> OutputOf {
        let (container, tty) = (container.clone(), job.command.tty);
        OutputOf { container, tty, tail: job.log_tail, engine: self.budgets().engine }
    }

    /// The Engine leaves the code that a shell would give (126, 127) in the container's state; its other
    /// codes there, such as 128 for a missing network, are nobody's.
    async fn start_failed(&self, container: &Container, error: &EngineError) -> Verdict {
        if error.is_away() {
            return engine_lost(error);
        }
        let state = container.state().await.ok();
        let exit_code = state.map(|state| state.exit_code).filter(|code| matches!(code, 126 | 127));
        Verdict { exit_code, ..Verdict::without_exit(Reason::ContainerCannotRun, error.to_string()) }
    }

    async fn judge(&mut self, container: &Container, job: &Job, end: End, memory: &MemoryWatch) -> Verdict {
        self.seen.finished_at = Some(SystemTime::now());
        let (code, cause) = match end {
            End::Exited { code, cause } => (code, cause),
            End::Lost(why) => return Verdict::without_exit(Reason::EngineLost, why),
        };
        let memory = memory.seen();
        let mut oom_killed = memory.oom_kills > 0;
        match supervise::state_in(container, self.budgets().engine).await {
            Ok(state) => {
                oom_killed |= state.oom_killed;
                self.seen.started_at = state.started_at.or(self.seen.started_at);
                self.seen.finished_at = state.finished_at.or(self.seen.finished_at);
            }
            Err(error) => {
                let error = http::chain(&error);
                tracing::warn!(error, "the times are the agent's, and whether memory ran out is not known");
            }
        }
        let limit = job.command.memory.or(memory.limit);
        Verdict::of(Ended { code, oom_killed, cause, limit, peak: memory.peak, timeout: job.timeout })
    }
}

async fn connect(settings: &Settings) -> Result<Engine, Verdict> {
    Engine::connect(&settings.docker_host, settings.budgets.engine).await.map_err(|error| {
        let (host, error) = (&settings.docker_host, http::chain(&error));
        let message = format!("no Engine at {host}: {error}; is Docker running, and its socket mounted?");
        Verdict::without_exit(Reason::EngineLost, message)
    })
}

/// Makes sure that the image is there, and answers its digest.
async fn fetch_image(
    engine: &Engine,
    command: &ContainerCommand,
    settings: &Settings,
    tokens: &Tokens,
    watcher: &Watcher,
) -> Result<Option<String>, Verdict> {
    let image = &command.image;
    let failed = |message: String| Verdict::without_exit(Reason::ImagePullFailed, message);
    let wait = settings.budgets.engine;
    let inspect = || engine.image(image);
    let inspect = || patiently(wait, EngineError::may_pass, inspect);
    if command.pull != Pull::Always {
        let missing = match inspect().await {
            Ok(present) if present.is_for(command.platform.as_deref()) => return Ok(present.digest),
            Ok(present) => format!("is on this VM for {} alone", present.platform),
            Err(error) if error.may_pass() => return Err(engine_lost(&error)),
            Err(_) => "is not on this VM".to_owned(),
        };
        if command.pull == Pull::Never {
            return Err(failed(format!("the image {image} {missing}, and --pull never forbids to fetch it")));
        }
    }
    tracing::info!(image = image.as_str(), "pulling the image");
    watcher(Progress::Phase(Phase::Pulling { image: image.as_str() }));
    let auth = async || registry_auth(image.registry()?, tokens).await;
    let progress = |pull| watcher(Progress::Pull(pull));
    let stall = settings.budgets.pull_stall;
    engine
        .pull(image, command.platform.as_deref(), stall, auth, progress)
        .await
        .map_err(|error| failed(error.to_string()))?;
    Ok(inspect().await.map_err(|error| engine_lost(&error))?.digest)
}

/// The service account's token, for registries that take it. A VM without one may still pull public images.
async fn registry_auth(registry: &str, tokens: &Tokens) -> Option<RegistryAuth> {
    if !credential::registry_takes_token(registry) {
        return None;
    }
    match tokens.token(SCOPES).await {
        Ok(token) => Some(RegistryAuth::access_token(token.as_str(), registry)),
        Err(error) => {
            tracing::warn!(registry, error = http::chain(&error), "pulling without a credential");
            None
        }
    }
}

fn engine_lost(error: &EngineError) -> Verdict {
    Verdict::without_exit(Reason::EngineLost, http::chain(error))
}

/// What the Engine refuses to create was ordered wrongly; the rest is the Engine's own trouble.
fn create_failed(error: &EngineError) -> Verdict {
    let reason = match error.status() {
        None => Reason::EngineLost,
        // A name that somebody else's container has is as wrong as a field that the Engine refuses.
        Some(StatusCode::BAD_REQUEST | StatusCode::CONFLICT) => Reason::InvalidJob,
        Some(_) => Reason::ContainerCannotRun,
    };
    Verdict::without_exit(reason, http::chain(error))
}
