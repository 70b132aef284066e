//! Connections: each carries many callers at once, knows whether it is alive, and comes back by itself.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, PushInfo, PushKind, RedisError, RedisResult, Value};
use tokio::sync::Notify;

use super::address::Address;
use super::error::{Sent, of_call, of_connect};
use crate::retry::{self, Backoff};
use crate::time::{Clock, Moment};
use crate::{Error, Result};

/// How long an answer may take. Below the time that the parts give a call, so that the connection is the first to know.
const ANSWER: Duration = Duration::from_millis(900);
/// How long it may take to connect, greeting included.
const CONNECT: Duration = Duration::from_secs(1);
/// Calls that wait to be written.
const WAITING: usize = 1_024;
/// How long a connection may leave calls without any answer, when none of them waits so long itself.
const DEAD: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a connection tells without being asked. Called on the connection's task: it must not block.
pub(super) trait Pushed: Send + Sync + 'static {
    /// A message came on a channel.
    fn message(self: Arc<Self>, channel: &[u8], payload: &[u8]);
    /// The connection was lost: what is pushed from now on is missed.
    fn lost(self: Arc<Self>);
    /// It is there again, with all channels; what was pushed in between is missed.
    fn returned(self: Arc<Self>);
}

/// A connection that many callers share; clones share it, too.
///
/// While it is down, calls fail at once with nothing sent, and a task connects again, with pauses that grow to a second. A call
/// without an answer in time counts as a connection that is gone: callers go on with a new one.
#[derive(Clone)]
pub(super) struct Link(Arc<Inner>);

/// A link that is not kept alive.
#[derive(Clone)]
pub(super) struct WeakLink(Weak<Inner>);

impl fmt::Debug for WeakLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakLink(..)")
    }
}

impl WeakLink {
    /// Returns the link, if it still is there.
    pub(super) fn upgrade(&self) -> Option<Link> {
        self.0.upgrade().map(Link)
    }
}

struct Inner {
    address: Address,
    client: redis::Client,
    channels: Vec<String>,
    pushed: Option<Arc<dyn Pushed>>,
    state: Mutex<State>,
    /// Tells the task that there is something to do: the connection is gone, or the last handle.
    changed: Arc<Notify>,
}

#[derive(Default)]
struct State {
    /// Counts connections, so that a failure of an old one does not end a new one.
    generation: u64,
    connection: Option<MultiplexedConnection>,
    /// Which process answers: its `run_id`, empty if the user may not ask for it.
    server: Arc<str>,
    /// Since when the oldest call of this connection waits; none if the last thing that happened was an answer.
    unheard_since: Option<Moment>,
}

/// One connection to one process: what it answers does not come from another, whatever is reconnected in between.
pub(super) struct Session {
    inner: Arc<Inner>,
    connection: MultiplexedConnection,
    generation: u64,
    server: Arc<str>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("address", &self.0.address).field("up", &self.is_up()).finish_non_exhaustive()
    }
}

impl Link {
    /// Connects.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend): the server is away or knows no such user. `Unsupported`: it is too old.
    pub(super) async fn open(address: &Address) -> Result<Self> {
        Self::begin(address, Vec::new(), None).await
    }

    /// Connects and listens on channels; after each reconnect, too.
    ///
    /// # Errors
    /// As [`Link::open`].
    pub(super) async fn listen(address: &Address, channels: Vec<String>, pushed: Arc<dyn Pushed>) -> Result<Self> {
        Self::begin(address, channels, Some(pushed)).await
    }

    async fn begin(address: &Address, channels: Vec<String>, pushed: Option<Arc<dyn Pushed>>) -> Result<Self> {
        let changed = Arc::new(Notify::new());
        let inner = Arc::new(Inner {
            address: address.clone(),
            client: address.client()?,
            channels,
            pushed,
            state: Mutex::default(),
            changed: Arc::clone(&changed),
        });
        inner.connect().await?;
        tokio::spawn(keep(Arc::downgrade(&inner), changed));
        Ok(Self(inner))
    }

