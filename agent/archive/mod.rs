//! The whole log as an object in Cloud Storage.
//!
//! ```text
//!   the stream that is read anyway ──▶ intake: gzip, bounded ──▶ uploader ──▶ gs://bucket/prefix/…
//!   the log that the Engine keeps  ──▶   (when that lost something)
//! ```
//!
//! **Where the log comes from.** The stream that the agent reads for the report's tail has every byte as the job
//! wrote it, whatever the log driver, and costs the Engine nothing more; but its reader must never wait. The log
//! that the Engine keeps can be read as slowly as one likes, but it costs dockerd three times the time, has lost
//! lines when files rotate under a burst, and has not all bytes as they were (FACTS). So the first is taken, a few MB
//! of it wait packed in memory, and only where that is not enough, or where an upload is lost with what was stored of
//! it, the second is read from its beginning without what was taken before. What is missing after all is counted.
//! Reading the kept log after the job's end alone would delay the report by the whole upload, and a VM that is
//! preempted would have nothing.
//!
//! **Objects.** `PREFIX/VM/RUN/attempt-1.log`, of the type text/plain with the encoding gzip: `gcloud storage cat`
//! and browsers show the text, so its name is that of the text. An upload's session lives for a week and a job may for
//! months, so that an object is finished after six days, and `attempt-1.part-02.log` is begun.
//!
//! **An agent that is started again** has no state of gzip, and begins the same object once more with the log from its
//! beginning: an upload that was not finished left nothing behind. One that was is not replaced. It is the whole log
//! if the job was too young for a second object, since then only the job's end finishes one.
//!
//! **The end.** The object exists once its last byte is stored. That is waited for before the report is made, for two
//! minutes, or four seconds where the VM or the agent is about to go: of a log that is uploaded as it is written there
//! is never more than a few MB left.
//!
//! What keeps the uploader from its work is told once, and it goes on trying for as long as the job runs: a role may be
//! granted in the second week.

mod intake;
mod uploader;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio::{
    sync::{Notify, watch},
    task::{JoinError, JoinSet},
    time::Instant,
};

use crate::{
    engine::Container,
    google::{Object, Storage},
    job::Bucket,
    logs::Redaction,
    progress::{Progress, Watcher},
    report::{Instance, Logs},
    supervise::{Cause, Stop},
};
use intake::Intake;
use uploader::Uploader;

/// For the rest of the log to be stored where the agent will soon be gone, and the report is still to be told
/// (`supervise::state`, "the longest grace").
const HASTE: Duration = Duration::from_secs(4);

/// What objects need to know of a run.
pub(crate) struct Archives {
    pub(crate) storage: Storage,
    pub(crate) run_id: String,
    /// The VM; `None` off Compute Engine.
    pub(crate) instance: Option<Instance>,
    /// For the rest of the log to be stored after the job's end.
    pub(crate) patience: Duration,
}

/// Whose log it is.
pub(crate) struct LogOf {
    /// The job's container.
    pub(crate) container: Container,
    /// Whether it has a terminal.
    pub(crate) tty: bool,
    /// What of it must not leave the VM.
    pub(crate) redaction: Redaction,
    /// The attempt, from one.
    pub(crate) attempt: u32,
    /// The image as the command names it, if it has one.
    pub(crate) image: Option<String>,
    /// When an agent before this one started it, if one did.
    pub(crate) started_before: Option<SystemTime>,
}

/// A log that is being uploaded; not any more when this is dropped.
pub(crate) struct Archive {
    shared: Arc<Shared>,
    ending: watch::Sender<Option<Ending>>,
    uploading: JoinSet<Archived>,
    patience: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Archived {
    /// Where the log is.
    pub(crate) uri: Option<String>,
    /// Why it is not, or what of it is not.
    pub(crate) missing: Option<String>,
}

/// How long the uploader has after the job's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ending {
    /// To read.
    read_until: Instant,
    /// For all of it.
    deadline: Instant,
}

/// Between the reader of the live stream and the uploader.
struct Shared {
    intake: Mutex<Intake>,
    /// There is something to be done.
    news: Notify,
}

/// The names of an attempt's objects.
struct Names {
    bucket: String,
    /// What all of them begin with.
    stem: String,
}

impl Archives {
    /// Begins an upload.
    pub(crate) fn open(&self, bucket: &Bucket, of: LogOf) -> Archive {
        let shared = Arc::new(Shared { intake: Mutex::new(Intake::new()), news: Notify::new() });
        let (ending, seen) = watch::channel(None);
        let (names, resource) = (self.names(bucket, of.attempt), self.resource(&of));
        let uploader = Uploader::new(self.storage.clone(), names, resource, of, Arc::clone(&shared), seen);
        let mut uploading = JoinSet::new();
        uploading.spawn(uploader.run());
        Archive { shared, ending, uploading, patience: self.patience }
    }

