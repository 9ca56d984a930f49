//! The decisions of supervising, without clock or Engine: a state, an event, and what follows.
//!
//! ```text
//!              deadline, stop asked          grace over, stop asked again
//!   Running ─────────────────────▶ Stopping ─────────────────────────▶ Killing ─┐ patience over:
//!      │                              │                                  │  ▲   │ kill again,
//!      │ exit                         │ exit                             │  └───┘ at last Lost
//!      └──────────────┬───────────────┴──────────────────────────────────┘
//!                     ▼
//!                   Ended                (the Engine gone for too long: from any state to Lost)
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// SIGKILLs sent to a container that does not go: an Engine that restarts comes back within minutes.
const MOST_KILLS: u8 = 30;
/// For the Engine to answer once the agent was told to stop. When a VM shuts down, Docker stops answering and
/// ends the agent's container ten seconds after; what is known by then must be told.
const ENGINE_AT_STOP: Duration = Duration::from_secs(3);
/// The longest grace on preemption. Compute Engine gives 30 s from its notice to the end (FACTS): of the 25 that
/// can be counted on, this leaves ten for the log and the delivery.
const GRACE_AT_PREEMPTION: Duration = Duration::from_secs(15);

/// Where a started container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It runs and may run on.
    Running,
    /// It was asked to end, and its grace is running.
    Stopping(Cause),
    /// It was sent this many SIGKILLs.
    Killing(Cause, u8),
    /// It ended; with a cause if it was made to.
    Ended(Option<Cause>),
    /// Nobody can tell; with a cause if it was made to end.
    Lost(Option<Cause>),
}

/// Why a container was made to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// It ran longer than it may.
    Deadline,
    /// Somebody stopped the agent, or the VM's own shutdown did.
    Stopped,
    /// Compute Engine said that it stops the VM.
    VmStopping,
    /// Compute Engine said that it takes the VM away.
    Preempted,
    /// The workflow that waited is gone.
    Orphaned,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The container ended.
    Exited,
    /// The Engine was away for too long, or does not know the container any more.
    EngineLost,
    /// `longrun-timeout` is over.
    DeadlinePassed,
    /// The agent was told to stop, and why.
    StopAsked(Cause),
    /// The time is over that the last [`Action`] was given.
    PatienceOver,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Wait on.
    Nothing,
    /// Send the stop signal, and wait for the cause's grace.
    Stop,
    /// Wait no longer than the cause's grace from now on.
    Shorten,
    /// Send SIGKILL, and wait a while.
    Kill,
}

impl Cause {
    /// The cause that is told when another one comes: a signal is what a notice foretold, and that nobody waits for
    /// the job is the least that can be said.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Orphaned, other) => other,
            (Self::Stopped | Self::VmStopping, Self::Preempted) => Self::Preempted,
            (Self::Stopped, Self::VmStopping) => Self::VmStopping,
            (first, _) => first,
        }
    }

    /// How long the Engine may be away, of the time that it may be at other times.
    pub(crate) fn engine_patience(self, usual: Duration) -> Duration {
        match self {
            Self::Deadline | Self::Orphaned => usual,
            Self::Stopped | Self::VmStopping | Self::Preempted => usual.min(ENGINE_AT_STOP),
        }
    }

    /// The time between stop signal and SIGKILL, of the job's own.
    pub(crate) fn grace(self, own: Duration) -> Duration {
        match self {
            Self::Preempted => own.min(GRACE_AT_PREEMPTION),
            Self::Deadline | Self::Stopped | Self::VmStopping | Self::Orphaned => own,
        }
    }
}

impl Event {
    /// What brought a cause about.
    pub(crate) fn of_cause(cause: Cause) -> Self {
        match cause {
            Cause::Deadline => Self::DeadlinePassed,
            Cause::Stopped | Cause::VmStopping | Cause::Preempted | Cause::Orphaned => Self::StopAsked(cause),
        }
    }
}

