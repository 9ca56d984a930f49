//! Learns from the metadata server that the VM is about to go, while there is still time to tell the job.
//!
//! By long poll: the server answers when the value changes, or after a minute, so a week of watching costs two
//! small requests a minute. Leaves out what is done about it.
//!
//! Source: FACTS, "Metadata server" and "The VM's life"; cloud.google.com/compute/docs/instances/spot and
//! cloud.google.com/compute/docs/instances/graceful-shutdown-overview.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Metadata, MetadataError, metadata::Tagged};
use crate::{backoff, http};

/// The least time between two requests: a server that does not wait, or a proxy that answers for it, must not
/// make the agent spin.
const SOONEST: Duration = Duration::from_secs(1);
/// The longest delay after a failure; a preemption leaves 30 seconds from the notice to the power-off (FACTS).
const LONGEST: Duration = Duration::from_secs(10);
/// For a key that is not there, which may yet come: Google's guest agent asks again after as long (FACTS).
const ABSENT: Duration = Duration::from_secs(60);
/// An ETag that no value has, so that the first request is answered at once: a VM may be preempted already.
const NO_ETAG: &str = "0";

/// Why the VM is about to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Compute Engine takes the VM back: a Spot VM's power goes off within some 30 seconds.
    Preempted,
    /// Somebody stops or deletes the VM, and its graceful shutdown has begun: up to an hour, as the VM's
    /// owner set it.
    Stopping,
}

/// Watches for both notices and tells each once, as soon as the metadata server knows of it, also if it did so
/// before. Outlives every outage of the server, and returns once both are told; drop it to stop watching.
pub async fn watch(metadata: &Metadata, tell: impl Fn(Notice)) {
    tokio::join!(watch_for(Notice::Preempted, metadata, &tell), watch_for(Notice::Stopping, metadata, &tell));
}

async fn watch_for(notice: Notice, metadata: &Metadata, tell: impl Fn(Notice)) {
    let mut etag = NO_ETAG.to_owned();
    let mut delays = retry_delays();
    loop {
        let asked = Instant::now();
        let answer = metadata.wait_for_change(notice.key(), &etag).await;
        let pause = pause(&answer, &mut delays);
        match answer {
            Ok(Tagged { value, .. }) if notice.is_told_by(&value) => return tell(notice),
            Ok(tagged) => {
                etag = tagged.etag.unwrap_or_else(|| NO_ETAG.to_owned());
                delays = retry_delays();
            }
            Err(error) => {
                tracing::debug!(error = http::chain(&error), key = notice.key(), "the watch goes on later");
            }
        }
        sleep_until(asked + pause).await;
    }
}

/// From a request to the next one, at least.
fn pause(answer: &Result<Tagged, MetadataError>, delays: &mut impl Iterator<Item = Duration>) -> Duration {
    match answer {
        Ok(_) => SOONEST,
        Err(error) if error.is_absent() => ABSENT,
        Err(_) => delays.next().unwrap_or(LONGEST),
    }
}

fn retry_delays() -> impl Iterator<Item = Duration> + Send {
    backoff::delays(SOONEST, LONGEST)
}

impl Notice {
    /// Where the metadata server tells it.
    const fn key(self) -> &'static str {
        match self {
            Self::Preempted => "instance/preempted",
            Self::Stopping => "instance/shutdown-details/stop-state",
        }
    }

    /// Whether the key's value says so. `STOPPING` comes after `PENDING_STOP` (Compute's API,
    /// `ResourceStatusShutdownDetails.StopState`), for a watch that missed the first.
    fn is_told_by(self, value: &str) -> bool {
        match self {
            Self::Preempted => value.trim() == "TRUE",
            Self::Stopping => matches!(value.trim(), "PENDING_STOP" | "STOPPING"),
        }
    }
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::*;

    #[test]
    fn a_notice_is_told_by_its_own_values_alone() {
        for (value, preempted, stopping) in [
            ("TRUE", true, false),
            ("TRUE\n", true, false),
            ("FALSE", false, false),
            ("PENDING_STOP", false, true),
            ("STOPPING", false, true),
            ("UNSPECIFIED", false, false),
            ("NONE", false, false),
            ("", false, false),
        ] {
            let told = (Notice::Preempted.is_told_by(value), Notice::Stopping.is_told_by(value));
            assert_eq!(told, (preempted, stopping), "{value:?}");
        }
    }

    #[test]
    fn after_a_failure_the_watch_goes_on_in_seconds_and_for_a_missing_key_in_a_minute() {
        let status = |status| Err(MetadataError::Status { status, path: String::new() });
        let answered = Ok(Tagged { value: "FALSE".to_owned(), etag: None });
        assert_eq!(pause(&answered, &mut retry_delays()), SOONEST);
        assert_eq!(pause(&status(StatusCode::NOT_FOUND), &mut retry_delays()), Duration::from_secs(60));
        let mut delays = retry_delays();
        for code in [400, 403, 429, 500, 503, 503, 503, 503, 503, 503] {
            let pause = pause(&status(StatusCode::from_u16(code).unwrap()), &mut delays);
            assert!((SOONEST..=LONGEST).contains(&pause), "{code}: {pause:?}");
        }
    }
}
