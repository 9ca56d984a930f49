//! The whole sequence: attributes → job → attempts → report → callback, with every step that must not be done
//! twice in the journal before it is done.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use thiserror::Error;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    archive::Archives,
    attempt::{Attempt, Seen},
    backoff,
    callback::{self, Recipient, Undelivered, Within},
    clock::{Clock, Moment},
    engine::{Engine, EngineError, patiently},
    google::{
        Api, Board, Metadata, MetadataError, Outside, Storage, Tokens, Vm,
        credential::{self, Credential},
        executions::Execution,
        notices::{self, Notice},
    },
    host, http,
    job::{Attributes, Command, NoCallback, Order, Preflight},
    journal::{Journal, Locked, Owner},
    lifecycle::{Action, Event, Told},
    progress::{Phase, Progress, Watcher},
    report::{self, ApiVersion, Reason, Report},
    settings::{Settings, Source},
    sinks::SinksOf,
    supervise::{Cause, Stop, StopHandle, Verdict},
    workflow::{self, Workflow},
};

/// Of a message in the agent's log: on COS a line over 64 KiB ends what is captured (FACTS).
const MOST_LOGGED: usize = 4 << 10;

/// For the removal of the container: the report is out, and nobody waits for this.
const TIDY_UP: Duration = Duration::from_secs(30);

/// From one failed try of the delivery that is written down to the next one.
const NOTE_AGAIN: Duration = Duration::from_secs(60);

/// Between an attempt and the next one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

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
    /// Another agent is at it.
    #[error("nothing was done")]
    Locked(#[from] Locked),
    /// The agent was stopped before it knew what to do.
    #[error("the agent was told to stop before it knew what to run")]
    StoppedEarly,
    /// The callback did not accept the report.
    #[error("the report was not delivered")]
    Undelivered(#[from] Undelivered),
}

/// Runs the job that this VM was ordered to run, and tells the callback how it ended.
pub async fn run(settings: &Settings, mut stop: Stop, watcher: &Watcher) -> Result<(), Failure> {
    let (vm, metadata) = tokio::select! {
        found = find_order(settings) => found?,
        _ = stop.asked() => return Err(Failure::StoppedEarly),
    };
    let mut order = Order::read(&vm.attributes, |path| std::fs::read(path))?;
    let credential = credential_of(&mut order);
    let owner = Owner { instance_id: instance_id(&vm).to_owned(), run_id: run_id(&vm, &order) };
    let run_id = owner.run_id.clone();
    tracing::info!(run_id, host = order.callback.url.host_str(), "the job is known");
    warn_of_unexpanded(&order);
    watcher(Progress::Phase(Phase::Ordered { run_id: &run_id }));

    let journal = Journal::open(&settings.state_dir, owner).await?;
    let clock = Clock::read();
    // It ends with this function.
    let mut watching = JoinSet::new();
    if let Some(metadata) = metadata.clone() {
        watching.spawn(watch_for_notices(metadata, stop.handle()));
    }
    let board = Board::new(metadata.clone().filter(|_| vm.guest_attributes));
    let watcher = &board.watching(watcher);
    let tokens = metadata.map_or_else(Tokens::of_desk, Tokens::of_vm);
    let api = Api::new(Outside::new(settings.google_endpoint.clone()), Arc::new(tokens));
    let workflow = Arc::new(workflow_of(&vm, &order, credential, &api, &journal));
    watching.spawn(workflow.clone().mind(settings.budgets.orphan_check, stop.handle()));
    let tried = matches!(journal.run().next(), Action::Deliver { .. });
    let (sinks, archives) =
        (sinks_of(settings, &vm, &run_id, &api), archives_of(settings, &vm, &run_id, &api));
    let agent = Agent {
        settings,
        vm,
        order,
        credential,
        run_id,
        api,
        sinks,
        archives,
        clock,
        journal,
        stop,
        watcher,
        tried,
        workflow: &workflow,
        board: &board,
    };
    let ended = agent.run().await;
    board.close().await;
    if let Err(Failure::Undelivered(why)) = &ended {
        workflow.forsaken(why).await;
    }
    ended
}

/// An agent that knows its order.
struct Agent<'a> {
    settings: &'a Settings,
    vm: Vm,
    order: Order,
    credential: Credential,
    run_id: String,
    api: Api,
    sinks: SinksOf,
    archives: Archives,
    clock: Clock,
    journal: Journal,
    stop: Stop,
    watcher: &'a Watcher,
    /// Whether an agent before this one may have told the callback.
    tried: bool,
    workflow: &'a Workflow,
    board: &'a Board,
}

