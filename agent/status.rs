//! `longrun-agent status`: how the run stands, as the journal has it.
//!
//! Only reads, takes no lock, and works while an agent does. What an agent does between two entries it cannot see,
//! nor whether one is alive.

use std::{
    fmt::{self, Display, Write},
    io::ErrorKind,
    path::Path,
    time::SystemTime,
};

use serde::Serialize;

use crate::{
    exit::Code,
    journal::{self, Owner},
    lifecycle::{Action, Run, Told},
    report::{self, Report},
    supervise::Cause,
};

/// What is printed, and the exit code that goes with it: 0 while all is well, 75 if the run ended and the callback
/// has not accepted the report, 76 if nobody waits for it, 66 without a journal, 65 with one that cannot be used.
pub fn of(state_dir: &Path, as_json: bool) -> (Result<String, String>, Code) {
    let path = journal::file(state_dir);
    let path = path.display();
    match journal::peek(state_dir) {
        Ok(Some((owner, run))) => {
            let status = Status::of(&owner, &run);
            let text = match as_json {
                true => serde_json::to_string_pretty(&status).expect("a status has only string keys") + "\n",
                false => status.text(SystemTime::now()),
            };
            (Ok(text), status.phase.code())
        }
        Ok(None) => {
            let why = format!(
                "there is no journal {path}; no agent has come to work here, or LONGRUN_STATE_DIR is another one"
            );
            (Err(why), Code::NoInput)
        }
        Err(error) => {
            let is_read = matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof);
            let code = if is_read { Code::DataErr } else { Code::NoInput };
            (Err(format!("the journal {path} cannot be used: {error}")), code)
        }
    }
}

/// How a run stands. As JSON it has all of these fields.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    run_id: &'a str,
    instance_id: &'a str,
    phase: Phase,
    /// Since when it runs, or is over.
    #[serde(with = "report::rfc3339")]
    since: Option<SystemTime>,
    /// From one.
    attempt: u32,
    /// Why the job is made to end, if it is.
    stopping: Option<Cause>,
    container: Option<String>,
    /// The attempts that ended before this one.
    attempts: &'a [report::Attempt],
    /// What the callback is told, once the run is over.
    report: Option<&'a Report>,
    /// Why the callback has not accepted it, as of a try within the last minute of tries.
    last_error: Option<&'a str>,
}

/// Where a run is, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Phase {
    /// The attempt's container was not asked to start.
    Preparing,
    Running,
    Stopping,
    /// The callback has not accepted the report.
    Ended,
    /// It has.
    Reported,
    /// Nobody waits for it.
    Gone,
}

impl Phase {
    fn code(self) -> Code {
        match self {
            Self::Preparing | Self::Running | Self::Stopping | Self::Reported => Code::Ok,
            Self::Ended => Code::TempFail,
            Self::Gone => Code::Gone,
        }
    }
}

impl Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Preparing => "preparing: the job was not started yet",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Ended => "ended: the callback has not accepted the report yet",
            Self::Reported => "reported: the callback accepted the report",
            Self::Gone => "gone: nobody waits for the report",
        })
    }
}

impl<'a> Status<'a> {
    fn of(owner: &'a Owner, run: &'a Run) -> Self {
        let (phase, since, stopping) = match run.next() {
            Action::Start => (Phase::Preparing, None, None),
            Action::Rejoin { at, stopping: None, .. } => (Phase::Running, at.wall(), None),
            Action::Rejoin { at, stopping, .. } => (Phase::Stopping, at.wall(), stopping),
            Action::Deliver { at, .. } => (Phase::Ended, at.wall(), None),
            Action::CleanUp { how: Told::Accepted, .. } | Action::Finish(Told::Accepted) => {
                (Phase::Reported, None, None)
            }
            Action::CleanUp { how: Told::Gone, .. } | Action::Finish(Told::Gone) => (Phase::Gone, None, None),
        };
        Self {
            run_id: &owner.run_id,
            instance_id: &owner.instance_id,
            phase,
            since,
            attempt: run.attempt(),
            stopping,
            container: run.container().map(str::to_owned),
            attempts: run.ended(),
            report: run.report(),
            last_error: run.not_accepted(),
        }
    }

