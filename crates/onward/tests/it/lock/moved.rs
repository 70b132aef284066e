//! A Redis whose time a test moves: what the manual clock gains is taken off every expiry on the server before the next call.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_core::future::BoxFuture;
use onward::Result;
use onward::engine::redis::{Address, RedisLocks};
use onward::lock::{Ask, Capabilities, Claim, LeaseRow, LockEngine, Place, Release, Renewal, Renewed, Tried, Waiters};
use onward::model::{FencingToken, LockKey};
use onward::testing::servers::Redis;
use onward::time::{Clock, Moment, Timestamp};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;

/// Takes time off every lease; what was handed over waits for its process, whose time nobody moves.
const MOVE: &str = "for _, key in ipairs(redis.call('KEYS', '*')) do
    if string.sub(key, 1, 7) ~= 'onward:' and not string.find(redis.call('GET', key), '^ow1:%x+:%d+:h') then
        local left = redis.call('PTTL', key)
        if left >= 0 then redis.call('PEXPIRE', key, left - tonumber(ARGV[1])) end
    end
end";

/// A lease is this much longer on the server, so that the time that a case itself takes is next to nothing of it, also on a slow machine.
const SLOWER: u32 = 100_000;

fn shown(remaining: Duration) -> Duration {
    Duration::from_millis(u64::try_from((remaining / SLOWER).as_nanos().div_ceil(1_000_000)).unwrap())
}

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server and how far its time was moved; all handles of a test share it.
#[derive(Clone)]
pub(super) struct Moved(Arc<Inner>);

struct Inner {
    server: Redis,
    time: Mutex<Option<(Moment, MultiplexedConnection)>>,
    /// How far the server's wall clock is ahead of the manual one, in microseconds.
    ahead: u64,
    /// When each token was granted, by the manual clock.
    since: parking_lot::Mutex<HashMap<FencingToken, Timestamp>>,
}

impl Moved {
    pub(super) fn start() -> Self {
        let ahead = Clock::system().wall().as_micros() - Clock::manual().wall().as_micros();
        let ahead = u64::try_from(ahead).unwrap();
        Self(Arc::new(Inner { server: Redis::start(), time: Mutex::new(None), ahead, since: parking_lot::Mutex::default() }))
    }

    pub(super) async fn open(&self, clock: Clock) -> Arc<dyn LockEngine> {
        let inner = RedisLocks::open(&Address::parse(&self.0.server.url()).unwrap()).await.unwrap();
        Arc::new(MovedLocks { inner, clock, moved: self.clone() })
    }

    async fn catch_up(&self, clock: &Clock) {
        let mut time = self.0.time.lock().await;
        let now = clock.now();
        if time.is_none() {
            // The client waits half a second for an answer by itself: a busy machine is no failure.
            let patient = AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
            let client = redis::Client::open(self.0.server.url()).unwrap();
            let connection = client.get_multiplexed_async_connection_with_config(&patient).await.unwrap();
            *time = Some((now, connection));
        }
        let (last, connection) = time.as_mut().unwrap();
        let by = (now.since(*last) * SLOWER).as_millis();
        if by > 0 {
            let _: redis::Value = redis::cmd("EVAL").arg(MOVE).arg(0).arg(by.to_string()).query_async(connection).await.unwrap();
            *last = now;
        }
    }

    fn token(&self, real: FencingToken) -> FencingToken {
        FencingToken::new(real.get() - self.0.ahead).unwrap()
    }

    fn granted(&self, real: FencingToken, clock: &Clock) -> FencingToken {
        let token = self.token(real);
        self.0.since.lock().entry(token).or_insert(clock.wall());
        token
    }

    fn row(&self, row: LeaseRow) -> LeaseRow {
        let token = row.token.map(|real| self.token(real));
        let since = token.and_then(|token| self.0.since.lock().get(&token).copied());
        LeaseRow { token, remaining: row.remaining.map(shown), since: since.unwrap_or(row.since), ..row }
    }
}

