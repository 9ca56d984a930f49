//! What was seen on the way, whatever the end.

use std::time::SystemTime;

use serde_json::Value;

use crate::{
    job::Job,
    logs::Redaction,
    report::{Image, Logs},
    supervise::Verdict,
};

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

impl Seen {
    /// What can be said of a job before anything was done.
    pub(crate) fn of(job: &Job) -> Self {
        let image = job.command.image();
        let image = image.map(|image| Image { reference: image.to_string(), digest: None });
        Self { image, ..Self::default() }
    }

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
