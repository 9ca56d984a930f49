//! The whole sequence: attributes → job → image → container → logs and exit → report → callback.

use std::{future::Future, path::Path, time::SystemTime};

use gcp_auth::TokenProvider;
use serde_json::Value;
use thiserror::Error;

use crate::{
    callback::{self, Undelivered},
    engine::{Container, ContainerState, Engine, EngineError, Exit, RegistryAuth},
    google::{
        Metadata, MetadataError, Outside, SCOPES, Tokens, Vm,
        credential::{self, Credential},
    },
    http,
    job::{Attributes, ContainerCommand, Job, NoCallback, Order, Pull},
    progress::{Phase, Progress, Watcher},
    report::{ApiVersion, Attempt, Image, Logs, Reason, Report},
    settings::{Settings, Source},
    supervise::{self, Bounds, End, Ended, OutputTask, Stop, Verdict},
};

/// The label by which a run's container is found again.
const RUN_LABEL: &str = "longrun.run-id";

/// Why nobody was told.
#[derive(Debug, Error)]
pub enum Failure {
    /// The metadata server cannot be asked what to do.
    #[error("what to run is not known")]
    NoMetadata(#[from] MetadataError),
    /// The job file cannot be read.
    #[error("the job file {path} cannot be used: {why}; expected a JSON object of attributes, all strings")]
    NoJobFile {
        /// Where it should be.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// There is nobody to tell.
    #[error("there is nobody to tell how the job ends, so nothing was run")]
    NoCallback(#[from] NoCallback),
    /// The agent was stopped before it knew what to do.
    #[error("the agent was told to stop before it knew what to run")]
    StoppedEarly,
    /// The callback did not accept the report.
    #[error("the report was not delivered")]
    Undelivered(#[from] Undelivered),
}

/// Runs the job that this VM was ordered to run, and tells the callback how it ended.
pub async fn run(settings: &Settings, mut stop: Stop, watcher: &Watcher) -> Result<(), Failure> {
    let (vm, tokens) = tokio::select! {
        found = find_order(settings) => found?,
        () = stop.asked() => return Err(Failure::StoppedEarly),
    };
    let mut order = Order::read(&vm.attributes, |path| std::fs::read(path))?;
    let credential = credential_of(&mut order);
    let run_id = run_id(&vm, &order);
    let outside = Outside::new(settings.google_endpoint.clone());
    tracing::info!(run_id, host = order.callback.url.host_str(), "the job is known");
    watcher(Progress::Phase(Phase::Ordered { run_id: &run_id }));

    let mut runner = Runner {
        settings,
        tokens: &tokens,
        run_id: &run_id,
        stop: &mut stop,
        watcher,
        seen: Seen::default(),
    };
    let verdict = match &order.job {
        Ok(job) => runner.run(job).await,
        Err(problems) => Verdict::without_exit(Reason::InvalidJob, problems.join("; ")),
    };
    let seen = runner.seen;
    tracing::info!(reason = ?verdict.reason, exit_code = verdict.exit_code, "{}", verdict.message);
    watcher(Progress::Phase(Phase::Ended { message: &verdict.message }));

    let container = seen.container.clone();
    let report = report(run_id.clone(), verdict, seen, vm);
    let within = settings.budgets.delivery;
    let told =
        callback::deliver(&order.callback, credential, &report, &outside, &tokens, within, &mut stop).await;
    // Not before the report is out of the agent's hands: until then the container is what is left of the job.
    if let (Some(container), Ok(job)) = (container, &order.job) {
        remove(&container, job.command.remove_volumes).await;
    }
    told?;
    tracing::info!(run_id, "the report was accepted");
    watcher(Progress::Phase(Phase::Reported));
    Ok(())
}

async fn find_order(settings: &Settings) -> Result<(Vm, Tokens), Failure> {
    match &settings.source {
        Source::Metadata(address) => {
            let metadata = Metadata::new(address.clone());
            let vm = metadata.vm(settings.budgets.metadata).await?;
            Ok((vm, Tokens::of_vm(metadata)))
        }
        Source::File(path) => {
            Ok((Vm { attributes: read_job_file(path)?, instance: None }, Tokens::of_desk()))
        }
    }
}

fn read_job_file(path: &Path) -> Result<Attributes, Failure> {
    let unusable = |why: String| Failure::NoJobFile { path: path.display().to_string(), why };
    let text = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| unusable(error.to_string()))
}

/// The callback's credential. One that must not be sent there makes the job invalid, and that is told without
/// any.
fn credential_of(order: &mut Order) -> Credential {
    match credential::for_callback(&order.callback) {
        Ok(credential) => credential,
        Err(problem) => {
            match &mut order.job {
                Ok(_) => order.job = Err(vec![problem]),
                Err(problems) => problems.push(problem),
            }
            Credential::None
        }
    }
}

/// The same for an agent that is started again on the same VM with the same callback, so that it finds its
/// container and its report is known as the same; and telling nothing of the callback's address.
fn run_id(vm: &Vm, order: &Order) -> String {
    let instance = vm.instance.as_ref().map_or("desk", |instance| &instance.id);
    let text = format!("longrun/v1 {instance} {}", order.callback.url);
    let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    hash.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn report(run_id: String, verdict: Verdict, seen: Seen, vm: Vm) -> Report {
    let attempt = seen.started_at.map(|started_at| Attempt {
        reason: verdict.reason,
        exit_code: verdict.exit_code,
        signal: verdict.signal.clone(),
        message: verdict.message.clone(),
        started_at: Some(started_at),
        finished_at: seen.finished_at,
    });
    Report {
        api_version: ApiVersion::V1,
        run_id,
        outcome: verdict.outcome(),
        reason: verdict.reason,
        exit_code: verdict.exit_code,
        signal: verdict.signal,
        message: verdict.message,
        started_at: seen.started_at,
        finished_at: seen.finished_at,
        attempts: attempt.into_iter().collect(),
        image: seen.image,
        logs: seen.logs,
        result: None,
        instance: vm.instance,
    }
}

async fn remove(container: &Container, with_volumes: bool) {
    if let Err(error) = container.remove(with_volumes).await {
        tracing::warn!(
            container = container.id,
            error = http::chain(&error),
            "the container was not removed"
        );
    }
}

/// Takes a job from its command to its end. Every step's failure is a verdict.
struct Runner<'a> {
    settings: &'a Settings,
    tokens: &'a Tokens,
    run_id: &'a str,
    stop: &'a mut Stop,
    watcher: &'a Watcher,
    seen: Seen,
}

/// What was seen on the way, whatever the end.
#[derive(Default)]
struct Seen {
    image: Option<Image>,
    container: Option<Container>,
    started_at: Option<SystemTime>,
    finished_at: Option<SystemTime>,
    logs: Logs,
}

impl Runner<'_> {
    async fn run(&mut self, job: &Job) -> Verdict {
        self.steps(job).await.unwrap_or_else(|verdict| verdict)
    }

    async fn steps(&mut self, job: &Job) -> Result<Verdict, Verdict> {
        let command = &job.command;
        let reference = command.image.to_string();
        self.seen.image = Some(Image { reference: reference.clone(), digest: None });

        let (settings, tokens, watcher) = (self.settings, self.tokens, self.watcher);
        let engine = self.unless_stopped(connect(settings)).await?;
        let digest = self.unless_stopped(fetch_image(&engine, command, settings, tokens, watcher)).await?;
        self.seen.image = Some(Image { reference, digest });

        let container = self.container(&engine, command).await?;
        let (exit, output) = self.start(&container, job).await?;
        tracing::info!(container = container.id, "the job runs");
        watcher(Progress::Phase(Phase::Running { container: &container.id }));

        let engine_wait = settings.budgets.engine;
        let bounds = Bounds { timeout: job.timeout, grace: job.grace, engine: engine_wait };
        let end = supervise::supervise(&container, exit, bounds, self.stop, watcher).await;
        if let Some(output) = output {
            let before = self.seen.logs.unavailable.take();
            self.seen.logs = output.finish().await;
            self.seen.logs.unavailable = before.or(self.seen.logs.unavailable.take());
        }
        Ok(self.judge(&container, job, end).await)
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

    /// The run's container: a new one, or the one that an agent before this one created.
    async fn container(&mut self, engine: &Engine, command: &ContainerCommand) -> Result<Container, Verdict> {
        let body = command.create_body(engine.api());
        let mut body = body.map_err(|error| Verdict::without_exit(Reason::InvalidJob, error.to_string()))?;
        body.entry("Labels").or_insert_with(|| Value::Object(serde_json::Map::new()))[RUN_LABEL] =
            self.run_id.into();
        let name = command.name.clone().unwrap_or_else(|| format!("longrun-{}", &self.run_id[..12]));
        let container = match engine.create(&name, command.platform.as_deref(), &body).await {
            Ok(container) => container,
            Err(error) if error.status() == Some(reqwest::StatusCode::CONFLICT) => {
                match engine.find(&name, (RUN_LABEL, self.run_id)).await {
                    Ok(Some(container)) => container,
                    Ok(None) => {
                        let message = format!(
                            "the container name {name} is taken by another container; choose another --name, or remove it"
                        );
                        return Err(Verdict::without_exit(Reason::InvalidJob, message));
                    }
                    Err(error) => return Err(create_failed(&error)),
                }
            }
            Err(error) => return Err(create_failed(&error)),
        };
        self.seen.container = Some(container.clone());
        Ok(container)
    }

    /// Starts the container with its end and its output already asked for. One that was started before is
    /// taken over, and never started again.
    async fn start(
        &mut self,
        container: &Container,
        job: &Job,
    ) -> Result<(Exit, Option<OutputTask>), Verdict> {
        let state = container.state().await.map_err(|error| engine_lost(&error))?;
        if state.started_at.is_some() {
            return self.take_over(container, job, &state).await.map_err(|error| engine_lost(&error));
        }
        let output = self.attach(container, job).await.map_err(|error| engine_lost(&error))?;
        let exit = container.next_exit().await.map_err(|error| engine_lost(&error))?;
        if let Err(error) = container.start().await {
            return Err(self.start_failed(container, &error).await);
        }
        self.seen.started_at = Some(SystemTime::now());
        Ok((exit, Some(output)))
    }

    /// Joins a job that an agent before this one started. To a container that has ended nothing is attached:
    /// the Engine would keep that stream open for ever.
    async fn take_over(
        &mut self,
        container: &Container,
        job: &Job,
        state: &ContainerState,
    ) -> Result<(Exit, Option<OutputTask>), EngineError> {
        tracing::warn!(container = container.id, "the job was started before; taking it over");
        self.seen.started_at = state.started_at;
        let missing = "the agent was started again; what the job wrote before is not here";
        self.seen.logs.unavailable = Some(missing.to_owned());
        let output = match state.running {
            true => Some(self.attach(container, job).await?),
            false => None,
        };
        Ok((container.not_running().await?, output))
    }

    async fn attach(&self, container: &Container, job: &Job) -> Result<OutputTask, EngineError> {
        let reader = container.attach(job.command.tty).await?;
        Ok(OutputTask::spawn(reader, job.log_tail, self.watcher))
    }

    /// The Engine leaves the code that a shell would give (126, 127) in the container's state; its other
    /// codes there, such as 128 for a missing network, are nobody's.
    async fn start_failed(&self, container: &Container, error: &EngineError) -> Verdict {
        if error.is_away() {
            return Verdict::without_exit(Reason::EngineLost, http::chain(error));
        }
        let state = container.state().await.ok();
        let exit_code = state.map(|state| state.exit_code).filter(|code| matches!(code, 126 | 127));
        Verdict { exit_code, ..Verdict::without_exit(Reason::ContainerCannotRun, error.to_string()) }
    }

    async fn judge(&mut self, container: &Container, job: &Job, end: End) -> Verdict {
        self.seen.finished_at = Some(SystemTime::now());
        let (code, cause) = match end {
            End::Exited { code, cause } => (code, cause),
            End::Lost(why) => return Verdict::without_exit(Reason::EngineLost, why),
        };
        let mut oom_killed = false;
        match supervise::state_in(container, self.settings.budgets.engine).await {
            Ok(state) => {
                oom_killed = state.oom_killed;
                self.seen.started_at = state.started_at.or(self.seen.started_at);
                self.seen.finished_at = state.finished_at.or(self.seen.finished_at);
            }
            Err(error) => {
                let error = http::chain(&error);
                tracing::warn!(
                    error,
                    "the container's times are the agent's, and whether it was out of memory is not known"
                );
            }
        }
        Verdict::of(Ended { code, oom_killed, cause, memory: job.command.memory, timeout: job.timeout })
    }
}

async fn connect(settings: &Settings) -> Result<Engine, Verdict> {
    Engine::connect(&settings.docker_host, settings.budgets.engine).await.map_err(|error| {
        let message = format!("{}; is Docker running, and its socket mounted?", http::chain(&error));
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
    let digest = || engine.image_digest(image.name(), image.as_str());
    if command.pull != Pull::Always {
        match digest().await {
            Ok(digest) => return Ok(digest),
            Err(error) if error.is_away() => return Err(engine_lost(&error)),
            Err(_) if command.pull == Pull::Never => {
                return Err(failed(format!(
                    "the image {image} is not on this VM, and --pull never forbids to fetch it"
                )));
            }
            Err(_) => {}
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
    digest().await.map_err(|error| engine_lost(&error))
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
        Some(status) if status == reqwest::StatusCode::BAD_REQUEST => Reason::InvalidJob,
        Some(_) => Reason::ContainerCannotRun,
    };
    Verdict::without_exit(reason, http::chain(error))
}
