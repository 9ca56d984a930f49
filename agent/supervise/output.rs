//! The job's output on its way from the Engine into the tail.
//!
//! Leaves out the wire, which is `engine::output`'s.

use std::time::Duration;

use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{
    engine::{Output, OutputReader},
    logs::Tail,
    progress::{Progress, Stream, Watcher},
    report::Logs,
};

/// For the log to end after the job did: the Engine closes it within half a second (FACTS).
const DRAIN: Duration = Duration::from_secs(10);
/// A log that ends so long before the job was cut off; the two ends of a good one come together.
const EARLY: Duration = Duration::from_secs(1);

/// A container's output on its way into the tail.
#[derive(Debug)]
pub(crate) struct OutputTask {
    task: JoinHandle<Followed>,
    cut: oneshot::Sender<()>,
}

/// What was read of an output, and when that ended.
#[derive(Debug)]
struct Followed {
    tail: Tail,
    output: Output,
    ended: Instant,
}

impl OutputTask {
    /// Reads from now on, in a task of its own: nothing else may keep the reader from its socket.
    pub(crate) fn spawn(reader: OutputReader, tail: usize, watcher: &Watcher) -> Self {
        let (cut, cut_asked) = oneshot::channel();
        let (mut tail, watcher) = (Tail::new(tail), Watcher::clone(watcher));
        let task = tokio::spawn(async move {
            let take = |stream: Stream, piece: &[u8]| {
                tail.push(piece);
                watcher(Progress::Output(stream, piece));
            };
            let output = reader.read(cut_asked, take).await;
            Followed { tail, output, ended: Instant::now() }
        });
        Self { task, cut }
    }

    /// What was read, now that the job ended. A stream that does not end then is cut. `missing` says what is
    /// not there for another reason.
    pub(crate) async fn finish(self, missing: Option<String>) -> Logs {
        let job_ended = Instant::now();
        let mut task = self.task;
        let done = match timeout(DRAIN, &mut task).await {
            Ok(done) => done,
            Err(_) => {
                // The task may have just ended by itself.
                let _ = self.cut.send(());
                task.await
            }
        };
        let Followed { tail, output, ended } = match done {
            Ok(done) => done,
            Err(error) => return Logs { unavailable: Some(error.to_string()), ..Logs::default() },
        };
        let broken = match output {
            Output::Whole if job_ended.saturating_duration_since(ended) > EARLY => {
                Some("the log stream ended before the job did; what it wrote later is not here".to_owned())
            }
            Output::Whole => None,
            Output::Broken(why) => Some(why),
        };
        let (text, truncated_bytes) = tail.text();
        let (bytes, lines) = (tail.bytes(), tail.lines());
        Logs { tail: text, bytes, lines, truncated_bytes, unavailable: missing.or(broken), ..Logs::default() }
    }
}
