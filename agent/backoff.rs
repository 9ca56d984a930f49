//! Delays between tries, as an iterator.
//!
//! Leaves out the sleeping and the giving up: whoever retries knows its deadline.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// Delays between `first` and `longest`, without end: they double, and each has up to as much again at random
/// on top, at the end too, so that a thousand VMs that lost the same server do not come back in step.
pub(crate) fn delays(first: Duration, longest: Duration) -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::new()
        .with_min_delay(first.min(longest / 2))
        .with_max_delay(longest / 2)
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_never_end_and_stay_between_first_and_longest() {
        let (first, longest) = (Duration::from_secs(1), Duration::from_secs(60));
        let delays: Vec<_> = delays(first, longest).take(100).collect();
        assert_eq!(delays.len(), 100);
        assert!(delays.iter().all(|delay| (first..=longest).contains(delay)), "{delays:?}");
        let late = &delays[50..];
        assert!(late.iter().all(|delay| *delay >= longest / 2), "{late:?}");
        assert!(late.iter().any(|delay| *delay != late[0]), "they are in step: {late:?}");
    }

    #[test]
    fn no_two_that_wait_have_the_same_delays() {
        let some = || delays(Duration::from_secs(1), Duration::from_secs(60)).take(20).collect::<Vec<_>>();
        assert_ne!(some(), some());
    }
}
