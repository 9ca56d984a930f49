//! How long the job's output is waited for.
//!
//! Leaves out what is told of a log that did not come in time.

use std::time::Duration;

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout},
};

/// For the next byte of the log to come after the job's end: the Engine closes it within half a second (FACTS).
const DRAIN: Duration = Duration::from_secs(10);

/// How long reading may take: as long as the job, and within bounds after its end.
pub(super) struct Patience {
    job_ended: oneshot::Receiver<Instant>,
    /// The end of it, once the job ended.
    deadline: Option<Instant>,
    /// When the last byte came, or the job ended.
    heard: Instant,
}

impl Patience {
    pub(super) fn new(job_ended: oneshot::Receiver<Instant>) -> Self {
        Self { job_ended, deadline: None, heard: Instant::now() }
    }

    /// A byte came.
    pub(super) fn heard(&mut self) {
        if self.deadline.is_some() {
            self.heard = Instant::now();
        }
    }

    /// Returns when there is none left.
    pub(super) async fn over(&mut self) {
        let deadline = self.job_ended().await;
        sleep_until(deadline.min(self.heard + DRAIN)).await;
    }

    /// Waits, but for no longer than the job runs or patience lasts.
    pub(super) async fn pause(&mut self, pause: Duration) {
        // Either end of the wait is good.
        let _ = match self.deadline {
            None => timeout(pause, self.job_ended()).await.map(drop),
            Some(_) => timeout(pause, self.over()).await,
        };
    }

    /// How much of it is left; `whole` if the job runs.
    pub(super) fn left(&self, whole: Duration) -> Duration {
        self.deadline.map_or(whole, |deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether the job ended already, or does in this time.
    pub(super) async fn job_ends_within(&mut self, time: Duration) -> bool {
        timeout(time, self.job_ended()).await.is_ok()
    }

    /// The deadline, as soon as the job ended. Where nobody waits for the log any more, that is now.
    async fn job_ended(&mut self) -> Instant {
        if let Some(deadline) = self.deadline {
            return deadline;
        }
        let deadline = (&mut self.job_ended).await.unwrap_or_else(|_| Instant::now());
        self.heard = Instant::now();
        *self.deadline.insert(deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn there_is_no_end_of_patience_while_the_job_runs() {
        let (_job, mut patience) = patience();
        patience.heard();
        assert!(timeout(24 * HOUR, patience.over()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_jobs_end_a_silence_is_borne_for_a_while() {
        let (job, mut patience) = patience();
        let _ = job.send(Instant::now() + HOUR);
        for _ in 0..100 {
            assert!(timeout(DRAIN - SECOND, patience.over()).await.is_err());
            patience.heard();
        }
        assert_eq!(time_of(patience.over()).await, DRAIN);
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_jobs_end_even_a_log_that_keeps_coming_has_a_deadline() {
        let (job, mut patience) = patience();
        let _ = job.send(Instant::now() + 2 * SECOND);
        assert!(timeout(SECOND, patience.over()).await.is_err());
        patience.heard();
        assert_eq!(time_of(patience.over()).await, SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_nobody_waits_for_any_more_is_not_waited_for() {
        let (job, mut patience) = patience();
        drop(job);
        assert_eq!(time_of(patience.over()).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_ends_with_the_job() {
        let (job, mut patience) = patience();
        assert_eq!(time_of(patience.pause(SECOND)).await, SECOND);
        let _ = job.send(Instant::now() + HOUR);
        assert_eq!(time_of(patience.pause(SECOND)).await, Duration::ZERO);
        assert!(patience.job_ends_within(Duration::ZERO).await);
        assert_eq!(time_of(patience.pause(SECOND)).await, SECOND, "one that begins later is whole");
    }

    fn patience() -> (oneshot::Sender<Instant>, Patience) {
        let (job_ended, seen) = oneshot::channel();
        (job_ended, Patience::new(seen))
    }

    async fn time_of(wait: impl Future<Output = ()>) -> Duration {
        let begun = Instant::now();
        wait.await;
        begun.elapsed()
    }
}