impl Agent<'_> {
    /// Does what is to be done next, until that is nothing.
    async fn run(mut self) -> Result<(), Failure> {
        if self.journal.run().is_told() {
            tracing::info!("that was told before; nothing is run or told again");
        }
        loop {
            self.board.attempt(self.journal.run().attempt());
            let event = match self.journal.run().next() {
                Action::Start => self.attempt(None).await,
                Action::Rejoin { container, .. } => self.attempt(Some(container)).await,
                Action::Deliver { report, at } => self.deliver(&report, &at).await?,
                Action::CleanUp { container, how } => match self.clean_up(&container).await {
                    Ok(()) => Event::Removed,
                    Err(error) => {
                        tracing::warn!(
                            container,
                            error = http::chain(&error),
                            "the container was not removed"
                        );
                        return self.finish(how).await;
                    }
                },
                Action::Finish(how) => return self.finish(how).await,
            };
            self.journal.note(event).await;
        }
    }

    /// One attempt, after a pause if one failed before it; `started` is the container of one that is under way.
    async fn attempt(&mut self, started: Option<String>) -> Event {
        let paused = match &started {
            None => self.pause().await,
            Some(_) => Ok(()),
        };
        let (verdict, seen) = match (&self.order.job, paused) {
            (Err(problems), _) => (invalid(problems, started), Seen::default()),
            (Ok(job), Err(verdict)) => (verdict, Seen::of(job)),
            (Ok(job), Ok(())) => {
                let Self { settings, vm, api, run_id, clock, journal, stop, watcher, .. } = self;
                let (sinks, archives) = (&self.sinks, &self.archives);
                let project = vm.instance.as_ref().map(|instance| &*instance.project);
                let (gate, seen) = (&self.workflow.gate, Seen::of(job));
                let patience = job.command.patience(settings.budgets.engine);
                let mut attempt = Attempt {
                    settings,
                    api,
                    project,
                    run_id,
                    clock,
                    journal,
                    gate,
                    stop,
                    watcher,
                    sinks,
                    archives,
                    patience,
                    seen,
                };
                let mut verdict = attempt.run(job).await.unwrap_or_else(|verdict| verdict);
                attempt.seen.redact(&mut verdict);
                (verdict, attempt.seen)
            }
        };
        self.judge(verdict, seen)
    }

    /// Waits longer after each failure. A reboot is not one.
    async fn pause(&mut self) -> Result<(), Verdict> {
        let failures = self.journal.run().failures();
        let Some(before) = failures.checked_sub(1) else { return Ok(()) };
        let pause = backoff::delays(FIRST_PAUSE, LONGEST_PAUSE).nth(before).unwrap_or(LONGEST_PAUSE);
        tracing::info!(attempt = self.journal.run().attempt(), ?pause, "the job is tried again");
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            cause = self.stop.asked() => Err(Verdict::stopped_early(cause)),
        }
    }

    /// What follows from an attempt's end.
    fn judge(&self, verdict: Verdict, seen: Seen) -> Event {
        let (run, message) = (self.journal.run(), report::cut(&verdict.message, MOST_LOGGED));
        tracing::info!(attempt = run.attempt(), reason = ?verdict.reason, exit_code = verdict.exit_code, "{message}");
        match &self.order.job {
            Ok(job) if run.goes_on_after(&verdict, job) => {
                let attempt = record_of(&verdict, &seen, SystemTime::now());
                Event::Again { attempt, container: seen.spent }
            }
            _ => {
                (self.watcher)(Progress::Phase(Phase::Ended { message: &verdict.message }));
                let container = seen.spent.clone();
                Event::Over {
                    report: Box::new(self.report_of(verdict, seen)),
                    at: self.clock.now(),
                    container,
                }
            }
        }
    }

    async fn deliver(&mut self, report: &Report, at: &Moment) -> Result<Event, Undelivered> {
        self.board.report(report);
        let (whole, spent) = (self.settings.budgets.delivery, at.until(&self.clock.now()));
        let within = Within { whole, spent, tried: self.tried };
        let Self { order, credential, api, stop, workflow, journal, .. } = self;
        let mut noted = None;
        let failed = async |what: &str| {
            if noted.is_none_or(|at: Instant| at.elapsed() >= NOTE_AGAIN) {
                noted = Some(Instant::now());
                journal.note(Event::NotAccepted(what.to_owned())).await;
            }
        };
        let execution = workflow.execution.as_ref();
        let to = Recipient { callback: &order.callback, credential: *credential, execution };
        let told = callback::deliver(to, report, api, within, stop, failed).await;
        match told {
            Ok(()) => Ok(Event::Told(Told::Accepted)),
            Err(Undelivered::Gone) => Ok(Event::Told(Told::Gone)),
            Err(undelivered) => {
                self.journal.note(Event::NotAccepted(undelivered.to_string())).await;
                tracing::warn!(
                    "the container is left where it is, and the report is left for the next agent"
                );
                Err(undelivered)
            }
        }
    }

    /// Removes the container, which nobody needs any more. Until the report was told it is what is left of the
    /// job, for an agent that is started again.
    async fn clean_up(&mut self, container: &str) -> Result<(), EngineError> {
        let command = self.order.job.as_ref().ok().map(|job| &job.command);
        let host = matches!(command, Some(Command::Host(_)))
            .then(|| host::address(&self.settings.state_dir, &self.run_id));
        let with_volumes = command.is_some_and(Command::remove_volumes);
        let removing = async {
            let engine =
                Engine::connect(host.as_ref().unwrap_or(&self.settings.docker_host), TIDY_UP).await?;
            let container = engine.container(container);
            patiently(TIDY_UP, EngineError::is_away, || container.remove(with_volumes)).await
        };
        let removed = self.stop.hastens(TIDY_UP, timeout(TIDY_UP, removing)).await.ok().and_then(Result::ok);
        let silent = EngineError::Silent { doing: "removing the container", after: TIDY_UP };
        match removed.unwrap_or(Err(silent)) {
            Err(error) if error.status() == Some(reqwest::StatusCode::NOT_FOUND) => Ok(()),
            removed => removed,
        }
    }

    async fn finish(&self, how: Told) -> Result<(), Failure> {
        if let Ok(Command::Host(_)) = self.order.job.as_ref().map(|job| &job.command) {
            host::dismiss(&self.settings.state_dir, &self.run_id).await;
        }
        match how {
            Told::Gone => Err(Undelivered::Gone.into()),
            Told::Accepted => {
                tracing::info!(run_id = self.run_id, "the report was accepted");
                (self.watcher)(Progress::Phase(Phase::Reported));
                Ok(())
            }
        }
    }

    /// The report of a run that ends with this attempt.
    fn report_of(&self, verdict: Verdict, seen: Seen) -> Report {
        let mut attempts = self.journal.run().ended().to_vec();
        if let Some(started_at) = seen.started_at {
            attempts.push(record_of(&verdict, &seen, started_at));
        }
        let started_at = attempts.first().and_then(|first| first.started_at);
        let sinks = self.order.job.as_ref().map(|job| &job.sinks);
        let query = sinks.ok().and_then(|wanted| self.sinks.cloud_logging_query(wanted, started_at));
        Report {
            api_version: ApiVersion::V1,
            run_id: self.run_id.clone(),
            outcome: verdict.outcome(),
            reason: verdict.reason,
            exit_code: verdict.exit_code,
            signal: verdict.signal,
            message: verdict.message,
            started_at,
            finished_at: attempts.last().and_then(|last| last.finished_at),
            attempts,
            image: seen.image,
            logs: report::Logs { cloud_logging_query: query, ..seen.logs },
            result: seen.result,
            instance: self.vm.instance.clone(),
        }
    }
}

