//! A log that is read once more from its beginning, without what was taken before.

use crate::progress::Stream;

/// As many of the last bytes are compared: lines that differ in a number or a time differ in these.
const COMPARED: usize = 256;

/// Counts what is taken of a job's two streams, and knows it again when the log starts over.
///
/// The streams are counted apart, because the Engine's own log has their lines in another order than an
/// attached connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replay {
    out: Position,
    err: Position,
}

/// How far one stream was taken.
#[derive(Clone, Debug, Default)]
struct Position {
    taken: u64,
    /// How many of these are to come once more.
    again: u64,
    last_taken: Last,
    last_again: Last,
    differs: bool,
}

/// The last bytes of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Last([u8; COMPARED]);

impl Replay {
    /// From now on the log comes from its beginning.
    pub(crate) fn start_over(&mut self) {
        for position in [&mut self.out, &mut self.err] {
            position.again = position.taken;
            position.last_again = Last::default();
        }
    }

    /// From now on the log is new, whatever was still to come once more.
    pub(crate) fn go_on(&mut self) {
        for position in [&mut self.out, &mut self.err] {
            position.again = 0;
        }
    }

    /// The part of a piece that was not taken before, which is taken now.
    pub(crate) fn fresh<'a>(&mut self, stream: Stream, piece: &'a [u8]) -> &'a [u8] {
        match stream {
            Stream::Out => self.out.fresh(piece),
            Stream::Err => self.err.fresh(piece),
        }
    }

    /// Whether what came once more ended where it was left, as far as can be seen. It does not if the Engine
    /// lost what it had sent but not written when it was killed, or wrote something else: `json-file` has
    /// U+FFFD for what is not UTF-8.
    pub(crate) fn is_exact(&self) -> bool {
        [&self.out, &self.err].iter().all(|position| !position.differs && position.again == 0)
    }
}

impl Position {
    fn fresh<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let known = usize::try_from(self.again).unwrap_or(usize::MAX).min(piece.len());
        let (again, fresh) = piece.split_at(known);
        if !again.is_empty() {
            self.again -= again.len() as u64;
            self.last_again.push(again);
            self.differs |= self.again == 0 && self.last_again != self.last_taken;
        }
        self.taken += fresh.len() as u64;
        self.last_taken.push(fresh);
        fresh
    }
}

impl Default for Last {
    fn default() -> Self {
        Self([0; COMPARED])
    }
}

impl Last {
    fn push(&mut self, piece: &[u8]) {
        let piece = &piece[piece.len().saturating_sub(COMPARED)..];
        self.0.copy_within(piece.len().., 0);
        self.0[COMPARED - piece.len()..].copy_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_not_taken_again_however_the_pieces_are_cut() {
        let log: Vec<u8> = (0..300).flat_map(|line| format!("line {line}\n").into_bytes()).collect();
        for (taken, pieces) in [(0, 7), (1, 7), (5, 1), (255, 100), (1000, 333), (log.len(), 64)] {
            let mut replay = Replay::default();
            let mut seen = replay.fresh(Stream::Out, &log[..taken]).to_vec();
            replay.start_over();
            for piece in log.chunks(pieces) {
                seen.extend_from_slice(replay.fresh(Stream::Out, piece));
            }
            assert!(seen == log && replay.is_exact(), "{taken} bytes, then pieces of {pieces}");
        }
    }

    #[test]
    fn a_log_may_start_over_again_and_again() {
        let mut replay = Replay::default();
        assert_eq!(replay.fresh(Stream::Out, b"one "), b"one ");
        replay.start_over();
        assert_eq!(replay.fresh(Stream::Out, b"on"), b"");
        replay.start_over();
        assert_eq!(replay.fresh(Stream::Out, b"one two "), b"two ");
        assert!(replay.is_exact());
        replay.start_over();
        assert_eq!(replay.fresh(Stream::Out, b"one two three"), b"three");
        assert!(replay.is_exact());
    }

    #[test]
    fn nothing_is_dropped_of_a_log_that_goes_on_elsewhere() {
        let mut replay = Replay::default();
        replay.fresh(Stream::Out, b"one ");
        replay.start_over();
        replay.go_on();
        assert_eq!(replay.fresh(Stream::Out, b"five "), b"five ");
    }

    #[test]
    fn each_stream_is_counted_for_itself() {
        let mut replay = Replay::default();
        replay.fresh(Stream::Out, b"out");
        replay.fresh(Stream::Err, b"error");
        replay.start_over();
        assert_eq!(replay.fresh(Stream::Err, b"errors"), b"s");
        assert_eq!(replay.fresh(Stream::Out, b"outer"), b"er");
        assert!(replay.is_exact());
    }

    #[test]
    fn a_log_that_differs_from_what_was_taken_is_known() {
        for again in [&b"l\xef\xbf\xbdne 1\nline 2\n"[..], b"line 2\nline 3\n", b"line"] {
            let mut replay = Replay::default();
            replay.fresh(Stream::Out, b"l\xffne 1\n");
            replay.start_over();
            replay.fresh(Stream::Out, again);
            assert!(!replay.is_exact(), "{again:?}");
        }
    }
}
