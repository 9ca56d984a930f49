//! Moments that outlive the process: how long ago something was, whatever was done to the wall clock since.
//!
//! A VM's wall clock may be wrong for the first minutes of a boot (FACTS) and jump by any amount later. Within
//! one boot the kernel's own count is asked instead; only across boots there is nothing but the wall clock.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Another value after each boot (random(4)); the same in every container.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Tells the time in this boot.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    boot_id: String,
}

/// A moment that can be written down.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Moment {
    boot_id: String,
    /// Milliseconds since that boot, those that the machine slept included.
    since_boot: u64,
    #[serde(with = "crate::report::rfc3339")]
    wall: Option<SystemTime>,
}

impl Clock {
    /// Learns which boot this is. A kernel that does not say so has one boot for ever.
    pub(crate) fn read() -> Self {
        let boot_id = std::fs::read_to_string(BOOT_ID).inspect_err(|error| {
            tracing::warn!(%error, "{BOOT_ID} cannot be read, so a reboot of the VM goes unnoticed");
        });
        Self { boot_id: boot_id.unwrap_or_default().trim().to_owned() }
    }

    /// This boot.
    pub(crate) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// This moment.
    pub(crate) fn now(&self) -> Moment {
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
        Moment {
            boot_id: self.boot_id.clone(),
            since_boot: u64::try_from(since_boot.as_millis()).unwrap_or(u64::MAX),
            wall: Some(SystemTime::now()),
        }
    }
}

impl Moment {
    /// The boot that it was in.
    pub(crate) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// What the wall clock said.
    pub(crate) fn wall(&self) -> Option<SystemTime> {
        self.wall
    }

    /// From this moment to a later one. Nothing, if the wall clock was set back and is all there is.
    pub(crate) fn until(&self, later: &Self) -> Duration {
        if self.boot_id == later.boot_id {
            return Duration::from_millis(later.since_boot.saturating_sub(self.since_boot));
        }
        let between = self.wall.zip(later.wall).and_then(|(from, to)| to.duration_since(from).ok());
        between.unwrap_or_default()
    }
}

#[cfg(test)]
impl Moment {
    /// So many seconds after a boot, with the wall clock at so many seconds.
    pub(crate) fn at(boot_id: &str, since_boot: u64, wall: u64) -> Self {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(wall);
        Self { boot_id: boot_id.to_owned(), since_boot: since_boot * 1000, wall: Some(wall) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_a_boot_the_wall_clock_does_not_count() {
        let day = 24 * 3600;
        for wall in [1000, 1010, 1000 + day, 1000 - 999] {
            let (from, to) = (Moment::at("a", 50, 1000), Moment::at("a", 60, wall));
            assert_eq!(from.until(&to), Duration::from_secs(10), "{wall}");
        }
        assert_eq!(Moment::at("a", 60, 0).until(&Moment::at("a", 50, 0)), Duration::ZERO);
    }

    #[test]
    fn across_boots_the_wall_clock_is_all_there_is() {
        let from = Moment::at("a", 50, 1000);
        assert_eq!(from.until(&Moment::at("b", 1, 1300)), Duration::from_secs(300));
        assert_eq!(from.until(&Moment::at("b", 1, 900)), Duration::ZERO);
    }

    #[test]
    fn this_machine_tells_its_boot_and_time_passes_in_it() {
        let clock = Clock::read();
        assert_eq!(clock.boot_id().len(), 36, "{clock:?}");
        let (first, second) = (clock.now(), clock.now());
        assert!(first.since_boot > 0 && first.until(&second) < Duration::from_secs(10));
    }
}
