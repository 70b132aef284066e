//! Personal data in a Postgres database: put on one of two shelves, which is thrown away as a whole once what stays stands on the other.
//!
//! A deleted row is there for older snapshots, and its bytes are in its page even after a VACUUM. A file that TRUNCATE gives back is not:
//! so rows that stay are carried to the other shelf, a page at a time under the writer's right, and the old one is truncated. The right
//! keeps batches out of the way of a page, so no value is carried while it is forgotten; and of several who erase one turns the shelves.
//! The state stands in `onward_shelves`: whoever comes after a crash goes on.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::commit::PostgresStore;
use super::connection::{BEGIN, COMMIT, Lent, Param, Step};
use super::migrate;
use super::rows::{col, damaged, number, signed};
use crate::audit::engine::{PersonalWanted, Scrubbed};
use crate::commit::engine::Plan;
use crate::model::limits::PERSONAL_BYTES;
use crate::model::{ChainName, KeptPersonal, Personal, Seq};
use crate::time::Clock;
use crate::{Error, Kind, Result, retry};

/// Most rows that are carried at a time, and most bytes, but for the first row of them.
const PAGE: (i64, i64) = (1_000, 1 << 20);
/// How often it is tried to have a shelf alone: in all for longer than any read of ours lasts.
const TRIES: usize = 40;
/// How long each time, while everybody may write.
const AGAIN: Duration = Duration::from_millis(200);

const CHAIN: &str = "(SELECT id FROM onward_chains WHERE name = $1)";

const PUT: &str = "INSERT INTO onward_personal (shelf, chain, seq, subject, salt, value)
     SELECT s.current, c.id, w.seq, w.subject, w.salt, w.value
     FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bytea[], $5::bytea[]) AS w(name, seq, subject, salt, value)
     JOIN onward_chains AS c USING (name) CROSS JOIN onward_shelves AS s";

const OPEN: &str = "UPDATE onward_shelves SET forgetting = true";
const CLOSE: &str = "UPDATE onward_shelves SET forgetting = false";
const SOIL: &str = "UPDATE onward_shelves SET forgetting = true, soiled = true";
const FORGET: &str = "DELETE FROM onward_personal AS p USING unnest($1::text[], $2::bigint[]) AS w(name, seq), onward_chains AS c
     WHERE c.name = w.name AND p.chain = c.id AND p.seq = w.seq";

/// Takes the writer's right.
const RIGHT: &str = "SELECT schema_version FROM onward_meta FOR UPDATE";
const STATE: &str = "SELECT current, soiled, carrying, pg_current_wal_lsn()::text FROM onward_shelves";
/// From now on values are put on the other shelf, which is empty.
const TURN: &str = "UPDATE onward_shelves SET current = 1 - current, soiled = false, carrying = true";
/// The rows of a page by their key, in its order: without statistics the server would rather look at all that are left, for each page.
const IN_ORDER: &str = "SET LOCAL enable_bitmapscan = off";
/// Carries rows behind a place to the other shelf, and tells the last place.
const CARRY: &str = "WITH first AS (SELECT chain, seq, octet_length(value) AS bytes FROM onward_personal
         WHERE shelf = $1 AND (chain, seq) > ($2, $3) ORDER BY chain, seq LIMIT $4),
       page AS (SELECT chain, seq, sum(bytes) OVER (ORDER BY chain, seq) - bytes AS passed FROM first),
       gone AS (DELETE FROM onward_personal AS p USING page
         WHERE p.shelf = $1 AND p.chain = page.chain AND p.seq = page.seq AND passed < $5
         RETURNING p.chain, p.seq, p.subject, p.salt, p.value),
       put AS (INSERT INTO onward_personal SELECT 1 - $1, chain, seq, subject, salt, value FROM gone RETURNING chain, seq)
     SELECT chain, seq FROM put ORDER BY chain DESC, seq DESC LIMIT 1";

