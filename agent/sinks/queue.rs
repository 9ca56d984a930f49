//! Entries that wait for Cloud Logging: bounded, and in batches. Pure: whoever asks brings the time.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::marks::Marks;

/// Of a batch: as many as Google's client libraries for Go and Java send at once, and a tenth of what a request may
/// have (FACTS).
const MOST_ENTRIES: usize = 1000;
const MOST_BYTES: usize = 1 << 20;
/// For a batch to fill.
const OLDEST: Duration = Duration::from_secs(1);
/// Of everything that waits: some seconds of a job that prints as fast as Cloud Logging takes it.
const MOST_WAITING: usize = 8 << 20;

/// What waits, and what became of the rest.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    batches: VecDeque<Batch>,
    /// Bytes of all entries that wait or are under way.
    bytes: usize,
    /// Lines of all entries that wait or are under way.
    unsettled: u64,
    /// Lines that Cloud Logging will not have.
    lost: u64,
    /// Those of them that were lost since a line had room.
    gap: u64,
    /// Why they were lost, by what came last.
    why: Option<String>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Nothing more comes.
    Closing,
    /// Nothing more is sent.
    Off,
}

/// Entries that are sent together.
#[derive(Debug)]
pub(crate) struct Batch {
    /// As JSON, with commas between them.
    pub(crate) entries: Vec<u8>,
    /// How far the streams are sent with this.
    pub(crate) marks: Marks,
    lines: u64,
    count: usize,
    begun: Instant,
}

/// What to send next.
#[derive(Debug)]
pub(crate) enum Next {
    /// This.
    Batch(Batch),
    /// Something, at this time at the latest.
    At(Instant),
    /// Nothing so far.
    Nothing,
    /// Nothing, and there will be nothing.
    Over,
}

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// A line.
    Line,
    /// The log.
    Log,
}

impl Queue {
    /// Whether one more line can wait. If not, it is counted.
    pub(crate) fn has_room(&mut self) -> bool {
        let has_room = self.bytes < MOST_WAITING && self.state != State::Off;
        if !has_room {
            self.lost += 1;
            self.gap += 1;
        }
        has_room
    }

    /// How many lines were lost since this was asked.
    pub(crate) fn take_gap(&mut self) -> Option<u64> {
        let gap = std::mem::take(&mut self.gap);
        (gap > 0).then_some(gap)
    }

    /// Adds an entry, written by `write`; with it the streams are sent as far as `marks`. Answers whether there
    /// is something new to be done.
    pub(crate) fn push(
        &mut self,
        about: About,
        marks: Marks,
        now: Instant,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        let begins = self.batches.back().is_none_or(Batch::is_full);
        if begins {
            self.batches.push_back(Batch { entries: Vec::new(), marks, lines: 0, count: 0, begun: now });
        }
        let batch = self.batches.back_mut().expect("one was pushed if there was none");
        let before = batch.entries.len();
        if before > 0 {
            batch.entries.push(b',');
        }
        write(&mut batch.entries);
        self.bytes += batch.entries.len() - before;
        batch.count += 1;
        batch.marks = marks;
        if about == About::Line {
            batch.lines += 1;
            self.unsettled += 1;
        }
        begins || batch.is_full()
    }

    /// What to send now.
    pub(crate) fn next(&mut self, now: Instant) -> Next {
        let Some(first) = self.batches.front() else {
            return if self.state == State::Open { Next::Nothing } else { Next::Over };
        };
        let ripe = first.begun + OLDEST;
        if self.is_closing() || first.is_full() || now >= ripe {
            return self.batches.pop_front().map_or(Next::Nothing, Next::Batch);
        }
        Next::At(ripe)
    }

    /// A batch is under way no more. So many of its entries were refused.
    pub(crate) fn settle(&mut self, batch: &Batch, refused: u64) {
        self.bytes -= batch.entries.len();
        self.unsettled -= batch.lines;
        self.lost += refused.min(batch.lines);
    }

    /// Why entries are not taken.
    pub(crate) fn note(&mut self, why: String) {
        self.why = Some(why);
    }

    /// Nothing more comes.
    pub(crate) fn close(&mut self) {
        if self.state == State::Open {
            self.state = State::Closing;
        }
    }

    /// Whether nothing more comes.
    pub(crate) fn is_closing(&self) -> bool {
        self.state != State::Open
    }

    /// Nothing more is sent: all that waits or comes is lost.
    pub(crate) fn turn_off(&mut self) {
        let (lost, why) = (self.lost + self.unsettled, self.why.take());
        *self = Self { lost, why, state: State::Off, ..Self::default() };
    }