    /// A line a fact, for people.
    fn text(&self, now: SystemTime) -> String {
        let mut text = String::new();
        let mut line = |name: &str, fact: &dyn Display| {
            // A string takes everything.
            _ = writeln!(text, "{name:<10} {fact}");
        };
        line("run", &self.run_id);
        line("phase", &self.phase);
        if let Some(since) = self.since {
            line("since", &since_when(since, now));
        }
        match self.attempts.len() {
            0 => line("attempt", &self.attempt),
            ended => line("attempt", &format_args!("{}, after {ended} that ended", self.attempt)),
        }
        if let Some(container) = &self.container {
            line("container", container);
        }
        if let Some(Report { outcome, reason, message, .. }) = self.report {
            line("outcome", &format_args!("{outcome:?}, {reason:?}"));
            line("message", message);
        }
        if let Some(error) = self.last_error {
            line("last error", &error);
        }
        text
    }
}

/// A clock that was set back since says nothing of how long ago that was.
fn since_when(since: SystemTime, now: SystemTime) -> String {
    let time = humantime::format_rfc3339_seconds(since);
    match now.duration_since(since) {
        Ok(ago) => {
            format!("{time} ({})", humantime::format_duration(std::time::Duration::from_secs(ago.as_secs())))
        }
        Err(_) => time.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use serde_json::json;

    use super::*;
    use crate::report::{ApiVersion, Logs, Outcome, Reason};

    #[test]
    fn every_phase_is_told_to_people_in_a_few_lines() {
        let ended = report();
        for (status, expected) in [
            (
                Status { phase: Phase::Preparing, since: None, container: None, ..status() },
                "run        abc\nphase      preparing: the job was not started yet\nattempt    1\n",
            ),
            (
                status(),
                "run        abc\nphase      running\nsince      2026-11-23T10:00:00Z (1h 1m 7s)\nattempt    1\ncontainer  c0ffee\n",
            ),
            (
                Status {
                    phase: Phase::Stopping,
                    stopping: Some(Cause::Deadline),
                    container: None,
                    ..status()
                },
                "run        abc\nphase      stopping\nsince      2026-11-23T10:00:00Z (1h 1m 7s)\nattempt    1\n",
            ),
            (
                Status { phase: Phase::Gone, since: None, report: Some(&ended), ..status() },
                "run        abc\nphase      gone: nobody waits for the report\nattempt    1\ncontainer  c0ffee\noutcome    Failed, Error\nmessage    the job exited with code 3\n",
            ),
        ] {
            assert_eq!(status.text(now()), expected);
        }
        let early = status().text(UNIX_EPOCH);
        assert!(early.contains("since      2026-11-23T10:00:00Z\n"), "{early}");
    }

    #[test]
    fn scripts_find_every_field_in_every_phase() {
        let running = serde_json::to_value(status()).unwrap();
        assert_eq!(
            running,
            json!({
                "runId": "abc",
                "instanceId": "1234567890123456789",
                "phase": "running",
                "since": "2026-11-23T10:00:00.000Z",
                "attempt": 1,
                "stopping": null,
                "container": "c0ffee",
                "attempts": [],
                "report": null,
                "lastError": null
            })
        );
        let ended = report();
        let ended = Status { phase: Phase::Ended, report: Some(&ended), ..status() };
        let ended = serde_json::to_value(ended).unwrap();
        assert_eq!((&ended["phase"], &ended["report"]["reason"]), (&json!("ended"), &json!("Error")));
    }

    #[test]
    fn the_exit_code_is_the_agents_own_for_how_the_telling_stands() {
        for (phase, code) in [
            (Phase::Preparing, 0),
            (Phase::Running, 0),
            (Phase::Stopping, 0),
            (Phase::Ended, 75),
            (Phase::Reported, 0),
            (Phase::Gone, 76),
        ] {
            assert_eq!(phase.code() as u8, code, "{phase:?}");
        }
    }

    fn status() -> Status<'static> {
        Status {
            run_id: "abc",
            instance_id: "1234567890123456789",
            phase: Phase::Running,
            since: Some(UNIX_EPOCH + Duration::from_secs(1_795_428_000)),
            attempt: 1,
            stopping: None,
            container: Some("c0ffee".to_owned()),
            attempts: &[],
            report: None,
            last_error: None,
        }
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_795_431_667_500)
    }

    fn report() -> Report {
        Report {
            api_version: ApiVersion::V1,
            run_id: "abc".to_owned(),
            outcome: Outcome::Failed,
            reason: Reason::Error,
            exit_code: Some(3),
            signal: None,
            message: "the job exited with code 3".to_owned(),
            started_at: None,
            finished_at: None,
            attempts: Vec::new(),
            image: None,
            logs: Logs::default(),
            result: None,
            instance: None,
        }
    }
}
