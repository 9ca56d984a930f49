//! The decisions of a whole run, without clock, disk or Engine: a phase, an event, and what is to be done.
//!
//! ```text
//!               starting              over               told
//!   Preparing ───────────▶ Started ─────────▶ Ended ────────────▶ Told
//!      │  ▲                   │                 ▲
//!      │  └── again, ─────────┘                 │ over: it cannot run
//!      │      not started                       │
//!      └────────────────────────────────────────┘
//! ```
//!
//! The journal holds a [`Run`], so every arrow is on disk before what it allows is done: a container is
//! started after `starting` is written, and the callback is called after `over` is. An agent that is killed
//! anywhere begins at the last arrow, and [`Run::next`] says what to do there.

use serde::{Deserialize, Serialize};

use crate::{
    clock::Moment,
    job::{Job, OnReboot},
    report::{self, Reason, Report},
    supervise::{Cause, Verdict},
};

/// Attempts of a run at most, whatever the attributes say: a VM that reboots in a loop must come to an end, and
/// the report has a bound.
pub(crate) const MOST_ATTEMPTS: u32 = 100;

/// A run, as far as it has come.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Run {
    /// The attempt that it is at, from one.
    attempt: u32,
    /// The attempts before that.
    ended: Vec<report::Attempt>,
    phase: Phase,
    /// Why the callback did not accept the report, as of the last try that was written down.
    #[serde(default)]
    not_accepted: Option<String>,
}

/// How far a run has come.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", tag = "name")]
enum Phase {
    /// The attempt's container was not asked to start.
    Preparing {
        /// The container that it replaces: of the attempt before, or one that never started.
        #[serde(default)]
        left: Option<String>,
    },
    /// The container was asked to start. Whether it did, its own state tells.
    Started {
        container: String,
        at: Moment,
        /// Why it is made to end, if it is.
        stopping: Option<Cause>,
    },
    /// All attempts are over, and the callback has not accepted the report yet.
    Ended { report: Box<Report>, at: Moment, container: Option<String> },
    /// Nobody is to be told any more. The report is kept for whoever looks; older journals have none.
    Told { how: Told, container: Option<String>, report: Option<Box<Report>> },
}

/// How the telling ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Told {
    /// The callback accepted the report.
    Accepted,
    /// Nobody waits for it.
    Gone,
}

/// What can happen to a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// A container of this attempt is there, and a journal that was lost knows nothing of it.
    Found { attempt: u32 },
    /// This attempt's container is about to be started. The number is the container's own: a journal that could
    /// not be written may be behind it.
    Starting { container: String, attempt: u32, at: Moment },
    /// The container turns out to never have started.
    NotStarted,
    /// The container is about to be told to end.
    Stopping(Cause),
    /// The attempt ended so, and there will be another one, that replaces its container.
    Again { attempt: report::Attempt, container: Option<String> },
    /// There will be no other attempt. The container, if it is known to have ended, can go once this is told.
    Over { report: Box<Report>, at: Moment, container: Option<String> },
    /// The callback did not accept the report, for this reason.
    NotAccepted(String),
    /// The telling ended.
    Told(Told),
    /// The container is gone.
    Removed,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Get the container ready, and start it.
    Start,
    /// See what became of the container that was asked to start.
    Rejoin { container: String, at: Moment, stopping: Option<Cause> },
    /// Tell the callback.
    Deliver { report: Box<Report>, at: Moment },
    /// Remove the container.
    CleanUp { container: String, how: Told },
    /// Nothing.
    Finish(Told),
}

/// What is seen of a container that has the run's name and label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sighting<'a> {
    /// The attempt that it was created for.
    pub(crate) attempt: u32,
    /// The boot that it was created in.
    pub(crate) boot_id: &'a str,
    /// Whether it was ever started.
    pub(crate) started: bool,
    /// Whether it runs.
    pub(crate) running: bool,
}