impl State {
    /// What follows from `event`.
    pub(crate) fn on(self, event: Event) -> (Self, Action) {
        use Event::{DeadlinePassed, EngineLost, Exited, PatienceOver, StopAsked};
        match (self, event) {
            (Self::Ended(_) | Self::Lost(_), _) => (self, Action::Nothing),
            (_, EngineLost) => (Self::Lost(self.cause()), Action::Nothing),
            (_, Exited) => (Self::Ended(self.cause()), Action::Nothing),

            (Self::Running, DeadlinePassed) => (Self::Stopping(Cause::Deadline), Action::Stop),
            (Self::Running, StopAsked(cause)) => (Self::Stopping(cause), Action::Stop),
            (Self::Running, PatienceOver) => (self, Action::Nothing),

            (Self::Stopping(cause), StopAsked(asked)) => Self::asked_again(cause, asked),
            (Self::Stopping(cause), PatienceOver) => (Self::Killing(cause, 1), Action::Kill),
            (Self::Killing(cause, kills), StopAsked(asked)) => {
                (Self::Killing(cause.and(asked), kills), Action::Nothing)
            }
            (Self::Killing(cause, MOST_KILLS), PatienceOver) => (Self::Lost(Some(cause)), Action::Nothing),
            (Self::Killing(cause, kills), PatienceOver) => (Self::Killing(cause, kills + 1), Action::Kill),
            (Self::Stopping(_) | Self::Killing(..), DeadlinePassed) => (self, Action::Nothing),
        }
    }

    /// Who asks a second time wants it sooner, but for the signal that follows a notice.
    fn asked_again(cause: Cause, asked: Cause) -> (Self, Action) {
        match (cause, asked) {
            (Cause::Deadline | Cause::Stopped | Cause::Orphaned, Cause::Stopped) => {
                (Self::Killing(cause.and(asked), 1), Action::Kill)
            }
            (_, Cause::Preempted) => (Self::Stopping(cause.and(asked)), Action::Shorten),
            _ => (Self::Stopping(cause.and(asked)), Action::Nothing),
        }
    }

