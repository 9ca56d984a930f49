//! Cloud Logging: lines are written as entries where they are read, and sent in batches by a task of their own.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::Notify,
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{
    marks::{Marks, MarksFile, Place},
    queue::{About, Batch, Next, Queue},
};
use crate::{
    backoff,
    google::{LogWriter, Written},
    logs::{EntryWriter, LONGEST, Line, Lines},
    progress::Stream,
};

/// Between two tries to send a batch.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// The same once the job ended and its report waits.
const LAST_DELAY: Duration = Duration::from_millis(500);
/// For a role that was granted just now: IAM takes minutes to spread it.
const FORBIDDEN: Duration = Duration::from_secs(10 * 60);

/// An attempt's log on its way to Cloud Logging.
pub(super) struct CloudLogging {
    out: Lines,
    err: Lines,
    entries: Entries,
    /// The task that sends them; it ends with this.
    sender: JoinSet<()>,
}

/// What becomes of lines.
struct Entries {
    writer: EntryWriter,
    out: Place,
    err: Place,
    queue: Arc<SharedQueue>,
}

/// When a piece was read: for people, and for the queue.
type ReadAt = (SystemTime, Instant);

impl CloudLogging {
    /// Sends what is pushed, and was not sent by an agent before this one.
    pub(super) fn open(writer: LogWriter, marks: MarksFile, run_id: &str, attempt: u32) -> Self {
        let known = marks.read();
        let queue = Arc::<SharedQueue>::default();
        let mut sender = JoinSet::new();
        sender
            .spawn(Sender { writer, marks, queue: Arc::clone(&queue), warned: false, forbidden: None }.run());
        let writer = EntryWriter::new(run_id, attempt);
        let (out, err) = (Place::after(known.out), Place::after(known.err));
        let entries = Entries { writer, out, err, queue };
        Self { out: Lines::new(LONGEST), err: Lines::new(LONGEST), entries, sender }
    }

    /// Takes a piece of a stream without waiting.
    pub(super) fn push(&mut self, stream: Stream, piece: &[u8]) {
        let at = (SystemTime::now(), Instant::now());
        let lines = match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        };
        lines.push(piece, |line| self.entries.take(stream, line, at));
    }

    /// Sends the rest, for so long; answers what is missing.
    pub(super) async fn finish(mut self, within: Duration) -> Option<String> {
        let at = (SystemTime::now(), Instant::now());
        self.out.finish(|line| self.entries.take(Stream::Out, line, at));
        self.err.finish(|line| self.entries.take(Stream::Err, line, at));
        self.entries.close(at);
        // What is not known to be sent by then is missing.
        let _ = timeout(within, self.sender.join_next()).await;
        let missing = self.entries.queue.lock().missing();
        if let Some(missing) = &missing {
            tracing::warn!("{missing}");
        }
        missing
    }
}

impl Entries {
    fn take(&mut self, stream: Stream, line: Line<'_>, at: ReadAt) {
        let place = match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        };
        // An empty line has nothing to be found by.
        let Some(line) = place.locate(line).filter(|line| !line.text.is_empty()) else { return };
        let marks = Marks { out: self.out.mark(), err: self.err.mark() };
        let mut queue = self.queue.lock();
        if queue.has_room() {
            let told = note_gap(&mut queue, &mut self.writer, marks, at);
            let write = |to: &mut Vec<u8>| self.writer.write_line(to, stream, &line, at.0);
            if queue.push(About::Line, marks, at.1, write) || told {
                self.queue.news.notify_one();
            }
        }
    }

    fn close(&mut self, at: ReadAt) {
        let marks = Marks { out: self.out.mark(), err: self.err.mark() };
        let mut queue = self.queue.lock();
        if !queue.is_closing() {
            note_gap(&mut queue, &mut self.writer, marks, at);
        }
        queue.close();
        self.queue.news.notify_one();
    }
}

