//! From how a container ended to what the report says of it. Pure.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::state::Cause;
use crate::report::{Outcome, Reason};

/// What the report says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Why it ended.
    pub reason: Reason,
    /// The exit code, if there is one.
    pub exit_code: Option<i64>,
    /// The signal that ended it.
    pub signal: Option<String>,
    /// One sentence for people.
    pub message: String,
}

/// How a container ended, and what it was allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Its exit code.
    pub(crate) code: i64,
    /// Whether the kernel ended a process of it for want of memory.
    pub(crate) oom_killed: bool,
    /// Why it was made to end, if it was.
    pub(crate) cause: Option<Cause>,
    /// Its memory limit in bytes, if it had one.
    pub(crate) memory: Option<u64>,
    /// Longest run.
    pub(crate) timeout: Option<Duration>,
}

impl Verdict {
    /// Nothing ran, or nobody knows what did.
    pub(crate) fn without_exit(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, exit_code: None, signal: None, message: message.into() }
    }

    /// A container ended.
    pub(crate) fn of(ended: Ended) -> Self {
        let signal = signal_of(ended.code);
        let how = match (signal, ended.code) {
            (Some(signal), code) => format!("was ended by {signal} (exit code {code})"),
            (None, 126) => "exited with code 126 (by custom: its command cannot be executed)".to_owned(),
            (None, 127) => "exited with code 127 (by custom: its command was not found)".to_owned(),
            (None, code) => format!("exited with code {code}"),
        };
        let (reason, message) = match ended.cause {
            Some(Cause::Deadline) => {
                let timeout = humantime::format_duration(ended.timeout.unwrap_or_default());
                (
                    Reason::DeadlineExceeded,
                    format!("the job ran longer than {timeout}, was stopped, and {how}"),
                )
            }
            Some(Cause::Stopped) => {
                (Reason::Stopped, format!("the agent was told to stop; it stopped the job, which {how}"))
            }
            None if ended.code == 0 => (Reason::Completed, "the job completed".to_owned()),
            None if ended.oom_killed => {
                let limit = ended.memory.map(|bytes| format!(", its limit is {} MiB", bytes >> 20));
                let limit = limit.unwrap_or_default();
                (Reason::OOMKilled, format!("the job ran out of memory{limit}, and {how}"))
            }
            None => (Reason::Error, format!("the job {how}")),
        };
        Self { reason, exit_code: Some(ended.code), signal: signal.map(str::to_owned), message }
    }

    /// Whether the job did what it should.
    pub(crate) fn outcome(&self) -> Outcome {
        match self.reason {
            Reason::Completed => Outcome::Succeeded,
            Reason::Error
            | Reason::OOMKilled
            | Reason::DeadlineExceeded
            | Reason::Preempted
            | Reason::Stopped
            | Reason::Rebooted
            | Reason::InvalidJob
            | Reason::ImagePullFailed
            | Reason::ContainerCannotRun
            | Reason::EngineLost
            | Reason::Orphaned => Outcome::Failed,
        }
    }
}

/// 128+n is signal n: a container's exit code has no other way to say so.
fn signal_of(code: i64) -> Option<&'static str> {
    let number = i32::try_from(code).ok()?.checked_sub(128)?;
    Signal::try_from(number).ok().map(Signal::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDED: Ended = Ended { code: 0, oom_killed: false, cause: None, memory: None, timeout: None };

    #[test]
    fn an_exit_code_is_told_as_what_it_is() {
        check(ENDED, Reason::Completed, None, "the job completed");
        check(Ended { code: 7, ..ENDED }, Reason::Error, None, "the job exited with code 7");
        check(
            Ended { code: 127, ..ENDED },
            Reason::Error,
            None,
            "the job exited with code 127 (by custom: its command was not found)",
        );
        check(Ended { code: 128, ..ENDED }, Reason::Error, None, "the job exited with code 128");
        check(
            Ended { code: 139, ..ENDED },
            Reason::Error,
            Some("SIGSEGV"),
            "the job was ended by SIGSEGV (exit code 139)",
        );
        check(Ended { code: 255, ..ENDED }, Reason::Error, None, "the job exited with code 255");
    }

    #[test]
    fn a_job_without_memory_is_told_with_its_limit() {
        let killed = Ended { code: 137, oom_killed: true, memory: Some(32 << 20), ..ENDED };
        check(
            killed,
            Reason::OOMKilled,
            Some("SIGKILL"),
            "the job ran out of memory, its limit is 32 MiB, and was ended by SIGKILL (exit code 137)",
        );
        // A job that lost a child and coped is no failure.
        check(Ended { code: 0, ..killed }, Reason::Completed, None, "the job completed");
    }

    #[test]
    fn who_stopped_it_goes_before_how_it_ended() {
        let timeout = Some(Duration::from_secs(5400));
        check(
            Ended { code: 143, cause: Some(Cause::Deadline), timeout, ..ENDED },
            Reason::DeadlineExceeded,
            Some("SIGTERM"),
            "the job ran longer than 1h 30m, was stopped, and was ended by SIGTERM (exit code 143)",
        );
        check(
            Ended { code: 0, cause: Some(Cause::Stopped), ..ENDED },
            Reason::Stopped,
            None,
            "the agent was told to stop; it stopped the job, which exited with code 0",
        );
    }

    #[track_caller]
    fn check(ended: Ended, reason: Reason, signal: Option<&str>, message: &str) {
        let verdict = Verdict::of(ended);
        assert_eq!(
            (verdict.reason, verdict.signal.as_deref(), verdict.message.as_str()),
            (reason, signal, message)
        );
        assert_eq!(verdict.exit_code, Some(ended.code));
        let succeeded = verdict.outcome() == Outcome::Succeeded;
        assert_eq!(succeeded, reason == Reason::Completed);
    }
}