    /// Whether nothing can follow any more.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Ended(_) | Self::Lost(_))
    }

    /// Why the container is made to end, or was.
    pub(crate) fn cause(self) -> Option<Cause> {
        match self {
            Self::Running => None,
            Self::Stopping(cause) | Self::Killing(cause, _) => Some(cause),
            Self::Ended(cause) | Self::Lost(cause) => cause,
        }
    }

    /// How long the Engine may be away, of the time that it may be at other times.
    pub(crate) fn engine_patience(self, usual: Duration) -> Duration {
        self.cause().map_or(usual, |cause| cause.engine_patience(usual))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Action::{Kill, Nothing, Shorten, Stop};
    use Cause::{Deadline, Orphaned, Preempted, Stopped, VmStopping};
    use Event::{DeadlinePassed, EngineLost, Exited, PatienceOver, StopAsked};
    use State::{Ended, Killing, Lost, Running, Stopping};

    const EVENTS: [Event; 8] = [
        Exited,
        EngineLost,
        DeadlinePassed,
        PatienceOver,
        StopAsked(Stopped),
        StopAsked(VmStopping),
        StopAsked(Preempted),
        StopAsked(Orphaned),
    ];

    #[test]
    fn every_state_answers_every_event() {
        on(
            Running,
            [
                (Ended(None), Nothing),
                (Lost(None), Nothing),
                (Stopping(Deadline), Stop),
                (Running, Nothing),
                (Stopping(Stopped), Stop),
                (Stopping(VmStopping), Stop),
                (Stopping(Preempted), Stop),
                (Stopping(Orphaned), Stop),
            ],
        );
        for cause in [Deadline, Stopped, VmStopping, Preempted, Orphaned] {
            let ends = [(Ended(Some(cause)), Nothing), (Lost(Some(cause)), Nothing)];
            let on_stop = asked_while_stopping(cause);
            let stopping = (Stopping(cause), Nothing);
            let [stop, vm_stop, preempt] = on_stop;
            let kill = (Killing(cause, 1), Kill);
            on(Stopping(cause), [ends[0], ends[1], stopping, kill, stop, vm_stop, preempt, stopping]);
            let [stop, vm_stop, preempt] =
                on_stop.map(|(state, _)| (Killing(state.cause().unwrap(), 1), Nothing));
            let (killing, kill) = ((Killing(cause, 1), Nothing), (Killing(cause, 2), Kill));
            on(Killing(cause, 1), [ends[0], ends[1], killing, kill, stop, vm_stop, preempt, killing]);
        }
        for end in [Ended(None), Ended(Some(Deadline)), Lost(None), Lost(Some(Stopped))] {
            on(end, EVENTS.map(|_| (end, Nothing)));
        }
    }

    /// By `Stopped`, `VmStopping`, `Preempted`.
    fn asked_while_stopping(cause: Cause) -> [(State, Action); 3] {
        match cause {
            Deadline => {
                [(Killing(Deadline, 1), Kill), (Stopping(Deadline), Nothing), (Stopping(Deadline), Shorten)]
            }
            Stopped => {
                [(Killing(Stopped, 1), Kill), (Stopping(VmStopping), Nothing), (Stopping(Preempted), Shorten)]
            }
            VmStopping => [
                (Stopping(VmStopping), Nothing),
                (Stopping(VmStopping), Nothing),
                (Stopping(Preempted), Shorten),
            ],
            Preempted => [
                (Stopping(Preempted), Nothing),
                (Stopping(Preempted), Nothing),
                (Stopping(Preempted), Shorten),
            ],
            Orphaned => {
                [(Killing(Stopped, 1), Kill), (Stopping(VmStopping), Nothing), (Stopping(Preempted), Shorten)]
            }
        }
    }

    #[test]
    fn a_container_that_cannot_be_killed_is_given_up() {
        let (mut state, mut kills) = (Stopping(Deadline), 0);
        while state != Lost(Some(Deadline)) {
            let (next, action) = state.on(PatienceOver);
            kills += usize::from(action == Kill);
            state = next;
        }
        assert_eq!(kills, usize::from(MOST_KILLS));
    }

    #[test]
    fn on_preemption_nothing_may_take_long() {
        let hour = Duration::from_secs(3600);
        let patience = |state: State| state.engine_patience(hour);
        assert_eq!((patience(Running), patience(Stopping(Deadline))), (hour, hour));
        assert_eq!(patience(Stopping(Preempted)), ENGINE_AT_STOP);
        assert_eq!((Stopped.grace(hour), Preempted.grace(hour)), (hour, GRACE_AT_PREEMPTION));
        assert!(GRACE_AT_PREEMPTION + ENGINE_AT_STOP <= Duration::from_secs(18), "25 s are for all of it");
    }

    proptest! {
        #[test]
        fn whatever_happens_the_stop_signal_is_sent_once_and_an_end_stays(
            events in prop::collection::vec(prop::sample::select(&EVENTS[..]), 0..40)
        ) {
            let (mut state, mut stops, mut end) = (Running, 0, None);
            for event in events {
                let (next, action) = state.on(event);
                stops += usize::from(action == Stop);
                prop_assert!(stops <= 1);
                prop_assert!(!next.is_final() || action == Nothing);
                if let Some(end) = end {
                    prop_assert_eq!(end, next);
                }
                end = next.is_final().then_some(next);
                prop_assert!(state.cause().is_none() || next.cause().is_some(), "a cause was forgotten");
                state = next;
            }
        }
    }

    #[track_caller]
    fn on(state: State, expected: [(State, Action); 8]) {
        for (event, expected) in EVENTS.into_iter().zip(expected) {
            assert_eq!(state.on(event), expected, "{state:?} on {event:?}");
        }
    }
}
