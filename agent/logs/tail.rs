//! The last bytes of the job's output as it may be shown, and exact counts of all that it wrote, in flat memory.

use memchr::memchr_iter;

/// Keeps the last bytes of what is shown, and counts what was written: a secret that is blotted out counts as it
/// was. Both streams go into one tail, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Tail {
    /// At most twice `limit`: the front is dropped only when that is full, so a byte is moved once at most.
    kept: Vec<u8>,
    limit: usize,
    /// Bytes shown so far.
    shown: u64,
    bytes: u64,
    newlines: u64,
    ends_with_newline: bool,
}

impl Tail {
    /// A tail of at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { kept: Vec::new(), limit, shown: 0, bytes: 0, newlines: 0, ends_with_newline: true }
    }

    /// Counts a piece that the job wrote.
    pub(crate) fn count(&mut self, piece: &[u8]) {
        let Some(last) = piece.last() else { return };
        self.bytes += piece.len() as u64;
        self.newlines += memchr_iter(b'\n', piece).count() as u64;
        self.ends_with_newline = *last == b'\n';
    }

    /// Takes a piece of any size, in time linear in its size and without allocating once warm.
    pub(crate) fn keep(&mut self, piece: &[u8]) {
        self.shown += piece.len() as u64;
        let wanted = &piece[piece.len().saturating_sub(self.limit)..];
        if self.kept.len() + wanted.len() > 2 * self.limit {
            let surplus = (self.kept.len() + wanted.len()).saturating_sub(self.limit).min(self.kept.len());
            self.kept.drain(..surplus);
        }
        self.kept.extend_from_slice(wanted);
    }

    /// Bytes counted so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Lines counted so far; a last line without a newline counts.
    pub(crate) fn lines(&self) -> u64 {
        self.newlines + u64::from(!self.ends_with_newline)
    }

    /// The tail as text, beginning at a character, with what is not UTF-8 replaced, and how many bytes
    /// were shown before it.
    pub(crate) fn text(&self) -> (String, u64) {
        let mut start = self.kept.len().saturating_sub(self.limit);
        if self.shown > (self.kept.len() - start) as u64 {
            // A cut may fall into a character: step over its continuation bytes, at most three.
            let orphans = self.kept[start..].iter().take(3).take_while(|byte| **byte & 0xC0 == 0x80);
            start += orphans.count();
        }
        let kept = &self.kept[start..];
        (String::from_utf8_lossy(kept).into_owned(), self.shown - kept.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_end_of_what_was_pushed_whatever_the_pieces() {
        check(8, &[], "", 0, 0);
        check(8, &["hello\n"], "hello\n", 0, 1);
        check(8, &["hel", "lo\n", "you"], "ello\nyou", 1, 2);
        check(8, &["a much longer line than the limit\n"], "e limit\n", 26, 1);
        check(8, &["123456", "", "789012", "345678", "9"], "23456789", 11, 1);
        check(8, &["12345678"], "12345678", 0, 1);
        check(0, &["gone\n"], "", 5, 1);
    }

    #[test]
    fn a_cut_falls_between_characters() {
        check(4, &["aéé"], "éé", 1, 1);
        check(3, &["aéé"], "é", 3, 1);
        check(5, &["x😀😀"], "😀", 5, 1);
    }

    #[test]
    fn what_is_not_utf8_is_replaced() {
        let mut tail = Tail::new(16);
        tail.keep(b"a\xffb");
        assert_eq!(tail.text(), ("a\u{fffd}b".to_owned(), 0));
    }

    #[test]
    fn what_was_written_is_counted_and_what_is_shown_is_kept() {
        let mut tail = Tail::new(8);
        tail.count(b"hunter2\n");
        tail.keep(b"[REDACTED:KEY]\n");
        assert_eq!((tail.bytes(), tail.lines(), tail.text()), (8, 1, ("ED:KEY]\n".to_owned(), 7)));
    }

    #[test]
    fn memory_stays_flat() {
        let mut tail = Tail::new(1000);
        for _ in 0..10_000 {
            tail.count(&[b'x'; 777]);
            tail.keep(&[b'x'; 777]);
        }
        assert_eq!(tail.bytes(), 7_770_000);
        assert!(tail.kept.capacity() <= 4000, "{}", tail.kept.capacity());
    }

    #[track_caller]
    fn check(limit: usize, pieces: &[&str], text: &str, before: u64, lines: u64) {
        let mut tail = Tail::new(limit);
        for piece in pieces {
            tail.count(piece.as_bytes());
            tail.keep(piece.as_bytes());
        }
        assert_eq!(tail.text(), (text.to_owned(), before));
        assert_eq!(tail.lines(), lines);
        assert_eq!(tail.bytes(), pieces.iter().map(|piece| piece.len() as u64).sum::<u64>());
    }
}
