//! The job's output on its way from the Engine into the tail, whatever happens to its stream.
//!
//! It is attached to while all goes well, which costs little and misses nothing. What an attached connection
//! that breaks (Docker restarts) or an agent that is killed missed is read from the log that the Engine
//! keeps: from its beginning, without what was taken before. Where the Engine drops the beginning of a long
//! log, it is read from the moment of the break on, and where it keeps none, the container is attached to
//! once more; the report says then what may be missing.
//!
//! Leaves out the wire, which is `engine::output`'s.

use std::{
    ops::ControlFlow,
    time::{Duration, SystemTime},
};

use reqwest::StatusCode;
use tokio::{sync::oneshot, task::JoinHandle, time::Instant};

use super::patience::Patience;
use crate::{
    backoff,
    engine::{Container, EngineError, LogConfig, Output, OutputReader, patiently},
    http,
    logs::{Redaction, Redactor, Replay, Tail},
    progress::{Progress, Stream, Watcher},
    report::Logs,
    sinks::Sinks,
};

/// A log that ends so long before the job was cut off; the two ends of a good one come together.
const EARLY: Duration = Duration::from_secs(1);
/// Between two readings of the Engine's log.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// For the sinks to take what they have not yet; the report waits for it.
const FLUSH: Duration = Duration::from_secs(5);
/// The same where there is no time left: one request more.
const SHORTEST_FLUSH: Duration = Duration::from_secs(1);

/// Whose output it is, and how it is read.
#[derive(Debug)]
pub(crate) struct OutputOf {
    /// The job's container.
    pub(crate) container: Container,
    /// Whether it has a terminal.
    pub(crate) tty: bool,
    /// How many of the last bytes are kept.
    pub(crate) tail: usize,
    /// What of it must not leave the VM.
    pub(crate) redaction: Redaction,
    /// Longest absence of the Engine.
    pub(crate) engine: Duration,
}

/// A container's output on its way into the tail.
#[derive(Debug)]
pub(crate) struct OutputTask {
    task: JoinHandle<Logs>,
    /// Tells the task that the job ended, and until when it may read.
    job_ended: oneshot::Sender<Instant>,
}

impl OutputTask {
    /// Reads on from now, in a task of its own: nothing else may keep the reader from its socket.
    pub(crate) fn attached(reader: OutputReader, of: OutputOf, sinks: Sinks, watcher: &Watcher) -> Self {
        Self::spawn(Some(reader), of, sinks, watcher)
    }

    /// Reads the log of a job that was started before, running or not, from the beginning.
    pub(crate) fn taking_over(of: OutputOf, sinks: Sinks, watcher: &Watcher) -> Self {
        Self::spawn(None, of, sinks, watcher)
    }

    fn spawn(reader: Option<OutputReader>, of: OutputOf, sinks: Sinks, watcher: &Watcher) -> Self {
        let (job_ended, seen) = oneshot::channel();
        let taken = Taken::new(&of, sinks, Watcher::clone(watcher));
        let follower = Follower { of, taken, patience: Patience::new(seen), kept: None, broke_at: None };
        Self { task: tokio::spawn(follower.follow(reader)), job_ended }
    }

    /// What was read, now that the job ended. What does not come `within` this time, or after a silence of
    /// ten seconds, is told as missing.
    pub(crate) async fn finish(self, within: Duration) -> Logs {
        // A task that gave up does not listen.
        let _ = self.job_ended.send(Instant::now() + within);
        self.task
            .await
            .unwrap_or_else(|error| Logs { unavailable: Some(error.to_string()), ..Logs::default() })
    }
}

/// Reads to the end of the log, from one stream after the other.
struct Follower {
    of: OutputOf,
    taken: Taken,
    patience: Patience,
    /// The Engine's own log, once it was asked for.
    kept: Option<Kept>,
    /// When a stream broke for the first time; never if the first one was the Engine's own log.
    broke_at: Option<SystemTime>,
}

