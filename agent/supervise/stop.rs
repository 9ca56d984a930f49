//! The wish that the agent stops: whoever has the handle asks, whoever supervises listens.

use std::{future::Future, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::Cause;

/// Asks the agent to stop, any number of times: the second time hastens it.
#[derive(Clone, Debug)]
pub struct StopHandle(watch::Sender<Option<Cause>>);

/// Hears of it. A clone hears by itself what this one has not heard yet.
#[derive(Clone, Debug)]
pub struct Stop {
    asked: watch::Receiver<Option<Cause>>,
    handle: StopHandle,
}

/// A handle and its listener.
pub fn stop() -> (StopHandle, Stop) {
    let (sender, asked) = watch::channel(None);
    let handle = StopHandle(sender);
    (handle.clone(), Stop { asked, handle })
}

impl StopHandle {
    /// Asks once more.
    pub fn ask(&self, cause: Cause) {
        // A notice that nobody has heard yet is not hidden by the signal that follows it.
        self.0.send_modify(|asked| *asked = Some(asked.map_or(cause, |before| before.and(cause))));
    }
}

impl Stop {
    /// Waits for the next time that it is asked, and answers why; times missed count as one.
    pub async fn asked(&mut self) -> Cause {
        // The handle is here too, so there is no end to it.
        let _ = self.asked.changed().await;
        (*self.asked.borrow_and_update()).unwrap_or(Cause::Stopped)
    }

    /// What comes of asking the Engine; after a stop it has not long to answer, and `Err` says why. A stop that
    /// comes before the answer is left for who listens next.
    pub(crate) async fn hastens<T>(
        &mut self,
        usual: Duration,
        answer: impl Future<Output = T>,
    ) -> Result<T, Cause> {
        let mut ahead = self.clone();
        let out_of_time = async {
            let cause = ahead.asked().await;
            sleep(cause.engine_patience(usual)).await;
        };
        tokio::select! {
            answer = answer => Ok(answer),
            () = out_of_time => Err(self.asked().await),
        }
    }

    /// Waits for a stop that somebody sent. A notice that the VM is about to go is no reason to give up what can be
    /// done until then.
    pub async fn asked_by_hand(&mut self) {
        while self.asked().await != Cause::Stopped {}
    }

    /// For one more who may ask.
    pub fn handle(&self) -> StopHandle {
        self.handle.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stop_hastens_what_is_waited_for_and_is_heard_once() {
        let usual = Duration::from_secs(300);
        for (answers_in, answer) in [(2, Ok(())), (200, Err(Cause::Preempted))] {
            let (handle, mut stop) = stop();
            let answering = sleep(Duration::from_secs(answers_in));
            assert_eq!(stop.hastens(usual, answering).await, Ok(()), "nobody asked for a stop");
            handle.ask(Cause::Preempted);
            let answering = sleep(Duration::from_secs(answers_in));
            assert_eq!(stop.hastens(usual, answering).await, answer);
            let again = tokio::time::timeout(Duration::from_secs(9), stop.asked()).await;
            assert_eq!(
                again.ok(),
                answer.err().xor(Some(Cause::Preempted)),
                "it is left for who listens next"
            );
        }
    }
}
