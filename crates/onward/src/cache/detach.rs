//! Calls that go on when the caller's future is dropped (C6).

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;

use crate::{Error, Result};

/// Runs `call` to its end even if the returned future is dropped after its first poll.
///
/// An engine that answers at once costs no task. Outside of a tokio runtime there is nobody to carry on: the call then ends with the future.
pub(super) async fn detached<T: Send + 'static>(call: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let mut call = Box::pin(call);
    if let Poll::Ready(result) = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await {
        return result;
    }
    match Handle::try_current() {
        Ok(runtime) => match runtime.spawn(call).await {
            Ok(result) => result,
            Err(_) => Err(Error::unknown("the runtime ended before the engine answered")),
        },
        Err(_) => call.await,
    }
}

/// Starts `call` from where nobody can wait, such as a `drop`; what can't be finished is left to end by itself.
pub(crate) fn in_background(call: impl Future<Output = ()> + Send + 'static) {
    let mut call: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(call);
    if call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
        && let Ok(runtime) = Handle::try_current()
    {
        runtime.spawn(call);
    }
}
