//! The log on its way into an object: packed, bounded, and counted. Pure.

use std::{io::Write, mem};

use flate2::{Compression, write::GzEncoder};

use crate::{logs::Replay, progress::Stream};

/// What waits to be uploaded is uploaded when it is so much: a request for it takes no longer than two for half.
const PART: usize = 1 << 20;
/// The most that waits, packed: some 30 MB of a usual log. As much again is under way.
const MOST_WAITING: usize = 4 << 20;

/// Where the log is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The stream that is read anyway.
    Live,
    /// That was too fast, or what was taken is lost: the log that the Engine keeps, from its beginning.
    Kept,
    /// Nothing any more.
    Over,
}

/// The log, as far as it was taken.
pub(super) struct Intake {
    gzip: GzEncoder<Vec<u8>>,
    pub(super) source: Source,
    /// All bytes that were offered, taken or not.
    offered: u64,
    /// How far the log was taken.
    taken: Replay,
    /// How far it was taken when the object began.
    begun: Replay,
    /// Bytes in this object, and in those before it.
    here: u64,
    before: u64,
}

impl Intake {
    pub(super) fn new() -> Self {
        let (taken, begun) = <(Replay, Replay)>::default();
        Self { gzip: gzip(), source: Source::Live, offered: 0, taken, begun, here: 0, before: 0 }
    }

    /// Takes a piece of the live stream, if there is room. Answers whether there is something to be done.
    pub(super) fn offer(&mut self, stream: Stream, piece: &[u8]) -> bool {
        self.offered += piece.len() as u64;
        if self.source == Source::Live {
            match self.waiting() < MOST_WAITING {
                true => self.take(stream, piece),
                false => self.source = Source::Kept,
            }
        }
        self.source != Source::Live || self.is_ready()
    }

    /// Takes what is new of a piece of the log that is read again.
    pub(super) fn take(&mut self, stream: Stream, piece: &[u8]) {
        let fresh = self.taken.fresh(stream, piece);
        self.here += fresh.len() as u64;
        self.gzip.write_all(fresh).expect("memory takes everything");
    }

    /// The log is read from its beginning.
    pub(super) fn start_over(&mut self) {
        self.taken.start_over();
    }

    /// The log cannot be read again: what comes now is taken, and what came meanwhile is missing.
    pub(super) fn go_on_live(&mut self) {
        self.taken.go_on();
        self.source = Source::Live;
    }

    /// What was taken since the object began is lost, and is to be taken again.
    pub(super) fn lose(&mut self) {
        self.gzip = gzip();
        self.here = 0;
        self.taken = self.begun.clone();
        self.source = Source::Kept;
    }

    /// Whether less was taken than was offered.
    pub(super) fn lacks_some(&self) -> bool {
        self.before + self.here < self.offered
    }

    /// Whether a part is full.
    pub(super) fn is_ready(&self) -> bool {
        self.waiting() >= PART
    }

    fn waiting(&self) -> usize {
        self.gzip.get_ref().len()
    }

    /// What waits, packed.
    pub(super) fn drain(&mut self) -> Vec<u8> {
        mem::take(self.gzip.get_mut())
    }

    /// The end of the object, packed.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        mem::replace(&mut self.gzip, gzip()).finish().expect("memory takes everything")
    }

    /// The object is there, and what comes now is of the next one.
    pub(super) fn begin_another(&mut self) {
        self.before += mem::take(&mut self.here);
        self.begun = self.taken.clone();
    }

    /// What is not as it should be in the objects that are there.
    pub(super) fn doubt(&self) -> Option<String> {
        match self.offered.saturating_sub(self.before) {
            0 if self.taken.is_exact() => None,
            0 => Some("lines of it may be missing or repeated".to_owned()),
            missing => Some(format!("{missing} bytes of it are missing")),
        }
    }
}

fn gzip() -> GzEncoder<Vec<u8>> {
    // A training run's log became 1/7 at 84 MB/s; level 9 makes 1/8 of it at 29 MB/s, level 1 1/6 at 156 MB/s.
    GzEncoder::new(Vec::new(), Compression::new(3))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn what_is_taken_is_packed_in_parts_that_make_one_text() {
        let mut intake = Intake::new();
        let (mut object, mut log) = (Vec::new(), Vec::new());
        for line in 0..1000 {
            let line = format!("line {line}\n");
            intake.offer(Stream::Out, line.as_bytes());
            log.extend_from_slice(line.as_bytes());
            object.extend(intake.drain());
        }
        object.extend(intake.finish());
        intake.begin_another();
        assert_eq!(unpacked(&object), log);
        assert_eq!(intake.doubt(), None);
    }

    #[test]
    fn what_finds_no_room_is_read_again_later() {
        let mut intake = Intake::new();
        let (mut sent, mut noise) = (0_u64, Noise(1));
        while intake.source == Source::Live {
            let piece = noise.bytes();
            let news = intake.offer(Stream::Out, &piece);
            sent += 1;
            assert_eq!(news, intake.waiting() >= PART || intake.source == Source::Kept);
            assert!(intake.waiting() <= MOST_WAITING + (64 << 10), "{}", intake.waiting());
        }
        intake.offer(Stream::Err, b"more");
        intake.start_over();
        let (mut log, mut noise) = (Vec::new(), Noise(1));
        for _ in 0..sent {
            let piece = noise.bytes();
            intake.take(Stream::Out, &piece);
            log.extend_from_slice(&piece);
        }
        intake.take(Stream::Err, b"more");
        let object = intake.finish();
        intake.begin_another();
        assert!(unpacked(&object) == [&*log, b"more"].concat());
        assert_eq!(intake.doubt(), None);
    }

    #[test]
    fn an_object_that_is_lost_is_taken_again_from_where_it_began() {
        let mut intake = Intake::new();
        intake.offer(Stream::Out, b"one ");
        assert_eq!(unpacked(&intake.finish()), b"one ");
        intake.begin_another();
        intake.offer(Stream::Out, b"two ");
        intake.lose();
        intake.offer(Stream::Out, b"three ");
        intake.start_over();
        intake.take(Stream::Out, b"one two three ");
        assert_eq!(unpacked(&intake.finish()), b"two three ");
        intake.begin_another();
        assert_eq!(intake.doubt(), None);
    }

    #[test]
    fn what_is_missing_is_counted() {
        let mut intake = Intake::new();
        intake.offer(Stream::Out, b"one ");
        intake.lose();
        intake.go_on_live();
        intake.offer(Stream::Out, b"two ");
        assert_eq!(unpacked(&intake.finish()), b"two ");
        intake.begin_another();
        assert_eq!(intake.doubt().as_deref(), Some("4 bytes of it are missing"));
    }

    fn unpacked(object: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        GzDecoder::new(object).read_to_end(&mut text).unwrap();
        text
    }

    /// Bytes that cannot be packed: xorshift64.
    struct Noise(u64);

    impl Noise {
        fn bytes(&mut self) -> Vec<u8> {
            let mut next = || {
                self.0 ^= self.0 << 13;
                self.0 ^= self.0 >> 7;
                self.0 ^= self.0 << 17;
                self.0.to_le_bytes()
            };
            (0..4096).flat_map(|_| next()).collect()
        }
    }
}
