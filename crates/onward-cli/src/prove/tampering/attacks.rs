//! The catalogue: what is done, row by row.

use bytes::Bytes;
use onward::model::{MacKeys, Row};

use super::copy::{Copy, REMOVE_CHAIN};
use crate::prove::Random;
use crate::prove::setting::Failure;

/// One way to change the past, or none.
pub(super) struct Attack {
    /// What is done, in words.
    pub(super) name: &'static str,
    pub(super) damage: Damage,
}

/// Somebody who may write the file; those who hold the key use the keys.
type Change = fn(&mut Copy, &mut Random, &MacKeys) -> Result<(), Failure>;

/// How it is done.
pub(super) enum Damage {
    /// Nothing at all.
    None,
    /// Honest entries are appended.
    Grown,
    /// The rows or the head are changed.
    Rows(Change),
    /// The same, and honest entries follow.
    RowsGrown(Change),
    /// Statements change other tables.
    Database(&'static str),
    /// The database is put back.
    Backup,
    /// The same, and honest entries follow.
    BackupGrown,
    /// The chain is removed and begun anew, and grows longer than before.
    Replaced,
}

impl Damage {
    /// Tells whether nobody did wrong.
    pub(super) fn is_honest(&self) -> bool {
        matches!(self, Damage::None | Damage::Grown)
    }

