//! The wish that the agent stops: whoever has the handle asks, whoever supervises listens.

use tokio::sync::watch;

/// Asks the agent to stop, any number of times: the second time hastens it.
#[derive(Clone, Debug)]
pub struct StopHandle(watch::Sender<u32>);

/// Hears of it.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<u32>);

/// A handle and its listener.
pub fn stop() -> (StopHandle, Stop) {
    let (sender, receiver) = watch::channel(0);
    (StopHandle(sender), Stop(receiver))
}

impl StopHandle {
    /// Asks once more.
    pub fn ask(&self) {
        self.0.send_modify(|times| *times += 1);
    }
}

impl Stop {
    /// Waits for the next time that it is asked; times missed count as one. Never returns once the handle is
    /// gone.
    pub async fn asked(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
