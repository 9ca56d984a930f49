//! A command's output on disk, for an agent that was not there when it was written.
//!
//! Segments of 32 MiB, of which the last four are kept. A segment is a row of records:
//!
//! ```text
//!   nanoseconds since 1970, u64   stream, 0, 0, 0   length, u32   the bytes
//!   └──────── since= ─────────┘   └───────── the Engine's frame ──────────┘
//! ```
//!
//! all numbers big-endian, so that what follows the time is what the Engine would send.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::record::owned;
use crate::progress::Stream;

/// Of a segment. With [`KEPT`] it bounds what a log takes of the disk.
const SEGMENT: u64 = 32 << 20;
/// Segments that are kept.
const KEPT: u64 = 4;
/// A record's head: time and the Engine's header.
pub(super) const HEAD: usize = 16;
/// Of which the time.
pub(super) const TIME: usize = 8;

/// Writes the log of one command.
#[derive(Debug)]
pub(super) struct Log {
    folder: PathBuf,
    file: Option<File>,
    /// The number of the segment that is written, from 1, and its size.
    segment: u64,
    size: u64,
    /// Whether something was not written, for want of space say.
    lost: bool,
}

/// Reads a log from its beginning.
pub(super) struct LogReader {
    folder: PathBuf,
    segment: u64,
    file: Option<File>,
    since: Duration,
}

/// What a reader finds.
pub(super) enum Next {
    /// This many bytes of a frame, in the buffer.
    Frame(usize),
    /// Nothing more, for now.
    Nothing,
    /// What should follow is gone.
    Gap,
}

impl Log {
    /// The log of a command in this folder, which another shim may have begun.
    pub(super) fn open(folder: &Path) -> Self {
        let segment = segments(folder).max().unwrap_or(0);
        Self { folder: folder.to_owned(), file: None, segment, size: SEGMENT, lost: false }
    }

    /// Takes a record whose head has room for its time and frame. A disk that is full costs the log, not the job.
    pub(super) fn write(&mut self, record: &mut [u8], stream: Stream) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let length = u32::try_from(record.len() - HEAD).unwrap_or(u32::MAX);
        let number = if stream == Stream::Err { 2 } else { 1 };
        record[..TIME].copy_from_slice(&nanos.to_be_bytes());
        record[TIME..HEAD - 4].copy_from_slice(&[number, 0, 0, 0]);
        record[HEAD - 4..HEAD].copy_from_slice(&length.to_be_bytes());
        if let Err(error) = self.append(record) {
            if !self.lost {
                eprintln!("the log cannot be written: {error}");
            }
            self.lost = true;
            // Half a record would make the rest unreadable.
            if let Some(file) = &self.file {
                let _ = file.set_len(self.size);
            }
        }
    }

    /// Whether all of it is still there.
    pub(super) fn is_whole(&self) -> bool {
        !self.lost && (self.segment <= KEPT)
    }

    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        if self.size >= SEGMENT {
            self.rotate()?;
        }
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        file.write_all(record)?;
        self.size += record.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = Some(owned(&path(&self.folder, self.segment + 1))?);
        (self.segment, self.size) = (self.segment + 1, 0);
        if let Some(old) = self.segment.checked_sub(KEPT) {
            let _ = fs::remove_file(path(&self.folder, old));
        }
        Ok(())
    }
}

impl LogReader {
    /// Begins with the oldest segment, and passes over what was written before `since`.
    pub(super) fn open(folder: &Path, since: Duration) -> Self {
        let segment = segments(folder).min().unwrap_or(1);
        Self { folder: folder.to_owned(), segment, file: None, since }
    }

