//! Secrets are blotted out wherever the job's output, or a text that may quote it, leaves the VM.
//!
//! What is looked for: the value without the blanks around it; the same with CRLF for LF, as a terminal writes
//! it, and as JSON quotes it; each of its lines of [`SHORTEST_LINE`] bytes or more, since logs come line by
//! line; and its base64 in both alphabets, by itself, inside a longer text, and wrapped as `base64` (76) and
//! `openssl` (64) wrap it. Inside a longer base64 text up to four bits at either end share a character with
//! something else, and stay. What is not: other encodings, such as `%20`, hexadecimal or compression.
//!
//! Every byte that belongs to any of these is blotted out, however they overlap.

use std::{borrow::Cow, collections::VecDeque, fmt, mem::take, sync::Arc};

use base64::{
    Engine as _,
    engine::general_purpose::{GeneralPurpose, STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};

use super::automaton::{Automaton, Found, ROOT};
use crate::progress::Stream;

/// Shorter values are in every other word: they are not looked for.
pub(crate) const SHORTEST: usize = 4;
/// Shorter lines of a longer value are not looked for by themselves: many are `}` or `{`.
const SHORTEST_LINE: usize = 8;
/// Where `openssl base64` and `base64` begin a new line.
const WRAPS: [usize; 2] = [64, 76];

/// What must not leave the VM; nothing by default. The memory is 16 KiB and some 350 bytes for each byte of a secret.
#[derive(Clone, Default)]
pub(crate) struct Redaction(Option<Arc<Blots>>);

struct Blots {
    automaton: Automaton,
    /// What stands where an owner's secret was.
    marks: Vec<String>,
}

impl Redaction {
    /// Hides these values; of each, the name goes before it.
    pub(crate) fn of<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let (marks, forms): (Vec<_>, Vec<_>) = secrets
            .into_iter()
            .map(|(name, value)| (format!("[REDACTED:{name}]"), forms(value)))
            .filter(|(_, forms)| !forms.is_empty())
            .unzip();
        let texts =
            forms.iter().zip(0..).flat_map(|(forms, owner)| forms.iter().map(move |form| (form, owner)));
        let automaton = Automaton::new(texts.map(|(form, owner)| (form.as_bytes(), owner)));
        Self((!marks.is_empty()).then(|| Arc::new(Blots { automaton, marks })))
    }

    /// A whole text.
    pub(crate) fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.0.is_none() {
            return text.into();
        }
        let mut shown = Vec::new();
        let mut pass = Pass::new(self);
        pass.read(text.as_bytes(), &mut |piece| shown.extend_from_slice(piece));
        pass.finish(&mut |piece| shown.extend_from_slice(piece));
        // Characters are blotted out whole: a secret is text, and so is each of its forms.
        String::from_utf8_lossy(&shown).into_owned().into()
    }
}

impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().flat_map(|blots| &blots.marks)).finish()
    }
}

/// Whether a value is too short to be looked for.
pub(crate) fn is_short(value: &str) -> bool {
    value.trim().len() < SHORTEST
}

/// Everything that is looked for to hide a value.
fn forms(value: &str) -> Vec<String> {
    let value = value.trim();
    if is_short(value) {
        return Vec::new();
    }
    let json = serde_json::Value::from(value).to_string();
    let mut forms = vec![value.to_owned(), value.replace('\n', "\r\n"), json[1..json.len() - 1].to_owned()];
    let lines = value.lines().map(str::trim).filter(|line| line.len() >= SHORTEST_LINE);
    forms.extend(lines.map(str::to_owned));
    for (padded, unpadded) in [(STANDARD, STANDARD_NO_PAD), (URL_SAFE, URL_SAFE_NO_PAD)] {
        forms.extend([padded.encode(value), unpadded.encode(value)]);
        forms.extend([0, 1, 2].map(|shift| base64_within(&unpadded, value.as_bytes(), shift)));
    }
    let whole = base64_within(&STANDARD_NO_PAD, value.as_bytes(), 0);
    forms.extend(WRAPS.iter().flat_map(|width| wrapped(&whole, *width)));
    forms
}

/// The characters that stand for these bytes in any base64 text in which they come `shift` bytes, modulo three,
/// after its beginning: those that hold nothing else.
fn base64_within(encoding: &GeneralPurpose, bytes: &[u8], shift: usize) -> String {
    let text = encoding.encode([&[0; 2][..shift], bytes].concat());
    let (first, last) = ((8 * shift).div_ceil(6), 8 * (shift + bytes.len()) / 6);
    text[first..last].to_owned()
}

