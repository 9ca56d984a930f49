//! What becomes of the job's output.
//!
//! Leaves out where it comes from, which is the Engine's affair.

mod automaton;
mod entry;
mod lines;
mod redact;
mod replay;
mod skip;
mod structured;
mod tail;

pub(crate) use entry::EntryWriter;
pub(crate) use lines::{LONGEST, Line, Lines};
pub(crate) use redact::{Redaction, Redactor, SHORTEST, is_short};
pub(crate) use replay::Replay;
pub(crate) use structured::{BELIEVED, Structured};
pub(crate) use tail::Tail;
