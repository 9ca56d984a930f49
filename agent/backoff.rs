//! Delays between tries, as an iterator.
//!
//! Leaves out the sleeping and the giving up: whoever retries knows its deadline.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// Delays that double from `first` to `longest` without end, each with up to as much again at random on
/// top, so that a thousand VMs that lost the same server do not come back in step.
pub(crate) fn delays(first: Duration, longest: Duration) -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::new()
        .with_min_delay(first)
        .with_max_delay(longest)
        .without_max_times()
        .with_jitter()
        .build()
        .map(move |delay| delay.min(longest))
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
        assert_eq!(delays[99], longest);
    }
}