/// What to do with a container that was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Start it: nobody has yet.
    Start,
    /// Join it, or judge its end: it is this attempt's.
    TakeOver,
    /// Remove it, and create another: it is an attempt's that is over, or of a boot that is.
    Replace,
    /// The VM was started anew since it ran.
    Rebooted,
}

impl Run {
    /// A run that has not begun.
    pub(crate) fn new() -> Self {
        Self { attempt: 1, ended: Vec::new(), phase: Phase::Preparing { left: None }, not_accepted: None }
    }

    /// The attempt that it is at, from one.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The attempts before that.
    pub(crate) fn ended(&self) -> &[report::Attempt] {
        &self.ended
    }

    /// How many of them failed, those that no journal knows of among them. A reboot is not the job's failure, and
    /// does not use up its attempts.
    pub(crate) fn failures(&self) -> usize {
        let rebooted = self.ended.iter().filter(|attempt| attempt.reason == Reason::Rebooted).count();
        (self.attempt as usize).saturating_sub(1 + rebooted)
    }

    /// Whether nobody is to be told of it any more.
    pub(crate) fn is_told(&self) -> bool {
        matches!(self.phase, Phase::Told { .. })
    }

    /// The container, if there is one that is known of.
    pub(crate) fn container(&self) -> Option<&str> {
        match &self.phase {
            Phase::Preparing { .. } => None,
            Phase::Started { container, .. } => Some(container),
            Phase::Ended { container, .. } | Phase::Told { container, .. } => container.as_deref(),
        }
    }

    /// What the callback is told, once there is something.
    pub(crate) fn report(&self) -> Option<&Report> {
        match &self.phase {
            Phase::Preparing { .. } | Phase::Started { .. } => None,
            Phase::Ended { report, .. } => Some(report),
            Phase::Told { report, .. } => report.as_deref(),
        }
    }

    /// Why the callback did not accept the report yet.
    pub(crate) fn not_accepted(&self) -> Option<&str> {
        self.not_accepted.as_deref().filter(|_| matches!(self.phase, Phase::Ended { .. }))
    }

    /// What is to be done now, by this agent or by one that is started after it.
    pub(crate) fn next(&self) -> Action {
        match self.phase.clone() {
            Phase::Preparing { .. } => Action::Start,
            Phase::Started { container, at, stopping } => Action::Rejoin { container, at, stopping },
            Phase::Ended { report, at, .. } => Action::Deliver { report, at },
            Phase::Told { how, container: Some(container), .. } => Action::CleanUp { container, how },
            Phase::Told { how, container: None, .. } => Action::Finish(how),
        }
    }

    /// What follows from an event. One that does not belong to the phase changes nothing: what is over stays so.
    pub(crate) fn on(&mut self, event: Event) {
        let phase = std::mem::replace(&mut self.phase, Phase::Preparing { left: None });
        self.phase = match (phase, event) {
            (phase @ Phase::Preparing { .. }, Event::Found { attempt }) => {
                self.attempt = self.attempt.max(attempt);
                phase
            }
            (Phase::Preparing { .. } | Phase::Started { .. }, Event::Starting { container, attempt, at }) => {
                self.attempt = attempt;
                Phase::Started { container, at, stopping: None }
            }
            (Phase::Started { container, .. }, Event::NotStarted) => {
                Phase::Preparing { left: Some(container) }
            }
            (Phase::Started { container, at, .. }, Event::Stopping(cause)) => {
                Phase::Started { container, at, stopping: Some(cause) }
            }
            (Phase::Preparing { .. } | Phase::Started { .. }, Event::Again { attempt, container }) => {
                self.ended.push(attempt);
                self.attempt += 1;
                Phase::Preparing { left: container }
            }
            (Phase::Preparing { left }, Event::Over { report, at, container }) => {
                Phase::Ended { report, at, container: container.or(left) }
            }
            (Phase::Started { .. }, Event::Over { report, at, container }) => {
                Phase::Ended { report, at, container }
            }
            (phase @ Phase::Ended { .. }, Event::NotAccepted(why)) => {
                self.not_accepted = Some(why);
                phase
            }
            (Phase::Ended { container, report, .. }, Event::Told(how)) => {
                // What was told needs no log any more, and the disk may be full.
                Phase::Told { how, container, report: Some(Box::new(report.without_tail())) }
            }
            (Phase::Told { how, report, .. }, Event::Removed) => Phase::Told { how, container: None, report },
            (phase, _) => phase,
        };
    }

