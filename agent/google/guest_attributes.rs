//! Guest attributes: how the run is going, where people outside can read it without an open port.
//!
//! `gcloud compute instances get-guest-attributes VM --query-path=longrun/` shows them. They are a courtesy: a task
//! of its own writes what is latest when it may, nobody waits for what it misses, and the first refusal ends it.
//!
//! Source: FACTS, "Metadata server"; cloud.google.com/compute/docs/metadata/manage-guest-attributes.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use super::Metadata;
use crate::{
    http,
    progress::{Phase, Progress, Watcher},
    report::Report,
};

/// From one heartbeat to the next one; what could not be written is tried again with it.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// A server that is asked for more may drop what it has (FACTS).
const MOST_IN_A_MINUTE: usize = 10;
/// Of these; the others are for the end.
const MOST_BEFORE_THE_END: usize = 6;
const MINUTE: Duration = Duration::from_secs(60);
/// Between two writes: what passes faster is not seen by anybody.
const SPACING: Duration = Duration::from_millis(350);
/// For the last writes, once the report is out.
const LAST_WRITES: Duration = Duration::from_secs(2);
/// Of the report. A value has 256 KB at most (FACTS), and people read this one.
const MOST_REPORT_BYTES: usize = 128 << 10;

/// What is put up.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Status {
    phase: &'static str,
    attempt: u32,
    report: Option<Arc<str>>,
    /// Whether nothing else is to come.
    is_last: bool,
}

/// Where a run's status is put up. Putting it up never waits.
#[derive(Debug)]
pub(crate) struct Board {
    latest: watch::Sender<Status>,
    writing: Option<JoinHandle<()>>,
}

impl Board {
    /// A board on that metadata server; without one, nobody sees it.
    pub(crate) fn new(metadata: Option<Metadata>) -> Self {
        let ordered = Status { phase: "ordered", attempt: 1, report: None, is_last: false };
        let (latest, status) = watch::channel(ordered);
        Self { latest, writing: metadata.map(|metadata| tokio::spawn(write(metadata, status))) }
    }

    /// A watcher that puts every phase up, beside what another one does.
    pub(crate) fn watching(&self, watcher: &Watcher) -> Watcher {
        let (latest, watcher) = (self.latest.clone(), Arc::clone(watcher));
        Arc::new(move |progress| {
            if let Progress::Phase(phase) = progress {
                latest.send_modify(|status| status.phase = word(phase));
            }
            watcher(progress);
        })
    }

    /// The attempt that the run is at, from one.
    pub(crate) fn attempt(&self, attempt: u32) {
        self.latest.send_modify(|status| status.attempt = attempt);
    }

    /// The run's end, which is about to be told.
    pub(crate) fn report(&self, report: &Report) {
        if self.writing.is_some() {
            let report = String::from_utf8_lossy(&report.body_under(MOST_REPORT_BYTES)).into();
            self.latest.send_modify(|status| status.report = Some(report));
        }
    }

    /// Gives the last writes a moment.
    pub(crate) async fn close(self) {
        self.latest.send_modify(|status| status.is_last = true);
        if let Some(writing) = self.writing {
            let abort = writing.abort_handle();
            if timeout(LAST_WRITES, writing).await.is_err() {
                abort.abort();
            }
        }
    }
}

