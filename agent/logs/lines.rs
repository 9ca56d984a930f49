//! One stream's bytes, put together into lines, in flat memory.

use std::borrow::Cow;

use memchr::memchr;

/// An entry of Cloud Logging has 256 KB (FACTS), and a line's labels and id need some of it.
pub(crate) const LONGEST: usize = 200 << 10;
/// The most that a character which begins within the limit has beyond it.
const BEYOND: usize = 3;

/// Cuts what is pushed into lines.
#[derive(Debug)]
pub(crate) struct Lines {
    limit: usize,
    /// The beginning of a line whose end has not come.
    kept: Vec<u8>,
    /// All that came of that line.
    length: u64,
    last: u8,
    /// Where it begins in the stream.
    offset: u64,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// Where it begins in the stream, in bytes.
    pub(crate) offset: u64,
    /// Where it ends, with its newline.
    pub(crate) end: u64,
    /// Without its newline, with what is not UTF-8 replaced, and no longer than the limit.
    pub(crate) text: Cow<'a, str>,
    /// How many of its bytes are not in `text`.
    pub(crate) cut: u64,
}

impl Lines {
    /// Lines of at most so many bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, kept: Vec::new(), length: 0, last: 0, offset: 0 }
    }

    /// Takes a piece of any size. A line that is whole in it is not copied.
    pub(crate) fn push(&mut self, mut piece: &[u8], mut take: impl FnMut(Line<'_>)) {
        while let Some(newline) = memchr(b'\n', piece) {
            let (rest, after) = (&piece[..newline], &piece[newline + 1..]);
            if self.length == 0 {
                let length = rest.len() as u64;
                take(self.line(rest, length, rest.last() == Some(&b'\r'), 1));
                self.offset += length + 1;
            } else {
                self.keep(rest);
                self.end(1, &mut take);
            }
            piece = after;
        }
        self.keep(piece);
    }

    /// The last line, if it has no newline.
    pub(crate) fn finish(&mut self, take: impl FnMut(Line<'_>)) {
        if self.length > 0 {
            self.end(0, take);
        }
    }

    fn keep(&mut self, part: &[u8]) {
        let room = (self.limit + BEYOND).saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&part[..part.len().min(room)]);
        self.length += part.len() as u64;
        self.last = part.last().copied().unwrap_or(self.last);
    }

    fn end(&mut self, newline: u64, mut take: impl FnMut(Line<'_>)) {
        take(self.line(&self.kept, self.length, self.last == b'\r', newline));
        self.offset += self.length + newline;
        self.kept.clear();
        self.length = 0;
    }

    /// The line of so many bytes that begins with these.
    fn line<'a>(&self, begins: &'a [u8], length: u64, ends_with_cr: bool, newline: u64) -> Line<'a> {
        // A last line that only ends with \r may be a progress bar's: nothing is taken from it.
        let content = length - u64::from(ends_with_cr && newline == 1);
        let begins = &begins[..begins.len().min(usize::try_from(content).unwrap_or(usize::MAX))];
        let (text, used) = text(begins, self.limit);
        let end = self.offset + length + newline;
        Line { offset: self.offset, end, text, cut: content - used as u64 }
    }
}

/// As much of the bytes as has room, and how many of them that is.
fn text(bytes: &[u8], limit: usize) -> (Cow<'_, str>, usize) {
    if bytes.len() <= limit
        && let Ok(text) = str::from_utf8(bytes)
    {
        return (text.into(), bytes.len());
    }
    let (mut text, mut used) = (String::new(), 0);
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid();
        let fitting = &valid[..valid.floor_char_boundary(limit - text.len())];
        text.push_str(fitting);
        used += fitting.len();
        let replaced = char::REPLACEMENT_CHARACTER.len_utf8();
        if fitting.len() < valid.len() || text.len() + replaced > limit {
            break;
        }
        if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            used += chunk.invalid().len();
        }
    }
    (text.into(), used)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

        /// Whatever the bytes and however they come: the lines are those of a splitter that sees them at once.
        #[test]
        fn lines_are_the_same_however_the_pieces_are_cut(
            bytes in prop::collection::vec(prop::sample::select(&b"ab\r\n\n\xf0\x9f\x98\x80\xc3\xa9\xff"[..]), 0..200),
            cuts in prop::collection::vec(1..40_usize, 1..200),
            limit in 4..30_usize,
        ) {
            let mut lines = Lines::new(limit);
            let mut seen = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                lines.push(piece, |line| seen.push(owned(line)));
                prop_assert!(lines.kept.len() <= limit + BEYOND);
                rest = after;
            }
            lines.finish(|line| seen.push(owned(line)));
            let expected: Vec<_> = naive(&bytes);
            prop_assert_eq!(seen.len(), expected.len());
            for (line, (offset, content)) in seen.iter().zip(expected) {
                let whole = String::from_utf8_lossy(content);
                prop_assert_eq!(line.offset, offset);
                prop_assert_eq!(&*line.text, &whole[..whole.floor_char_boundary(limit)]);
                let rest = String::from_utf8_lossy(&content[content.len() - usize::try_from(line.cut).unwrap()..]);
                prop_assert_eq!(format!("{}{rest}", line.text), whole);
            }
        }
    }

    #[test]
    fn a_line_knows_where_it_begins_and_ends() {
        let mut lines = Lines::new(LONGEST);
        let mut seen = Vec::new();
        for piece in ["one\r", "\n\ntw", "o\nlast\r"] {
            lines.push(piece.as_bytes(), |line| seen.push(owned(line)));
        }
        lines.finish(|line| seen.push(owned(line)));
        let seen: Vec<_> = seen.iter().map(|line| (line.offset, &*line.text, line.end)).collect();
        assert_eq!(seen, [(0, "one", 5), (5, "", 6), (6, "two", 10), (10, "last\r", 15)]);
    }

    #[test]
    fn a_line_of_any_length_costs_no_more_than_what_is_kept_of_it() {
        let mut lines = Lines::new(1000);
        for _ in 0..100 {
            lines.push(&[b'x'; 100_000], |line| panic!("{line:?}"));
        }
        assert!(lines.kept.capacity() <= 4000, "{}", lines.kept.capacity());
        let mut cut = 0;
        lines.push(b"\n", |line| cut = line.cut);
        assert_eq!(cut, 10_000_000 - 1000);
    }

    /// What a splitter that sees everything at once finds: offsets and contents.
    fn naive(bytes: &[u8]) -> Vec<(u64, &[u8])> {
        let mut offset = 0;
        let with_newlines = bytes.split_inclusive(|byte| *byte == b'\n');
        let begins = |line: &[u8]| {
            let begins = offset;
            offset += line.len() as u64;
            begins
        };
        let offsets: Vec<_> = with_newlines.clone().map(begins).collect();
        let contents = with_newlines.map(|line| match line {
            [content @ .., b'\r', b'\n'] | [content @ .., b'\n'] => content,
            content => content,
        });
        offsets.into_iter().zip(contents).collect()
    }

    fn owned(line: Line<'_>) -> Line<'static> {
        Line { text: line.text.into_owned().into(), ..line }
    }
}
