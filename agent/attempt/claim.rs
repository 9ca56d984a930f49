//! The attempt's container: created, or found where an agent before this one created it.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{Attempt, engine_lost, secrets::add_variables};
use crate::{
    engine::{Container, Engine, EngineError, Named, patiently},
    google::secrets::Secret,
    http,
    job::{Command, Job},
    lifecycle::{Event, Found, Sighting},
    oom_score,
    report::Reason,
    supervise::Verdict,
};

/// The labels by which a run's container is found again, and what they tell of it where there is no journal.
const RUN_LABEL: &str = "longrun.run-id";
const ATTEMPT_LABEL: &str = "longrun.attempt";
const BOOT_LABEL: &str = "longrun.boot-id";
/// Between two looks at a create that an agent before this one asked for.
const CREATE_SHOWS: Duration = Duration::from_millis(200);

/// The attempt's container before it runs.
pub(super) struct Claim {
    pub(super) container: Container,
    /// The attempt that it was created for.
    pub(super) attempt: u32,
    /// Whether somebody may have asked it to start.
    pub(super) may_have_started: bool,
}

impl Attempt<'_> {
    /// The attempt's container: a new one, or the one that an agent before this one created.
    pub(super) async fn claim(
        &mut self,
        engine: &Engine,
        job: &Job,
        secrets: &[Secret],
    ) -> Result<Claim, Verdict> {
        let command = &job.command;
        let body = self.create_body(engine, job, secrets)?;
        let name =
            command.name().map(str::to_owned).unwrap_or_else(|| format!("longrun-{}", &self.run_id[..12]));
        let wait = self.patience;
        let deadline = Instant::now() + wait;
        loop {
            let create = || create_or_find(engine, self.run_id, &name, command.platform(), &body);
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
        job: &Job,
        secrets: &[Secret],
    ) -> Result<Map<String, Value>, Verdict> {
        let body = job.command.create_body(engine.api());
        let mut body = body.map_err(|error| Verdict::without_exit(Reason::InvalidJob, error.to_string()))?;
        let labels = body.entry("Labels").or_insert_with(|| json!({}));
        labels[RUN_LABEL] = self.run_id.into();
        labels[ATTEMPT_LABEL] = self.journal.run().attempt().to_string().into();
        labels[BOOT_LABEL] = self.clock.boot_id().into();
        oom_score::offer_the_job(&mut body);
        add_variables(&mut body, &job.env, secrets);
        Ok(body)
    }

    async fn remove(&mut self, container: &Container, command: &Command) -> Result<(), Verdict> {
        let remove = || container.remove(command.remove_volumes());
        let removed = patiently(self.patience, EngineError::is_away, remove);
        let removed = async { removed.await.map_err(|error| engine_lost(&error)) };
        self.unless_stopped(removed, Verdict::stopped_early).await
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
