//! What a run tells whoever watches it live: the sandbox, and the VM's guest attributes.
//!
//! Leaves out the agent's own log, which is `tracing`'s affair.

use std::sync::Arc;

/// One thing that happened. Borrowed: nothing is copied for a watcher that does not care.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// The run entered a phase.
    Phase(Phase<'a>),
    /// A pull moved on.
    Pull(Pull),
    /// The job wrote these bytes; pieces are as the Engine sends them, not lines.
    Output(Stream, &'a [u8]),
}

/// Where a run is. A run passes through them in this order, and may leave out all but the last two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase<'a> {
    /// The job is known and nothing was done yet.
    Ordered {
        /// Identifies the run in the report.
        run_id: &'a str,
    },
    /// The image is not there and is being pulled.
    Pulling {
        /// The image as the command names it.
        image: &'a str,
    },
    /// The container runs.
    Running {
        /// The container's id.
        container: &'a str,
    },
    /// The job is being told to end.
    Stopping {
        /// Who or what wants it to end.
        why: &'a str,
    },
    /// The job ended, or it was found that it cannot run.
    Ended {
        /// The report's message.
        message: &'a str,
    },
    /// The callback accepted the report.
    Reported,
}

/// How far a pull is. `total` grows while the registry tells of more layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pull {
    /// Bytes downloaded.
    pub done: u64,
    /// Bytes to download, as far as known.
    pub total: u64,
}

/// One of a job's two output streams. A job with a terminal has only `Out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Told of everything that happens, in order, on the thread that runs the agent: it must not block,
/// because a log reader that stands still stops the job (FACTS, "Attach can block the job").
pub type Watcher = Arc<dyn Fn(Progress<'_>) + Send + Sync>;