    /// The next frame. `buffer` has room for the longest record.
    pub(super) fn next(&mut self, buffer: &mut [u8]) -> io::Result<Next> {
        loop {
            let file = match &mut self.file {
                Some(file) => file,
                None => match File::open(path(&self.folder, self.segment)) {
                    Ok(file) => self.file.insert(file),
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    // It was not begun, or it was dropped.
                    Err(_) if segments(&self.folder).any(|later| later > self.segment) => {
                        return Ok(Next::Gap);
                    }
                    Err(_) => return Ok(Next::Nothing),
                },
            };
            if file.read(&mut buffer[..1])? == 0 {
                if !path(&self.folder, self.segment + 1).exists() {
                    return match segments(&self.folder).any(|later| later > self.segment) {
                        true => Ok(Next::Gap),
                        false => Ok(Next::Nothing),
                    };
                }
                // The next segment is begun after the last record of this one, which may just have been written.
                if file.read(&mut buffer[..1])? == 0 {
                    (self.segment, self.file) = (self.segment + 1, None);
                    continue;
                }
            }
            file.read_exact(&mut buffer[1..HEAD])?;
            let number =
                |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
            let (nanos, length) = (number(&buffer[..TIME]), number(&buffer[HEAD - 4..HEAD]));
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let bytes = buffer.get_mut(HEAD..HEAD.saturating_add(length));
            let bytes = bytes.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
            file.read_exact(bytes)?;
            if u128::from(nanos) >= self.since.as_nanos() {
                return Ok(Next::Frame(HEAD - TIME + length));
            }
        }
    }
}

/// Forgets the log in this folder.
pub(super) fn remove(folder: &Path) {
    for segment in segments(folder) {
        let _ = fs::remove_file(path(folder, segment));
    }
}

fn path(folder: &Path, segment: u64) -> PathBuf {
    folder.join(format!("log.{segment}"))
}

fn segments(folder: &Path) -> impl Iterator<Item = u64> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("log.")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again_and_the_beginning_of_a_long_log_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path());
        let mut buffer = vec![0; HEAD + (1 << 20)];
        let mut read = LogReader::open(folder.path(), Duration::ZERO);
        assert!(matches!(read.next(&mut buffer), Ok(Next::Nothing)));
        write(&mut log, Stream::Err, b"oops");
        assert_eq!(frame(&mut read, &mut buffer), [&[2, 0, 0, 0, 0, 0, 0, 4][..], b"oops"].concat());
        let piece = vec![b'x'; 1 << 20];
        let begun = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        for _ in 0..SEGMENT / piece.len() as u64 * KEPT {
            assert!(log.is_whole());
            write(&mut log, Stream::Out, &piece);
            assert_eq!(frame(&mut read, &mut buffer).len(), 8 + piece.len());
        }
        write(&mut log, Stream::Out, b"last");
        assert!(!log.is_whole());
        let sizes: Vec<_> = segments(folder.path()).collect();
        assert_eq!(sizes.len() as u64, KEPT, "{sizes:?}");
        let mut since = LogReader::open(folder.path(), begun);
        assert_eq!(
            frame(&mut since, &mut buffer).len(),
            8 + piece.len(),
            "what was written before is passed over"
        );
        remove(folder.path());
        assert_eq!(segments(folder.path()).count(), 0);
    }

    #[test]
    fn a_reader_that_is_overtaken_knows_it() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, mut buffer) = (Log::open(folder.path()), vec![0; HEAD + (1 << 20)]);
        let piece = vec![b'x'; 1 << 20];
        write(&mut log, Stream::Out, &piece);
        let mut read = LogReader::open(folder.path(), Duration::ZERO);
        frame(&mut read, &mut buffer);
        (0..200).for_each(|_| write(&mut log, Stream::Out, &piece));
        let mut frames = 0;
        while let Next::Frame(_) = read.next(&mut buffer).unwrap() {
            frames += 1;
        }
        assert!(frames < 40 && matches!(read.next(&mut buffer).unwrap(), Next::Gap), "{frames}");
    }

    fn write(log: &mut Log, stream: Stream, bytes: &[u8]) {
        log.write(&mut [&[0; HEAD][..], bytes].concat(), stream);
    }

    fn frame(read: &mut LogReader, buffer: &mut [u8]) -> Vec<u8> {
        match read.next(buffer).unwrap() {
            Next::Frame(length) => buffer[TIME..TIME + length].to_vec(),
            _ => panic!("no frame"),
        }
    }
}
