//! Connections, and how statements travel on them: together, without a name, and with nothing left behind in the session.
//!
//! Through a pooler each transaction may meet another session of the server. So no statement is prepared by name, nothing is set for a
//! session, and what a transaction relies on it sets itself.

use std::fmt;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use deadpool_postgres::{Connect, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use futures_core::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, Connection, Row, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::{before_commit, no_connection, sent, silent};
use super::url;
use crate::time::Clock;
use crate::{Error, Kind, Result, retry};

/// How long one exchange with the server may take; its own limits end what takes long before that.
pub(super) const ANSWER: Duration = Duration::from_secs(10);
/// Most connections of one process for reads.
const READERS: usize = 16;
/// How long a read waits for a free connection.
const POOL_WAIT: Duration = Duration::from_secs(5);

/// What begins a transaction that writes. Set in each: right under any default of the role or the pooler. A replica that stands still with
/// the writer's right in its hands loses it after five seconds.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = on; \
     SET LOCAL lock_timeout = 5000; SET LOCAL statement_timeout = 8000; SET LOCAL idle_in_transaction_session_timeout = 5000";
/// What begins a transaction that reads from one snapshot.
pub(super) const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 8000; \
     SET LOCAL idle_in_transaction_session_timeout = 5000";
pub(super) const COMMIT: &str = "COMMIT";

/// A connection's two ends, as the driver gives them.
pub(super) type Ends = (Client, Connection<Socket, <MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<Socket>>::Stream>);
/// The error of the driver.
pub(super) type Failure = tokio_postgres::Error;

/// A server, and how to come to it.
#[derive(Clone)]
pub(super) struct Server {
    config: Config,
    tls: MakeRustlsConnect,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server(..)")
    }
}

impl Server {
    pub(super) fn at(url: &str) -> Result<Self> {
        let (config, tls) = url::read(url)?;
        Ok(Self { config, tls })
    }

    /// Makes a connection; its second end must be driven by somebody.
    pub(super) async fn connect(&self) -> Result<Ends, Failure> {
        self.config.connect(self.tls.clone()).await
    }

    /// Makes the pool of connections for reads, which this runtime drives.
    pub(super) fn pool(&self, runtime: Handle) -> Result<Pool> {
        // Nothing is ever left in a session, so there is nothing to clean up between two uses.
        let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let home = Home { server: self.clone(), runtime };
        Pool::builder(Manager::from_connect(self.config.clone(), home, manager))
            .max_size(READERS)
            .wait_timeout(Some(POOL_WAIT))
            .create_timeout(Some(url::CONNECT))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|e| crate::Error::unsupported("no pool of connections").with_source(e))
    }
}

/// Makes connections in the runtime that the store was opened in, whichever asks.
struct Home {
    server: Server,
    runtime: Handle,
}

impl Connect for Home {
    fn connect(&self, _: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), Failure>> {
        let server = self.server.clone();
        let made = self.runtime.spawn(async move {
            let (client, connection) = server.connect().await?;
            Ok((client, tokio::spawn(async move { drop(connection.await) })))
        });
        // It does not panic, and its runtime ends with its last connection.
        Box::pin(async move { made.await.unwrap_or_else(|_| Err(Failure::__private_api_timeout())) })
    }
}

/// A parameter and its type.
pub(super) type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// One message of several that travel together.
pub(super) enum Step<'a> {
    /// Statements without parameters and rows.
    Plain(&'a str),
    /// A statement with parameters.
    With(&'a str, Vec<Param<'a>>),
}

type Asked<'a> = Pin<Box<dyn Future<Output = Result<Vec<Row>, Failure>> + Send + 'a>>;

fn asked<'a>(client: &'a Client, step: &'a Step<'a>) -> Asked<'a> {
    match step {
        Step::Plain(sql) => Box::pin(async move { client.batch_execute(sql).await.map(|()| Vec::new()) }),
        Step::With(sql, params) => Box::pin(client.query_typed(sql, params)),
    }
}

/// Sends all statements at once, in their order, and waits for all answers: one round trip.
pub(super) async fn together(client: &Client, steps: &[Step<'_>]) -> Vec<Result<Vec<Row>, Failure>> {
    let mut all: Vec<_> = steps.iter().map(|step| (asked(client, step), None)).collect();
    // The first poll of each sends it.
    std::future::poll_fn(|cx| {
        let mut open = false;
        for (asked, answer) in all.iter_mut().filter(|(_, answer)| answer.is_none()) {
            match asked.as_mut().poll(cx) {
                Poll::Ready(ready) => *answer = Some(ready),
                Poll::Pending => open = true,
            }
        }
        if open { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    all.into_iter().filter_map(|(_, answer)| answer).collect()
}

/// Waits for the server, by the machine's clock: a clock that a test moves says nothing about a network.
///
/// # Errors
/// No answer came in [`ANSWER`].
pub(super) async fn in_time<F: Future>(answer: F) -> Result<F::Output> {
    let clock = Clock::system();
    retry::deadline(&clock, clock.now() + ANSWER, answer).await.ok_or_else(silent)
}

/// Sends all statements at once, and gives their rows; the first failure is the failure of all.
///
/// # Errors
/// As [`before_commit`]; also if no answer came in [`ANSWER`].
pub(super) async fn ask(client: &Client, steps: &[Step<'_>]) -> Result<Vec<Vec<Row>>> {
    let answers = in_time(together(client, steps)).await?;
    answers.into_iter().collect::<Result<_, _>>().map_err(before_commit)
}

/// A connection that is lent for reads. It is closed, not given back, unless the reader came to its end: nobody knows what it was at.
pub(super) struct Lent {
    client: Option<Object>,
}

impl Lent {
    pub(super) async fn from(pool: &Pool) -> Result<Self> {
        Ok(Self { client: Some(pool.get().await.map_err(no_connection)?) })
    }

    /// Sends statements and waits for their rows.
    pub(super) async fn ask(&self, steps: &[Step<'_>]) -> Result<Vec<Vec<Row>>> {
        let client = self.client.as_ref().ok_or_else(silent)?;
        ask(client, steps).await
    }

    /// Sends a whole transaction at once, from BEGIN to COMMIT, and waits for its rows.
    ///
    /// # Errors
    /// What the server refused is not applied; of a lost connection nobody knows.
    pub(super) async fn transact(&self, steps: &[Step<'_>]) -> Result<Vec<Vec<Row>>> {
        let client = self.client.as_ref().ok_or_else(silent)?;
        let answers = in_time(together(client, steps)).await.map_err(Error::with_unknown_effect)?;
        // The first failure says why; those after it only that the transaction had failed.
        answers.into_iter().collect::<Result<_, _>>().map_err(sent)
    }

    /// Gives the connection back.
    pub(super) fn done(mut self) {
        drop(self.client.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            // Closed when it is dropped.
            drop(Object::take(client));
        }
    }
}

/// Reads in one round trip; once more on another connection if the first was lost, as all are when the server was started anew.
pub(super) async fn read(pool: &Pool, steps: &[Step<'_>]) -> Result<Vec<Vec<Row>>> {
    let mut tries = 2;
    loop {
        tries -= 1;
        let lent = Lent::from(pool).await?;
        match lent.ask(steps).await {
            Ok(rows) => {
                lent.done();
                return Ok(rows);
            }
            Err(error) if tries > 0 && error.kind() == Kind::Backend && error.code() == crate::Code::Unavailable => {}
            Err(error) => return Err(error),
        }
    }
}
