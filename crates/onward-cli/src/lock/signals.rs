//! The signals that reach us: most are the command's, one says that it may have ended.

use std::io;
use std::task::Poll;

use rustix::process::Signal;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// What goes to the command.
const FORWARDED: [Signal; 8] =
    [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2, Signal::CONT, Signal::WINCH];
/// What ends us while there is no command yet.
const ENDING: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];

/// The signals of this process, from now on.
#[derive(Debug)]
pub(super) struct Signals {
    forwarded: Vec<(Signal, Stream)>,
    child: Stream,
}

impl Signals {
    /// Begins to listen; call it before the command is started.
    pub(super) fn listen() -> io::Result<Self> {
        let listen = |kind: Signal| Ok((kind, signal(SignalKind::from_raw(kind.as_raw()))?));
        Ok(Self { forwarded: FORWARDED.into_iter().map(listen).collect::<io::Result<_>>()?, child: signal(SignalKind::child())? })
    }

    /// Waits for a signal that is the command's; `None` says that a child changed its state.
    pub(super) async fn next(&mut self) -> Option<Signal> {
        std::future::poll_fn(|cx| {
            if self.child.poll_recv(cx).is_ready() {
                return Poll::Ready(None);
            }
            for (kind, stream) in &mut self.forwarded {
                if stream.poll_recv(cx).is_ready() {
                    return Poll::Ready(Some(*kind));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Waits for a signal that ends us; returns its number.
    pub(super) async fn ending(&mut self) -> u8 {
        loop {
            if let Some(signal) = self.next().await.filter(|signal| ENDING.contains(signal)) {
                return u8::try_from(signal.as_raw()).unwrap_or(0);
            }
        }
    }
}
