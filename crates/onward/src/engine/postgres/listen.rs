//! Wake-ups by NOTIFY. Hints, never the truth: one may get lost, and a pooler swallows all.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio_postgres::AsyncMessage;

use super::connection::Server;
use crate::retry;
use crate::time::Clock;

/// How long it waits before it makes a lost connection again.
const AGAIN: Duration = Duration::from_secs(1);

/// What is done with a word; `None`: words may have been missed. It must not block.
type Told = Arc<dyn Fn(Option<&str>) + Send + Sync>;

/// Hears what is told on a channel; clones share one connection, which is made when somebody listens for the first time.
#[derive(Clone, Debug)]
pub(super) struct Ear(Arc<Inner>);

struct Inner {
    server: Server,
    runtime: Handle,
    channel: &'static str,
    told: Told,
    task: Mutex<Option<AbortHandle>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ear").field("channel", &self.channel).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut() {
            task.abort();
        }
    }
}

impl Ear {
    pub(super) fn at(server: Server, runtime: Handle, channel: &'static str, told: impl Fn(Option<&str>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { server, runtime, channel, told: Arc::new(told), task: Mutex::default() }))
    }

    /// Listens from now on.
    pub(super) fn listen(&self) {
        let mut task = self.0.task.lock();
        if task.is_none() {
            let hear = hear(self.0.server.clone(), self.0.channel, Arc::clone(&self.0.told));
            *task = Some(self.0.runtime.spawn(hear).abort_handle());
        }
    }
}

async fn hear(server: Server, channel: &'static str, told: Told) {
    let clock = Clock::system();
    let listen = format!("LISTEN {channel}");
    loop {
        // Without a connection whoever waits looks by himself.
        if let Ok((client, mut connection)) = server.connect().await {
            let hear = async {
                while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                    if let AsyncMessage::Notification(word) = message {
                        told(Some(word.payload()));
                    }
                }
            };
            let begin = async {
                if client.batch_execute(&listen).await.is_ok() {
                    told(None);
                }
            };
            // It ends with the connection, which the client holds open.
            tokio::join!(hear, begin);
        }
        retry::sleep(&clock, AGAIN).await;
    }
}
