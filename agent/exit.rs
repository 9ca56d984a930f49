//! The agent's exit codes, from sysexits.h: what a startup script or systemd can go by.

use std::process::ExitCode;

use crate::{agent::Failure, callback::Undelivered, http};

/// An exit code of the agent. It says whether the report was delivered, never how the job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// The callback accepted the report.
    Ok = 0,
    /// `EX_USAGE`: a setting or the callback's address is wrong or missing; nothing was run.
    Usage = 64,
    /// `EX_DATAERR`: `status` found a journal that cannot be used.
    DataErr = 65,
    /// `EX_NOINPUT`: the job file cannot be read; nothing was run. `status` found no journal.
    NoInput = 66,
    /// `EX_UNAVAILABLE`: no metadata server; nothing was run.
    Unavailable = 69,
    /// `EX_CANTCREAT`: another agent works with the same state folder; this one did nothing.
    CantCreate = 73,
    /// `EX_TEMPFAIL`: the agent was stopped, or the deadline passed, before the report was accepted.
    TempFail = 75,
    /// `EX_PROTOCOL`: nobody waits for the report any more.
    Gone = 76,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// The code of a run's end, which is logged if it is a failure.
pub fn code_of(ended: Result<(), Failure>) -> Code {
    let Err(failure) = ended else { return Code::Ok };
    tracing::error!("{}", http::chain(&failure));
    match failure {
        Failure::NoCallback(_) => Code::Usage,
        Failure::NoJobFile { .. } => Code::NoInput,
        Failure::NoMetadata(_) => Code::Unavailable,
        Failure::Locked(_) => Code::CantCreate,
        Failure::StoppedEarly => Code::TempFail,
        Failure::Undelivered(Undelivered::Expired { .. } | Undelivered::Stopped { .. }) => Code::TempFail,
        Failure::Undelivered(Undelivered::Gone) => Code::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_every_code() {
        let codes =
            [Code::Ok, Code::Usage, Code::NoInput, Code::Unavailable, Code::CantCreate, Code::TempFail];
        for code in codes.into_iter().chain([Code::DataErr, Code::Gone]) {
            let row = format!("\n| {} | ", code as u8);
            assert!(include_str!("../README.md").contains(&row), "the README has no row {row}");
        }
    }
}