impl Follower {
    async fn follow(mut self, attached: Option<OutputReader>) -> Logs {
        let missing = self.read_to_the_end(attached).await.err();
        let unavailable = missing.or_else(|| self.doubt());
        let (logs, sinks) = self.taken.finish();
        let flush = self.patience.left(FLUSH).clamp(SHORTEST_FLUSH, FLUSH);
        let unsent = sinks.finish(flush).await;
        let unavailable = [unavailable, unsent].into_iter().flatten().reduce(|both, one| both + "; " + &one);
        Logs { unavailable, ..logs }
    }

    /// `Err` says why the rest is missing.
    async fn read_to_the_end(&mut self, attached: Option<OutputReader>) -> Result<(), String> {
        let mut pauses = backoff::delays(SHORTEST_PAUSE, LONGEST_PAUSE);
        let mut reader = match attached {
            Some(reader) => reader,
            None => self.reopen(None).await?,
        };
        loop {
            let began_late = self.patience.job_ends_within(Duration::ZERO).await;
            let output = self.read(reader).await?;
            let broke_at = SystemTime::now();
            let why = match output {
                // The Engine's log must not be read at the ordinary end of a job: a long one costs it minutes.
                Output::Closed if self.patience.job_ends_within(EARLY).await => match self.kept {
                    // Who reads it while the job ends may be cut short, and is not told (seen on 20.10).
                    Some(Kept::Whole(_) | Kept::Rest(_)) if !began_late => {
                        reader = self.reopen(None).await?;
                        continue;
                    }
                    _ => return Ok(()),
                },
                Output::Closed => "the log stream ended before the job did".to_owned(),
                Output::Broken(why) => why,
            };
            tracing::warn!(why, "reading on from the Engine's own log");
            self.broke_at.get_or_insert(broke_at);
            self.patience.pause(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
            reader = self.reopen(Some(broke_at)).await?;
        }
    }

    /// Reads one stream to its end; `Err` if it does not come to it in time.
    async fn read(&mut self, mut reader: OutputReader) -> Result<Output, String> {
        let Self { taken, patience, .. } = self;
        let mut take = |stream: Stream, piece: &[u8]| taken.take(stream, piece);
        loop {
            // In no order: a stream that never pauses must see the end of patience too.
            tokio::select! {
                read = reader.read(&mut take) => match read {
                    ControlFlow::Continue(()) => patience.heard(),
                    ControlFlow::Break(output) => return Ok(output),
                },
                () = patience.over() => return Err(too_late()),
            }
        }
    }

    /// Opens the next stream.
    async fn reopen(&mut self, broke_at: Option<SystemTime>) -> Result<OutputReader, String> {
        let Self { of, taken, patience, .. } = self;
        let reopened = tokio::select! {
            reopened = of.reopen(broke_at, taken) => reopened,
            () = patience.over() => return Err(too_late()),
        };
        let (reader, kept) = reopened.map_err(|error| http::chain(&error))?;
        match kept {
            Kept::Whole(_) => taken.replay.start_over(),
            Kept::Rest(_) | Kept::Nothing(_) => taken.replay.go_on(),
        }
        self.kept = Some(kept);
        Ok(reader)
    }

    /// What is not certain of a log that was read to its end.
    fn doubt(&self) -> Option<String> {
        let why = match self.kept.as_ref()? {
            Kept::Nothing(why) => {
                format!("what the job wrote until it was listened to again is not here: {why}")
            }
            Kept::Whole(config) | Kept::Rest(config) if !self.taken.is_kept_by(config) => format!(
                "lines may be missing or repeated, because the Engine's own log (driver {}) does not surely \
                 have all of them",
                config.driver
            ),
            Kept::Whole(_) | Kept::Rest(_) if self.taken.replay.is_exact() => return None,
            Kept::Whole(_) | Kept::Rest(_) => "where it did, lines may be missing or repeated".to_owned(),
        };
        Some(match self.broke_at.map(humantime::format_rfc3339_millis) {
            Some(moment) => format!("the log stream broke, first at {moment}; {why}"),
            None => format!("the job was taken over; {why}"),
        })
    }
}

/// What the Engine has of a log that is not attached to any more.
enum Kept {
    /// All of it, so that it is read from its beginning.
    Whole(LogConfig),
    /// Its end, so that it is read from the moment on at which the last stream broke.
    Rest(LogConfig),
    /// Nothing that can be read, and why.
    Nothing(String),
}

impl OutputOf {
    /// The Engine's log; or the output from now on, if the Engine cannot read what its log driver writes.
    async fn reopen(
        &self,
        broke_at: Option<SystemTime>,
        taken: &Taken,
    ) -> Result<(OutputReader, Kept), EngineError> {
        let Self { container, tty, engine, .. } = self;
        let config = patiently(*engine, EngineError::may_pass, || container.log_config()).await?;
        let since = broke_at.filter(|_| !taken.is_kept_by(&config));
        let kept = if since.is_some() { Kept::Rest } else { Kept::Whole };
        let unreadable = match patiently(*engine, may_be_read_later, || container.logs(*tty, since)).await {
            Ok(reader) => return Ok((reader, kept(config))),
            Err(error) if is_unreadable(&error) => error,
            Err(error) => return Err(error),
        };
        // To a container that has ended the stream would stay open.
        if !super::state_in(container, *engine).await?.running {
            return Err(unreadable);
        }
        let reader = patiently(*engine, EngineError::is_away, || container.attach(*tty)).await?;
        Ok((reader, Kept::Nothing(http::chain(&unreadable))))
    }
}

/// Everything that was taken so far.
struct Taken {
    replay: Replay,
    redactor: Redactor,
    shown: Shown,
}

impl Taken {
    fn new(of: &OutputOf, sinks: Sinks, watcher: Watcher) -> Self {
        let shown = Shown { tail: Tail::new(of.tail), sinks, watcher };
        Self { replay: Replay::default(), redactor: Redactor::new(&of.redaction), shown }
    }