/// Says in the log's place that lines are missing there; answers as [`Queue::push`].
fn note_gap(queue: &mut Queue, writer: &mut EntryWriter, marks: Marks, at: ReadAt) -> bool {
    let Some(lines) = queue.take_gap() else { return false };
    let note = format!(
        "longrun-agent: {lines} lines are missing here: the job wrote them faster than they were sent"
    );
    queue.push(About::Log, marks, at.1, |to| writer.write_note(to, &note, at.0))
}

/// What the reader fills and the sender empties.
#[derive(Default)]
struct SharedQueue {
    queue: Mutex<Queue>,
    /// There is something to send, or there will be nothing more.
    news: Notify,
}

impl SharedQueue {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch, once there is one; `None` if there will be none.
    async fn batch(&self) -> Option<Batch> {
        loop {
            let next = self.lock().next(Instant::now());
            match next {
                Next::Batch(batch) => return Some(batch),
                Next::Over => return None,
                Next::Nothing => self.news.notified().await,
                // Either end of the wait is a reason to look again.
                Next::At(time) => drop(timeout_at(time, self.news.notified()).await),
            }
        }
    }

    /// Returns at this time, or as soon as nothing more comes.
    async fn pause(&self, until: Instant) {
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                () = self.news.notified() => if self.lock().is_closing() { return },
            }
        }
    }
}

/// Sends batch after batch.
struct Sender {
    writer: LogWriter,
    marks: MarksFile,
    queue: Arc<SharedQueue>,
    /// Whether it was told that Cloud Logging does not take them.
    warned: bool,
    /// Since when this account must not write.
    forbidden: Option<Instant>,
}

impl Sender {
    async fn run(mut self) {
        while let Some(batch) = self.queue.batch().await {
            self.deliver(batch).await;
        }
    }

    /// Tries until it is known what becomes of the batch.
    async fn deliver(&mut self, batch: Batch) {
        let mut delays = backoff::delays(FIRST_DELAY, LONGEST_DELAY);
        loop {
            let written = self.writer.write(&batch.entries).await;
            self.note(&written);
            let retry_after = match written {
                Written::All => return self.settle(&batch, 0).await,
                Written::AllBut(refused, _) => return self.settle(&batch, refused).await,
                Written::None(_) => return self.settle(&batch, batch.lines()).await,
                Written::Forbidden(_) if !self.is_patient() => return self.queue.lock().turn_off(),
                Written::Forbidden(_) => None,
                Written::NotYet(_, retry_after) => retry_after,
            };
            let delay = delays.next().unwrap_or(LONGEST_DELAY).max(retry_after.unwrap_or_default());
            let is_last = self.queue.lock().is_closing();
            self.queue.pause(Instant::now() + if is_last { LAST_DELAY } else { delay }).await;
        }
    }

    /// Warns once, until it goes well again.
    fn note(&mut self, written: &Written) {
        let Some(why) = written.why() else {
            self.warned = false;
            return;
        };
        if !self.warned {
            tracing::warn!(why, "Cloud Logging does not take the job's lines");
            self.warned = true;
        }
        self.queue.lock().note(why.to_owned());
    }

    /// Whether a 403 may still pass.
    fn is_patient(&mut self) -> bool {
        let since = *self.forbidden.get_or_insert_with(Instant::now);
        !self.queue.lock().is_closing() && since.elapsed() < FORBIDDEN
    }

    /// Cloud Logging decided on a batch.
    async fn settle(&mut self, batch: &Batch, refused: u64) {
        self.forbidden = None;
        self.queue.lock().settle(batch, refused);
        let (file, marks) = (self.marks.clone(), batch.marks);
        let written = spawn_blocking(move || file.write(marks)).await;
        if let Err(error) = written.map_err(std::io::Error::other).flatten() {
            tracing::debug!(%error, "how far the log is in Cloud Logging is not written down");
        }
    }
}