    /// Tells whether the copy is one of the backup.
    pub(super) fn is_backup(&self) -> bool {
        matches!(self, Damage::Backup | Damage::BackupGrown)
    }
}

macro_rules! attacks {
    ($($name:literal => $damage:expr;)*) => { &[$(Attack { name: $name, damage: $damage },)*] };
}

use Damage::{Backup, BackupGrown, Database, Grown, None as Untouched, Replaced, Rows, RowsGrown};

/// Every attack of the catalogue on a chain without segments, and what must not alarm.
pub(super) const ATTACKS: &[Attack] = attacks! {
    "nothing" => Untouched;
    "honest entries after the saved head" => Grown;

    "a field edited" => Rows(|copy, random, _| edit(copy, random).map(drop));
    "a field edited, that row hashed again" => Rows(|copy, random, _| {
        let index = edit(copy, random)?;
        let origin = copy.origin.clone();
        let row = at(copy, index)?;
        row.hash = row.compute_hash(&origin).as_bytes().to_vec();
        Ok(())
    });
    "a time set back" => Rows(|copy, random, _| { inner(copy, random)?.at -= 3_600_000_000; Ok(()) });
    "an absent field made empty" => Rows(|copy, random, _| {
        let index = pick(copy, random);
        let row = copy.rows.iter_mut().skip(index / 2).find(|row| row.resource.is_none()).ok_or("every field is there")?;
        row.resource = Some(Vec::new());
        Ok(())
    });
    "an entry deleted" => Rows(|copy, random, _| { let index = pick(copy, random); copy.rows.remove(index); Ok(()) });
    "an entry deleted, the rest numbered again" => Rows(|copy, random, _| {
        let index = pick(copy, random);
        copy.rows.remove(index);
        copy.renumber();
        copy.move_head()
    });
    "an entry inserted" => Rows(|copy, random, _| { insert(copy, random)?; copy.renumber(); copy.move_head() });
    "an entry planted before the first" => Rows(|copy, random, _| {
        let row = Row { seq: 0, ..inner(copy, random)?.clone() };
        copy.rows.insert(0, row);
        Ok(())
    });
    "an entry appended beyond the head" => Rows(|copy, _, _| { let row = forged(copy)?; copy.rows.push(row); Ok(()) });
    "two entries swapped" => Rows(|copy, random, _| swap(copy, random).map(drop));
    "an entry duplicated in its place" => Rows(|copy, random, _| {
        let index = pick(copy, random);
        let twin = at(copy, index + 1)?.clone();
        at(copy, index)?.clone_from(&twin);
        Ok(())
    });
    "two entries at one position" => Rows(|copy, random, _| {
        let index = pick(copy, random);
        let row = at(copy, index)?.clone();
        copy.rows.insert(index, row);
        Ok(())
    });
    "an entry copied from another chain" => Rows(|copy, random, _| foreign(copy, random).map(drop));
    "an entry copied from another chain and linked" => Rows(|copy, random, _| {
        let index = foreign(copy, random)?;
        let prev = at(copy, index - 1)?.hash.clone();
        let origin = copy.origin.clone();
        let row = at(copy, index)?;
        row.prev = prev;
        row.hash = row.compute_hash(&origin).as_bytes().to_vec();
        Ok(())
    });
    "the first entries cut" => Rows(|copy, random, _| { let index = pick(copy, random); copy.rows.drain(..index); Ok(()) });
    "the last entries cut, head left" => Rows(|copy, random, _| { let index = pick(copy, random); copy.rows.truncate(index); Ok(()) });
    "the head deleted" => Rows(|copy, _, _| { copy.head = None; Ok(()) });
    "the head's hash edited" => Rows(|copy, random, _| { let head = copy.head.as_mut().ok_or("no head")?; flip(&mut head.hash, random) });
    "the head's tree edited" => Rows(|copy, random, _| { let head = copy.head.as_mut().ok_or("no head")?; flip(&mut head.frontier, random) });
    "the head put back, entries left" => Rows(|copy, random, _| {
        let index = pick(copy, random);
        let rest = copy.rows.split_off(index);
        copy.move_head()?;
        copy.rows.extend(rest);
        Ok(())
    });
    "a mac taken away" => Rows(|copy, random, _| { inner(copy, random)?.mac = None; Ok(()) });
    "two chains swapped by name" => Database(
        "UPDATE onward_chains SET name = 'swap' WHERE name = 'orders'; UPDATE onward_chains SET name = 'orders' WHERE name = 'others';
         UPDATE onward_chains SET name = 'others' WHERE name = 'swap';");
    "the chain's origin edited" => Database("UPDATE onward_chains SET origin = 'elsewhere/orders' WHERE name = 'orders';");
    "the chain removed" => Database(REMOVE_CHAIN);

    "a field edited, all hashed again" => Rows(|copy, random, _| { let index = edit(copy, random)?; copy.rehash(index, None) });
    "an entry deleted, all hashed again" => Rows(|copy, random, _| {
        let index = pick(copy, random);
        copy.rows.remove(index);
        copy.renumber();
        copy.rehash(index, None)
    });
    "an entry inserted, all hashed again" => Rows(|copy, random, _| { let index = insert(copy, random)?; copy.renumber(); copy.rehash(index, None) });
    "two entries swapped, all hashed again" => Rows(|copy, random, _| { let index = swap(copy, random)?; copy.rehash(index, None) });
    "an entry copied from another chain, all hashed again" => Rows(|copy, random, _| { let index = foreign(copy, random)?; copy.rehash(index, None) });
    "all keys and macs taken away, all hashed again" => Rows(|copy, random, _| {
        edit(copy, random)?;
        copy.rows.iter_mut().for_each(unseal);
        copy.rehash(0, None)
    });
    "keys and macs taken away from a place on" => Rows(|copy, random, _| {
        let index = edit(copy, random)?;
        copy.rows.iter_mut().skip(index).for_each(unseal);
        copy.rehash(index, None)
    });
    "sealed with another key under our key's name" => Rows(|copy, random, _| {
        let index = edit(copy, random)?;
        copy.rehash(index, Some(&MacKeys::one("k1", [1; 32])?))
    });
    "sealed with a planted key" => Rows(|copy, random, _| {
        let index = edit(copy, random)?;
        copy.rows.iter_mut().skip(index).for_each(|row| row.kid = b"k2".to_vec());
        copy.rehash(index, Some(&MacKeys::one("k2", [1; 32])?))
    });
    "a mac edited" => Rows(|copy, random, _| { let row = inner(copy, random)?; flip(row.mac.as_mut().ok_or("no mac")?, random) });
    "an entry forged at the end" => Rows(|copy, _, _| { let row = forged(copy)?; copy.rows.push(row); copy.rehash(copy.rows.len() - 1, None) });
    "a control entry forged as an excuse" => Rows(|copy, _, _| {
        let row = Row { kind: b"segment.purged".to_vec(), flags: 1, actor: None, resource: None, ..forged(copy)? };
        copy.rows.push(row);
        copy.rehash(copy.rows.len() - 1, None)
    });

    "the last entries cut, head moved" => Rows(cut);
    "the last entries cut, honest ones after them" => RowsGrown(cut);
    "the database put back to a backup" => Backup;
    "the database put back, honest entries after it" => BackupGrown;
    "the chain removed and begun anew" => Replaced;
    "rewritten by somebody who holds the key" => Rows(|copy, random, keys| { let index = edit(copy, random)?; copy.rehash(index, Some(keys)) });
};

/// Chooses a row that is neither the first nor the last.
fn pick(copy: &Copy, random: &mut Random) -> usize {
    random.within(1, copy.rows.len() - 1)
}

fn at(copy: &mut Copy, index: usize) -> Result<&mut Row, Failure> {
    Ok(copy.rows.get_mut(index).ok_or("no such row")?)
}

fn inner<'a>(copy: &'a mut Copy, random: &mut Random) -> Result<&'a mut Row, Failure> {
    let index = pick(copy, random);
    at(copy, index)
}

