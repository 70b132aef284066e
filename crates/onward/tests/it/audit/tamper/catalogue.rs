//! The catalogue: every attack by somebody who can write the database, in SQL that every engine understands, and who sees it where.

use onward::model::merkle::Frontier;
use onward::model::{Hash, MacKeys, Row, genesis};

use super::keys;

/// Who can write the database, knows the code, and may have the key or not.
pub(super) trait Attacker {
    /// Runs statements; `x'00'`, `zeroblob(n)` and the name `$orders` for the chain's id are understood.
    fn run(&mut self, sql: &str);

    /// The rows of the chain `orders`, in order, as they stand.
    fn rows(&mut self) -> Vec<Row>;

    /// Writes prev, hash and mac of the rows of one position.
    fn put(&mut self, row: &Row);

    /// Writes the head.
    fn put_head(&mut self, seq: i64, hash: &Hash, frontier: &Frontier, at: i64);

    /// The origin that the chain was made with.
    fn origin(&self) -> String;
}

impl dyn Attacker + '_ {
    pub(super) fn sql(&mut self, sql: &str) {
        self.run(&sql.replace("$orders", "(SELECT id FROM onward_chains WHERE name = 'orders')"));
    }

    /// Hashes everything from a position on again, and the head: `keys` seal what has the name of a key.
    pub(super) fn rehash(&mut self, from: i64, keys: &MacKeys) {
        let origin = self.origin();
        let (mut prev, mut frontier, mut last) = (genesis(&origin), Frontier::default(), (0, 0));
        for mut row in self.rows() {
            if row.seq >= from {
                row.prev = prev.as_bytes().to_vec();
                let hash = row.compute_hash(&origin);
                row.hash = hash.as_bytes().to_vec();
                let kid = std::str::from_utf8(&row.kid).unwrap();
                row.mac = keys.sign(kid, &hash).map(|mac| mac.to_vec()).or(row.mac);
                self.put(&row);
            }
            prev = Hash::from_bytes(row.hash.try_into().unwrap());
            frontier.push(&prev);
            last = (row.seq, row.at);
        }
        self.put_head(last.0, &prev, &frontier, last.1);
    }
}

/// What the auditor has: nothing, or the key and a head saved outside.
pub(super) type Seen = &'static [&'static str];

