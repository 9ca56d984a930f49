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

/// SIGKILLs sent to a container that does not go: an Engine that restarts comes back within minutes.
const MOST_KILLS: u8 = 30;

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
    /// Nobody can tell.
    Lost,
}

/// Why a container was made to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It ran longer than it may.
    Deadline,
    /// Somebody stopped the agent.
    Stopped,
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
    /// The agent was told to stop.
    StopAsked,
    /// The time is over that the last [`Action`] was given.
    PatienceOver,
}

/// What is to be done, each with a time after which [`Event::PatienceOver`] is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Wait on.
    Nothing,
    /// Send the stop signal.
    Stop,
    /// Send SIGKILL.
    Kill,
}

impl State {
    /// What follows from `event`.
    pub(crate) fn on(self, event: Event) -> (Self, Action) {
        use Event::{DeadlinePassed, EngineLost, Exited, PatienceOver, StopAsked};
        match (self, event) {
            (Self::Ended(_) | Self::Lost, _) => (self, Action::Nothing),
            (_, EngineLost) => (Self::Lost, Action::Nothing),

            (Self::Running, Exited) => (Self::Ended(None), Action::Nothing),
            (Self::Running, DeadlinePassed) => (Self::Stopping(Cause::Deadline), Action::Stop),
            (Self::Running, StopAsked) => (Self::Stopping(Cause::Stopped), Action::Stop),
            (Self::Running, PatienceOver) => (self, Action::Nothing),

            (Self::Stopping(cause) | Self::Killing(cause, _), Exited) => {
                (Self::Ended(Some(cause)), Action::Nothing)
            }
            (Self::Stopping(cause), PatienceOver | StopAsked) => (Self::Killing(cause, 1), Action::Kill),
            (Self::Killing(_, MOST_KILLS), PatienceOver) => (Self::Lost, Action::Nothing),
            (Self::Killing(cause, kills), PatienceOver) => (Self::Killing(cause, kills + 1), Action::Kill),
            (Self::Stopping(_) | Self::Killing(..), DeadlinePassed) | (Self::Killing(..), StopAsked) => {
                (self, Action::Nothing)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Action::{Kill, Nothing, Stop};
    use Cause::{Deadline, Stopped};
    use Event::{DeadlinePassed, EngineLost, Exited, PatienceOver, StopAsked};
    use State::{Ended, Killing, Lost, Running, Stopping};

    #[test]
    fn every_state_answers_every_event() {
        on(
            Running,
            [
                (Exited, Ended(None), Nothing),
                (EngineLost, Lost, Nothing),
                (DeadlinePassed, Stopping(Deadline), Stop),
                (StopAsked, Stopping(Stopped), Stop),
                (PatienceOver, Running, Nothing),
            ],
        );
        for cause in [Deadline, Stopped] {
            on(
                Stopping(cause),
                [
                    (Exited, Ended(Some(cause)), Nothing),
                    (EngineLost, Lost, Nothing),
                    (DeadlinePassed, Stopping(cause), Nothing),
                    (StopAsked, Killing(cause, 1), Kill),
                    (PatienceOver, Killing(cause, 1), Kill),
                ],
            );
            on(
                Killing(cause, 1),
                [
                    (Exited, Ended(Some(cause)), Nothing),
                    (EngineLost, Lost, Nothing),
                    (DeadlinePassed, Killing(cause, 1), Nothing),
                    (StopAsked, Killing(cause, 1), Nothing),
                    (PatienceOver, Killing(cause, 2), Kill),
                ],
            );
        }
        for end in [Ended(None), Ended(Some(Deadline)), Lost] {
            on(end, EVENTS.map(|event| (event, end, Nothing)));
        }
    }

    #[test]
    fn a_container_that_cannot_be_killed_is_given_up() {
        let (mut state, mut kills) = (Stopping(Deadline), 0);
        while state != Lost {
            let (next, action) = state.on(PatienceOver);
            kills += usize::from(action == Kill);
            state = next;
        }
        assert_eq!(kills, usize::from(MOST_KILLS));
    }

    const EVENTS: [Event; 5] = [Exited, EngineLost, DeadlinePassed, StopAsked, PatienceOver];

    #[track_caller]
    fn on(state: State, expected: [(Event, State, Action); 5]) {
        assert_eq!(expected.map(|(event, ..)| event), EVENTS, "a row is missing");
        for (event, next, action) in expected {
            assert_eq!(state.on(event), (next, action), "{state:?} on {event:?}");
        }
    }
}
