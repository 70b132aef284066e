//! Personal data in a SQLite file: rows that come at the end and are overwritten where they stand.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::SqliteStore;
use super::commit::{one, prepare, run};
use super::error::before_commit;
use super::rows::{col, damaged, signed, unsigned};
use crate::audit::engine::PersonalWanted;
use crate::audit::verify::EachPersonal;
use crate::commit::engine::Plan;
use crate::model::{ChainName, KeptPersonal, Personal, Seq};
use crate::{Error, Result, retry};

/// How often readers of an older state are waited for: in all for longer than any read of ours lasts.
const SCRUBS: usize = 50;
/// How long each time, while everybody may write.
const SCRUB_AGAIN: Duration = Duration::from_millis(200);

/// A subject is text without control characters: zeros are what was forgotten.
const IS_KEPT: &str = "substr(subject, 1, 1) <> x'00'";

fn id(connection: &Connection, chain: &ChainName) -> Result<Option<i64>> {
    one(&mut prepare(connection, "SELECT id FROM onward_chains WHERE name = ?1")?, [chain.as_str()], |row| col(row, 0))
}

/// Writes what a plan brings, and overwrites what it forgets.
pub(super) fn carry_out(connection: &Connection, plan: &Plan) -> Result<()> {
    if plan.personal.is_empty() && plan.forgotten.is_empty() {
        return Ok(());
    }
    // When the root page is split, its rows move to a page below; without this a copy of them stays in the free part of the root.
    connection.execute_batch("PRAGMA secure_delete = FAST").map_err(before_commit)?;
    let known = |chain: &ChainName| id(connection, chain)?.ok_or_else(|| Error::integrity("personal data without their chain"));
    for (chain, KeptPersonal { seq, salt, personal }) in &plan.personal {
        let mut insert = prepare(connection, "INSERT INTO onward_personal (chain, seq, subject, salt, value) VALUES (?1, ?2, ?3, ?4, ?5)")?;
        run(&mut insert, params![known(chain)?, signed(seq.get())?, personal.subject.as_bytes(), salt, &personal.value[..]])?;
    }
    for (chain, seqs) in &plan.forgotten {
        let chain = known(chain)?;
        // A row at a time, and of the same length: SQLite overwrites it in its page.
        let mut forget = prepare(
            connection,
            "UPDATE onward_personal SET subject = zeroblob(length(subject)), salt = zeroblob(32), value = zeroblob(length(value))
             WHERE chain = ?1 AND seq = ?2",
        )?;
        for seq in seqs {
            run(&mut forget, params![chain, signed(seq.get())?])?;
        }
    }
    Ok(())
}

pub(super) fn read(connection: &Connection, chain: &ChainName, seq: Seq) -> Result<Option<KeptPersonal>> {
    let sql = format!(
        "SELECT subject, salt, value FROM onward_personal
         WHERE chain = (SELECT id FROM onward_chains WHERE name = ?1) AND seq = ?2 AND {IS_KEPT}"
    );
    one(&mut prepare(connection, &sql)?, params![chain.as_str(), signed(seq.get())?], |row| {
        let subject = String::from_utf8(col(row, 0)?).map_err(damaged)?;
        Ok(KeptPersonal { seq, salt: col(row, 1)?, personal: Personal::new(subject, col::<Vec<u8>>(row, 2)?) })
    })
}

pub(super) fn find(connection: &Connection, chain: &ChainName, wanted: &PersonalWanted) -> Result<(Vec<Seq>, Option<Seq>)> {
    let Some(chain) = id(connection, chain)? else { return Ok((Vec::new(), None)) };
    let sql =
        format!("SELECT seq, subject, {IS_KEPT} FROM onward_personal WHERE chain = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq LIMIT ?4");
    let mut find = prepare(connection, &sql)?;
    let mut rows =
        find.query(params![chain, signed(wanted.after)?, signed(wanted.to)?, signed(wanted.scan as u64)?]).map_err(before_commit)?;
    let (mut found, mut looked, mut last) = (Vec::new(), 0, None);
    while let Some(row) = rows.next().map_err(before_commit)? {
        looked += 1;
        let seq = Seq::new(unsigned(col(row, 0)?)?).map_err(damaged)?;
        last = Some(seq);
        let is_whose = wanted.subject.as_ref().is_none_or(|subject| row.get_ref(1).is_ok_and(|is| is.as_bytes() == Ok(subject.as_bytes())));
        if is_whose && col::<bool>(row, 2)? {
            found.push(seq);
        }
    }
    Ok((found, last.filter(|_| looked == wanted.scan)))
}

/// Hands out what stands beside entries: seq, salt, value. What was forgotten is not there.
pub(super) fn each(connection: &Connection, chain: &ChainName, range: (i64, i64), each: &mut EachPersonal<'_>) -> Result<()> {
    let sql = format!(
        "SELECT seq, salt, value FROM onward_personal
         WHERE chain = (SELECT id FROM onward_chains WHERE name = ?1) AND seq >= ?2 AND seq <= ?3 AND {IS_KEPT}"
    );
    let mut find = prepare(connection, &sql)?;
    let mut rows = find.query(params![chain.as_str(), range.0, range.1]).map_err(before_commit)?;
    while let Some(row) = rows.next().map_err(before_commit)? {
        let bytes = |index| row.get_ref(index).ok().and_then(|column| column.as_bytes().ok()).unwrap_or_default();
        each(col(row, 0)?, bytes(1), bytes(2));
    }
    Ok(())
}

impl SqliteStore {
    /// Cuts the write-ahead log off, which holds older pages of the file; `false` if a reader stands in the way for 10 s. Blocks.
    pub(super) fn scrub_now(&self) -> Result<bool> {
        let mut writer = self.open_writer()?;
        for turn in 0..SCRUBS {
            if turn > 0 {
                retry::nap(SCRUB_AGAIN);
            }
            if writer.scrub()? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
