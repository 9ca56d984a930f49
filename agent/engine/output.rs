//! The container's output as the Engine sends it: over an attached connection while it is written, or later
//! from the log that the Engine keeps.
//!
//! A reader that stays attached and stops reading blocks the job's writes, and then even kill and inspect
//! hang (FACTS, "Attach can block the job"). So the reader is a task of its own that awaits nothing but the
//! socket, and hands each piece to a function that does not wait.
//!
//! With a terminal the stream is the job's bytes. Without, each piece has a header of eight bytes: stream (1
//! is stdout, 2 is stderr), three zeros, length as big-endian u32.

use std::{error::Error, ops::ControlFlow};

use reqwest::{Response, Upgraded};
use tokio::io::AsyncReadExt;

use crate::{http, progress::Stream};

/// Read at once: the Engine copies in pieces of 32 KiB. Twice and four times as much took the same time (for 512 MiB).
const BUFFER: usize = 64 << 10;
const HEADER: usize = 8;

/// A container's output.
#[derive(Debug)]
pub struct OutputReader {
    source: Source,
    frames: Frames,
}

/// Where the bytes come from.
#[derive(Debug)]
enum Source {
    /// An attached connection, and the buffer for what is read from it.
    Attached(Upgraded, Vec<u8>),
    /// The log that the Engine keeps: the body of an ordinary answer, which has buffers of its own.
    Kept(Response),
}

/// How reading ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The Engine closed the stream, and not in the middle of a piece.
    Closed,
    /// The stream broke.
    Broken(String),
}

impl OutputReader {
    pub(super) fn attached(socket: Upgraded, tty: bool) -> Self {
        Self { source: Source::Attached(socket, vec![0; BUFFER]), frames: Frames::new(tty) }
    }

    pub(super) fn kept(answer: Response, tty: bool) -> Self {
        Self { source: Source::Kept(answer), frames: Frames::new(tty) }
    }

    /// Takes what comes next, or tells how the stream ended. Dropped halfway, it has taken nothing.
    pub async fn read(&mut self, take: &mut impl FnMut(Stream, &[u8])) -> ControlFlow<Output> {
        let Self { source, frames } = self;
        let fed = match source {
            Source::Attached(socket, buffer) => match socket.read(buffer).await {
                Ok(0) => return ControlFlow::Break(frames.closed()),
                Ok(length) => frames.feed(&buffer[..length], take),
                Err(error) => Err(broke(&error)),
            },
            Source::Kept(answer) => match answer.chunk().await {
                Ok(None) => return ControlFlow::Break(frames.closed()),
                Ok(Some(chunk)) => frames.feed(&chunk, take),
                Err(error) => Err(broke(&error)),
            },
        };
        match fed {
            Ok(()) => ControlFlow::Continue(()),
            Err(why) => ControlFlow::Break(Output::Broken(why)),
        }
    }
}

fn broke(error: &dyn Error) -> String {
    format!("the log stream broke: {}", http::chain(error))
}

/// Where in the stream of frames the reader is.
#[derive(Debug)]
enum Frames {
    /// There are none: a terminal.
    Raw,
    /// In a header.
    Header { bytes: [u8; HEADER], have: usize },
    /// In a piece, with `left` bytes to come.
    Piece { stream: Stream, left: usize },
}

impl Frames {
    fn new(tty: bool) -> Self {
        if tty { Self::Raw } else { Self::Header { bytes: [0; HEADER], have: 0 } }
    }

    /// What it means that the stream ends here.
    fn closed(&self) -> Output {
        match self.is_between() {
            true => Output::Closed,
            false => Output::Broken("the log stream broke in the middle of a piece".to_owned()),
        }
    }

    fn is_between(&self) -> bool {
        match self {
            Self::Raw => true,
            Self::Header { have, .. } => *have == 0,
            Self::Piece { .. } => false,
        }
    }

    /// Takes what was read, in pieces of any size, without copying it.
    fn feed(&mut self, mut read: &[u8], take: &mut impl FnMut(Stream, &[u8])) -> Result<(), String> {
        while !read.is_empty() {
            match self {
                Self::Raw => {
                    take(Stream::Out, read);
                    return Ok(());
                }
                Self::Header { bytes, have } => {
                    let part = read.len().min(HEADER - *have);
                    bytes[*have..*have + part].copy_from_slice(&read[..part]);
                    *have += part;
                    read = &read[part..];
                    if *have == HEADER {
                        *self = Self::after(*bytes)?;
                    }
                }
                Self::Piece { stream, left } => {
                    let part = read.len().min(*left);
                    take(*stream, &read[..part]);
                    *left -= part;
                    read = &read[part..];
                    if *left == 0 {
                        *self = Self::Header { bytes: [0; HEADER], have: 0 };
                    }
                }
            }
        }
        Ok(())
    }

    fn after(header: [u8; HEADER]) -> Result<Self, String> {
        let [stream, 0, 0, 0, length @ ..] = header else {
            return Err(format!("the log stream has no frames: {header:?}"));
        };
        let stream = match stream {
            // 0 is stdin's echo, which docker/pkg/stdcopy takes for stdout too.
            0 | 1 => Stream::Out,
            2 => Stream::Err,
            other => return Err(format!("the log stream has an unknown stream {other}")),
        };
        match u32::from_be_bytes(length) as usize {
            0 => Ok(Self::Header { bytes: [0; HEADER], have: 0 }),
            left => Ok(Self::Piece { stream, left }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_however_they_are_cut() {
        let mut wire = Vec::new();
        for (stream, text) in [(1, "hello "), (2, ""), (2, "oops"), (1, "world")] {
            wire.extend_from_slice(&[stream, 0, 0, 0, 0, 0, 0, u8::try_from(text.len()).unwrap()]);
            wire.extend_from_slice(text.as_bytes());
        }
        for cut in 1..=wire.len() {
            let mut frames = Frames::Header { bytes: [0; HEADER], have: 0 };
            let (mut out, mut err) = (Vec::new(), Vec::new());
            for chunk in wire.chunks(cut) {
                frames
                    .feed(chunk, &mut |stream, piece: &[u8]| match stream {
                        Stream::Out => out.extend_from_slice(piece),
                        Stream::Err => err.extend_from_slice(piece),
                    })
                    .unwrap();
            }
            assert!(frames.is_between());
            assert_eq!((out.as_slice(), err.as_slice()), (&b"hello world"[..], &b"oops"[..]), "cut {cut}");
        }
    }

    #[test]
    fn a_terminals_stream_is_taken_as_it_is() {
        let mut seen = Vec::new();
        Frames::Raw.feed(b"\x01\x00\x1b[1m", &mut |_, piece: &[u8]| seen.extend_from_slice(piece)).unwrap();
        assert_eq!(seen, b"\x01\x00\x1b[1m");
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for wire in [b"HTTP/1.1", b"\x03\0\0\0\0\0\0\x01", b"\x01\0\x01\0\0\0\0\x01"] {
            let mut frames = Frames::Header { bytes: [0; HEADER], have: 0 };
            assert!(frames.feed(wire, &mut |_, _: &[u8]| {}).is_err(), "{wire:?}");
        }
    }

    #[test]
    fn a_stream_that_ends_within_a_frame_is_known_as_broken() {
        for wire in [&b"\x01\0"[..], b"\x01\0\0\0\0\0\0\x05abc"] {
            let mut frames = Frames::Header { bytes: [0; HEADER], have: 0 };
            frames.feed(wire, &mut |_, _: &[u8]| {}).unwrap();
            assert!(!frames.is_between(), "{wire:?}");
        }
    }
}