fn word(phase: Phase<'_>) -> &'static str {
    match phase {
        Phase::Ordered { .. } => "ordered",
        Phase::Pulling { .. } => "pulling",
        Phase::Running { .. } => "running",
        Phase::Stopping { .. } => "stopping",
        Phase::Ended { .. } => "ended",
        Phase::Reported => "reported",
    }
}

/// Writes what is latest until nothing else is to come, or the server does not want it.
async fn write(metadata: Metadata, mut latest: watch::Receiver<Status>) {
    let mut writer = Writer::new();
    loop {
        let status = latest.borrow_and_update().clone();
        let wait_until = match writer.next(&status, Instant::now()) {
            Next::Write(key, value) => match metadata.set_guest_attribute(key, value.to_string()).await {
                Ok(()) => continue,
                Err(error) if error.is_transient() => {
                    tracing::debug!(error = http::chain(&error), key, "a guest attribute was not written");
                    writer.missed = true;
                    continue;
                }
                Err(error) => {
                    tracing::info!(error = http::chain(&error), "the run is not shown in guest attributes");
                    return;
                }
            },
            Next::Wait(until) => until,
            Next::Done => return,
        };
        tokio::select! {
            changed = latest.changed() => if changed.is_err() { return },
            () = sleep_until(wait_until) => {}
        }
    }
}

/// Decides what is written, and when.
struct Writer {
    /// The last value of each key.
    written: BTreeMap<&'static str, Arc<str>>,
    /// Whether one of them did not get there.
    missed: bool,
    /// When the last writes were.
    times: VecDeque<Instant>,
    heartbeat: Arc<str>,
    next_heartbeat: Instant,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// This key gets this value.
    Write(&'static str, Arc<str>),
    /// Nothing until then, if nothing changes.
    Wait(Instant),
    /// Nothing any more.
    Done,
}

impl Writer {
    fn new() -> Self {
        Self {
            written: BTreeMap::new(),
            missed: false,
            times: VecDeque::with_capacity(MOST_IN_A_MINUTE),
            heartbeat: Arc::default(),
            next_heartbeat: Instant::now(),
        }
    }

    fn next(&mut self, status: &Status, now: Instant) -> Next {
        self.beat(now);
        let unwritten =
            self.values(status).into_iter().find(|(key, value)| self.written.get(key) != Some(value));
        match (unwritten, self.free_at(status)) {
            (None, _) if status.is_last => Next::Done,
            (None, _) => Next::Wait(self.next_heartbeat),
            (Some(_), Some(free_at)) if free_at > now => Next::Wait(free_at),
            (Some((key, value)), _) => {
                self.written.insert(key, Arc::clone(&value));
                self.times.truncate(MOST_IN_A_MINUTE - 1);
                self.times.push_front(now);
                Next::Write(key, value)
            }
        }
    }

    fn beat(&mut self, now: Instant) {
        if now < self.next_heartbeat {
            return;
        }
        self.heartbeat = humantime::format_rfc3339_seconds(SystemTime::now()).to_string().into();
        self.next_heartbeat = now + HEARTBEAT;
        match std::mem::take(&mut self.missed) {
            true => self.written.clear(),
            false => _ = self.written.remove("heartbeat"),
        }
    }

    /// What should be there; what matters most comes first.
    fn values(&self, status: &Status) -> Vec<(&'static str, Arc<str>)> {
        let report = status.report.iter().map(|report| ("report", Arc::clone(report)));
        let others = [
            ("phase", status.phase.into()),
            ("attempt", status.attempt.to_string().into()),
            ("heartbeat", Arc::clone(&self.heartbeat)),
        ];
        report.chain(others).collect()
    }

    /// When the next write may be.
    fn free_at(&self, status: &Status) -> Option<Instant> {
        let most = if status.report.is_some() { MOST_IN_A_MINUTE } else { MOST_BEFORE_THE_END };
        let spaced = self.times.front().map(|last| *last + SPACING);
        let within_a_minute = self.times.get(most - 1).map(|old| *old + MINUTE);
        spaced.max(within_a_minute)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_latest_is_written_once_and_then_a_heartbeat_a_minute() {
        let (mut writer, start) = (Writer::new(), Instant::now());
        let running = status("running");
        let first = writes(&mut writer, &running, start, Duration::from_secs(59));
        assert_eq!(first, ["phase running", "attempt 1", "heartbeat"]);
        let later = writes(&mut writer, &running, start + MINUTE, Duration::from_secs(599));
        assert_eq!(later, ["heartbeat"; 10]);
    }

    #[test]
    fn however_much_happens_ten_writes_a_minute_are_the_most_and_the_end_has_its_share() {
        let (mut writer, start) = (Writer::new(), Instant::now());
        let mut running = status("running");
        let mut count = 0;
        for second in 0..50 {
            running.attempt += 1;
            let at = start + Duration::from_secs(second);
            count += writes(&mut writer, &running, at, Duration::from_millis(999)).len();
        }
        assert_eq!(count, MOST_BEFORE_THE_END);
        let end = Status { report: Some("{}".into()), ..status("ended") };
        let at_end = writes(&mut writer, &end, start + Duration::from_secs(50), Duration::from_secs(2));
        assert_eq!(at_end, ["report {}", "phase ended", "attempt 1"]);
        let told = Status { is_last: true, phase: "reported", ..end };
        let at_last = writes(&mut writer, &told, start + Duration::from_secs(52), Duration::from_secs(2));
        assert_eq!(at_last, ["phase reported"]);
        assert_eq!(writer.next(&told, start + Duration::from_secs(54)), Next::Done);
    }

    #[test]
    fn what_was_missed_is_written_again_with_the_next_heartbeat() {
        let (mut writer, start) = (Writer::new(), Instant::now());
        let running = status("running");
        assert_eq!(writes(&mut writer, &running, start, Duration::from_secs(2)).len(), 3);
        writer.missed = true;
        assert!(writes(&mut writer, &running, start, Duration::from_secs(58)).is_empty());
        let again = writes(&mut writer, &running, start + HEARTBEAT, Duration::from_secs(2));
        assert_eq!(again, ["phase running", "attempt 1", "heartbeat"]);
    }

    fn status(phase: &'static str) -> Status {
        Status { phase, attempt: 1, report: None, is_last: false }
    }

    /// What is written from a moment on for so long; of heartbeats only that they are.
    fn writes(writer: &mut Writer, status: &Status, from: Instant, within: Duration) -> Vec<String> {
        let (mut now, mut all) = (from, Vec::new());
        loop {
            match writer.next(status, now) {
                Next::Write("heartbeat", time) => {
                    humantime::parse_rfc3339(&time).unwrap();
                    all.push("heartbeat".to_owned());
                }
                Next::Write(key, value) => all.push(format!("{key} {value}")),
                Next::Wait(until) if until <= from + within => now = until,
                Next::Wait(_) | Next::Done => return all,
            }
        }
    }
}
