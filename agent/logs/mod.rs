//! What becomes of the job's output.
//!
//! Leaves out where it comes from, which is the Engine's affair.

mod tail;

pub(crate) use tail::Tail;