/// One row of the catalogue: the attack, who sees it with nothing, and who sees it with key and saved head.
pub(super) type Attack = (&'static str, fn(&mut dyn Attacker), Seen, Seen);

pub(super) const CATALOGUE: &[Attack] = &[
    (
        "data edited",
        |a| a.sql("UPDATE onward_entries SET data = x'00' WHERE chain = $orders AND seq = 5"),
        &["BROKEN(edited) 5..5"],
        &["BROKEN(edited) 5..5"],
    ),
    (
        "hash edited",
        |a| a.sql("UPDATE onward_entries SET hash = zeroblob(32) WHERE chain = $orders AND seq = 5"),
        &["BROKEN(edited) 5..5"],
        &["BROKEN(edited) 5..5"],
    ),
    (
        "hash made null",
        |a| a.sql("UPDATE onward_entries SET hash = NULL WHERE chain = $orders AND seq = 5"),
        &["BROKEN(edited) 5..5"],
        &["BROKEN(edited) 5..5"],
    ),
    (
        "link edited",
        |a| a.sql("UPDATE onward_entries SET prev = zeroblob(32) WHERE chain = $orders AND seq = 5"),
        &["BROKEN(link) 5..5", "BROKEN(edited) 5..5"],
        &["BROKEN(link) 5..5", "BROKEN(edited) 5..5"],
    ),
    (
        "time set back",
        |a| a.sql("UPDATE onward_entries SET at = 3 WHERE chain = $orders AND seq = 5"),
        &["BROKEN(time) 5..5", "BROKEN(edited) 5..5"],
        &["BROKEN(time) 5..5", "BROKEN(edited) 5..5"],
    ),
    (
        "time set back and hashed again",
        |a| {
            a.sql("UPDATE onward_entries SET at = 3 WHERE chain = $orders AND seq = 5");
            a.rehash(1, &MacKeys::none());
        },
        &["BROKEN(time) 5..5"],
        &["BROKEN(time) 5..5", "BROKEN(mac) 5..40", "DIVERGED 1..40"],
    ),
    (
        "actor removed",
        |a| a.sql("UPDATE onward_entries SET actor = NULL WHERE chain = $orders AND seq = 6"),
        &["BROKEN(edited) 6..6"],
        &["BROKEN(edited) 6..6"],
    ),
    (
        "absent actor made empty",
        |a| a.sql("UPDATE onward_entries SET actor = '' WHERE chain = $orders AND seq = 5"),
        &["BROKEN(edited) 5..5"],
        &["BROKEN(edited) 5..5"],
    ),
    (
        "text that is not UTF-8",
        |a| a.sql("UPDATE onward_entries SET kind = CAST(x'ff' AS TEXT) WHERE chain = $orders AND seq = 5"),
        &["BROKEN(edited) 5..5"],
        &["BROKEN(edited) 5..5"],
    ),
    (
        "mac removed",
        |a| a.sql("UPDATE onward_entries SET mac = NULL WHERE chain = $orders AND seq = 5"),
        &["BROKEN(mac) 5..5"],
        &["BROKEN(mac) 5..5"],
    ),
    ("mac edited", |a| a.sql("UPDATE onward_entries SET mac = zeroblob(32) WHERE chain = $orders AND seq = 5"), &[], &["BROKEN(mac) 5..5"]),
    (
        "one row hashed again",
        |a| {
            a.sql("UPDATE onward_entries SET data = x'00' WHERE chain = $orders AND seq = 5");
            a.sql("CREATE TABLE kept AS SELECT * FROM onward_entries; CREATE TABLE head AS SELECT * FROM onward_heads");
            a.rehash(5, &MacKeys::none());
            a.sql("CREATE TABLE row5 AS SELECT hash FROM onward_entries WHERE chain = $orders AND seq = 5");
            a.sql("DELETE FROM onward_entries; INSERT INTO onward_entries SELECT * FROM kept; DELETE FROM onward_heads; INSERT INTO onward_heads SELECT * FROM head");
            a.sql("UPDATE onward_entries SET hash = (SELECT hash FROM row5) WHERE chain = $orders AND seq = 5");
        },
        &["BROKEN(link) 6..6"],
        &["BROKEN(mac) 5..5", "BROKEN(link) 6..6"],
    ),
    (
        "row deleted",
        |a| a.sql("DELETE FROM onward_entries WHERE chain = $orders AND seq = 5"),
        &["BROKEN(gap) 5..5"],
        &["BROKEN(gap) 5..5"],
    ),
    (
        "rows deleted and the rest moved up",
        |a| a.sql("DELETE FROM onward_entries WHERE chain = $orders AND seq = 40; UPDATE onward_heads SET seq = 39 WHERE chain = $orders"),
        &["BROKEN(head) 39..39", "BROKEN(root) 39..39"],
        &["BROKEN(head) 39..39", "BROKEN(root) 39..39", "TRUNCATED 40..40"],
    ),
    (
        "first rows cut",
        |a| a.sql("DELETE FROM onward_entries WHERE chain = $orders AND seq <= 3"),
        &["BROKEN(gap) 1..3"],
        &["BROKEN(gap) 1..3"],
    ),
    (
        "two rows swapped",
        |a| a.sql("UPDATE onward_entries SET seq = 11 - seq WHERE chain = $orders AND seq IN (5, 6)"),
        &["BROKEN(link) 5..7", "BROKEN(edited) 5..6"],
        &["BROKEN(link) 5..7", "BROKEN(edited) 5..6"],
    ),
    (
        "row inserted before the first",
        |a| {
            a.sql("INSERT INTO onward_entries SELECT chain, 0, prev, hash, mac, kid, at, event_id, kind, actor, resource, data, pii, flags FROM onward_entries WHERE chain = $orders AND seq = 5")
        },
        &["BROKEN(foreign) 0..0"],
        &["BROKEN(foreign) 0..0"],
    ),
    (
        "row duplicated",
        |a| a.sql("INSERT INTO onward_entries SELECT * FROM onward_entries WHERE chain = $orders AND seq = 5"),
        &["BROKEN(foreign) 5..5"],
        &["BROKEN(foreign) 5..5"],
    ),
    (
        "row planted beyond the head",
        |a| {
            a.sql("INSERT INTO onward_entries SELECT chain, 41, hash, zeroblob(32), mac, kid, at, event_id, kind, actor, resource, data, pii, flags FROM onward_entries WHERE chain = $orders AND seq = 40")
        },
        &["BROKEN(edited) 41..41", "BROKEN(head) 41..41"],
        &["BROKEN(edited) 41..41", "BROKEN(head) 41..41"],
    ),
    (
        "row copied from another chain",
        |a| {
            a.sql("DELETE FROM onward_entries WHERE chain = $orders AND seq = 5; INSERT INTO onward_entries SELECT $orders, seq, prev, hash, mac, kid, at, event_id, kind, actor, resource, data, pii, flags FROM onward_entries WHERE chain <> $orders AND seq = 5")
        },
        &["BROKEN(link) 5..6", "BROKEN(edited) 5..5", "BROKEN(time) 6..6"],
        &["BROKEN(link) 5..6", "BROKEN(edited) 5..5", "BROKEN(time) 6..6"],
    ),
    (
        "chains swapped by name",
        |a| {
            a.sql("UPDATE onward_chains SET name = name || '-'; UPDATE onward_chains SET name = CASE name WHEN 'orders-' THEN 'others' ELSE 'orders' END")
        },
        &["BROKEN(origin) 1..1"],
        &["BROKEN(origin) 1..1", "DIVERGED 1..40"],
    ),
    (
        "origin edited",
        |a| a.sql("UPDATE onward_chains SET origin = 'evil/orders' WHERE name = 'orders'"),
        &["BROKEN(origin) 1..1"],
        &["BROKEN(origin) 1..1"],
    ),
    (
        "tail cut, head left",
        |a| a.sql("DELETE FROM onward_entries WHERE chain = $orders AND seq > 30"),
        &["BROKEN(gap) 31..40"],
        &["BROKEN(gap) 31..40", "TRUNCATED 31..40"],
    ),
    (
        "tail cut with its head",
        |a| {
            a.sql("DELETE FROM onward_entries WHERE chain = $orders AND seq > 30");
            a.rehash(31, &MacKeys::none());
        },
        &[],
        &["TRUNCATED 31..40"],
    ),
    (
        "put back and continued",
        |a| {
            a.sql("UPDATE onward_entries SET event_id = 'other' || seq WHERE chain = $orders AND seq > 30");
            a.rehash(31, &keys());
        },
        &[],
        &["DIVERGED 1..40"],
    ),
    (
        "all rows deleted",
        |a| a.sql("DELETE FROM onward_entries WHERE chain = $orders"),
        &["BROKEN(gap) 1..40"],
        &["BROKEN(gap) 1..40", "TRUNCATED 1..40"],
    ),
    (
        "rows and head deleted",
        |a| a.sql("DELETE FROM onward_entries WHERE chain = $orders; DELETE FROM onward_heads WHERE chain = $orders"),
        &["BROKEN(gap) 1..1"],
        &["BROKEN(gap) 1..1", "TRUNCATED 1..40"],
    ),
    ("head deleted", |a| a.sql("DELETE FROM onward_heads WHERE chain = $orders"), &["BROKEN(head) 40..40"], &["BROKEN(head) 40..40"]),
    (
        "head edited",
        |a| a.sql("UPDATE onward_heads SET hash = zeroblob(32) WHERE chain = $orders"),
        &["BROKEN(head) 40..40"],
        &["BROKEN(head) 40..40"],
    ),
    (
        "time of the head edited",
        |a| a.sql("UPDATE onward_heads SET at = at + 1 WHERE chain = $orders"),
        &["BROKEN(head) 40..40"],
        &["BROKEN(head) 40..40"],
    ),
    (
        "tree of the head edited",
        |a| a.sql("UPDATE onward_heads SET frontier = zeroblob(64) WHERE chain = $orders"),
        &["BROKEN(root) 40..40"],
        &["BROKEN(root) 40..40"],
    ),
    (
        "tree of the head cut",
        |a| a.sql("UPDATE onward_heads SET frontier = x'' WHERE chain = $orders"),
        &["BROKEN(root) 40..40"],
        &["BROKEN(root) 40..40"],
    ),
    (
        "everything hashed again",
        |a| {
            a.sql("UPDATE onward_entries SET data = x'00' WHERE chain = $orders AND seq = 5");
            a.rehash(1, &MacKeys::none());
        },
        &[],
        &["BROKEN(mac) 5..40", "DIVERGED 1..40"],
    ),
    (
        "everything hashed again without macs",
        |a| {
            a.sql("UPDATE onward_entries SET kid = '', mac = NULL WHERE chain = $orders");
            a.rehash(1, &MacKeys::none());
        },
        &[],
        &["DIVERGED 1..40", "BROKEN(mac) 1..40"],
    ),
    (
        "the rest hashed again without macs",
        |a| {
            a.sql("UPDATE onward_entries SET kid = '', mac = NULL WHERE chain = $orders AND seq >= 5");
            a.rehash(5, &MacKeys::none());
        },
        &[],
        &["BROKEN(mac) 5..40", "DIVERGED 1..40"],
    ),
    (
        "sealed with a key of the attacker",
        |a| {
            a.sql("UPDATE onward_entries SET kid = 'k2' WHERE chain = $orders AND seq >= 5");
            a.rehash(5, &MacKeys::one("k2", [8; 32]).unwrap());
        },
        &[],
        &["BROKEN(unknown_key) 5..40", "DIVERGED 1..40"],
    ),
    (
        "rewritten by a holder of the key",
        |a| {
            a.sql("UPDATE onward_entries SET data = x'00' WHERE chain = $orders AND seq = 5");
            a.rehash(1, &keys());
        },
        &[],
        &["DIVERGED 1..40"],
    ),
    (
        "forged control entry",
        |a| {
            a.sql("UPDATE onward_entries SET kind = 'segment.purged' WHERE chain = $orders AND seq = 5");
            a.rehash(5, &keys());
        },
        &["BROKEN(control) 5..5"],
        &["BROKEN(control) 5..5", "DIVERGED 1..40"],
    ),
    (
        "a second creation",
        |a| {
            a.sql("UPDATE onward_entries SET kind = 'chain.created', flags = flags | 1 WHERE chain = $orders AND seq = 5");
            a.rehash(5, &keys());
        },
        &["BROKEN(control) 5..5"],
        &["BROKEN(control) 5..5", "DIVERGED 1..40"],
    ),
];