/// What a plan says of personal data, in columns.
#[derive(Default)]
pub(super) struct Columns<'a> {
    chain: Vec<&'a str>,
    seq: Vec<i64>,
    subject: Vec<&'a str>,
    salt: Vec<&'a [u8]>,
    value: Vec<&'a [u8]>,
    forgotten_of: Vec<&'a str>,
    forgotten: Vec<i64>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(plan: &'a Plan) -> Result<Self> {
        let mut columns = Self::default();
        for (chain, KeptPersonal { seq, salt, personal }) in &plan.personal {
            columns.chain.push(chain.as_str());
            columns.seq.push(signed(seq.get())?);
            columns.subject.push(&personal.subject);
            columns.salt.push(salt);
            columns.value.push(&personal.value);
        }
        for (chain, seqs) in &plan.forgotten {
            for seq in seqs {
                columns.forgotten_of.push(chain.as_str());
                columns.forgotten.push(signed(seq.get())?);
            }
        }
        Ok(columns)
    }

    /// Adds the statements, if there is anything to say; chains that are new are there by then.
    pub(super) fn add<'s>(&'s self, steps: &mut Vec<Step<'s>>) {
        if !self.seq.is_empty() {
            let params: [Param<'_>; 5] = [
                (&self.chain, Type::TEXT_ARRAY),
                (&self.seq, Type::INT8_ARRAY),
                (&self.subject, Type::TEXT_ARRAY),
                (&self.salt, Type::BYTEA_ARRAY),
                (&self.value, Type::BYTEA_ARRAY),
            ];
            steps.push(Step::With(PUT, params.into()));
        }
        if !self.forgotten.is_empty() {
            let forgotten = vec![(&self.forgotten_of as _, Type::TEXT_ARRAY), (&self.forgotten as _, Type::INT8_ARRAY)];
            steps.extend([Step::Plain(SOIL), Step::With(FORGET, forgotten), Step::Plain(CLOSE)]);
        }
    }
}

/// The statement that reads salt, value and subject beside entries. A planted giant is read no further than it takes to refuse it.
pub(super) fn read_sql(only: &str) -> String {
    let most = PERSONAL_BYTES + 1;
    format!("SELECT seq, salt, substr(value, 1, {most}), subject FROM onward_personal WHERE chain = {CHAIN} AND {only}")
}

/// The state of the shelves.
struct Shelves {
    current: i16,
    soiled: bool,
    carrying: bool,
    log: String,
}

impl PostgresStore {
    pub(super) async fn read_personal(&self, chain: &ChainName, seq: Seq) -> Result<Option<KeptPersonal>> {
        let number = signed(seq.get())?;
        let found = self.select(&read_sql("seq = $2"), &[(&chain.as_str(), Type::TEXT), (&number, Type::INT8)]).await?;
        let read = |row: &Row| {
            let (salt, value): (&[u8], &[u8]) = (col(row, 1)?, col(row, 2)?);
            let personal = Personal::new(col::<String>(row, 3)?, value.to_vec());
            Ok(KeptPersonal { seq, salt: salt.try_into().map_err(damaged)?, personal })
        };
        found.first().map(read).transpose()
    }

    pub(super) async fn find_seqs(&self, chain: &ChainName, wanted: &PersonalWanted) -> Result<(Vec<Seq>, Option<Seq>)> {
        let (name, scan) = (chain.as_str(), signed(wanted.scan as u64)?);
        let (after, to) = (signed(wanted.after)?, signed(wanted.to)?);
        let mut params: Vec<Param<'_>> = vec![(&name, Type::TEXT), (&after, Type::INT8), (&to, Type::INT8), (&scan, Type::INT8)];
        let mut only = "";
        if let Some(subject) = &wanted.subject {
            params.push((subject, Type::TEXT));
            only = "AND subject = $5";
        }
        let sql = format!("SELECT seq FROM onward_personal WHERE chain = {CHAIN} AND seq > $2 AND seq <= $3 {only} ORDER BY seq LIMIT $4");
        let found = self.select(&sql, &params).await?;
        let seqs: Vec<_> = found.iter().map(|row| Seq::new(number(row, 0)?).map_err(damaged)).collect::<Result<_>>()?;
        let next = seqs.last().copied().filter(|_| seqs.len() == wanted.scan);
        Ok((seqs, next))
    }

    /// Carries what stays to the other shelf and throws the first away, until nothing forgotten is on either.
    pub(super) async fn scrub_now(&self) -> Result<Scrubbed> {
        self.scrub_in(TRIES).await
    }

    /// Erases what was forgotten, as a redaction does, and gives up after so many tries to have a shelf alone.
    ///
    /// # Errors
    /// [`Kind::Overloaded`]: others write all the time. `Backend`: the server is away.
    #[cfg(feature = "testing")]
    pub async fn scrub_with_tries(&self, tries: usize) -> Result<Scrubbed> {
        self.scrub_in(tries).await
    }