fn wrapped(text: &str, width: usize) -> impl Iterator<Item = String> {
    let lines = text.as_bytes().chunks(width).filter(|line| line.len() >= SHORTEST_LINE);
    lines.map(|line| String::from_utf8_lossy(line).into_owned())
}

/// Redacts a job's two streams, each for itself, as they come.
pub(crate) struct Redactor {
    out: Pass,
    err: Pass,
}

impl Redactor {
    /// Hides what `redaction` does.
    pub(crate) fn new(redaction: &Redaction) -> Self {
        Self { out: Pass::new(redaction), err: Pass::new(redaction) }
    }

    /// Takes a piece, and passes on what of it and before it may be shown. Its end is held back for as long as it
    /// may be the beginning of a secret. Where there are no secrets this is the piece itself.
    pub(crate) fn read(&mut self, stream: Stream, piece: &[u8], mut show: impl FnMut(&[u8])) {
        match stream {
            Stream::Out => self.out.read(piece, &mut show),
            Stream::Err => self.err.read(piece, &mut show),
        }
    }

    /// Passes on what was held back, because nothing comes any more.
    pub(crate) fn finish(&mut self, mut show: impl FnMut(Stream, &[u8])) {
        self.out.finish(&mut |piece| show(Stream::Out, piece));
        self.err.finish(&mut |piece| show(Stream::Err, piece));
    }
}

/// One text on its way through. Positions are counted from its beginning.
struct Pass {
    blots: Option<Arc<Blots>>,
    /// In the automaton.
    place: u32,
    read: u64,
    /// What is before this was shown or blotted out.
    done: u64,
    /// The bytes from `done` to `read`: between two pieces never more than the longest secret.
    held: Vec<u8>,
    /// What is to be blotted out after `done`, in order and apart from one another.
    found: VecDeque<Span>,
}

struct Span {
    start: u64,
    end: u64,
    owner: u16,
}

impl Pass {
    fn new(redaction: &Redaction) -> Self {
        let blots = redaction.0.clone();
        Self { blots, place: ROOT, read: 0, done: 0, held: Vec::new(), found: VecDeque::new() }
    }

    fn read(&mut self, piece: &[u8], show: &mut dyn FnMut(&[u8])) {
        // Out of its place for as long, since what is found is noted meanwhile.
        let Some(blots) = self.blots.take() else { return show(piece) };
        let before = self.read;
        self.place = blots.automaton.read(self.place, piece, |end, Found { length, owner }| {
            let end = before + end as u64;
            self.note(Span { start: end - u64::from(length), end, owner });
        });
        self.read += piece.len() as u64;
        let decided = self.read - u64::from(blots.automaton.depth(self.place));

        let mut held = take(&mut self.held);
        if held.is_empty() {
            let rest = self.settle(piece, decided, &blots.marks, show);
            held.extend_from_slice(&piece[rest..]);
        } else {
            held.extend_from_slice(piece);
            let rest = self.settle(&held, decided, &blots.marks, show);
            held.drain(..rest);
        }
        self.held = held;
        self.blots = Some(blots);
    }

    fn finish(&mut self, show: &mut dyn FnMut(&[u8])) {
        if self.blots.is_some() {
            self.place = ROOT;
            self.read(&[], show);
        }
    }

    /// Notes what ends at the last byte that was read, and so no earlier than what was noted before.
    fn note(&mut self, span: Span) {
        while self.found.back().is_some_and(|last| last.start >= span.start) {
            self.found.pop_back();
        }
        match self.found.back_mut() {
            Some(last) if last.end > span.start => last.end = span.end,
            // It begins within what was blotted out before, and so is the rest of that.
            None if span.start < self.done => self.done = span.end,
            _ => self.found.push_back(span),
        }
    }

    /// Shows what can be shown of `text`, which ends at the last byte that was read, and answers where in it the
    /// rest begins. The next secret may begin at `decided`, no earlier.
    fn settle(&mut self, text: &[u8], decided: u64, marks: &[String], show: &mut dyn FnMut(&[u8])) -> usize {
        let start = self.read - text.len() as u64;
        let index = |position: u64| (position - start) as usize;
        // One that begins at `decided` may turn out to be the beginning of a longer one.
        while self.found.front().is_some_and(|span| span.start < decided)
            && let Some(Span { start, end, owner }) = self.found.pop_front()
        {
            show_some(&text[index(self.done)..index(start)], show);
            show(marks[usize::from(owner)].as_bytes());
            self.done = end;
        }
        let shown = self.done;
        self.done = shown.max(decided);
        show_some(&text[index(shown)..index(self.done)], show);
        index(self.done)
    }
}

