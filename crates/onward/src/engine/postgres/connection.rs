//! Connections, and how statements travel on them: together, and with nothing left behind that a transaction relies on.
//!
//! Through a pooler each transaction may meet another session of the server. So what a transaction relies on it sets itself, and a statement
//! has a name only where the session is surely ours ([`Session`]).

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{self, Manager, Metrics, Object, RecycleError, RecycleResult};
use tokio::runtime::Handle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, Connection, Row, Socket, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::{before_commit, no_connection, sent, silent};
use super::session::Session;
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

    /// Makes a connection that this runtime drives until it is dropped, and looks whose session is at its end.
    pub(super) async fn session(&self) -> Result<Session, Failure> {
        let (client, connection) = self.connect().await?;
        let task = tokio::spawn(async move { drop(connection.await) });
        Session::over(client, task.abort_handle()).await
    }

    /// Makes the pool of connections for reads, which this runtime drives.
    pub(super) fn pool(&self, runtime: Handle) -> Result<Pool> {
        Pool::builder(Home { server: self.clone(), runtime })
            .max_size(READERS)
            .wait_timeout(Some(POOL_WAIT))
            .create_timeout(Some(url::CONNECT))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|e| crate::Error::unsupported("no pool of connections").with_source(e))
    }
}

/// Connections for reads.
pub(super) type Pool = managed::Pool<Home>;

/// Makes connections in the runtime that the store was opened in, whichever asks.
#[derive(Debug)]
pub(super) struct Home {
    server: Server,
    runtime: Handle,
}

impl Manager for Home {
    type Type = Session;
    type Error = Failure;

    async fn create(&self) -> Result<Session, Failure> {
        let server = self.server.clone();
        let made = self.runtime.spawn(async move { server.session().await });
        // It does not panic, and its runtime ends with its last connection.
        made.await.unwrap_or_else(|_| Err(Failure::__private_api_timeout()))
    }

    /// Nothing is left in a session that the next one must not find, so there is nothing to clean up between two uses.
    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<Failure> {
        if session.is_closed() { Err(RecycleError::message("the connection is closed")) } else { Ok(()) }
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
    /// As [`Step::With`], and worth a name: sent all the time, and for rows that it finds by their whole key.
    Often(&'a str, Vec<Param<'a>>),
    /// As [`Step::Often`], without rows; how many it changed is put there.
    Counted(&'a str, Vec<Param<'a>>, &'a AtomicU64),
}

type Asked<'a> = Pin<Box<dyn Future<Output = Result<Vec<Row>, Failure>> + Send + 'a>>;

fn asked<'a>(client: &'a Client, step: &'a Step<'a>, name: Option<&'a Statement>) -> Asked<'a> {
    match (step, name) {
        (Step::Plain(sql), _) => Box::pin(async move { client.batch_execute(sql).await.map(|()| Vec::new()) }),
        (Step::With(sql, params) | Step::Often(sql, params), None) => Box::pin(client.query_typed(sql, params)),
        (Step::With(_, params) | Step::Often(_, params), Some(name)) => Box::pin(async move { client.query(name, &values(params)).await }),
        (Step::Counted(sql, params, count), name) => Box::pin(async move {
            let changed = match name {
                Some(name) => client.execute(name, &values(params)).await?,
                None => client.execute_typed(sql, params).await?,
            };
            count.store(changed, Ordering::Relaxed);
            Ok(Vec::new())
        }),
    }
}

fn values<'a>(params: &[Param<'a>]) -> Vec<&'a (dyn ToSql + Sync)> {
    params.iter().map(|(value, _)| *value).collect()
}

/// Sends all statements at once, in their order, and waits for all answers: one round trip, and one before it for each new name.
pub(super) async fn together(session: &Session, steps: &[Step<'_>]) -> Vec<Result<Vec<Row>, Failure>> {
    let mut names = Vec::with_capacity(steps.len());
    for step in steps {
        let name = match step {
            Step::Often(sql, params) | Step::Counted(sql, params, _) => session.name(sql, params).await,
            Step::Plain(_) | Step::With(..) => Ok(None),
        };
        match name {
            Ok(name) => names.push(name),
            // The first answer, and the last: nothing else was sent.
            Err(failure) => return vec![Err(failure)],
        }
    }
    let answers = all(session, steps, &names).await;
    session.heed(&answers);
    answers
}

async fn all(client: &Client, steps: &[Step<'_>], names: &[Option<Statement>]) -> Vec<Result<Vec<Row>, Failure>> {
    let names = names.iter().map(Option::as_ref).chain(std::iter::repeat(None));
    let mut all: Vec<_> = steps.iter().zip(names).map(|(step, name)| (asked(client, step, name), None)).collect();
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

/// Sends all statements at once, none by a name, and gives their rows; the first failure is the failure of all.
///
/// # Errors
/// As [`before_commit`]; also if no answer came in [`ANSWER`].
pub(super) async fn ask(client: &Client, steps: &[Step<'_>]) -> Result<Vec<Vec<Row>>> {
    let answers = in_time(all(client, steps, &[])).await?;
    answers.into_iter().collect::<Result<_, _>>().map_err(before_commit)
}

/// A connection that is lent for reads. It is closed, not given back, unless the reader came to its end: nobody knows what it was at.
pub(super) struct Lent {
    session: Option<Object<Home>>,
}

impl Lent {
    pub(super) async fn from(pool: &Pool) -> Result<Self> {
        Ok(Self { session: Some(pool.get().await.map_err(no_connection)?) })
    }

    /// Sends statements and waits for their rows.
    pub(super) async fn ask(&self, steps: &[Step<'_>]) -> Result<Vec<Vec<Row>>> {
        let session = self.session.as_ref().ok_or_else(silent)?;
        let answers = in_time(together(session, steps)).await?;
        answers.into_iter().collect::<Result<_, _>>().map_err(before_commit)
    }

    /// Sends a whole transaction at once, from BEGIN to COMMIT, and waits for its rows.
    ///
    /// # Errors
    /// What the server refused is not applied; of a lost connection nobody knows.
    pub(super) async fn transact(&self, steps: &[Step<'_>]) -> Result<Vec<Vec<Row>>> {
        let session = self.session.as_ref().ok_or_else(silent)?;
        let answers = in_time(together(session, steps)).await.map_err(Error::with_unknown_effect)?;
        // The first failure says why; those after it only that the transaction had failed.
        answers.into_iter().collect::<Result<_, _>>().map_err(sent)
    }

    /// Gives the connection back.
    pub(super) fn done(mut self) {
        drop(self.session.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // Closed when it is dropped.
            drop(Object::take(session));
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
