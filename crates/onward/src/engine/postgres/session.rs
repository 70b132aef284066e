//! One session with the server, and the statements that it knows by name.
//!
//! Parsing and planning cost the server more than most of our statements do. A name spares both, but it belongs to a session, and through a
//! pooler each transaction may meet another one, where the name is missing or means something else. So names are given only where the
//! session is surely ours: the server told which of its processes serves this connection when the connection was made, and in the session
//! it says the same. A pooler that lends sessions has no such process to tell, and makes a number up.

use std::collections::HashMap;
use std::fmt;
use std::future::{Ready, ready};
use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{Client, Statement};

use super::connection::{Failure, Param};

/// Names are for rows that are found by their whole key, so an index is the way, however small its table was when the plan was made. Where
/// there is none, for the one row of facts, the scan is only said to be dear, and nothing is to be compiled for it.
const SETTING: &str = "SET enable_seqscan = off; SET jit = off";
/// Most names of a session: there are fewer such statements, but for batches that change things in every combination.
const NAMES: usize = 128;

/// A connection and what the session at its other end knows. The connection ends with it.
pub(super) struct Session {
    client: Client,
    /// `None`: the session may be lent to others between two transactions.
    names: Option<Mutex<HashMap<String, Named>>>,
    task: AbortHandle,
}

/// A statement that was sent before.
#[derive(Clone)]
enum Named {
    /// Once: not worth a name yet.
    Once,
    As(Statement),
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(..)")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Session {
    /// Looks whose session a connection has come to; `task` drives it.
    ///
    /// # Errors
    /// The connection is lost, or the server refuses the question.
    pub(super) async fn over(client: Client, task: AbortHandle) -> Result<Self, Failure> {
        let mut session = Self { client, names: None, task };
        let rows = session.client.query_typed("SELECT pg_backend_pid()", &[]).await?;
        let serves = rows.first().and_then(|row| row.try_get::<_, i32>(0).ok());
        if serves.is_some() && serves == told(&session.client).await {
            session.client.batch_execute(SETTING).await?;
            session.names = Some(Mutex::default());
        }
        Ok(session)
    }

    /// Tells whether the session is surely ours, so that what is set in it stays.
    pub(super) fn is_ours(&self) -> bool {
        self.names.is_some()
    }

    /// Gives the name of a statement, from its second use on.
    pub(super) async fn name(&self, sql: &str, params: &[Param<'_>]) -> Result<Option<Statement>, Failure> {
        let Some(names) = &self.names else { return Ok(None) };
        let known = names.lock().get(sql).cloned();
        match known {
            Some(Named::As(statement)) => return Ok(Some(statement)),
            None => {
                let mut names = names.lock();
                if names.len() < NAMES {
                    names.insert(sql.to_owned(), Named::Once);
                }
                return Ok(None);
            }
            Some(Named::Once) => {}
        }
        let types: Vec<_> = params.iter().map(|(_, kind)| kind.clone()).collect();
        let statement = self.client.prepare_typed(sql, &types).await?;
        names.lock().insert(sql.to_owned(), Named::As(statement.clone()));
        Ok(Some(statement))
    }

    /// Forgets the names, if what a statement answered says that they stand for nothing any more: its tables were changed.
    pub(super) fn heed<T>(&self, answers: &[Result<T, Failure>]) {
        let stale = [SqlState::FEATURE_NOT_SUPPORTED, SqlState::INVALID_SQL_STATEMENT_NAME];
        let failures = answers.iter().filter_map(|answer| answer.as_ref().err()?.code());
        if failures.into_iter().any(|code| stale.contains(code))
            && let Some(names) = &self.names
        {
            names.lock().clear();
        }
    }
}

/// Which process the server named when the connection was made. The driver says it only in the message that would cancel a statement, so that
/// is written here and read, and goes nowhere.
async fn told(client: &Client) -> Option<i32> {
    let slip = Slip::default();
    client.cancel_token().cancel_query_raw(slip.clone(), Through).await.ok()?;
    let written = slip.0.lock();
    // It ends with the number of the process and a secret, four bytes each.
    let number = written.len().checked_sub(8).and_then(|at| written.get(at..at + 4))?;
    Some(i32::from_be_bytes(number.try_into().ok()?))
}

/// Keeps what is written; says yes to whoever asks for TLS.
#[derive(Clone, Default)]
struct Slip(Arc<Mutex<Vec<u8>>>);

impl AsyncRead for Slip {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        into.put_slice(b"S");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Slip {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl TlsStream for Slip {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

/// Writes to the slip as it is.
struct Through;

impl TlsConnect<Slip> for Through {
    type Stream = Slip;
    type Error = io::Error;
    type Future = Ready<io::Result<Slip>>;