fn show_some(text: &[u8], show: &mut dyn FnMut(&[u8])) {
    if !text.is_empty() {
        show(text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\nhkiG9w==\nend\n-----END KEY-----\n";

    #[test]
    fn a_secret_is_replaced_by_its_name() {
        check(&[("A", "hunter2")], "it is hunter2, hunter and hunter22", "it is [A], hunter and [A]2");
        check(&[("A", "hunter2"), ("B", "swordfish")], "swordfishhunter2", "[B][A]");
        check(&[], "hunter2", "hunter2");
    }

    #[test]
    fn secrets_that_overlap_are_blotted_out_to_the_last_byte() {
        check(&[("A", "abcdef"), ("B", "defghi")], "-abcdefghi-", "-[A]-");
        check(&[("A", "abcd"), ("B", "abcdef")], "-abcdef-abcde-", "-[B]-[A]e-");
        check(&[("A", "bcde"), ("B", "abcdef")], "-abcdef-abcde-", "-[B]-a[A]-");
        check(&[("A", "aaaa")], "-aaaaaaaaaaa-aaa-", "-[A]-aaa-");
    }

    #[test]
    fn blanks_around_a_secret_do_not_hide_it() {
        check(&[("A", " hunter2\n")], "it is hunter2.", "it is [A].");
    }

    #[test]
    fn a_secret_of_several_lines_is_found_whole_and_line_by_line() {
        check(&[("A", KEY)], &format!("<{KEY}>"), "<[A]\n>");
        check(&[("A", KEY)], &format!("<{}>", KEY.replace('\n', "\r\n")), "<[A]\r\n>");
        check(&[("A", KEY)], "1 MIIEvQIBADANBgkq\n2 hkiG9w==\n3 end\n", "1 [A]\n2 [A]\n3 end\n");
    }

    #[test]
    fn a_secret_is_found_in_json() {
        let secret = "a \"quoted\" \\ one\nof two lines";
        let line = serde_json::json!({ "key": secret }).to_string();
        check(&[("A", secret)], &line, r#"{"key":"[A]"}"#);
    }

    #[test]
    fn a_secret_is_found_in_base64_that_is_wrapped() {
        let secret = "correct horse battery staple. ".repeat(9);
        let encoded = STANDARD.encode(&secret);
        for width in WRAPS {
            let lines: Vec<_> = encoded.as_bytes().chunks(width).map(String::from_utf8_lossy).collect();
            assert!(lines.len() > 3);
            let shown = redaction(&[("A", &secret)]).text(&lines.join("\n")).into_owned();
            assert!(shown.split('\n').all(|line| line.len() < 20), "{shown}");
        }
    }

    #[test]
    fn a_value_that_is_too_short_is_left_alone() {
        check(&[("A", " 123\n")], "123", "123");
        check(&[("A", "1234")], "1234", "[A]");
        assert!(is_short(" 123\n") && !is_short("1234"));
    }

    #[test]
    fn without_secrets_a_piece_is_passed_on_as_it_is() {
        let mut redactor = Redactor::new(&Redaction::default());
        let piece = b"a piece";
        let mut pieces = 0;
        redactor.read(Stream::Out, piece, |shown| {
            assert!(std::ptr::eq(shown, piece));
            pieces += 1;
        });
        redactor.finish(|_, _| pieces += 1);
        assert_eq!(pieces, 1);
    }

    #[test]
    fn each_stream_is_redacted_for_itself_and_flushed_at_its_end() {
        let mut redactor = Redactor::new(&redaction(&[("A", "hunter2")]));
        let mut shown = String::new();
        for (stream, piece) in [(Stream::Out, "o hunt"), (Stream::Err, "er2 e hun"), (Stream::Out, "er2 h")] {
            redactor.read(stream, piece.as_bytes(), |piece| shown += str::from_utf8(piece).unwrap());
        }
        assert_eq!(shown, "o er2 e [REDACTED:A] ");
        redactor.finish(|stream, piece| shown += &format!("<{stream:?} {}>", str::from_utf8(piece).unwrap()));
        assert_eq!(shown, "o er2 e [REDACTED:A] <Out h><Err hun>");
    }

    #[test]
    fn no_more_is_held_back_than_the_longest_secret() {
        let mut pass = Pass::new(&redaction(&[("A", &"a".repeat(100))]));
        let mut shown = 0;
        for _ in 0..10_000 {
            pass.read(&[b'a'; 37], &mut |piece| shown += piece.len());
            assert!(pass.held.len() <= 100 && pass.found.len() <= 1);
        }
        assert_eq!(shown, "[REDACTED:A]".len());
    }

    #[test]
    fn debug_shows_names_and_no_values() {
        assert_eq!(format!("{:?}", redaction(&[("A", "hunter2")])), r#"{"[REDACTED:A]"}"#);
    }

    proptest! {
        #[test]
        fn however_a_text_is_split_no_secret_remains(
            secrets in prop::collection::vec("[ab]{4,9}|[abc]{4,6}", 1..5),
            text in "[abc]{0,80}",
            cuts in prop::collection::vec(1..9_usize, 1..9),
        ) {
            let named: Vec<_> = secrets.iter().map(|secret| ("A", secret.as_str())).collect();
            let redaction = redaction(&named);
            let expected = blotted(&text, &secrets);
            prop_assert_eq!(in_pieces(&redaction, text.as_bytes(), &cuts), expected.as_bytes());
            prop_assert_eq!(redaction.text(&text), expected);
        }

        #[test]
        fn a_split_changes_nothing_whatever_the_names(
            secrets in prop::collection::vec("[ab]{4,9}", 1..5),
            text in "[ab]{0,80}",
            cuts in prop::collection::vec(1..9_usize, 1..9),
        ) {
            let names = ["A", "B", "C", "D", "E"];
            let redaction = Redaction::of(names.into_iter().zip(secrets.iter().map(String::as_str)));
            let whole = redaction.text(&text);
            prop_assert_eq!(in_pieces(&redaction, text.as_bytes(), &cuts), whole.as_bytes());
        }

        #[test]
        fn base64_of_a_secret_is_found_wherever_it_stands(
            secret in "[!-~]{4,40}",
            before in prop::collection::vec(any::<u8>(), 0..9),
            after in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            let around = [&before[..], secret.as_bytes(), &after[..]].concat();
            for encoding in [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD] {
                let shown = redaction(&[("A", &secret)]).text(&encoding.encode(&around)).into_owned();
                // A character at either end holds bits of what is around it; padding adds two.
                let left: usize = shown.split("[REDACTED:A]").map(str::len).sum();
                let bits = 8 * (before.len() + after.len());
                prop_assert!(left <= bits.div_ceil(6) + 4, "{}", shown);
            }
        }
    }

    /// The same by looking everywhere for everything.
    fn blotted(text: &str, secrets: &[String]) -> String {
        let mut spans: Vec<_> = secrets
            .iter()
            .flat_map(|secret| forms(secret))
            .flat_map(|form| {
                let starts = (0..text.len()).filter(|start| text[*start..].starts_with(&form));
                starts.map(|start| (start, start + form.len())).collect::<Vec<_>>()
            })
            .collect();
        spans.sort_unstable();
        let (mut shown, mut done) = (String::new(), 0);
        for (start, end) in spans {
            if start >= done {
                shown += &text[done..start];
                shown += "[REDACTED:A]";
            }
            done = done.max(end);
        }
        shown + &text[done..]
    }

    fn in_pieces(redaction: &Redaction, text: &[u8], cuts: &[usize]) -> Vec<u8> {
        let (mut pass, mut shown, mut rest) = (Pass::new(redaction), Vec::new(), text);
        for size in cuts.iter().cycle() {
            let (piece, more) = rest.split_at((*size).min(rest.len()));
            pass.read(piece, &mut |piece| shown.extend_from_slice(piece));
            rest = more;
            if rest.is_empty() {
                break;
            }
        }
        pass.finish(&mut |piece| shown.extend_from_slice(piece));
        shown
    }

    fn redaction(secrets: &[(&str, &str)]) -> Redaction {
        Redaction::of(secrets.iter().copied())
    }

    #[track_caller]
    fn check(secrets: &[(&str, &str)], text: &str, expected: &str) {
        let shown = redaction(secrets).text(text).replace("REDACTED:", "");
        assert_eq!(shown, expected);
    }
}