    /// What Cloud Logging does not have, or is not known to, for people.
    pub(crate) fn missing(&self) -> Option<String> {
        let lines = self.lost + self.unsettled;
        let why = match &self.why {
            Some(why) => why,
            None if self.lost > 0 => "it did not take them as fast as the job wrote them",
            None => "it did not answer in time",
        };
        (lines > 0).then(|| format!("{lines} lines are missing in Cloud Logging: {why}"))
    }
}

impl Batch {
    /// Its lines.
    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }

    fn is_full(&self) -> bool {
        self.count >= MOST_ENTRIES || self.entries.len() >= MOST_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_sent_when_it_is_old_or_full() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        assert!(matches!(queue.next(now), Next::Nothing));
        assert!(push(&mut queue, now, 10), "it begins");
        assert!(!push(&mut queue, now, 10));
        assert!(matches!(queue.next(now), Next::At(at) if at == now + OLDEST));
        assert!(matches!(queue.next(now + OLDEST), Next::Batch(batch) if batch.lines == 2));

        for _ in 0..MOST_ENTRIES - 1 {
            push(&mut queue, now, 10);
        }
        assert!(matches!(queue.next(now), Next::At(_)));
        assert!(push(&mut queue, now, 10), "it is full");
        push(&mut queue, now, 10);
        assert!(matches!(queue.next(now), Next::Batch(batch) if batch.lines == 1000));
        assert!(matches!(queue.next(now), Next::At(_)));

        assert!(push(&mut queue, now, MOST_BYTES));
        assert!(matches!(queue.next(now), Next::Batch(batch) if batch.lines == 2));
    }

    #[test]
    fn what_is_left_at_the_end_is_sent_at_once() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        push(&mut queue, now, 10);
        queue.close();
        assert!(matches!(queue.next(now), Next::Batch(_)));
        assert!(matches!(queue.next(now), Next::Over));
    }

    #[test]
    fn entries_have_commas_between_them() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for entry in ["{}", "[]", "1"] {
            queue.push(About::Line, Marks::default(), now, |to| to.extend_from_slice(entry.as_bytes()));
        }
        assert!(matches!(queue.next(now + OLDEST), Next::Batch(batch) if batch.entries == b"{},[],1"));
    }

    #[test]
    fn what_waits_or_is_under_way_is_bounded_and_the_rest_is_counted() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        while queue.has_room() {
            push(&mut queue, now, 100_000);
        }
        assert!(queue.bytes < MOST_WAITING + 100_000);
        assert!(!queue.has_room());
        let Next::Batch(batch) = queue.next(now) else { panic!("a full batch") };
        assert!(!queue.has_room(), "it is under way");
        queue.settle(&batch, 0);
        assert_eq!(queue.take_gap(), Some(3));
        assert_eq!(queue.take_gap(), None);
        assert!(queue.has_room());
        queue.unsettled = 0;
        let why = "it did not take them as fast as the job wrote them";
        assert_eq!(queue.missing(), Some(format!("3 lines are missing in Cloud Logging: {why}")));
    }

    #[test]
    fn what_was_refused_or_never_answered_is_missing() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for _ in 0..5 {
            push(&mut queue, now, 10);
        }
        let Next::Batch(batch) = queue.next(now + OLDEST) else { panic!("an old batch") };
        queue.note("400".to_owned());
        queue.settle(&batch, 2);
        assert_eq!(queue.missing(), Some("2 lines are missing in Cloud Logging: 400".to_owned()));
        push(&mut queue, now, 10);
        queue.note("503".to_owned());
        assert_eq!(queue.missing(), Some("3 lines are missing in Cloud Logging: 503".to_owned()));
    }

    #[test]
    fn a_queue_that_is_off_takes_nothing_and_counts_everything() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        push(&mut queue, now, 10);
        queue.note("403".to_owned());
        queue.turn_off();
        assert!(!queue.has_room() && !queue.has_room());
        assert!(matches!(queue.next(now), Next::Over));
        assert_eq!(queue.missing(), Some("3 lines are missing in Cloud Logging: 403".to_owned()));
    }

    #[test]
    fn a_note_is_no_line() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.push(About::Log, Marks::default(), now, |to| to.push(b'1'));
        assert_eq!(queue.missing(), None);
    }

    fn push(queue: &mut Queue, now: Instant, bytes: usize) -> bool {
        queue.push(About::Line, Marks::default(), now, |to| to.resize(to.len() + bytes, b'x'))
    }
}
