//! From how a container ended to what the report says of it. Pure.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::Cause;
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
    /// Whether the Engine ended it, by going itself.
    pub(crate) by_engine: bool,
    /// The most memory that it might have, in bytes; `None` for all that the VM has.
    pub(crate) limit: Option<u64>,
    /// The most memory that it had, in bytes, if that is known.
    pub(crate) peak: Option<u64>,
    /// Longest run.
    pub(crate) timeout: Option<Duration>,
}

impl Verdict {
    /// Nothing ran, or nobody knows what did.
    pub(crate) fn without_exit(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, exit_code: None, signal: None, message: message.into() }
    }

    /// The agent was told to stop before the job ran, or before it could be found again.
    pub(crate) fn stopped_early(cause: Cause) -> Self {
        Self::without_exit(cause.reason(), format!("{}, before the job was running", cause.sentence()))
    }

    /// How the container ended is not known.
    pub(crate) fn lost(cause: Option<Cause>, why: &str) -> Self {
        match cause {
            None | Some(Cause::Deadline | Cause::Orphaned) => Self::without_exit(Reason::EngineLost, why),
            // Docker stops answering when the VM shuts down.
            Some(cause) => {
                let message = format!("{}; how the job ended was not seen: {why}", cause.sentence());
                Self::without_exit(cause.reason(), message)
            }
        }
    }

    /// The VM was started anew since the container ran; it may have been about to end for `cause`.
    pub(crate) fn rebooted(code: i64, cause: Option<Cause>) -> Self {
        // Docker gives 255 to what it finds dead when it starts.
        let known = Some(code).filter(|code| *code != 255);
        let how = known.map_or("how it ended is not known".to_owned(), |code| format!("it {}", how_of(code)));
        let (reason, message) = match cause {
            Some(cause) => {
                let sentence = cause.sentence();
                (
                    cause.reason(),
                    format!("{sentence}, and the VM was started anew before that was told; {how}"),
                )
            }
            None => (Reason::Rebooted, format!("the VM was started anew while the job ran; {how}")),
        };
        let signal = known.and_then(signal_of).map(str::to_owned);
        Self { reason, exit_code: known, signal, message }
    }

    /// A container ended.
    pub(crate) fn of(ended: Ended) -> Self {
        let (signal, how) = (signal_of(ended.code), how_of(ended.code));
        let (reason, message) = match ended.cause {
            Some(Cause::Deadline) => {
                let timeout = humantime::format_duration(ended.timeout.unwrap_or_default());
                (
                    Reason::DeadlineExceeded,
                    format!("the job ran longer than {timeout}, was stopped, and {how}"),
                )
            }
            Some(cause) => (cause.reason(), format!("{}; it stopped the job, which {how}", cause.sentence())),
            None if ended.by_engine => (
                Reason::EngineLost,
                format!(
                    "Docker stopped or was restarted, and ended the job, which {how}; its live-restore would have let it run on"
                ),
            ),
            None if ended.code == 0 => (Reason::Completed, "the job completed".to_owned()),
            None if ended.oom_killed => (Reason::OOMKilled, out_of_memory(ended, signal, &how)),
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
            | Reason::CommandCannotRun
            | Reason::EngineLost
            | Reason::Orphaned => Outcome::Failed,
        }
    }
}

/// A process that is killed for want of memory gets SIGKILL: a job that ended otherwise lost another than its
/// first.
fn out_of_memory(ended: Ended, signal: Option<&str>, how: &str) -> String {
    let limit = ended.limit.map(|bytes| format!("limit {} MiB", bytes >> 20));
    let limit = limit.unwrap_or_else(|| "no limit but the VM's memory".to_owned());
    let peak = ended.peak.map(|bytes| format!(", peak {} MiB", bytes >> 20)).unwrap_or_default();
    match signal {
        Some("SIGKILL") => format!("the job ran out of memory ({limit}{peak}), and {how}"),
        _ => format!("a process of the job was killed for want of memory ({limit}{peak}), and the job {how}"),
    }
}

