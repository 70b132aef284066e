//! What an operator tells a running server: to end, to end at once, to look at its files again.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Orders to a running server. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    end: CancellationToken,
    end_now: CancellationToken,
    look: Arc<Notify>,
}

impl Orders {
    /// Takes orders from SIGTERM and SIGINT: the first ends the server, the second at once. Inside a Tokio runtime.
    ///
    /// # Errors
    /// The system does not let us listen.
    pub fn of_process() -> io::Result<Self> {
        let orders = Self::default();
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let to = orders.clone();
        tokio::spawn(async move {
            while !to.end_now.is_cancelled() {
                tokio::select! {
                    _ = interrupt.recv() => to.end(),
                    _ = terminate.recv() => to.end(),
                }
            }
        });
        Ok(orders)
    }

    /// Takes SIGHUP as the order to look at files again; without it, the end of a terminal ends the process.
    ///
    /// # Errors
    /// The system does not let us listen.
    pub fn look_on_hangup(&self) -> io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        let to = self.clone();
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                to.look_again();
            }
        });
        Ok(())
    }

    /// Ends the server; said again, at once.
    pub fn end(&self) {
        if self.end.is_cancelled() {
            self.end_now.cancel();
        }
        self.end.cancel();
    }

    /// Lets the server look at its files now.
    pub fn look_again(&self) {
        self.look.notify_one();
    }

    /// Waits for the order to end.
    pub(crate) async fn ended(&self) {
        self.end.cancelled().await;
    }

    /// Waits for a future, and no longer when the server shall end at once; `None` then.
    pub(crate) async fn unless_now<F: Future>(&self, future: F) -> Option<F::Output> {
        self.end_now.run_until_cancelled(future).await
    }

    /// Waits for the order to look again.
    pub(crate) async fn looked(&self) {
        self.look.notified().await;
    }
}
