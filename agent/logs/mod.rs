//! What becomes of the job's output.
//!
//! Leaves out where it comes from, which is the Engine's affair.

mod replay;
mod tail;

pub(crate) use replay::Replay;
pub(crate) use tail::Tail;
