//! The wake-up for readers of the change log: each batch tells its newest revision by NOTIFY. A hint, never the truth: it may get lost, and
//! a pooler swallows it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_postgres::AsyncMessage;

use super::connection::Server;
use crate::retry;
use crate::time::Clock;

/// How long it waits before it makes a lost connection again.
const AGAIN: Duration = Duration::from_secs(1);

/// Hears what is told on a channel; clones share one connection, which is made when somebody listens for the first time.
#[derive(Clone, Debug)]
pub(super) struct Ear<T>(Arc<Inner<T>>);

#[derive(Debug)]
struct Inner<T> {
    server: Server,
    runtime: Handle,
    channel: &'static str,
    read: fn(&str) -> Option<T>,
    words: watch::Sender<T>,
    task: Mutex<Option<AbortHandle>>,
}

impl<T> Drop for Inner<T> {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut() {
            task.abort();
        }
    }
}

impl<T: Send + Sync + 'static> Ear<T> {
    /// An ear at a channel, whose words `read` understands; before the first there was `silence`.
    pub(super) fn at(server: Server, runtime: Handle, channel: &'static str, silence: T, read: fn(&str) -> Option<T>) -> Self {
        Self(Arc::new(Inner { server, runtime, channel, read, words: watch::Sender::new(silence), task: Mutex::default() }))
    }

    /// Listens from now on.
    pub(super) fn listen(&self) -> watch::Receiver<T> {
        let mut task = self.0.task.lock();
        if task.is_none() {
            let (read, words) = (self.0.read, self.0.words.clone());
            let told = move |word: Option<&str>| {
                if let Some(word) = word.and_then(read) {
                    words.send_replace(word);
                }
            };
            *task = Some(self.0.runtime.spawn(hear(self.0.server.clone(), self.0.channel, told)).abort_handle());
        }
        self.0.words.subscribe()
    }
}

/// Listens at a channel without end: tells each word, and `None` when it has begun to listen, since words may have been missed.
pub(super) async fn hear(server: Server, channel: &'static str, told: impl Fn(Option<&str>)) {
    let clock = Clock::system();
    let listen = format!("LISTEN {channel}");
    loop {
        // Without a connection whoever waits looks by itself.
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
            // What fails here ends the connection, or is a pooler's silence.
            let ((), ()) = tokio::join!(hear, begin);
        }
        retry::sleep(&clock, AGAIN).await;
    }
}