/// A clock that was set back under the job must not let it end before it started.
fn record_of(verdict: &Verdict, seen: &Seen, started_at: SystemTime) -> report::Attempt {
    let started_at = seen.started_at.unwrap_or(started_at);
    report::Attempt {
        reason: verdict.reason,
        exit_code: verdict.exit_code,
        signal: verdict.signal.clone(),
        message: verdict.message.clone(),
        started_at: Some(started_at),
        finished_at: seen.finished_at.map(|at| at.max(started_at)),
    }
}

/// Everything that is wrong with the order; and with a job that was started before it was changed.
fn invalid(problems: &[String], started: Option<String>) -> Verdict {
    let left = started.map(|id| format!("the job runs on in the container {id}, as it was ordered before"));
    let problems: Vec<_> = problems.iter().cloned().chain(left).collect();
    Verdict::without_exit(Reason::InvalidJob, problems.join("\n"))
}

fn warn_of_unexpanded(order: &Order) {
    if let Ok(job) = &order.job
        && !job.command.unexpanded().is_empty()
    {
        let found = job.command.unexpanded().join(" ");
        tracing::warn!(found, "no shell runs docker-command: this goes to the job as it is");
    }
}

/// The order, and where more is to be learnt of the VM; `None` at a desk.
async fn find_order(settings: &Settings) -> Result<(Vm, Option<Metadata>), Failure> {
    match &settings.source {
        Source::Metadata(address) => {
            let metadata = Metadata::new(address.clone());
            let vm = metadata.vm(settings.budgets.metadata).await?;
            Ok((vm, Some(metadata)))
        }
        Source::File(path) => {
            let attributes = read_job_file(path)?;
            Ok((Vm { attributes, instance: None, account: None, guest_attributes: false }, None))
        }
    }
}