    /// Returns a handle that does not keep it alive.
    pub(super) fn downgrade(&self) -> WeakLink {
        WeakLink(Arc::downgrade(&self.0))
    }

    /// Tells whether it is connected, as far as is known.
    pub(super) fn is_up(&self) -> bool {
        self.0.state.lock().connection.is_some()
    }

    /// Sends one command and reads its answer.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend): not applied while the connection is down; [`Effect::Unknown`](crate::Effect::Unknown) without an answer.
    pub(super) async fn call<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        self.send(command).await?.map_err(|e| of_call(e, Sent::Command))
    }

    /// Sends commands together and reads their answers: one way there and back. Without [`Pipeline::atomic`] others may come between.
    ///
    /// # Errors
    /// As [`Link::call`]; an error of one command is the error of all, with [`Effect::Unknown`](crate::Effect::Unknown).
    pub(super) async fn call_all<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T> {
        self.send_all(pipeline).await?.map_err(|e| of_call(e, Sent::Steps))
    }

    /// Sends commands together; the server's refusal is left to the caller.
    ///
    /// # Errors
    /// As [`Link::send`].
    pub(super) async fn send_all<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<RedisResult<T>> {
        let (mut connection, generation) = self.0.current()?;
        let answer = in_time(pipeline.query_async(&mut connection)).await;
        Ok(self.0.judged(answer, generation))
    }

    /// Sends one command; the server's refusal is left to the caller.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend), not applied: the connection is down.
    pub(super) async fn send<T: FromRedisValue>(&self, command: &Cmd) -> Result<RedisResult<T>> {
        let (mut connection, generation) = self.0.current()?;
        let answer = in_time(connection.send_packed_command(command))
            .await
            .and_then(Value::extract_error)
            .and_then(|value| Ok(redis::from_redis_value(value)?));
        Ok(self.0.judged(answer, generation))
    }
}

impl Link {
    /// Returns the connection of now.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend), not applied: it is down. `Unsupported`: the server does not say which it is.
    pub(super) fn session(&self) -> Result<Session> {
        let (connection, generation) = self.0.current()?;
        let server = Arc::clone(&self.0.state.lock().server);
        if server.is_empty() {
            return Err(Error::unsupported("redis does not permit this user the command INFO, so nobody could tell a restart"));
        }
        Ok(Session { inner: Arc::clone(&self.0), connection, generation, server })
    }
}

impl Session {
    /// Returns which process answers: another one after each restart and failover.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// As [`Session::server`], to keep.
    pub(super) fn shared_server(&self) -> Arc<str> {
        Arc::clone(&self.server)
    }

    /// Sends commands together and reads an answer for each: one way there and back.
    ///
    /// # Errors
    /// As [`Link::call_all`], but for what a command alone is refused.
    pub(super) async fn each(&self, commands: &Pipeline) -> Result<Vec<RedisResult<Value>>> {
        let call = self.inner.begin_call(self.generation);
        let answers = in_time(self.connection.clone().req_packed_commands(commands, 0, commands.len())).await;
        call.end();
        let answers = self.inner.judged(answers, self.generation).map_err(|e| of_call(e, Sent::Steps))?;
        Ok(answers.into_iter().map(|answer| self.inner.judged(answer.extract_error(), self.generation)).collect())
    }
}

/// A call without an answer yet.
struct Unheard<'a> {
    inner: &'a Inner,
    generation: u64,
    heard: bool,
}

impl Unheard<'_> {
    fn end(mut self) {
        self.heard = true;
    }
}

impl Drop for Unheard<'_> {
    /// Callers that give up early never see the connection's own time-out: whoever leaves looks whether it is dead.
    fn drop(&mut self) {
        let since = {
            let mut state = self.inner.state.lock();
            if state.generation != self.generation {
                return;
            }
            if self.heard {
                state.unheard_since = None;
            }
            state.unheard_since
        };
        if since.is_some_and(|since| Clock::system().now().since(since) > DEAD) {
            self.inner.let_go(self.generation);
        }
    }
}