/// A handle on it.
#[derive(Debug)]
struct MovedLocks {
    inner: RedisLocks,
    clock: Clock,
    moved: Moved,
}

impl std::fmt::Debug for Moved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Moved(..)")
    }
}

impl MovedLocks {
    fn then<'a, T: 'a>(&'a self, call: BoxFuture<'a, Result<T>>) -> BoxFuture<'a, Result<T>> {
        Box::pin(async move {
            self.moved.catch_up(&self.clock).await;
            call.await
        })
    }
}

impl LockEngine for MovedLocks {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn has_queue(&self) -> bool {
        self.inner.has_queue()
    }

    fn listen(&self, waiters: Weak<dyn Waiters>) {
        self.inner.listen(waiters);
    }

    fn leave(&self, keys: Vec<LockKey>) -> BoxFuture<'_, Result<()>> {
        self.then(self.inner.leave(keys))
    }

    fn try_acquire(&self, ask: Ask) -> BoxFuture<'_, Result<Tried>> {
        // What was handed over counts by the server's time, which nobody moves: it is asked for.
        let place = if ask.place == Place::None { Place::None } else { Place::Queue { short: false } };
        let tried = self.then(self.inner.try_acquire(Ask { ttl: ask.ttl * SLOWER, place, ..ask }));
        Box::pin(async move {
            Ok(match tried.await? {
                Tried::Granted { token, remaining, already_ours } => {
                    Tried::Granted { token: self.moved.granted(token, &self.clock), remaining: shown(remaining), already_ours }
                }
                Tried::Handed { .. } => unreachable!("it was not asked for"),
                Tried::Busy { remaining } => Tried::Busy { remaining: remaining.map(shown) },
                Tried::Queued { remaining, look_in } => Tried::Queued { remaining: remaining.map(shown), look_in },
            })
        })
    }

    fn renew(&self, batch: Vec<Renewal>) -> BoxFuture<'_, Result<Vec<Option<Renewed>>>> {
        let batch = batch.into_iter().map(|renewal| Renewal { ttl: renewal.ttl * SLOWER, ..renewal }).collect();
        let answers = self.then(self.inner.renew(batch));
        Box::pin(async move {
            let moved = |renewed: Renewed| Renewed { token: self.moved.token(renewed.token), remaining: shown(renewed.remaining) };
            Ok(answers.await?.into_iter().map(|answer| answer.map(moved)).collect())
        })
    }

    fn release(&self, batch: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Release>>> {
        self.then(self.inner.release(batch.into_iter().map(|claim| Claim { keep: claim.keep * SLOWER, ..claim }).collect()))
    }

    fn inspect(&self, key: LockKey) -> BoxFuture<'_, Result<Option<LeaseRow>>> {
        let row = self.then(self.inner.inspect(key));
        Box::pin(async move { Ok(row.await?.map(|row| self.moved.row(row))) })
    }

    fn list(&self, prefix: String, after: Option<LockKey>, limit: usize) -> BoxFuture<'_, Result<Vec<(LockKey, LeaseRow)>>> {
        let page = self.then(self.inner.list(prefix, after, limit));
        Box::pin(async move { Ok(page.await?.into_iter().map(|(key, row)| (key, self.moved.row(row))).collect()) })
    }

    fn take_over(&self, ask: Ask) -> BoxFuture<'_, Result<Option<FencingToken>>> {
        let token = self.then(self.inner.take_over(Ask { ttl: ask.ttl * SLOWER, ..ask }));
        Box::pin(async move { Ok(token.await?.map(|token| self.moved.granted(token, &self.clock))) })
    }

    fn raise(&self, newest: FencingToken) -> BoxFuture<'_, Result<()>> {
        self.then(self.inner.raise(FencingToken::new(newest.get() + self.moved.0.ahead).unwrap()))
    }
}