    fn take(&mut self, stream: Stream, piece: &[u8]) {
        let fresh = self.replay.fresh(stream, piece);
        if !fresh.is_empty() {
            let Self { redactor, shown, .. } = self;
            shown.tail.count(fresh);
            redactor.read(stream, fresh, |piece| shown.show(stream, piece));
        }
    }

    fn is_kept_by(&self, config: &LogConfig) -> bool {
        config.keeps(self.shown.tail.bytes(), self.shown.tail.lines())
    }

    /// What there is, and the sinks, which may have more to send.
    fn finish(self) -> (Logs, Sinks) {
        let Self { mut redactor, mut shown, .. } = self;
        redactor.finish(|stream, piece| shown.show(stream, piece));
        let Shown { tail, sinks, .. } = shown;
        let (text, truncated_bytes) = tail.text();
        let (bytes, lines) = (tail.bytes(), tail.lines());
        (Logs { tail: text, bytes, lines, truncated_bytes, ..Logs::default() }, sinks)
    }
}

/// Where everything goes that may leave the VM.
struct Shown {
    tail: Tail,
    sinks: Sinks,
    watcher: Watcher,
}

impl Shown {
    fn show(&mut self, stream: Stream, piece: &[u8]) {
        self.tail.keep(piece);
        self.sinks.push(stream, piece);
        (self.watcher)(Progress::Output(stream, piece));
    }
}

fn too_late() -> String {
    "the rest of the log did not come in time after the job's end".to_owned()
}

fn may_be_read_later(error: &EngineError) -> bool {
    error.may_pass() && !is_unreadable(error)
}

/// Whether it is the Engine's answer for a log driver such as `none`, which keeps nothing or cannot read it.
fn is_unreadable(error: &EngineError) -> bool {
    error.status() == Some(StatusCode::NOT_IMPLEMENTED)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        os::unix::net::UnixListener,
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering::Relaxed},
        },
    };

    use tokio::task::spawn_blocking;

    use super::*;
    use crate::{allocations::allocations, engine::Engine, settings::DockerHost};

    /// With a secret in every second one, and something like it in another. The last one leaves nothing to be held back.
    const LINES: &[u8] =
        b"a line\nit is hunter2\nit is hunter, and no more\n{\"key\":\"hunter2\",\"step\":1}\n";
    const WHOLE: usize = 5000 * LINES.len();
    /// When so much is shown, all buffers are as large as they get.
    const WARM: u64 = 100_000;

    /// From the Engine's socket to whoever watches, counted, redacted and kept.
    #[tokio::test]
    async fn following_a_log_of_small_pieces_allocates_nothing() {
        for size in [1, 100] {
            let folder = tempfile::tempdir().unwrap();
            let socket = folder.path().join("docker.sock");
            let listener = UnixListener::bind(&socket).unwrap();
            let serving = spawn_blocking(move || serve(&listener, size));
            let engine = Engine::connect(&DockerHost::Unix(socket), Duration::ZERO).await.unwrap();
            let container = engine.container("id");
            let reader = container.attach(false).await.unwrap();

            let seen = Arc::<Seen>::default();
            let (tail, redaction) = (32 << 10, redaction());
            let of = OutputOf { container, tty: false, tail, redaction, engine: Duration::ZERO };
            let reading = OutputTask::attached(reader, of, Sinks::default(), &seen.clone().watcher());
            serving.await.unwrap();
            let logs = reading.finish(Duration::from_secs(60)).await;

            assert_eq!((logs.bytes, logs.unavailable), (WHOLE as u64, None), "pieces of {size}");
            assert!(logs.tail.contains("it is [REDACTED:KEY]\nit is hunter, and"), "{}", logs.tail);
            assert_eq!(seen.allocations(), 0, "pieces of {size}");
        }
    }

    /// Without a socket, which cuts pieces where it likes.
    #[test]
    fn taking_large_pieces_allocates_nothing() {
        let text: Vec<_> = LINES.iter().copied().cycle().take(WHOLE).collect();
        for size in [1000, 16 << 10, WHOLE] {
            let shown =
                Shown { tail: Tail::new(32 << 10), sinks: Sinks::default(), watcher: Arc::new(|_| {}) };
            let redactor = Redactor::new(&redaction());
            let mut taken = Taken { replay: Replay::default(), redactor, shown };
            let mut take_all = || text.chunks(size).for_each(|piece| taken.take(Stream::Out, piece));
            // The same once before: buffers become as large as they get.
            take_all();
            let before = allocations();
            take_all();
            assert_eq!(allocations() - before, 0, "pieces of {size}");
            assert_eq!(taken.shown.tail.bytes(), 2 * WHOLE as u64);
        }
    }

    fn redaction() -> Redaction {
        Redaction::of([("KEY", "hunter2")])
    }

    /// How much was shown, and how much was allocated until it was warm, and until the last piece.
    #[derive(Default)]
    struct Seen {
        shown: AtomicU64,
        warm: AtomicU64,
        last: AtomicU64,
    }

    impl Seen {
        fn watcher(self: Arc<Self>) -> Watcher {
            Arc::new(move |progress| {
                let Progress::Output(_, piece) = progress else { return };
                if self.shown.fetch_add(piece.len() as u64, Relaxed) < WARM {
                    self.warm.store(allocations(), Relaxed);
                }
                self.last.store(allocations(), Relaxed);
            })
        }

        /// How many there were since then.
        fn allocations(&self) -> u64 {
            assert!(self.shown.load(Relaxed) > 3 * WARM);
            self.last.load(Relaxed) - self.warm.load(Relaxed)
        }
    }

    /// An Engine with one container, which writes pieces of this size.
    fn serve(listener: &UnixListener, size: usize) {
        let answers = [
            "200 OK\r\nApi-Version: 1.44\r\nContent-Length: 0\r\nConnection: close",
            "101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp",
        ];
        let mut last = None;
        for answer in answers {
            let socket = listener.accept().unwrap().0;
            let head =
                BufReader::new(&socket).lines().map(Result::unwrap).take_while(|line| !line.is_empty());
            assert!(head.count() > 1);
            write!(&socket, "HTTP/1.1 {answer}\r\n\r\n").unwrap();
            last = Some(socket);
        }
        let text: Vec<_> = LINES.iter().copied().cycle().take(WHOLE).collect();
        let mut wire = Vec::new();
        for piece in text.chunks(size) {
            wire.extend_from_slice(&[1, 0, 0, 0]);
            wire.extend_from_slice(&u32::try_from(piece.len()).unwrap().to_be_bytes());
            wire.extend_from_slice(piece);
        }
        last.unwrap().write_all(&wire).unwrap();
    }
}