/// The workflow that waits. Where no access token goes to the callback there is nothing to look at; where the job was
/// started before, it is too late for a preflight.
fn workflow_of(vm: &Vm, order: &Order, credential: Credential, api: &Api, journal: &Journal) -> Workflow {
    let has_token = credential == Credential::AccessToken;
    let begins = journal.run().next() == Action::Start;
    let execution = Execution::behind(&order.callback.url, api.clone()).filter(|_| has_token);
    let preflight = if has_token && begins { order.preflight } else { Preflight::Off };
    Workflow {
        vm: vm.clone(),
        api: api.clone(),
        execution,
        preflight,
        gate: workflow::gate(preflight),
        when_orphaned: order.when_orphaned,
    }
}

/// Where lines go.
fn sinks_of(settings: &Settings, vm: &Vm, run_id: &str, api: &Api) -> SinksOf {
    SinksOf {
        outside: api.outside.clone(),
        tokens: Arc::clone(&api.tokens),
        run_id: run_id.to_owned(),
        instance: vm.instance.clone(),
        state_dir: settings.state_dir.clone(),
    }
}

/// Where whole logs go.
fn archives_of(settings: &Settings, vm: &Vm, run_id: &str, api: &Api) -> Archives {
    Archives {
        storage: Storage::new(api.outside.clone(), Arc::clone(&api.tokens)),
        run_id: run_id.to_owned(),
        instance: vm.instance.clone(),
        patience: settings.budgets.upload,
    }
}

/// Passes on what Compute Engine says it is about to do to the VM.
async fn watch_for_notices(metadata: Metadata, stop: StopHandle) {
    notices::watch(&metadata, |notice| {
        tracing::warn!(?notice, "the VM is about to go");
        stop.ask(match notice {
            Notice::Preempted => Cause::Preempted,
            Notice::Stopping => Cause::VmStopping,
        });
    })
    .await;
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
    let text = format!("longrun/v1 {} {}", instance_id(vm), order.callback.url);
    let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    hash.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn instance_id(vm: &Vm) -> &str {
    vm.instance.as_ref().map_or("desk", |instance| &instance.id)
}
