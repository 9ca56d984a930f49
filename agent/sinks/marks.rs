//! How far a log is in Cloud Logging, written down, so that an agent that is started again and reads the log from
//! its beginning does not send all of it again.
//!
//! Cloud Logging itself drops an entry that has the id and the time of another, and a line that is read again has
//! another time. The Engine's own times would not help: an attached connection has none.
//!
//! Written without a sync: what a loss of power takes with it is sent twice.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::logs::Line;

const FILE: &str = "cloud-logging.json";
const NEW: &str = "cloud-logging.json.new";

/// How far both streams are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Marks {
    pub(crate) out: Mark,
    pub(crate) err: Mark,
}

/// How far a stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Mark {
    /// A hash of the first line that was read, by which the log is known again.
    first: u64,
    /// Bytes before that line, of a log that does not begin where the stream did.
    base: u64,
    /// Bytes that are in Cloud Logging.
    sent: u64,
}

/// A stream that is read from a beginning.
#[derive(Debug)]
pub(crate) struct Place {
    /// How far it was sent before.
    known: Mark,
    mark: Mark,
}

impl Place {
    /// A stream of which so much was sent.
    pub(crate) fn after(known: Mark) -> Self {
        Self { known, mark: known }
    }

    /// How far the stream is with the last line.
    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }

    /// The line with its place in the stream; `None` if it was sent before. Of a log whose beginning was rotated
    /// away, nothing is taken to be sent before: better twice than never.
    pub(crate) fn locate<'a>(&mut self, line: Line<'a>) -> Option<Line<'a>> {
        if line.offset == 0 {
            self.mark.first = hash(&line);
            let again = self.mark.first == self.known.first;
            self.mark.base = if again { self.known.base } else { self.known.sent };
        }
        let (offset, end) = (line.offset + self.mark.base, line.end + self.mark.base);
        if end <= self.known.sent {
            return None;
        }
        self.mark.sent = end;
        Some(Line { offset, end, ..line })
    }
}

fn hash(line: &Line<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&line.text, line.end).hash(&mut hasher);
    hasher.finish()
}

/// Where the marks of an attempt are.
#[derive(Clone, Debug)]
pub(crate) struct MarksFile {
    folder: PathBuf,
    run_id: String,
    attempt: u32,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    run_id: String,
    attempt: u32,
    marks: Marks,
}

impl MarksFile {
    /// In the state folder.
    pub(crate) fn new(folder: &Path, run_id: &str, attempt: u32) -> Self {
        Self { folder: folder.to_owned(), run_id: run_id.to_owned(), attempt }
    }

    /// What an agent before this one wrote of this attempt.
    pub(crate) fn read(&self) -> Marks {
        let page = fs::read(self.folder.join(FILE)).ok();
        let page = page.and_then(|page| serde_json::from_slice::<Page>(&page).ok());
        page.filter(|page| page.run_id == self.run_id && page.attempt == self.attempt)
            .map(|page| page.marks)
            .unwrap_or_default()
    }

    /// Writes them down; blocks.
    pub(crate) fn write(&self, marks: Marks) -> io::Result<()> {
        let page = Page { run_id: self.run_id.clone(), attempt: self.attempt, marks };
        fs::write(self.folder.join(NEW), serde_json::to_vec(&page)?)?;
        fs::rename(self.folder.join(NEW), self.folder.join(FILE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_read_again_is_sent_from_where_it_was_left() {
        let mut place = Place::after(Mark::default());
        assert_eq!(read(&mut place, &["a", "b"]), [("a".to_owned(), 0), ("b".to_owned(), 2)]);
        let mut place = Place::after(place.mark());
        assert_eq!(read(&mut place, &["a", "b", "c"]), [("c".to_owned(), 4)]);
        let mut place = Place::after(place.mark());
        assert_eq!(read(&mut place, &["a", "b", "c", "d"]), [("d".to_owned(), 6)]);
    }

    #[test]
    fn a_log_without_its_beginning_is_sent_as_it_is_and_its_ids_are_new() {
        let mut place = Place::after(Mark::default());
        read(&mut place, &["a", "b", "c"]);
        let mut place = Place::after(place.mark());
        assert_eq!(read(&mut place, &["c", "d"]), [("c".to_owned(), 6), ("d".to_owned(), 8)]);
        let mut place = Place::after(place.mark());
        assert_eq!(read(&mut place, &["c", "d", "e"]), [("e".to_owned(), 10)]);
    }

    #[test]
    fn marks_are_read_by_the_same_attempt_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = MarksFile::new(folder.path(), "run", 1);
        assert_eq!(file.read(), Marks::default());
        let marks = Marks { out: Mark { first: u64::MAX, base: 1, sent: 2 }, err: Mark::default() };
        file.write(marks).unwrap();
        assert_eq!(file.read(), marks);
        for (run_id, attempt) in [("run", 2), ("other", 1)] {
            assert_eq!(MarksFile::new(folder.path(), run_id, attempt).read(), Marks::default());
        }
        fs::write(folder.path().join(FILE), "{").unwrap();
        assert_eq!(file.read(), Marks::default());
    }

    /// What is sent of a log of lines of one letter, and where it is.
    fn read(place: &mut Place, lines: &[&'static str]) -> Vec<(String, u64)> {
        let line = |(index, text): (usize, &&'static str)| {
            let offset = 2 * index as u64;
            Line { offset, end: offset + 2, text: (*text).into(), cut: 0 }
        };
        let sent = lines.iter().enumerate().filter_map(|line_of| place.locate(line(line_of)));
        sent.map(|line| (line.text.into_owned(), line.offset)).collect()
    }
}
