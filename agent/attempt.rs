//! One attempt at a job: Engine, image, container, start, supervision, verdict.
//!
//! A step that fails is a [`Verdict`], not an error: a job that cannot run is reported like one that ran. An
//! Engine that is away for a moment is waited for at every step, and what it may have done without being able
//! to say so is looked at before it is asked again. So is what an agent before this one did.

use std::{
    future::Future,
    time::{Duration, SystemTime},
};

use reqwest::StatusCode;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::{
    archive::{Archive, Archives, LogOf},
    clock::{Clock, Moment},
    engine::{
        Container, ContainerState, Engine, EngineError, Exit, MemoryWatch, Named, OutputReader, patiently,
    },
    fetch::fetch_image,
    google::{
        Api,
        secrets::{self, Secret},
    },
    http,
    job::{ContainerCommand, Job},
    journal::Journal,
    lifecycle::{Action, Event, Found, Sighting},
    logging,
    logs::{Redaction, SHORTEST, is_short},
    oom_score,
    progress::{Phase, Progress, Watcher},
    report::{Image, Logs, Outcome, Reason},
    result_file,
    settings::{Budgets, Settings},
    sinks::{Sinks, SinksOf},
    supervise::{self, Bounds, Cause, OutputOf, OutputTask, Stop, Verdict},
    workflow::Gate,
};

/// The labels by which a run's container is found again, and what they tell of it where there is no journal.
const RUN_LABEL: &str = "longrun.run-id";
const ATTEMPT_LABEL: &str = "longrun.attempt";
const BOOT_LABEL: &str = "longrun.boot-id";
/// Between two looks at a create that an agent before this one asked for.
const CREATE_SHOWS: Duration = Duration::from_millis(200);
/// For a start that an agent before this one asked for, or whose answer was lost, to show.
const START_SHOWS: Duration = Duration::from_secs(2);

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
    pub(crate) seen: Seen,
}

/// What was seen on the way, whatever the end.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) image: Option<Image>,
    /// The container, once it is known not to run and not to start any more.
    pub(crate) spent: Option<String>,
    pub(crate) started_at: Option<SystemTime>,
    pub(crate) finished_at: Option<SystemTime>,
    pub(crate) logs: Logs,
    /// What of all this must not be told.
    pub(crate) redaction: Redaction,
    pub(crate) result: Option<Value>,
}

/// The attempt's container before it runs.
struct Claim {
    container: Container,
    /// The attempt that it was created for.
    attempt: u32,
    /// Whether somebody may have asked it to start.
    may_have_started: bool,
}

/// A container that was started.
struct Started {
    container: Container,
    exit: Exit,
    output: Listening,
    /// How long ago.
    run_before: Duration,
    /// Why an agent before this one was already ending it.
    stopping: Option<Cause>,
}

/// What becomes of a container's output.
struct Listening {
    output: OutputTask,
    /// Its way into Cloud Storage, if it is wanted there.
    archive: Option<Archive>,
}

impl Seen {
    /// What can be said of a job before anything was done.
    pub(crate) fn of(job: &Job) -> Self {
        let image = Image { reference: job.command.image.to_string(), digest: None };
        Self { image: Some(image), ..Self::default() }
    }
}