/// Edits one field of one row; returns which.
fn edit(copy: &mut Copy, random: &mut Random) -> Result<usize, Failure> {
    let index = pick(copy, random);
    let field = random.within(0, 5);
    let row = at(copy, index)?;
    match field {
        0 => row.data = Bytes::from_static(b"{\"cents\":0}X"),
        1 => row.kind = b"order.paid".to_vec(),
        2 => row.actor = Some(b"user:8".to_vec()),
        3 => row.at += 1,
        _ => row.event_id.push(b'x'),
    }
    // A later time would show in the next row, whoever hashes again.
    if field == 3 {
        let next = at(copy, index + 1)?.at;
        let row = at(copy, index)?;
        if row.at > next {
            row.at = next;
            row.data = Bytes::from_static(b"{}");
        }
    }
    Ok(index)
}

fn flip(bytes: &mut [u8], random: &mut Random) -> Result<(), Failure> {
    let index = random.within(0, bytes.len());
    *bytes.get_mut(index).ok_or("nothing to change")? ^= 1;
    Ok(())
}

/// Makes an entry that looks like the last one's successor.
fn forged(copy: &Copy) -> Result<Row, Failure> {
    let last = copy.rows.last().ok_or("no row")?;
    let mut row =
        Row { seq: last.seq + 1, prev: last.hash.clone(), event_id: b"forged".to_vec(), data: Bytes::from_static(b"{}"), ..last.clone() };
    row.hash = row.compute_hash(&copy.origin).as_bytes().to_vec();
    Ok(row)
}

/// Inserts a copy of a row under another event id, as if it had happened twice; returns where.
fn insert(copy: &mut Copy, random: &mut Random) -> Result<usize, Failure> {
    let index = pick(copy, random);
    let row = at(copy, index)?;
    let twin = Row { event_id: b"twin".to_vec(), ..row.clone() };
    copy.rows.insert(index + 1, twin);
    Ok(index + 1)
}

/// Swaps what two neighbours say, each in the other's place; returns the first.
fn swap(copy: &mut Copy, random: &mut Random) -> Result<usize, Failure> {
    let index = random.within(1, copy.rows.len() - 2);
    copy.rows.swap(index, index + 1);
    let (first, second) = (at(copy, index)?.at, at(copy, index + 1)?.at);
    at(copy, index)?.at = first.min(second);
    at(copy, index + 1)?.at = first.max(second);
    copy.renumber();
    Ok(index)
}

/// Puts a row of the other chain in place of one of ours; returns which.
fn foreign(copy: &mut Copy, random: &mut Random) -> Result<usize, Failure> {
    let index = pick(copy, random);
    let other = copy.others.get(random.within(1, copy.others.len())).ok_or("no other row")?.clone();
    let row = at(copy, index)?;
    // At our row's time, or the time would tell.
    *row = Row { seq: row.seq, at: row.at, ..other };
    Ok(index)
}

fn unseal(row: &mut Row) {
    row.kid.clear();
    row.mac = None;
}

/// Cuts the last entries and moves the head to what is left.
fn cut(copy: &mut Copy, random: &mut Random, _: &MacKeys) -> Result<(), Failure> {
    let left = random.within(copy.rows.len() - 100, copy.rows.len());
    copy.rows.truncate(left);
    copy.move_head()
}
