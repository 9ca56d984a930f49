//! A command's output on its way from its pipes: into the log on disk, and to whoever is attached.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    sync::{mpsc, watch},
    time::timeout,
};

use super::log::{HEAD, Log, TIME};
use crate::progress::Stream;

/// Read at once: what a pipe holds.
pub(super) const PIECE: usize = 64 << 10;
/// Pieces that may wait for one who is attached.
const WAITING: usize = 8;
/// For one who is attached to take a piece. Who is slower is left behind, and finds the rest in the log: the command
/// must not stand still for it.
const TAKE: Duration = Duration::from_secs(5);

/// Where the output goes.
#[derive(Debug)]
pub(super) struct Output {
    sides: Mutex<Sides>,
    /// Changes when something was written.
    pub(super) news: watch::Sender<u64>,
}

#[derive(Debug)]
struct Sides {
    log: Log,
    attached: Vec<(mpsc::Sender<Bytes>, Arc<AtomicBool>)>,
}

impl Output {
    pub(super) fn new(log: Log) -> Self {
        Self { sides: Mutex::new(Sides { log, attached: Vec::new() }), news: watch::Sender::new(0) }
    }

    /// Every piece from now on, as the Engine's frames, until the command's end; and whether who takes them was too
    /// slow, and left behind.
    pub(super) fn attach(&self) -> (mpsc::Receiver<Bytes>, Arc<AtomicBool>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let left_behind = Arc::new(AtomicBool::new(false));
        self.sides().attached.push((sender, Arc::clone(&left_behind)));
        (receiver, left_behind)
    }

    /// Nothing comes any more.
    pub(super) fn close(&self) {
        self.sides().attached.clear();
        self.news.send_modify(|news| *news += 1);
    }

    /// Whether all of it can still be read.
    pub(super) fn is_whole(&self) -> bool {
        self.sides().log.is_whole()
    }

    /// Reads both pipes until they are closed.
    pub(super) async fn read(&self, mut out: pipe::Receiver, mut err: pipe::Receiver) {
        let [mut from_out, mut from_err] = [vec![0; HEAD + PIECE], vec![0; HEAD + PIECE]];
        let (mut out_is_open, mut err_is_open) = (true, true);
        while out_is_open || err_is_open {
            let (stream, record, read) = tokio::select! {
                read = out.read(&mut from_out[HEAD..]), if out_is_open => (Stream::Out, &mut from_out, read),
                read = err.read(&mut from_err[HEAD..]), if err_is_open => (Stream::Err, &mut from_err, read),
            };
            match read.unwrap_or(0) {
                0 if stream == Stream::Out => out_is_open = false,
                0 => err_is_open = false,
                length => self.take(stream, &mut record[..HEAD + length]).await,
            }
        }
    }

    async fn take(&self, stream: Stream, record: &mut [u8]) {
        let attached = {
            let mut sides = self.sides();
            sides.log.write(record, stream);
            sides.attached.clone()
        };
        self.news.send_modify(|news| *news += 1);
        if attached.is_empty() {
            return;
        }
        let frame = Bytes::copy_from_slice(&record[TIME..]);
        for (one, left_behind) in attached {
            if !matches!(timeout(TAKE, one.send(frame.clone())).await, Ok(Ok(()))) {
                left_behind.store(true, Ordering::Relaxed);
                self.sides().attached.retain(|(other, _)| !other.same_channel(&one));
            }
        }
    }

    fn sides(&self) -> MutexGuard<'_, Sides> {
        self.sides.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
