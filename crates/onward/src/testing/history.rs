//! Checkers: they judge recorded histories of concurrent clients, in linear or n log n time, without a search.
//!
//! That is possible because every answer carries a number that only grows: a version, a token, a revision. The time of a history is a
//! counter that each call reads before it starts and after it ended, so "a ended before b began" is exact. Each checker has a planted
//! bug beside it that it must find.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// A call on one object. The values of a history are unique, so a value names its writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Read it.
    Read,
    /// Create it.
    Create {
        /// The content.
        value: i64,
    },
    /// Write it, whatever is there.
    Overwrite {
        /// The content.
        value: i64,
    },
    /// Replace it at a version.
    Replace {
        /// The version that it is based on.
        at: u64,
        /// The content.
        value: i64,
    },
    /// Delete it at a version.
    Delete {
        /// The version that it is based on.
        at: u64,
    },
}

/// What a call on one object was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It was applied, and took this version.
    Won {
        /// The version.
        version: u64,
    },
    /// It changed nothing and showed version and value; `None`: there was no object.
    Shown(Option<(u64, i64)>),
    /// Nobody knows: it may be applied at any time after it began, once.
    Unknown,
}

/// One call of one client.
#[derive(Debug, Clone, Copy)]
pub struct Op {
    /// When it began.
    pub start: u64,
    /// When its answer came.
    pub end: u64,
    /// What was asked.
    pub call: Call,
    /// What was answered.
    pub answer: Answer,
}

/// Records calls as they happen; clones share the history.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<(AtomicU64, Mutex<Vec<Op>>)>);

impl Recorder {
    /// Runs a call and records it. A call that is dropped half-way is not recorded: wrap it in a task if it may have an effect.
    pub async fn record(&self, call: Call, run: impl Future<Output = Answer>) -> Answer {
        let start = self.0.0.fetch_add(1, Ordering::SeqCst);
        let answer = run.await;
        let end = self.0.0.fetch_add(1, Ordering::SeqCst);
        self.0.1.lock().push(Op { start, end, call, answer });
        answer
    }

    /// Returns what was recorded so far.
    pub fn history(&self) -> Vec<Op> {
        self.0.1.lock().clone()
    }
}

/// What is wrong with a history.
pub type Flaw = String;

pub(super) fn flaw<T>(what: &str, where_: impl Debug) -> Result<T, Flaw> {
    Err(format!("{what}: {where_:?}"))
}

/// Judges the history of one object (INV-3): one winner a version, versions in real-time order, values that match, no lost update.
///
/// # Errors
/// The first flaw.
pub fn check_object(history: &[Op]) -> Result<(), Flaw> {
    let mut winners: BTreeMap<u64, &Op> = BTreeMap::new();
    for op in history {
        if let Answer::Won { version } = op.answer
            && let Some(other) = winners.insert(version, op)
        {
            return flaw("two winners of one version", (other, op));
        }
    }
    let claimed = claim_unknown(history, &mut winners)?;
    for (version, op) in &winners {
        check_winner(*version, op, &winners)?;
    }
    for op in history {
        check_shown(op, &winners)?;
    }
    check_order(history, &claimed)
}

/// Finds the unknown writes that took part: a shown value that no winner wrote must be an unknown one's, each at one version.
fn claim_unknown<'a>(history: &'a [Op], winners: &mut BTreeMap<u64, &'a Op>) -> Result<BTreeMap<u64, u64>, Flaw> {
    let unknown = |value: i64| {
        history.iter().find(|op| {
            op.answer == Answer::Unknown
                && matches!(op.call, Call::Create { value: own } | Call::Overwrite { value: own } | Call::Replace { value: own, .. } if own == value)
        })
    };
    let mut claimed = BTreeMap::new();
    for op in history {
        let Answer::Shown(Some((version, value))) = op.answer else { continue };
        if winners.contains_key(&version) {
            continue;
        }
        let Some(writer) = unknown(value) else { return flaw("a value that nobody wrote", op) };
        if let Some(other) = claimed.insert(writer.start, version) {
            return flaw("an unknown write was applied twice", (other, version, writer));
        }
        winners.insert(version, writer);
    }
    Ok(claimed)
}

