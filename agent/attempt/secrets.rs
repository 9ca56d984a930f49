//! The job's secrets: read, given to its container, and hidden wherever its log leaves the VM.

use serde_json::{Map, Value};

use super::Attempt;
use crate::{
    engine::{Container, EngineError, patiently},
    google::secrets::{self, Secret},
    job::Job,
    logging,
    logs::{Redaction, SHORTEST, is_short},
    report::Reason,
    supervise::Verdict,
};

impl Attempt<'_> {
    /// The values of the job's secrets; from now on they are hidden.
    pub(super) async fn read_secrets(&mut self, job: &Job) -> Result<Vec<Secret>, Verdict> {
        let read = secrets::read(self.api, self.project, &job.secrets, secrets::PATIENCE);
        let invalid = |problems: Vec<String>| Verdict::without_exit(Reason::InvalidJob, problems.join("\n"));
        let secrets =
            self.unless_stopped(async { read.await.map_err(invalid) }, Verdict::stopped_early).await?;
        self.hide(&secrets);
        Ok(secrets)
    }

    /// Hides the secrets of a container that an agent before this one created. Their values are what it was given:
    /// Secret Manager may have others by now, or be away.
    pub(super) async fn hide_those_of(&mut self, container: &Container, job: &Job) -> Result<(), Verdict> {
        if job.secrets.is_empty() {
            return Ok(());
        }
        let env = patiently(self.patience, EngineError::may_pass, || container.env());
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
}

/// Adds the attributes' variables and the secrets to the create call's body.
pub(super) fn add_variables(body: &mut Map<String, Value>, env: &[(String, String)], secrets: &[Secret]) {
    let secrets = secrets.iter().map(|Secret { name, value }| (name, value));
    let all = env.iter().map(|(name, value)| (name, value)).chain(secrets);
    let variables: Vec<Value> = all.map(|(name, value)| format!("{name}={value}").into()).collect();
    match body.get_mut("Env") {
        Some(Value::Array(env)) => env.extend(variables),
        _ if variables.is_empty() => {}
        _ => drop(body.insert("Env".to_owned(), Value::Array(variables))),
    }
}