    fn names(&self, bucket: &Bucket, attempt: u32) -> Names {
        let Bucket { bucket, prefix } = bucket;
        let folder = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let vm = self.instance.as_ref().map_or("desk", |instance| &instance.name);
        Names { bucket: bucket.clone(), stem: format!("{folder}{vm}/{}/attempt-{attempt}", self.run_id) }
    }

    /// An object's metadata.
    fn resource(&self, of: &LogOf) -> Value {
        let started_at = of.started_before.unwrap_or_else(SystemTime::now);
        let mut about = json!({
            "longrun-run-id": self.run_id,
            "longrun-attempt": of.attempt.to_string(),
            "longrun-started-at": humantime::format_rfc3339_seconds(started_at).to_string(),
        });
        if let Some(image) = &of.image {
            about["longrun-image"] = image.as_str().into();
        }
        if let Some(Instance { id, zone, .. }) = &self.instance {
            about["longrun-instance-id"] = id.as_str().into();
            about["longrun-zone"] = zone.as_str().into();
        }
        json!({
            "contentType": "text/plain; charset=utf-8",
            "contentEncoding": "gzip",
            "metadata": about,
        })
    }
}

impl Archive {
    /// Takes what `watcher` is told of the job's output, and passes it on.
    pub(crate) fn before(&self, watcher: &Watcher) -> Watcher {
        let (shared, watcher) = (Arc::clone(&self.shared), Watcher::clone(watcher));
        Arc::new(move |progress| {
            if let Progress::Output(stream, piece) = progress
                && shared.lock().offer(stream, piece)
            {
                shared.news.notify_one();
            }
            watcher(progress);
        })
    }

    /// Waits until all of the log is stored, or for as long as there is time: `cause` is why the job was made to
    /// end, and who waits may be told to stop.
    pub(crate) async fn finish(mut self, cause: Option<Cause>, stop: &mut Stop) -> Archived {
        let mut ending = Ending::within(self.within(cause));
        self.ending.send_replace(Some(ending));
        let mut asked = None;
        let archived = loop {
            tokio::select! {
                archived = self.uploading.join_next() => break told(archived),
                cause = stop.asked() => {
                    asked = Some(cause);
                    ending = ending.min(Ending::within(self.within(asked)));
                    self.ending.send_replace(Some(ending));
                }
            }
        };
        if let Some(cause) = asked {
            // Whoever delivers the report is to hear of it too.
            stop.handle().ask(cause);
        }
        archived
    }

    fn within(&self, cause: Option<Cause>) -> Duration {
        match cause {
            None | Some(Cause::Deadline | Cause::Orphaned) => self.patience,
            Some(Cause::Stopped | Cause::VmStopping | Cause::Preempted) => self.patience.min(HASTE),
        }
    }
}

fn told(archived: Option<Result<Archived, JoinError>>) -> Archived {
    match archived {
        Some(Ok(archived)) => archived,
        Some(Err(error)) => Archived { uri: None, missing: Some(error.to_string()) },
        None => Archived::default(),
    }
}

impl Archived {
    /// Tells it with the rest of the log.
    pub(crate) fn told_in(self, logs: Logs) -> Logs {
        let both = [logs.unavailable, self.missing].into_iter().flatten();
        Logs { uri: self.uri, unavailable: both.reduce(|one, other| one + "; " + &other), ..logs }
    }
}

impl Ending {
    fn within(time: Duration) -> Self {
        let now = Instant::now();
        Self { read_until: now + time / 2, deadline: now + time }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Intake> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Names {
    fn object(&self, part: u32) -> Object {
        let Self { bucket, stem } = self;
        let name = match part {
            1 => format!("{stem}.log"),
            _ => format!("{stem}.part-{part:02}.log"),
        };
        Object { bucket: bucket.clone(), name }
    }

    /// Where the log is that ends with this part; with a wildcard that names all of them in their order.
    fn all(&self, last: u32) -> String {
        match last {
            1 => self.object(1).to_string(),
            _ => format!("gs://{}/{}.*log", self.bucket, self.stem),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_found_by_vm_run_and_attempt_in_their_order() {
        let names = Names { bucket: "b".to_owned(), stem: "logs/vm/run/attempt-1".to_owned() };
        let name = |part| names.object(part).name;
        assert_eq!(names.all(1), "gs://b/logs/vm/run/attempt-1.log");
        assert_eq!(names.all(2), "gs://b/logs/vm/run/attempt-1.*log");
        assert_eq!((name(2), name(11)), (stem("part-02.log"), stem("part-11.log")));
        assert!(name(1) < name(2) && name(2) < name(11));
    }

    #[test]
    fn what_is_missing_goes_beside_what_was_missing_before() {
        let logs = Logs { unavailable: Some("one".to_owned()), ..Logs::default() };
        let archived = Archived { uri: None, missing: Some("two".to_owned()) };
        assert_eq!(archived.told_in(logs).unavailable.as_deref(), Some("one; two"));
    }

    fn stem(rest: &str) -> String {
        format!("logs/vm/run/attempt-1.{rest}")
    }
}