impl Cause {
    fn reason(self) -> Reason {
        match self {
            Self::Deadline => Reason::DeadlineExceeded,
            Self::Stopped | Self::VmStopping => Reason::Stopped,
            Self::Preempted => Reason::Preempted,
            Self::Orphaned => Reason::Orphaned,
        }
    }

    /// Who wanted the job to end.
    fn sentence(self) -> &'static str {
        match self {
            Self::Deadline => "the job ran longer than it may",
            Self::Stopped => "the agent was told to stop",
            Self::VmStopping => "the agent was told that Compute Engine stops the VM",
            Self::Preempted => "the agent was told that the VM is preempted",
            Self::Orphaned => "the agent saw that the workflow that waited is gone",
        }
    }
}

fn how_of(code: i64) -> String {
    match (signal_of(code), code) {
        (Some(signal), code) => format!("was ended by {signal} (exit code {code})"),
        (None, 126) => "exited with code 126 (by custom: its command cannot be executed)".to_owned(),
        (None, 127) => "exited with code 127 (by custom: its command was not found)".to_owned(),
        (None, code) => format!("exited with code {code}"),
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

    const ENDED: Ended = Ended {
        code: 0,
        oom_killed: false,
        cause: None,
        by_engine: false,
        limit: None,
        peak: None,
        timeout: None,
    };

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
    fn a_job_without_memory_is_told_with_its_limit_and_its_peak() {
        let killed = Ended { code: 137, oom_killed: true, ..ENDED };
        let (limit, peak) = (Some(32 << 20), Some((32 << 20) - 1));
        for (limit, peak, told) in [
            (limit, peak, "limit 32 MiB, peak 31 MiB"),
            (limit, None, "limit 32 MiB"),
            (None, peak, "no limit but the VM's memory, peak 31 MiB"),
            (None, None, "no limit but the VM's memory"),
        ] {
            check(
                Ended { limit, peak, ..killed },
                Reason::OOMKilled,
                Some("SIGKILL"),
                &format!("the job ran out of memory ({told}), and was ended by SIGKILL (exit code 137)"),
            );
        }
    }

    #[test]
    fn a_job_that_lost_a_process_for_want_of_memory_is_told_with_its_own_end() {
        let lost_a_child = Ended { oom_killed: true, limit: Some(32 << 20), ..ENDED };
        let told = "a process of the job was killed for want of memory (limit 32 MiB), and the job";
        for (code, signal, end) in
            [(1, None, "exited with code 1"), (134, Some("SIGABRT"), "was ended by SIGABRT (exit code 134)")]
        {
            let ended = Ended { code, ..lost_a_child };
            check(ended, Reason::OOMKilled, signal, &format!("{told} {end}"));
        }
        // One that coped is no failure, and one that was stopped is not told as another's end.
        check(lost_a_child, Reason::Completed, None, "the job completed");
        let stopped = Ended { code: 1, cause: Some(Cause::Stopped), ..lost_a_child };
        let message = "the agent was told to stop; it stopped the job, which exited with code 1";
        check(stopped, Reason::Stopped, None, message);
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

    #[test]
    fn what_a_reboot_leaves_of_an_exit_code_is_told() {
        for (code, cause, reason, exit_code, message) in [
            // What Docker finds dead when it starts has 255.
            (255, None, Reason::Rebooted, None, "while the job ran; how it ended is not known"),
            (0, None, Reason::Rebooted, Some(0), "while the job ran; it exited with code 0"),
            (
                137,
                Some(Cause::Preempted),
                Reason::Preempted,
                Some(137),
                "before that was told; it was ended by",
            ),
        ] {
            let verdict = Verdict::rebooted(code, cause);
            assert_eq!((verdict.reason, verdict.exit_code), (reason, exit_code));
            assert!(verdict.message.contains(message), "{}", verdict.message);
        }
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