/// A winner took the version right behind the one that it was based on, so nothing came in between.
fn check_winner(version: u64, op: &Op, winners: &BTreeMap<u64, &Op>) -> Result<(), Flaw> {
    let before = winners.range(..version).next_back().map(|(_, op)| op.call);
    match op.call {
        Call::Replace { at, .. } | Call::Delete { at } if version != at + 1 => flaw("a write on stale knowledge landed", (version, op)),
        Call::Create { .. } if matches!(before, Some(Call::Create { .. } | Call::Overwrite { .. } | Call::Replace { .. })) => {
            // An unknown delete may have stood between; it takes a version, so a gap of one is no proof.
            if winners.contains_key(&(version - 1)) { flaw("a create over an existing object", (version, op)) } else { Ok(()) }
        }
        Call::Read => flaw("a read that wrote", op),
        _ => Ok(()),
    }
}

/// What is shown was written, by a call that had begun.
fn check_shown(op: &Op, winners: &BTreeMap<u64, &Op>) -> Result<(), Flaw> {
    let Answer::Shown(Some((version, value))) = op.answer else { return Ok(()) };
    let Some(writer) = winners.get(&version) else { return flaw("a version that nobody wrote", op) };
    let written = match writer.call {
        Call::Create { value } | Call::Overwrite { value } | Call::Replace { value, .. } => Some(value),
        Call::Read | Call::Delete { .. } => None,
    };
    if written != Some(value) {
        return flaw("a version shows what another one holds", (writer, op));
    }
    if writer.start > op.end {
        return flaw("a value from the future", (writer, op));
    }
    match op.call {
        Call::Replace { at, .. } | Call::Delete { at } if at == version => flaw("a refusal although the condition held", op),
        _ => Ok(()),
    }
}

/// What ended before another call began has a version at most as high; a write's is higher than all before it.
fn check_order(history: &[Op], claimed: &BTreeMap<u64, u64>) -> Result<(), Flaw> {
    let seen = |op: &Op| match op.answer {
        Answer::Won { version } => Some((version, !matches!(op.call, Call::Delete { .. }))),
        Answer::Shown(Some((version, _))) => Some((version, true)),
        Answer::Shown(None) | Answer::Unknown => None,
    };
    let deletes: BTreeSet<u64> = history
        .iter()
        .filter_map(|op| match (op.call, op.answer) {
            (Call::Delete { .. }, Answer::Won { version }) => Some(version),
            (Call::Delete { at }, Answer::Unknown) => Some(at + 1),
            _ => None,
        })
        .collect();
    let mut by_start: Vec<&Op> = history.iter().collect();
    by_start.sort_unstable_by_key(|op| op.start);
    let mut by_end: Vec<&Op> = history.iter().filter(|op| seen(op).is_some()).collect();
    by_end.sort_unstable_by_key(|op| op.end);
    let mut ended = by_end.into_iter().peekable();
    let mut newest = (0, false);
    for op in by_start {
        while let Some(before) = ended.next_if(|before| before.end < op.start) {
            newest = newest.max(seen(before).unwrap_or_default());
        }
        let (floor, live) = newest;
        match op.answer {
            Answer::Won { version } if version <= floor => return flaw("a write did not move the version", (floor, op)),
            Answer::Shown(Some((version, _))) if version < floor || (version == floor && !live) => {
                return flaw("an answer shows what was replaced before it was asked", (floor, op));
            }
            Answer::Shown(None) if live && deletes.range(floor + 1..).next().is_none() => {
                return flaw("an object is gone and nobody deleted it", (floor, op));
            }
            Answer::Unknown if claimed.get(&op.start).is_some_and(|version| *version <= floor) => {
                return flaw("an unknown write landed before it was sent", (floor, op));
            }
            _ => {}
        }
    }
    Ok(())
}

/// One write under a fence.
#[derive(Debug, Clone, Copy)]
pub struct FencedWrite {
    /// When it began.
    pub start: u64,
    /// When its answer came.
    pub end: u64,
    /// Its token.
    pub token: u64,
    /// The revision that it took; `None` if it was refused.
    pub accepted: Option<u64>,
}

