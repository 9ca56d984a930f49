//! The wish that the agent stops: whoever has the handle asks, whoever supervises listens.

use tokio::sync::watch;

use super::Cause;

/// Asks the agent to stop, any number of times: the second time hastens it.
#[derive(Clone, Debug)]
pub struct StopHandle(watch::Sender<Option<Cause>>);

/// Hears of it.
#[derive(Debug)]
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