    fn connect(self, slip: Slip) -> Self::Future {
        ready(Ok(slip))
    }
}

#[cfg(test)]
mod tests {
    use tokio_postgres::types::Type;

    use super::super::connection::{Server, Step, together};
    use super::*;
    use crate::testing::servers::{Folder, Pooler, Postgres};

    async fn session(url: &str) -> Session {
        Server::at(url).unwrap().session().await.unwrap()
    }

    /// Asks the same thing some times, and returns how many names the server then knows in that session.
    async fn names(session: &Session) -> i64 {
        for n in 0..5_i64 {
            let answers = together(session, &[Step::Often("SELECT $1 + 1", vec![(&n, Type::INT8)])]).await;
            assert_eq!(answers[0].as_ref().unwrap()[0].get::<_, i64>(0), n + 1);
        }
        session.query_one("SELECT count(*) FROM pg_prepared_statements", &[]).await.unwrap().get::<_, i64>(0) - 1
    }

    async fn settings(session: &Session) -> [String; 2] {
        let sql = "SELECT current_setting('enable_seqscan'), current_setting('jit')";
        let found = session.query_typed(sql, &[]).await.unwrap();
        [found[0].get(0), found[0].get(1)]
    }

    #[tokio::test]
    async fn a_statement_has_a_name_where_the_session_is_ours() {
        let server = Postgres::shared();
        let session = session(&server.url()).await;
        assert_eq!(names(&session).await, 1);
        // Else a plan could be of the time when its table was empty, and each plan of the facts be compiled.
        assert_eq!(settings(&session).await, ["off", "off"]);
    }

    #[tokio::test]
    async fn behind_a_pooler_no_statement_has_a_name() {
        let pooler = Pooler::before(Postgres::shared());
        let session = session(&pooler.url("postgres")).await;
        assert!(session.names.is_none());
        for n in 0..5_i64 {
            let answers = together(&session, &[Step::Often("SELECT $1 + 1", vec![(&n, Type::INT8)])]).await;
            assert_eq!(answers[0].as_ref().unwrap()[0].get::<_, i64>(0), n + 1);
        }
        let known = session.query_typed("SELECT count(*) FROM pg_prepared_statements", &[]).await.unwrap();
        assert_eq!(known[0].get::<_, i64>(0), 0);
        assert_eq!(settings(&session).await, ["on", "on"], "a session that others use, too, is left as it was");
    }

    #[tokio::test]
    async fn a_session_behind_tls_is_known_as_ours() {
        let signed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let server = Postgres::start_with_tls(&signed.cert.pem(), &signed.signing_key.serialize_pem());
        let folder = Folder::new("tls");
        let root = folder.path().join("root.pem");
        std::fs::write(&root, signed.cert.pem()).unwrap();
        let url = format!("postgres://onward@localhost:{}/postgres?sslmode=require&sslrootcert={}", server.port(), root.display());
        assert_eq!(names(&session(&url).await).await, 1);
    }

    #[tokio::test]
    async fn names_of_tables_that_were_changed_are_forgotten() {
        let url = Postgres::shared().schema().await;
        Postgres::run_at(&url, "CREATE TABLE changed (n bigint); INSERT INTO changed VALUES (7)").await;
        let session = session(&url).await;
        let ask = async || together(&session, &[Step::Often("SELECT n FROM changed WHERE n = $1", vec![(&7_i64, Type::INT8)])]).await;
        for _ in 0..3 {
            assert_eq!(ask().await[0].as_ref().unwrap()[0].get::<_, i64>(0), 7);
        }
        Postgres::run_at(&url, "ALTER TABLE changed ALTER n TYPE numeric").await;
        assert_eq!(ask().await[0].as_ref().unwrap_err().code(), Some(&SqlState::FEATURE_NOT_SUPPORTED));
        let again = ask().await;
        assert_eq!(again[0].as_ref().unwrap()[0].columns()[0].type_(), &Type::NUMERIC);
    }
}