impl Attempt<'_> {
    /// Every step, in order. `Err` is the verdict of a job that did not come to its end.
    pub(crate) async fn run(&mut self, job: &Job) -> Result<Verdict, Verdict> {
        let settings = self.settings;
        let started = match self.journal.run().next() {
            Action::Rejoin { container, at, stopping } => {
                let unknown = |cause| Verdict::lost(Some(cause), "the Engine was not reached before that");
                let engine = self.unless_stopped(connect(settings), unknown).await?;
                self.rejoin(&engine, job, &container, &at, stopping).await?
            }
            _ => None,
        };
        let started = match started {
            Some(started) => started,
            None => {
                let engine = self.unless_stopped(connect(settings), Verdict::stopped_early).await?;
                // First, so that nothing is pulled for a job that cannot run.
                let secrets = self.read_secrets(job).await?;
                self.fetch_image(&engine, &job.command).await?;
                self.unless_stopped(passed(self.gate), Verdict::stopped_early).await?;
                let claim = self.claim(&engine, job, &secrets).await?;
                self.start(claim, job).await?
            }
        };
        Ok(self.follow(started, job).await)
    }

    fn budgets(&self) -> &Budgets {
        &self.settings.budgets
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
        let answer = self.stop.hastens(self.settings.budgets.engine, answer).await;
        let answer = answer.map_err(|cause| Verdict::lost(Some(cause), "the Engine does not answer"))?;
        answer.map_err(|error| engine_lost(&error))
    }

    /// The values of the job's secrets; from now on they are hidden.
    async fn read_secrets(&mut self, job: &Job) -> Result<Vec<Secret>, Verdict> {
        let read = secrets::read(self.api, self.project, &job.secrets, secrets::PATIENCE);
        let invalid = |problems: Vec<String>| Verdict::without_exit(Reason::InvalidJob, problems.join("\n"));
        let secrets =
            self.unless_stopped(async { read.await.map_err(invalid) }, Verdict::stopped_early).await?;
        self.hide(&secrets);
        Ok(secrets)
    }

    /// Hides the secrets of a container that an agent before this one created. Their values are what it was given:
    /// Secret Manager may have others by now, or be away.
    async fn hide_those_of(&mut self, container: &Container, job: &Job) -> Result<(), Verdict> {
        if job.secrets.is_empty() {
            return Ok(());
        }
        let env = patiently(self.budgets().engine, EngineError::may_pass, || container.env());
        let env = self.hastened(env).await?;
        let variables = env.iter().filter_map(|variable| variable.split_once('='));
        let secrets = variables.filter(|(name, _)| job.secrets.iter().any(|secret| secret.name == *name));
        let secret = |(name, value): (&str, &str)| Secret { name: name.to_owned(), value: value.to_owned() };
        self.hide(&secrets.map(secret).collect::<Vec<_>>());
        Ok(())
    }

    /// Blots the secrets out of the job's log, the agent's own, and the report.
    fn hide(&mut self, secrets: &[Secret]) {
        for Secret { name, .. } in secrets.iter().filter(|secret| is_short(&secret.value)) {
            tracing::warn!(
                name,
                "the secret has less than {SHORTEST} characters, and is not redacted in the log"
            );
        }
        self.seen.redaction = Redaction::of(secrets.iter().map(|secret| (&*secret.name, &*secret.value)));
        logging::hide(self.seen.redaction.clone());
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

    /// The container that an agent before this one asked to start; `None` if it never did.
    async fn rejoin(
        &mut self,
        engine: &Engine,
        job: &Job,
        id: &str,
        at: &Moment,
        stopping: Option<Cause>,
    ) -> Result<Option<Started>, Verdict> {
        let container = engine.container(id);
        let image = self.hastened(async { Ok(engine.image(&job.command.image).await.ok()) }).await?;
        self.saw_digest(image.and_then(|image| image.digest));
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

    /// The attempt's container: a new one, or the one that an agent before this one created.
    async fn claim(&mut self, engine: &Engine, job: &Job, secrets: &[Secret]) -> Result<Claim, Verdict> {
        let command = &job.command;
        let body = self.create_body(engine, command, secrets)?;
        let name = command.name.clone().unwrap_or_else(|| format!("longrun-{}", &self.run_id[..12]));
        let wait = self.budgets().engine;
        let deadline = Instant::now() + wait;
        loop {
            let create = || create_or_find(engine, self.run_id, &name, command.platform.as_deref(), &body);
            let created = self.stop.hastens(wait, patiently(wait, EngineError::is_away, create)).await;
            let named = match created.map_err(Verdict::stopped_early)? {
                Ok(Created::New(container)) => {
                    let attempt = self.journal.run().attempt();
                    return Ok(Claim { container, attempt, may_have_started: false });
                }
                Ok(Created::Found(named)) => named,
                Ok(Created::UnderWay) if Instant::now() < deadline => {
                    tokio::time::sleep(CREATE_SHOWS).await;
                    continue;
                }
                Ok(Created::UnderWay) => {
                    let message = format!("the container name {name} is taken, and no container has it");
                    return Err(Verdict::without_exit(Reason::ContainerCannotRun, message));
                }
                Err(error) => return Err(create_failed(&error)),
            };
            let Named { container, state, .. } = &named;
            let seen = sighting(&named);
            if seen.attempt > self.journal.run().attempt() {
                self.journal.note(Event::Found { attempt: seen.attempt }).await;
            }
            let found = self.journal.run().on_found(seen, self.clock.boot_id());
            if found != Found::Replace {
                self.hide_those_of(container, job).await?;
            }
            match found {
                Found::Start | Found::TakeOver => {
                    let attempt = seen.attempt;
                    return Ok(Claim { container: named.container, attempt, may_have_started: true });
                }
                Found::Replace => self.remove(container, command).await?,
                Found::Rebooted => return Err(self.rebooted(container, job, state, None).await),
            }
        }
    }

    /// The create call's body, with what lets this container be found again.
    fn create_body(
        &self,
        engine: &Engine,
        command: &ContainerCommand,
        secrets: &[Secret],
    ) -> Result<Map<String, Value>, Verdict> {
        let body = command.create_body(engine.api());
        let mut body = body.map_err(|error| Verdict::without_exit(Reason::InvalidJob, error.to_string()))?;
        let labels = body.entry("Labels").or_insert_with(|| json!({}));
        labels[RUN_LABEL] = self.run_id.into();
        labels[ATTEMPT_LABEL] = self.journal.run().attempt().to_string().into();
        labels[BOOT_LABEL] = self.clock.boot_id().into();
        oom_score::offer_the_job(&mut body);
        add_variables(&mut body, secrets);
        Ok(body)
    }

    async fn remove(&mut self, container: &Container, command: &ContainerCommand) -> Result<(), Verdict> {
        let remove = || container.remove(command.remove_volumes);
        let removed = patiently(self.budgets().engine, EngineError::is_away, remove);
        let removed = async { removed.await.map_err(|error| engine_lost(&error)) };
        self.unless_stopped(removed, Verdict::stopped_early).await
    }

    /// Starts the container with its end and its output already asked for. One that was started before is
    /// taken over, and never started again: whenever it may have been, that is looked at first.
    async fn start(&mut self, claim: Claim, job: &Job) -> Result<Started, Verdict> {
        let Claim { container, attempt, mut may_have_started } = claim;
        let wait = self.budgets().engine;
        let deadline = Instant::now() + wait;
        loop {
            if may_have_started && let Some(state) = self.started(&container).await? {
                let run_before = state.started_at.and_then(|at| at.elapsed().ok()).unwrap_or_default();
                return self.take_over(container, job, &state, run_before, None).await;
            }
            // Nobody starts it once a stop ends this here.
            self.seen.spent = Some(container.id.clone());
            let (reader, exit) = self
                .unless_stopped(listen(&container, job.command.tty, wait), Verdict::stopped_early)
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
                Err(error) => return Err(self.start_failed(&container, &error).await),
            }
        }
    }

    /// The state of a container that was started; `None` if it was not.
    async fn started(&mut self, container: &Container) -> Result<Option<ContainerState>, Verdict> {
        let wait = self.budgets().engine;
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
        let exit = patiently(self.budgets().engine, EngineError::is_away, || container.not_running());
        let exit = self.hastened(exit).await?;
        Ok(Started { container, exit, output, run_before, stopping })
    }

    /// Reads the output from now on, or from its beginning if the job was started before.
    fn output(
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
            tty: job.command.tty,
            redaction: self.seen.redaction.clone(),
            attempt: self.journal.run().attempt(),
            image: job.command.image.to_string(),
            started_before,
        };
        Some(self.archives.open(bucket, of))
    }

    fn sinks(&self, job: &Job) -> Sinks {
        self.sinks.open(&job.sinks, self.journal.run().attempt())
    }

    fn output_of(&self, container: &Container, job: &Job) -> OutputOf {
        let (container, tty) = (container.clone(), job.command.tty);
        let redaction = self.seen.redaction.clone();
        OutputOf { container, tty, tail: job.log_tail, redaction, engine: self.budgets().engine }
    }

    /// The Engine leaves the code that a shell would give (126, 127) in the container's state; its other
    /// codes there, such as 128 for a missing network, are nobody's.
    async fn start_failed(&mut self, container: &Container, error: &EngineError) -> Verdict {
        if error.is_away() {
            return engine_lost(error);
        }
        self.seen.spent = Some(container.id.clone());
        let state = container.state().await.ok();
        let exit_code = state.map(|state| state.exit_code).filter(|code| matches!(code, 126 | 127));
        Verdict { exit_code, ..Verdict::without_exit(Reason::ContainerCannotRun, error.to_string()) }
    }

    /// Brings a started container to its end.
    async fn follow(&mut self, started: Started, job: &Job) -> Verdict {
        let Started { container, exit, output, run_before, stopping } = started;
        let memory = MemoryWatch::start(&container.id, job.command.cgroup_parent.as_deref());
        let timeout = job.timeout.map(|timeout| timeout.saturating_sub(run_before));
        tracing::info!(container = container.id, time_left = ?timeout, "the job runs");
        let bounds = Bounds { timeout, grace: job.grace, engine: self.budgets().engine, stopping };
        let journal = &mut *self.journal;
        let note = async |cause| journal.note(Event::Stopping(cause)).await;
        let end = supervise::supervise(&container, exit, bounds, self.stop, self.watcher, note).await;
        let memory = memory.seen();
        // Both at once: when the VM shuts down there is no time for one after the other.
        let Listening { output, archive } = output;
        let rest_of_log = output.finish(end.drain());
        let settling = supervise::settle(&container, end, bounds.engine, self.stop);
        let (end, logs) = tokio::join!(settling, rest_of_log);
        self.seen.started_at = end.started_at().or(self.seen.started_at);
        self.seen.finished_at = Some(end.finished_at().unwrap_or_else(SystemTime::now));
        match end.is_known() {
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
    async fn rebooted(
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

impl Seen {
    /// Blots the job's secrets out of what others say of it: an Engine's error may quote the environment.
    pub(crate) fn redact(&mut self, verdict: &mut Verdict) {
        for text in [&mut verdict.message].into_iter().chain(&mut self.logs.unavailable) {
            *text = self.redaction.text(text).into_owned();
        }
        if let Some(result) = &mut self.result {
            redact_value(result, &self.redaction);
        }
    }
}

fn redact_value(value: &mut Value, redaction: &Redaction) {
    match value {
        Value::String(text) => *text = redaction.text(text).into_owned(),
        Value::Array(values) => values.iter_mut().for_each(|value| redact_value(value, redaction)),
        Value::Object(fields) => fields.values_mut().for_each(|value| redact_value(value, redaction)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Adds the secrets to the create call's body.
fn add_variables(body: &mut Map<String, Value>, secrets: &[Secret]) {
    let variables = secrets.iter().map(|Secret { name, value }| format!("{name}={value}").into());
    match body.get_mut("Env") {
        Some(Value::Array(env)) => env.extend(variables),
        _ if secrets.is_empty() => {}
        _ => drop(body.insert("Env".to_owned(), Value::Array(variables.collect()))),
    }
}

/// What a create call came to.
enum Created {
    /// A new container.
    New(Container),
    /// It was there: created before, by an agent of this run.
    Found(Named),
    /// The name is taken, and no container has it yet: a create that nobody waits for any more.
    UnderWay,
}

/// What the labels say; those of a container without them are of the first attempt and of no boot.
fn sighting(named: &Named) -> Sighting<'_> {
    Sighting {
        attempt: named.labels.get(ATTEMPT_LABEL).and_then(|attempt| attempt.parse().ok()).unwrap_or(1),
        boot_id: named.labels.get(BOOT_LABEL).map_or("", String::as_str),
        started: named.state.started_at.is_some(),
        running: named.state.running,
    }
}

async fn create_or_find(
    engine: &Engine,
    run_id: &str,
    name: &str,
    platform: Option<&str>,
    body: &Map<String, Value>,
) -> Result<Created, EngineError> {
    let taken = match engine.create(name, platform, body).await {
        Ok(container) => return Ok(Created::New(container)),
        Err(error) if error.status() == Some(StatusCode::CONFLICT) => error,
        Err(error) => return Err(error),
    };
    match engine.find(name).await {
        Ok(named) if named.labels.get(RUN_LABEL).is_some_and(|id| id == run_id) => Ok(Created::Found(named)),
        Ok(_) => Err(taken),
        Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(Created::UnderWay),
        Err(error) => Err(error),
    }
}

/// Listens to a container that is about to start: to its output, and to its end.
async fn listen(container: &Container, tty: bool, wait: Duration) -> Result<(OutputReader, Exit), Verdict> {
    let listening = async {
        let reader = patiently(wait, EngineError::is_away, || container.attach(tty)).await?;
        let exit = patiently(wait, EngineError::is_away, || container.next_exit()).await?;
        Ok((reader, exit))
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