impl Inner {
    fn begin_call(&self, generation: u64) -> Unheard<'_> {
        let mut state = self.state.lock();
        if state.generation == generation && state.unheard_since.is_none() {
            state.unheard_since = Some(Clock::system().now());
        }
        Unheard { inner: self, generation, heard: false }
    }

    fn current(&self) -> Result<(MultiplexedConnection, u64)> {
        let state = self.state.lock();
        match &state.connection {
            Some(connection) => Ok((connection.clone(), state.generation)),
            None => Err(Error::unavailable("redis is away")),
        }
    }

    /// Lets go of a connection that failed.
    fn judged<T>(&self, answer: RedisResult<T>, generation: u64) -> RedisResult<T> {
        if let Err(error) = &answer
            && is_fatal(error)
        {
            self.let_go(generation);
        }
        answer
    }

    fn let_go(&self, generation: u64) {
        let gone = {
            let mut state = self.state.lock();
            if state.generation == generation { state.connection.take() } else { None }
        };
        if gone.is_some() {
            if let Some(pushed) = &self.pushed {
                Arc::clone(pushed).lost();
            }
            self.changed.notify_one();
        }
    }

    async fn connect(self: &Arc<Self>) -> Result<()> {
        let generation = self.state.lock().generation + 1;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            // Each call sets its own.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(WAITING)
            .set_push_sender(ears(Arc::downgrade(self), generation));
        let of_connect = |error| of_connect(error, self.address.speaks());
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await.map_err(of_connect)?;
        if !self.channels.is_empty() {
            in_time(connection.subscribe(&self.channels)).await.map_err(of_connect)?;
        }
        let server = match in_time(connection.send_packed_command(redis::cmd("INFO").arg("server"))).await.and_then(Value::extract_error) {
            Ok(info) => run_id(&info).into(),
            Err(error) if is_fatal(&error) => return Err(of_connect(error)),
            Err(_) => "".into(),
        };
        *self.state.lock() = State { generation, connection: Some(connection), server, unheard_since: None };
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

/// Tells what the server pushes; a connection that ends is let go of at once, not at the next call.
fn ears(inner: Weak<Inner>, generation: u64) -> impl Fn(PushInfo) -> Result<(), ()> + Send + Sync + 'static {
    move |info| {
        let Some(inner) = inner.upgrade() else { return Err(()) };
        match (info.kind, info.data.as_slice()) {
            (PushKind::Disconnection, _) => inner.let_go(generation),
            // What an old connection still has to say is not in order with a new one's answers.
            (PushKind::Message, _) if inner.state.lock().generation > generation => {}
            (PushKind::Message, [channel, payload, ..]) => {
                if let (Some(pushed), Some(channel), Some(payload)) = (&inner.pushed, bytes(channel), bytes(payload)) {
                    Arc::clone(pushed).message(channel, payload);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Waits for an answer for as long as one may take.
async fn in_time<T>(call: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    retry::within(ANSWER, call).await.unwrap_or_else(|| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

/// Reads an answer that is text.
pub(super) fn text(answer: &Value) -> &str {
    match answer {
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => text,
        Value::BulkString(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
        _ => "",
    }
}

/// Finds the `run_id` in what `INFO` answers.
fn run_id(info: &Value) -> &str {
    text(info).lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default().trim()
}

/// Tells whether a connection is of no use after this failure.
fn is_fatal(error: &RedisError) -> bool {
    error.is_io_error() || error.is_unrecoverable_error() || error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::ReadOnly)
}

/// Connects again whenever the connection is gone, until the last handle is.
async fn keep(inner: Weak<Inner>, changed: Arc<Notify>) {
    let clock = Clock::system();
    loop {
        changed.notified().await;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let Some(inner) = inner.upgrade() else { return };
            if inner.state.lock().connection.is_some() {
                break;
            }
            if inner.connect().await.is_ok() {
                if let Some(pushed) = &inner.pushed {
                    Arc::clone(pushed).returned();
                }
                break;
            }
            drop(inner);
            retry::sleep(&clock, backoff.next()).await;
        }
    }
}