    /// What to do with a container that has the name and the label that the next one should get.
    pub(crate) fn on_found(&self, seen: Sighting<'_>, boot_id: &str) -> Found {
        match seen {
            Sighting { running: true, .. } => Found::TakeOver,
            Sighting { attempt, .. } if attempt < self.attempt => Found::Replace,
            Sighting { started: false, boot_id: created, .. } if created == boot_id => Found::Start,
            Sighting { started: false, .. } => Found::Replace,
            Sighting { boot_id: created, .. } if created == boot_id => Found::TakeOver,
            Sighting { .. } => Found::Rebooted,
        }
    }

    /// Whether an attempt that ended so is followed by another one.
    pub(crate) fn goes_on_after(&self, verdict: &Verdict, job: &Job) -> bool {
        let has_attempts = self.failures() + 1 < job.max_attempts as usize;
        let is_listed = verdict.exit_code.is_some_and(|code| job.retry_exit_codes.contains(code));
        let goes_on = match verdict.reason {
            Reason::Error | Reason::OOMKilled => has_attempts && is_listed,
            // With an exit code the container is known to have ended; without one it may still run.
            Reason::EngineLost => has_attempts && verdict.exit_code.is_some(),
            Reason::Rebooted => job.on_reboot == OnReboot::Rerun,
            Reason::Completed
            | Reason::DeadlineExceeded
            | Reason::Preempted
            | Reason::Stopped
            | Reason::InvalidJob
            | Reason::ImagePullFailed
            | Reason::ContainerCannotRun
            | Reason::CommandCannotRun
            | Reason::Orphaned => false,
        };
        goes_on && self.attempt < MOST_ATTEMPTS
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{job::Order, report::Instance};

    #[test]
    fn every_phase_answers_every_event() {
        let told = |container: Option<&str>| Phase::Told {
            how: Told::Accepted,
            container: container.map(str::to_owned),
            report: Some(Box::new(report(Reason::Error, 1))),
        };
        let stopping = |stopping| Phase::Started { container: "c".to_owned(), at: moment(1), stopping };
        let again = || Phase::Started { container: "d".to_owned(), at: moment(2), stopping: None };
        let preparing = |left: Option<&str>| Phase::Preparing { left: left.map(str::to_owned) };
        let all = [preparing(None), stopping(None), ended(), told(Some("c")), told(None)];
        // A row an event, a column a phase.
        let table: [(Event, [Phase; 5]); 8] = [
            (Event::Found { attempt: 2 }, all.clone()),
            (starting(), [again(), again(), ended(), told(Some("c")), told(None)]),
            (
                Event::NotStarted,
                [preparing(None), preparing(Some("c")), ended(), told(Some("c")), told(None)],
            ),
            (
                Event::Stopping(Cause::Deadline),
                [preparing(None), stopping(Some(Cause::Deadline)), ended(), told(Some("c")), told(None)],
            ),
            (
                again_after(Reason::Error),
                [preparing(Some("c")), preparing(Some("c")), ended(), told(Some("c")), told(None)],
            ),
            (over(), [ended(), ended(), ended(), told(Some("c")), told(None)]),
            (
                Event::Told(Told::Accepted),
                [preparing(None), stopping(None), told(Some("c")), told(Some("c")), told(None)],
            ),
            (Event::Removed, [preparing(None), stopping(None), ended(), told(None), told(None)]),
        ];
        for (event, expected) in table {
            for (phase, expected) in all.iter().zip(expected) {
                let mut run = Run { phase: phase.clone(), ..Run::new() };
                run.on(event.clone());
                assert_eq!(run.phase, expected, "{phase:?} on {event:?}");
            }
        }
    }

    #[test]
    fn what_is_done_next_is_what_the_phase_says() {
        let mut run = Run::new();
        assert_eq!(run.next(), Action::Start);
        run.on(starting());
        assert!(matches!(run.next(), Action::Rejoin { container, .. } if container == "d"));
        run.on(again_after(Reason::Error));
        assert_eq!((run.next(), run.attempt(), run.ended().len()), (Action::Start, 2, 1));
        run.on(Event::NotAccepted("too early".to_owned()));
        assert_eq!(run.not_accepted(), None);
        run.on(over());
        run.on(Event::NotAccepted("503".to_owned()));
        assert!(matches!(run.next(), Action::Deliver { .. }));
        assert_eq!(run.not_accepted(), Some("503"));
        run.on(Event::Told(Told::Gone));
        assert_eq!(run.next(), Action::CleanUp { container: "c".to_owned(), how: Told::Gone });
        run.on(Event::Removed);
        assert_eq!(run.next(), Action::Finish(Told::Gone));
    }

    #[test]
    fn what_is_left_of_an_attempt_goes_with_the_end_if_no_other_one_replaced_it() {
        let stopped =
            || Event::Over { report: Box::new(report(Reason::Stopped, 1)), at: moment(3), container: None };
        let told = || Event::Told(Told::Accepted);
        for before in [again_after(Reason::Error), Event::NotStarted] {
            let mut run = Run::new();
            [starting(), before, stopped(), told()].into_iter().for_each(|event| run.on(event));
            assert!(matches!(run.next(), Action::CleanUp { .. }), "{run:?}");
        }
        // One that may still run is not removed.
        let mut run = Run::new();
        [starting(), stopped(), told()].into_iter().for_each(|event| run.on(event));
        assert_eq!(run.next(), Action::Finish(Told::Accepted));
    }

    #[test]
    fn the_deepest_result_is_read_again_from_the_journal() {
        let deep = (0..64).fold(serde_json::json!(0.1), |inner, _| serde_json::json!([inner]));
        let report = Box::new(Report { result: Some(deep), ..report(Reason::Completed, 1) });
        let run = Run { phase: Phase::Ended { report, at: moment(3), container: None }, ..Run::new() };
        assert_eq!(serde_json::from_str::<Run>(&serde_json::to_string(&run).unwrap()).unwrap(), run);
    }

    #[test]
    fn a_container_that_was_there_before_is_started_at_most_once() {
        let run = Run { attempt: 2, ..Run::new() };
        let seen = |attempt, boot_id, started, running| {
            run.on_found(Sighting { attempt, boot_id, started, running }, "now")
        };
        assert_eq!(seen(2, "now", false, false), Found::Start);
        assert_eq!(seen(2, "now", true, true), Found::TakeOver);
        assert_eq!(seen(2, "now", true, false), Found::TakeOver);
        assert_eq!(seen(2, "before", false, false), Found::Replace, "its networks may be gone with the boot");
        assert_eq!(seen(2, "before", true, false), Found::Rebooted);
        assert_eq!(seen(1, "now", true, false), Found::Replace, "the attempt before this one");
        assert_eq!(seen(3, "now", true, false), Found::TakeOver, "the journal is behind");
    }

    #[test]
    fn an_attempt_that_only_its_container_knows_of_counts() {
        let mut run = Run::new();
        [Event::Found { attempt: 3 }, Event::Found { attempt: 1 }]
            .into_iter()
            .for_each(|event| run.on(event));
        assert_eq!((run.attempt(), run.failures()), (3, 2));
        run.on(again_after(Reason::Rebooted));
        assert_eq!((run.attempt(), run.failures(), run.ended().len()), (4, 2, 1));
    }

    #[test]
    fn a_page_of_which_any_byte_is_another_is_refused_or_means_something() {
        let mut run = Run::new();
        [starting(), again_after(Reason::Error), starting()].into_iter().for_each(|event| run.on(event));
        let (job, page) = (job(&[("longrun-max-attempts", "9")]), serde_json::to_vec(&run).unwrap());
        for at in 0..page.len() {
            for byte in b"019-\"x}\0\xff" {
                let mut page = page.clone();
                page[at] = *byte;
                let Ok(run) = serde_json::from_slice::<Run>(&page) else { continue };
                let verdict = Verdict::without_exit(Reason::Error, String::new());
                let verdict = Verdict { exit_code: Some(1), ..verdict };
                // Nothing is expected of it but an answer.
                let _ = (run.next(), run.failures(), run.goes_on_after(&verdict, &job));
            }
        }
    }

    #[test]
    fn an_attempt_is_followed_by_another_one_where_the_attributes_say_so() {
        let twice = job(&[("longrun-max-attempts", "2"), ("longrun-retry-exit-codes", "1,75")]);
        let rerun = job(&[("longrun-on-reboot", "rerun")]);
        let fail = job(&[]);
        for (job, reason, code, ended, expected) in [
            (&twice, Reason::Error, Some(75), &[][..], true),
            (&twice, Reason::Error, Some(2), &[], false),
            (&twice, Reason::OOMKilled, Some(137), &[], false),
            (&twice, Reason::Error, Some(1), &[Reason::Error], false),
            (&twice, Reason::Error, Some(1), &[Reason::Rebooted], true),
            (&twice, Reason::EngineLost, Some(137), &[], true),
            (&twice, Reason::EngineLost, None, &[], false),
            (&twice, Reason::Completed, Some(0), &[], false),
            (&twice, Reason::DeadlineExceeded, Some(1), &[], false),
            (&twice, Reason::Preempted, Some(1), &[], false),
            (&twice, Reason::Stopped, Some(1), &[], false),
            (&twice, Reason::InvalidJob, None, &[], false),
            (&twice, Reason::ImagePullFailed, None, &[], false),
            (&twice, Reason::ContainerCannotRun, Some(127), &[], false),
            (&twice, Reason::Rebooted, None, &[], false),
            (&rerun, Reason::Rebooted, None, &[Reason::Rebooted; 98], true),
            (&rerun, Reason::Rebooted, None, &[Reason::Rebooted; 99], false),
            (&rerun, Reason::Error, Some(1), &[], false),
            (&fail, Reason::Error, Some(1), &[], false),
        ] {
            let mut run = Run::new();
            ended.iter().for_each(|reason| run.on(again_after(*reason)));
            let verdict = Verdict { exit_code: code, ..Verdict::without_exit(reason, "") };
            assert_eq!(run.goes_on_after(&verdict, job), expected, "{reason:?} {code:?} after {ended:?}");
        }
    }

    proptest! {
            #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

            /// Agents that are killed anywhere, VMs that are started anew, callbacks that fail: at most one container
            /// runs, no attempt is started twice, nothing is started once the end was told, and one ending is told.
            #[test]
            fn whatever_happens_nothing_is_done_twice_and_one_ending_is_told(
                luck in prop::collection::vec(any::<u8>(), 0..200),
                max_attempts in 1..4_u32,
                rerun: bool,
                loses_journal: bool,
            ) {
                let attributes = [
                    ("longrun-max-attempts", max_attempts.to_string()),
                    ("longrun-on-reboot", if rerun { "rerun" } else { "fail" }.to_owned()),
                ];
                let attributes = attributes.each_ref().map(|(name, value)| (*name, value.as_str()));
                let mut world = World { job: Some(job(&attributes)), luck, loses_journal, ..World::default() };
                let mut lives = 0;
                while world.live().is_err() {
                    lives += 1;
                    prop_assert!(lives < 1000, "it goes on and on");
                }
    // Between two attempts there is a moment without a container: only a journal remembers the first one.
                if !loses_journal || max_attempts == 1 && !rerun {
                    prop_assert!(world.starts.values().all(|starts| *starts == 1), "{:?}", world.starts);
                }
                let first = world.accepted.first().expect("an ending");
                prop_assert!(world.accepted.iter().all(|report| report == first), "two endings were told");
                prop_assert_eq!(world.accepted.len(), 1 + world.killed_before_told);
                prop_assert!(world.container.is_none());
            }
        }

    /// The agent was killed.
    struct Killed;

    /// A VM with its Engine, its disk and its callback; and an agent that does what the real one does, a step at
    /// a time, as long as it has luck.
    #[derive(Default)]
    struct World {
        job: Option<Job>,
        luck: Vec<u8>,
        /// Whether the disk forgets everything, up to the report.
        loses_journal: bool,
        boot: u32,
        disk: Option<Run>,
        container: Option<(u32, String, State)>,
        starts: BTreeMap<u32, u32>,
        accepted: Vec<Report>,
        killed_before_told: usize,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum State {
        Created,
        Running,
        Exited(i64),
    }

    impl World {
        /// One agent, from its start to its end or its death.
        fn live(&mut self) -> Result<(), Killed> {
            let mut run = self.disk.clone().unwrap_or_else(Run::new);
            loop {
                let event = match run.next() {
                    Action::Start => self.start(&mut run)?,
                    Action::Rejoin { at, .. } => self.rejoin(&run, &at)?,
                    Action::Deliver { report, .. } => {
                        self.may_die()?;
                        self.accepted.push(*report);
                        self.may_die().inspect_err(|_| self.killed_before_told += 1)?;
                        Event::Told(Told::Accepted)
                    }
                    Action::CleanUp { .. } => {
                        self.container = None;
                        Event::Removed
                    }
                    Action::Finish(_) => return Ok(()),
                };
                self.note(&mut run, event)?;
            }
        }

        fn note(&mut self, run: &mut Run, event: Event) -> Result<(), Killed> {
            let was_told = matches!(event, Event::Told(_));
            let before = self.luck.len();
            let alive = self.may_die();
            if alive.is_err() && was_told && before > 0 {
                self.killed_before_told += 1;
            }
            alive?;
            run.on(event);
            // A disk that forgets is no use for what was told: there is no other trace of that.
            if !self.loses_journal || matches!(run.phase, Phase::Ended { .. } | Phase::Told { .. }) {
                self.disk = Some(run.clone());
            }
            self.may_die()
        }

        fn start(&mut self, run: &mut Run) -> Result<Event, Killed> {
            let boot = self.boot();
            let (attempt, state) = loop {
                self.may_die()?;
                let Some((attempt, created, state)) = self.container.clone() else {
                    self.container = Some((run.attempt(), boot.clone(), State::Created));
                    self.may_die()?;
                    break (run.attempt(), State::Created);
                };
                let (started, running) = (state != State::Created, state == State::Running);
                match run.on_found(Sighting { attempt, boot_id: &created, started, running }, &boot) {
                    Found::Start | Found::TakeOver => break (attempt, state),
                    Found::Replace => self.container = None,
                    Found::Rebooted => return Ok(self.judge(run, Reason::Rebooted, None)),
                }
            };
            if state != State::Created {
                return self.follow(run);
            }
            self.note(run, Event::Starting { container: "c".to_owned(), attempt, at: self.now() })?;
            assert!(self.accepted.is_empty(), "started after its end was told");
            *self.starts.entry(attempt).or_default() += 1;
            self.container = Some((attempt, boot, State::Running));
            self.may_die()?;
            self.follow(run)
        }

        fn rejoin(&mut self, run: &Run, at: &Moment) -> Result<Event, Killed> {
            self.may_die()?;
            match self.container {
                Some((_, _, State::Created)) => Ok(Event::NotStarted),
                Some((_, _, State::Exited(_))) if at.boot_id() != self.boot() => {
                    Ok(self.judge(run, Reason::Rebooted, None))
                }
                _ => self.follow(run),
            }
        }

        /// The job ends well, or badly; or the VM is started anew, and takes the agent with it.
        fn follow(&mut self, run: &Run) -> Result<Event, Killed> {
            let (attempt, boot, state) = self.container.clone().expect("a container that was started");
            let code = match (state, self.luck.pop().map(|luck| luck % 3)) {
                (State::Exited(code), _) => code,
                (_, Some(0)) => {
                    self.container = Some((attempt, boot, State::Exited(137)));
                    self.boot += 1;
                    return Err(Killed);
                }
                (_, Some(1)) => 1,
                _ => 0,
            };
            self.container = Some((attempt, boot, State::Exited(code)));
            self.may_die()?;
            let reason = if code == 0 { Reason::Completed } else { Reason::Error };
            Ok(self.judge(run, reason, Some(code)))
        }

        fn judge(&self, run: &Run, reason: Reason, exit_code: Option<i64>) -> Event {
            let verdict = Verdict { exit_code, ..Verdict::without_exit(reason, "") };
            match run.goes_on_after(&verdict, self.job.as_ref().expect("a job")) {
                true => again_after(reason),
                false => {
                    let report = Box::new(report(reason, run.attempt()));
                    Event::Over { report, at: self.now(), container: Some("c".to_owned()) }
                }
            }
        }

        fn may_die(&mut self) -> Result<(), Killed> {
            match self.luck.pop() {
                Some(luck) if luck % 5 == 0 => Err(Killed),
                _ => Ok(()),
            }
        }

        fn boot(&self) -> String {
            self.boot.to_string()
        }

        fn now(&self) -> Moment {
            Moment::at(&self.boot(), 1, 1)
        }
    }

    fn job(attributes: &[(&str, &str)]) -> Job {
        let always = [("docker-command", "docker run a"), ("callback-url", "https://example.com")];
        let attributes = always.iter().chain(attributes);
        let attributes = attributes.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let no_file = |_: &str| Err(std::io::ErrorKind::NotFound.into());
        Order::read(&attributes, no_file).unwrap().job.unwrap()
    }

    fn moment(since_boot: u64) -> Moment {
        Moment::at("now", since_boot, since_boot)
    }

    fn starting() -> Event {
        Event::Starting { container: "d".to_owned(), attempt: 1, at: moment(2) }
    }

    fn over() -> Event {
        let report = Box::new(report(Reason::Error, 1));
        Event::Over { report, at: moment(3), container: Some("c".to_owned()) }
    }

    fn again_after(reason: Reason) -> Event {
        Event::Again { attempt: record(reason), container: Some("c".to_owned()) }
    }

    fn ended() -> Phase {
        let report = Box::new(report(Reason::Error, 1));
        Phase::Ended { report, at: moment(3), container: Some("c".to_owned()) }
    }

    fn record(reason: Reason) -> report::Attempt {
        report::Attempt {
            reason,
            exit_code: None,
            signal: None,
            message: String::new(),
            started_at: None,
            finished_at: None,
        }
    }

    fn report(reason: Reason, attempts: u32) -> Report {
        Report {
            api_version: report::ApiVersion::V1,
            run_id: String::new(),
            outcome: report::Outcome::Failed,
            reason,
            exit_code: None,
            signal: None,
            message: format!("attempt {attempts}"),
            started_at: None,
            finished_at: None,
            attempts: Vec::new(),
            image: None,
            logs: report::Logs::default(),
            result: None,
            instance: None::<Instance>,
        }
    }
}
