//! The whole sequence: attributes → job → attempt → report → callback.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use thiserror::Error;

use crate::{
    attempt::{Attempt, Seen},
    callback::{self, Undelivered},
    engine::{Container, EngineError, patiently},
    google::{
        Metadata, MetadataError, Outside, Tokens, Vm,
        credential::{self, Credential},
    },
    http,
    job::{Attributes, NoCallback, Order},
    progress::{Phase, Progress, Watcher},
    report::{self, ApiVersion, Reason, Report},
    settings::{Settings, Source},
    supervise::{Stop, Verdict},
};

/// Of a message in the agent's log: on COS a line over 64 KiB ends what is captured (FACTS).
const MOST_LOGGED: usize = 4 << 10;

/// For the removal of the container: the report is out, and nobody waits for this.
const TIDY_UP: Duration = Duration::from_secs(30);

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
    if let Ok(job) = &order.job
        && !job.command.unexpanded.is_empty()
    {
        let found = job.command.unexpanded.join(" ");
        tracing::warn!(found, "no shell runs docker-command: this goes to the job as it is");
    }
    watcher(Progress::Phase(Phase::Ordered { run_id: &run_id }));

    let (tokens, seen) = (&tokens, Seen::default());
    let mut attempt = Attempt { settings, tokens, run_id: &run_id, stop: &mut stop, watcher, seen };
    let verdict = match &order.job {
        Ok(job) => attempt.run(job).await.unwrap_or_else(|verdict| verdict),
        Err(problems) => Verdict::without_exit(Reason::InvalidJob, problems.join("\n")),
    };
    let seen = attempt.seen;
    let message = report::cut(&verdict.message, MOST_LOGGED);
    tracing::info!(reason = ?verdict.reason, exit_code = verdict.exit_code, "{message}");
    watcher(Progress::Phase(Phase::Ended { message: &verdict.message }));

    let container = seen.container.clone();
    let report = report_of(run_id.clone(), verdict, seen, vm);
    let within = settings.budgets.delivery;
    let told =
        callback::deliver(&order.callback, credential, &report, &outside, tokens, within, &mut stop).await;
    if let (Some(container), Ok(job)) = (container, &order.job) {
        clean_up(&container, job.command.remove_volumes, report.reason, &told).await;
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

fn report_of(run_id: String, verdict: Verdict, seen: Seen, vm: Vm) -> Report {
    let attempt = seen.started_at.map(|started_at: SystemTime| report::Attempt {
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

/// Removes the container once nobody needs it any more. Until the report is told it is what is left of the
/// job, for an agent that is started again; and one that may still run, unseen, is not ended by a tidying hand.
async fn clean_up(container: &Container, with_volumes: bool, reason: Reason, told: &Result<(), Undelivered>) {
    let untold = matches!(told, Err(Undelivered::Expired { .. } | Undelivered::Stopped { .. }));
    if untold || reason == Reason::EngineLost {
        tracing::warn!(container = container.id, "the container is left where it is");
        return;
    }
    let remove = || container.remove(with_volumes);
    if let Err(error) = patiently(TIDY_UP, EngineError::is_away, remove).await {
        tracing::warn!(
            container = container.id,
            error = http::chain(&error),
            "the container was not removed"
        );
    }
}