    async fn scrub_in(&self, mut tries: usize) -> Result<Scrubbed> {
        let mut after = (0, 0);
        loop {
            let lent = self.lend().await?;
            let shelves = take(&lent).await?;
            let old = 1 - shelves.current;
            let nothing_left = match (shelves.carrying, shelves.soiled) {
                (false, false) => {
                    lent.ask(&[Step::Plain(COMMIT)]).await?;
                    lent.done();
                    return Ok(Scrubbed { erased: true, log_until: Some(shelves.log) });
                }
                (false, true) => {
                    lent.ask(&[Step::Plain(TURN), Step::Plain(COMMIT)]).await?;
                    after = (0, 0);
                    false
                }
                (true, _) => match carry(&lent, old, after).await? {
                    Some(last) => {
                        after = last;
                        false
                    }
                    None => true,
                },
            };
            if !nothing_left {
                lent.done();
                continue;
            }
            match throw_away(lent, old).await {
                // Somebody else was done, and turned them since.
                Ok(false) => after = (0, 0),
                Err(error) if error.kind() == Kind::Overloaded => {
                    tries -= 1;
                    if tries == 0 {
                        return Ok(Scrubbed { erased: false, log_until: None });
                    }
                    retry::sleep(&Clock::system(), AGAIN).await;
                }
                thrown => _ = thrown?,
            }
        }
    }
}

/// Takes the writer's right and reads how the shelves are.
async fn take(lent: &Lent) -> Result<Shelves> {
    let answers = lent.ask(&[Step::Plain(BEGIN), Step::With(RIGHT, Vec::new()), Step::With(STATE, Vec::new())]).await?;
    let gone = || Error::integrity("the facts of the store are gone");
    let row = |index: usize| answers.get(index).and_then(|rows: &Vec<Row>| rows.first()).ok_or_else(gone);
    match col(row(1)?, 0)? {
        migrate::VERSION => {}
        other => return Err(migrate::other(other)),
    }
    let state = row(2)?;
    Ok(Shelves { current: col(state, 0)?, soiled: col(state, 1)?, carrying: col(state, 2)?, log: col(state, 3)? })
}

/// Carries a page and ends the transaction, unless nothing is left to carry.
async fn carry(lent: &Lent, old: i16, after: (i64, i64)) -> Result<Option<(i64, i64)>> {
    let params: [Param<'_>; 5] =
        [(&old, Type::INT2), (&after.0, Type::INT8), (&after.1, Type::INT8), (&PAGE.0, Type::INT8), (&PAGE.1, Type::INT8)];
    let answers =
        lent.ask(&[Step::Plain(OPEN), Step::Plain(IN_ORDER), Step::With(CARRY, params.into()), Step::Plain(CLOSE)]).await?.concat();
    let Some(last) = answers.first() else { return Ok(None) };
    let last = (col(last, 0)?, col(last, 1)?);
    lent.ask(&[Step::Plain(COMMIT)]).await?;
    Ok(Some(last))
}

/// Throws the old shelf away and ends the transaction; `false`: there are rows on it.
///
/// # Errors
/// [`Kind::Overloaded`]: somebody who has read it is still in his transaction. Who waits for it keeps everybody waiting, so it is not long.
async fn throw_away(lent: Lent, old: i16) -> Result<bool> {
    let alone = format!("SET LOCAL lock_timeout = 50; LOCK TABLE onward_personal_{old} IN ACCESS EXCLUSIVE MODE");
    let left = format!("SELECT 1 FROM onward_personal_{old} LIMIT 1");
    // A snapshot of its own, taken now that nobody else can write there.
    let left = lent.ask(&[Step::Plain(&alone), Step::With(&left, Vec::new())]).await?.concat();
    if !left.is_empty() {
        lent.ask(&[Step::Plain("ROLLBACK")]).await?;
        lent.done();
        return Ok(false);
    }
    let throw = format!("{OPEN}; TRUNCATE onward_personal_{old}; UPDATE onward_shelves SET carrying = false; {CLOSE}");
    lent.ask(&[Step::Plain(&throw), Step::Plain(COMMIT)]).await?;
    lent.done();
    Ok(true)
}
