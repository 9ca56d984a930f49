//! Where the job's output goes beside the report's tail, while it is read.
//!
//! Whoever reads it never waits for a sink: what a sink cannot take in time is lost to it, counted and told.

mod cloud_logging;
mod marks;
mod queue;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    google::{LogWriter, Outside, Tokens, logging_query},
    job, logs,
    progress::Stream,
    report::Instance,
};
use cloud_logging::CloudLogging;
use marks::MarksFile;

/// What sinks need to know of a run.
pub(crate) struct SinksOf {
    pub(crate) outside: Outside,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) run_id: String,
    /// The VM; `None` off Compute Engine.
    pub(crate) instance: Option<Instance>,
    pub(crate) state_dir: PathBuf,
}

/// The open sinks of an attempt.
#[derive(Default)]
pub(crate) struct Sinks {
    cloud_logging: Option<CloudLogging>,
    /// Why there is none.
    missing: Option<String>,
}

impl SinksOf {
    /// Opens what the job asks for.
    pub(crate) fn open(&self, wanted: &job::Sinks, attempt: u32) -> Sinks {
        if !wanted.cloud_logging {
            return Sinks::default();
        }
        let Some(instance) = &self.instance else {
            let missing = "nothing is in Cloud Logging: off Compute Engine there is no VM to log for";
            return Sinks { cloud_logging: None, missing: Some(missing.to_owned()) };
        };
        let (outside, tokens) = (self.outside.clone(), Arc::clone(&self.tokens));
        let writer = LogWriter::new(outside, tokens, instance, &self.run_id, attempt);
        let marks = MarksFile::new(&self.state_dir, &self.run_id, attempt);
        let cloud_logging = CloudLogging::open(writer, marks, &self.run_id, attempt);
        Sinks { cloud_logging: Some(cloud_logging), missing: None }
    }

    /// Finds the run's lines in Cloud Logging, if they are there. `started_at` is when its first attempt did.
    pub(crate) fn cloud_logging_query(
        &self,
        wanted: &job::Sinks,
        started_at: Option<SystemTime>,
    ) -> Option<String> {
        let instance = self.instance.as_ref().filter(|_| wanted.cloud_logging)?;
        // A line may tell an earlier time than that.
        let since = started_at? - logs::BELIEVED;
        Some(logging_query(instance, &self.run_id, since))
    }
}

impl Sinks {
    /// Takes a piece of a stream, of any size, without waiting.
    pub(crate) fn push(&mut self, stream: Stream, piece: &[u8]) {
        if let Some(cloud_logging) = &mut self.cloud_logging {
            cloud_logging.push(stream, piece);
        }
    }

    /// Lets the sinks take what they have not yet, for so long. Answers what is missing in them.
    pub(crate) async fn finish(self, within: Duration) -> Option<String> {
        match self.cloud_logging {
            Some(cloud_logging) => cloud_logging.finish(within).await,
            None => self.missing,
        }
    }
}
