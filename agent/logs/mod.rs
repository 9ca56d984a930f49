//! What becomes of the job's output.
//!
//! Leaves out where it comes from, which is the Engine's affair.

mod automaton;
mod redact;
mod replay;
mod tail;

pub(crate) use redact::{Redaction, Redactor, SHORTEST, is_short};
pub(crate) use replay::Replay;
pub(crate) use tail::Tail;