/// Judges the fenced writes under one lock (INV-1): in the order of revisions and in real time, tokens never go back.
///
/// # Errors
/// The first flaw.
pub fn check_fences(history: &[FencedWrite]) -> Result<(), Flaw> {
    let mut accepted: Vec<(u64, &FencedWrite)> = history.iter().filter_map(|write| Some((write.accepted?, write))).collect();
    accepted.sort_unstable_by_key(|(revision, _)| *revision);
    for pair in accepted.windows(2) {
        if let [(one, before), (two, after)] = pair {
            if one == two {
                return flaw("two writes took one revision", (before, after));
            }
            if after.token < before.token {
                return flaw("an older token was accepted after a newer one", (before, after));
            }
        }
    }
    for (_, later) in &accepted {
        if let Some((_, earlier)) = accepted.iter().find(|(_, earlier)| earlier.end < later.start && earlier.token > later.token) {
            return flaw("an older token was accepted after a newer one", (earlier, later));
        }
    }
    Ok(())
}

/// Judges what a reader of the feed got (INV-4): every revision after `after` once, in order, up to `newest`, and all acknowledged ones.
///
/// # Errors
/// The first flaw.
pub fn check_feed(after: u64, newest: u64, got: &[u64], acknowledged: &BTreeSet<u64>) -> Result<(), Flaw> {
    let mut expect = after;
    for revision in got {
        expect += 1;
        if *revision != expect {
            return flaw("the feed has a gap, a repetition or another order", (expect, revision));
        }
    }
    if expect != newest {
        return flaw("the feed ends early or late", (expect, newest));
    }
    match acknowledged.iter().find(|revision| **revision > newest || (**revision > after && !got.contains(revision))) {
        Some(revision) => flaw("an acknowledged commit is not in the feed", revision),
        None => Ok(()),
    }
}

/// What an acknowledged write left, and what is there after a crash.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Each acknowledged (name, version) with the revision that took it.
    pub writes: Vec<(String, u64, u64)>,
    /// Each acknowledged (chain, seq) with the entry's hash.
    pub entries: Vec<(String, u64, String)>,
    /// Each acknowledged (lock, token).
    pub fences: Vec<(String, u64)>,
}

/// Everything that a store holds, as a checker reads it from outside.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The change log: revision, and for each change name and version.
    pub log: Vec<(u64, Vec<(String, u64)>)>,
    /// Each chain's entries in the order of their seq: seq, hash before, own hash.
    pub chains: BTreeMap<String, Vec<(u64, String, String)>>,
    /// Each chain's head: seq and hash.
    pub heads: BTreeMap<String, (u64, String)>,
    /// The newest token of each lock.
    pub fences: BTreeMap<String, u64>,
}

/// Judges a store after crashes (C3, C4, INV-5): nothing acknowledged is missing, no number was given twice, chains are whole.
///
/// # Errors
/// The first flaw.
pub fn check_ledger(acknowledged: &Ledger, found: &Found) -> Result<(), Flaw> {
    let mut taken: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    for (place, (revision, changes)) in (1..).zip(&found.log) {
        if *revision != place {
            return flaw("the change log has a gap", (place, revision));
        }
        for (name, version) in changes {
            if taken.insert((name, *version), *revision).is_some() {
                return flaw("one version was given twice", (name, version));
            }
        }
    }
    let mut seen = BTreeSet::new();
    for (name, version, revision) in &acknowledged.writes {
        if !seen.insert((name, version)) {
            return flaw("one version was acknowledged twice", (name, version));
        }
        if taken.get(&(name, *version)) != Some(revision) {
            return flaw("an acknowledged write is missing", (name, version, revision));
        }
    }
    for (chain, entries) in &found.chains {
        for pair in entries.windows(2) {
            if let [(one, _, hash), (two, prev, _)] = pair
                && (*two != one + 1 || prev != hash)
            {
                return flaw("a chain is broken", (chain, one, two));
            }
        }
        let last = entries.last().map(|(seq, _, hash)| (*seq, hash.clone()));
        if entries.first().map(|first| first.0) != Some(1) || found.heads.get(chain) != last.as_ref() {
            return flaw("a chain does not reach from its first entry to its head", chain);
        }
    }
    let mut seen = BTreeSet::new();
    for (chain, seq, hash) in &acknowledged.entries {
        if !seen.insert((chain, seq)) {
            return flaw("one seq was acknowledged twice", (chain, seq));
        }
        let there = found.chains.get(chain).is_some_and(|entries| entries.iter().any(|(at, _, own)| at == seq && own == hash));
        if !there {
            return flaw("an acknowledged entry is missing", (chain, seq));
        }
    }
    match acknowledged.fences.iter().find(|(lock, token)| found.fences.get(lock).is_none_or(|newest| newest < token)) {
        Some(fence) => flaw("a fence went back", fence),
        None => Ok(()),
    }
}
