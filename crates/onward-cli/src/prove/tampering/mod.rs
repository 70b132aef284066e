//! tampering: everything that somebody with the database file can do to a chain of 500 entries, and what a verifier says.
//!
//! Both sides use one verifier on the same copies. Unprotected, it has the chain alone: hashes and links, no key, nothing from outside.
//! Protected, it has the key that entries are sealed with and a head that was saved outside. Copies that nobody tampered with must pass:
//! a false alarm counts like a missed attack.

mod attacks;
mod copy;

use std::ops::ControlFlow;
use std::path::Path;

use onward::audit::engine::AuditEngine;
use onward::audit::verify::{Check, Report, SavedHead, Verdict, verify};
use onward::audit::{AppendOptions, Chain};
use onward::engine::sqlite::SqliteStore;
use onward::model::{ChainName, Data, Entry, MacKeys};
use onward::time::Clock;
use onward::{Config, Kind, Onward};

use super::setting::{Failure, Room, url};
use super::{Claim, Count, Outcome, Random, Setting, Side};
use attacks::{ATTACKS, Attack, Damage};
use copy::Copy;

pub(super) const CLAIM: Claim = Claim {
    tried: "a chain of 500 entries is changed behind its back: plain hash chain, or key and saved head",
    counted: "attacks missed and false alarms",
};

const ROUNDS: u64 = 2;
const CHAIN: &str = "orders";
const OTHER: &str = "others";
const ENTRIES: usize = 500;
/// How many of them are in the backup.
const BACKUP: usize = 400;
/// How many honest writers append after an attack that is hidden by them: the chain is longer than the saved head then.
const HONEST: usize = 150;

/// The databases that attacks begin with.
struct Originals {
    room: Room,
    keys: MacKeys,
    saved: SavedHead,
    chain: ChainName,
}

pub(super) async fn run(setting: &Setting, side: Side) -> Outcome {
    let mut random = setting.random("tampering");
    let originals = Originals::make(setting.room("tampering")?, &mut random).await?;
    let rounds = setting.rounds(ROUNDS);
    let all = rounds * ATTACKS.len() as u64;
    let mut count = Count::default();
    for attack in (0..rounds).flat_map(|_| ATTACKS) {
        let report = originals.attacked(attack, &mut random, side).await.map_err(|e| format!("{}: {e}", attack.name))?;
        let noticed = report.as_ref().is_none_or(|report| report.verdict != Verdict::Ok);
        if attack.damage.is_honest() {
            let findings = report.map(|report| report.to_string()).unwrap_or_default();
            count.round(noticed, || format!("false alarm after {}: {findings}", attack.name));
        } else {
            count.refused += u64::from(noticed);
            count.round(!noticed, || format!("not noticed: {}", attack.name));
        }
        setting.progress().show(count.rounds, all);
    }
    Ok(count)
}

impl Originals {
    async fn make(room: Room, random: &mut Random) -> Result<Self, Failure> {
        let mut key = [0; 32];
        key.iter_mut().for_each(|byte| *byte = random.bits().to_le_bytes()[0]);
        let keys = MacKeys::one("k1", key)?;
        let path = room.path("first.db");
        let onward = Onward::connect(Config::new(url(&path)).with_keys(keys.clone())).await?;
        let chain = onward.audit().chain(CHAIN)?;
        append(&onward.audit().chain(OTHER)?, 50).await?;
        append(&chain, BACKUP - 1).await?;
        copy::duplicate(&path, &room.path("backup.db"))?;
        append(&chain, ENTRIES - BACKUP).await?;
        copy::duplicate(&path, &room.path("good.db"))?;
        let saved = chain.verify(Check::default()).await?.saved_head(Clock::system().wall()).ok_or("the untouched chain is not good")?;
        if saved.size != ENTRIES as u64 {
            return Err(format!("the chain has {} entries", saved.size).into());
        }
        Ok(Self { room, keys, saved, chain: ChainName::new(CHAIN)? })
    }

    /// Makes a copy, does the damage, and returns what the verifier says; `None`: that there is no such chain.
    async fn attacked(&self, attack: &Attack, random: &mut Random, side: Side) -> Result<Option<Report>, Failure> {
        let room = self.room.inner("copy")?;
        let path = room.path("store.db");
        let original = if attack.damage.is_backup() { "backup.db" } else { "good.db" };
        std::fs::copy(self.room.path(original), &path)?;
        match attack.damage {
            Damage::None | Damage::Backup => {}
            Damage::Grown | Damage::BackupGrown => self.append_honestly(&path, HONEST).await?,
            Damage::Rows(damage) => Copy::change(&path, |copy| damage(copy, random, &self.keys))?,
            Damage::RowsGrown(damage) => {
                Copy::change(&path, |copy| damage(copy, random, &self.keys))?;
                self.append_honestly(&path, HONEST).await?;
            }
            Damage::Database(damage) => copy::execute(&path, damage)?,
            Damage::Replaced => {
                copy::execute(&path, copy::REMOVE_CHAIN)?;
                self.append_honestly(&path, ENTRIES + HONEST).await?;
            }
        }
        self.judge(&path, side).await
    }

    /// Appends as the application does, which has the key and suspects nothing.
    async fn append_honestly(&self, path: &Path, entries: usize) -> Result<(), Failure> {
        let onward = Onward::connect(Config::new(url(path)).with_keys(self.keys.clone())).await?;
        append(&onward.audit().chain(CHAIN)?, entries).await
    }

    async fn judge(&self, path: &Path, side: Side) -> Result<Option<Report>, Failure> {
        let (keys, saved) = match side {
            Side::Unprotected => (MacKeys::none(), None),
            Side::Protected => (self.keys.clone(), Some(self.saved.clone())),
        };
        let store = SqliteStore::open(path, &Clock::system()).await?;
        let source = store.source(&self.chain)?;
        let check = Check { saved, ..Check::default() };
        match verify(&*source, &self.chain, &check, &keys, &mut |_| ControlFlow::Continue(())) {
            Ok(report) => Ok(Some(report)),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

/// Appends entries; a new chain begins with one of its own.
async fn append(chain: &Chain, entries: usize) -> Result<(), Failure> {
    let all: Vec<usize> = (0..entries).collect();
    for batch in all.chunks(100) {
        let entry = |number: &usize| {
            let entry = Entry::new("order.refund").by("user:7").with_data(Data::text(format!("{{\"cents\":{number}}}")));
            if number.is_multiple_of(3) { entry } else { entry.on(format!("order:{number}")) }
        };
        chain.append_many(batch.iter().map(entry).collect(), AppendOptions::new()).await?;
    }
    Ok(())
}
