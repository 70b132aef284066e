//! The walk: each row once, in order, with what is known from the rows before it.

use std::ops::ControlFlow;

use super::report::Findings;
use super::{Depth, FindingCode, HeadRow, Report, SavedHead, Source, Verdict, Window};
use crate::model::limits::{PAGE_BYTES, PAGE_ITEMS, PAYLOAD_BYTES};
use crate::model::merkle::Frontier;
use crate::model::{ChainName, FLAGS_KNOWN, HAS_ACTOR, HAS_RESOURCE, Hash, MacKeys, PINNED, Row, Seq, genesis, is_control};
use crate::{Code, Error, Kind, Result};

/// What to check; by default the whole chain, as deep as the keys allow.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Check {
    /// The first entry to check; the one before it is believed. Absent: the first.
    pub from: Option<Seq>,
    /// The last entry to check. Absent: the end, which must be the head.
    pub to: Option<Seq>,
    /// How much to believe. Absent: [`Depth::Keyed`] if there are keys.
    pub depth: Option<Depth>,
    /// A head that was saved outside.
    pub saved: Option<SavedHead>,
}

/// How far a walk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How many rows were hashed.
    pub rows_hashed: u64,
    /// The seq that was reached.
    pub seq: u64,
    /// The seq of the head.
    pub head: u64,
}

/// Walks a chain and reports everything that it finds.
///
/// Appends may go on meanwhile: rows never change, and the head is compared in one view with the rows at the end. `watch` is told after
/// each window and may end the walk.
///
/// # Errors
/// [`Kind::NotFound`]: no such chain, and no saved head that says there was one.
/// [`Kind::Invalid`]: a range beyond the end, or a saved head of another chain.
/// [`Kind::Backend`]: the storage could not be read, or `watch` ended the walk: no verdict.
pub fn verify(
    source: &dyn Source,
    chain: &ChainName,
    check: &Check,
    keys: &MacKeys,
    watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Report> {
    if check.saved.as_ref().is_some_and(|saved| saved.chain != *chain) {
        return Err(Error::invalid("the saved head is of another chain"));
    }
    if let (Some(from), Some(to)) = (check.from, check.to)
        && from > to
    {
        return Err(Error::invalid("the range ends before it begins"));
    }
    let mut walk = Walk::new(chain, check, keys);
    // The row before the range is believed, and links the range to what an earlier walk may have proved.
    let mut from = check.from.map_or(i64::MIN, |from| from.get().cast_signed() - 1);
    loop {
        let Some(window) = source.window(from, PAGE_ITEMS, PAGE_BYTES)? else {
            return walk.no_chain();
        };
        walk.begin_window(&window)?;
        let mut over = window.complete;
        for row in &window.rows {
            if check.to.is_some_and(|to| row.seq > to.get().cast_signed()) {
                walk.cut = true;
                break;
            }
            walk.row(row);
        }
        if let Some(last) = window.rows.last() {
            match last.seq.checked_add(1) {
                Some(next) => from = next,
                None => over = true,
            }
        } else {
            over = true;
        }
        let head = window.head.as_ref().map_or(0, |head| position(head.seq));
        if watch(Progress { rows_hashed: walk.rows_hashed, seq: walk.last_seq(), head }).is_break() {
            return Err(Error::new(Kind::Backend, Code::DeadlineExceeded, "the verification was stopped before its end"));
        }
        if walk.cut || over {
            return walk.end(&window);
        }
    }
}

/// A row's seq as a report shows it.
fn position(seq: i64) -> u64 {
    u64::try_from(seq).unwrap_or(0)
}

/// What the walk knows of the row before.
struct Before {
    seq: u64,
    at: i64,
    /// The hash as it stands in the row.
    stored: Vec<u8>,
    /// The hash as it should stand there: equal, unless that row was edited.
    computed: Hash,
    sealed: bool,
}

impl Before {
    fn is(&self, hash: &[u8]) -> bool {
        hash == self.stored || hash == self.computed.as_bytes()
    }
}

struct Walk<'a> {
    chain: &'a ChainName,
    check: &'a Check,
    keys: &'a MacKeys,
    depth: Depth,
    findings: Findings,
    /// The origin that hashes are computed with; empty until the first window.
    origin: String,
    first: u64,
    before: Option<Before>,
    /// The tree over all rows so far; absent in a walk that does not begin at the first entry, and after a hole.
    frontier: Option<Frontier>,
    /// Whether the walk ended at `to`, before the chain did.
    cut: bool,
    rows_hashed: u64,
    /// Whether a row with a MAC has been seen, or stands right before the range.
    seen_sealed: bool,
    macs_checked: bool,
    attested_to: Option<u64>,
}

impl<'a> Walk<'a> {
    fn new(chain: &'a ChainName, check: &'a Check, keys: &'a MacKeys) -> Self {
        let depth = check.depth.unwrap_or(if keys.is_empty() { Depth::Public } else { Depth::Keyed });
        let first = check.from.map_or(1, Seq::get);
        Self {
            chain,
            check,
            keys,
            depth,
            findings: Findings::default(),
            origin: String::new(),
            first,
            before: None,
            frontier: (first == 1).then(Frontier::default),
            cut: false,
            rows_hashed: 0,
            seen_sealed: false,
            macs_checked: depth == Depth::Keyed && !keys.is_empty(),
            attested_to: None,
        }
    }

    fn last_seq(&self) -> u64 {
        self.before.as_ref().map_or(0, |before| before.seq)
    }

    fn add(&mut self, code: FindingCode, seq: u64, reason: &str) {
        self.findings.add(code, seq, seq, reason);
    }

    fn begin_window(&mut self, window: &Window) -> Result<()> {
        if !self.origin.is_empty() {
            return Ok(());
        }
        let head = window.head.as_ref().map_or(0, |head| position(head.seq));
        if self.first > 1 && window.rows.is_empty() && head < self.first - 1 {
            return Err(Error::invalid("the range begins beyond the end of the chain"));
        }
        self.origin.clone_from(&window.origin);
        if !window.origin.ends_with(&format!("/{}", self.chain)) {
            self.add(FindingCode::Origin, 1, "the origin of the chain is not that of its name");
        }
        Ok(())
    }

    fn row(&mut self, row: &Row) {
        let seq = position(row.seq);
        let expected = match &self.before {
            Some(before) => before.seq + 1,
            // The believed row before a range that does not begin at the first entry.
            None if self.first > 1 => self.first - 1,
            None => 1,
        };
        if row.seq < 1 || seq < expected {
            self.add(
                FindingCode::Foreign,
                seq,
                if row.seq < 1 { "a row stands before the first entry" } else { "two rows have one position" },
            );
            return;
        }
        if seq > expected {
            self.findings.add(FindingCode::Gap, expected, seq - 1, "entries are missing");
            self.before = None;
            self.frontier = None;
        }
        if seq < self.first {
            self.believe(row);
            return;
        }
        if seq == 1 {
            self.find_origin(row);
        }
        let computed = row.compute_hash(&self.origin);
        self.rows_hashed += 1;
        self.check_links(row, seq);
        self.check_content(row, seq, &computed);
        self.check_mac(row, seq, &computed);
        self.compare_saved(row, seq, &computed);
        if let (Some(frontier), Ok(stored)) = (&mut self.frontier, <[u8; 32]>::try_from(&row.hash[..])) {
            frontier.push(&Hash::from_bytes(stored));
        } else {
            self.frontier = None;
        }
        self.before = Some(Before { seq, at: row.at, stored: row.hash.clone(), computed, sealed: !row.kid.is_empty() });
    }

    /// Takes the row before the range as it is.
    fn believe(&mut self, row: &Row) {
        let computed = <[u8; 32]>::try_from(&row.hash[..]).map_or_else(|_| genesis(""), Hash::from_bytes);
        self.seen_sealed = !row.kid.is_empty();
        let before = Before { seq: position(row.seq), at: row.at, stored: row.hash.clone(), computed, sealed: self.seen_sealed };
        self.before = Some(before);
    }

    /// Notices that the rows belong to another chain, and goes on with their own origin so that other findings stay exact.
    fn find_origin(&mut self, first: &Row) {
        if first.prev == genesis(&self.origin).as_bytes() {
            return;
        }
        #[derive(serde::Deserialize)]
        struct Created {
            origin: String,
        }
        let Ok(Created { origin }) = serde_json::from_slice(&first.data) else { return };
        if first.prev == genesis(&origin).as_bytes() && first.hash == first.compute_hash(&origin).as_bytes() {
            self.add(FindingCode::Origin, 1, "the first entry was written for a chain of another origin");
            self.origin = origin;
        }
    }

    fn check_links(&mut self, row: &Row, seq: u64) {
        if seq == 1 && row.prev != genesis(&self.origin).as_bytes() {
            self.add(FindingCode::Link, seq, "the first entry does not begin a chain of this origin");
        }
        let Some(before) = &self.before else { return };
        let (linked, falls) = (before.is(&row.prev), row.at < before.at);
        if !linked {
            self.add(FindingCode::Link, seq, "the entry does not link to the one before it");
        }
        if falls {
            self.add(FindingCode::Time, seq, "the entry is older than the one before it");
        }
    }

    fn check_content(&mut self, row: &Row, seq: u64, computed: &Hash) {
        let flags = row.flags.cast_unsigned();
        if row.hash != computed.as_bytes() {
            self.add(FindingCode::Edited, seq, "the stored hash is not that of the stored bytes");
        } else if (flags & HAS_ACTOR != 0) != row.actor.is_some() || (flags & HAS_RESOURCE != 0) != row.resource.is_some() {
            // Absent and empty have the same bytes in the hash; the flags tell them apart.
            self.add(FindingCode::Edited, seq, "an absent field was made empty, or an empty one absent");
        } else if flags & !FLAGS_KNOWN != 0 || row.pii.is_some() || row.data.len() > PAYLOAD_BYTES {
            self.add(FindingCode::Undetermined, seq, "the entry has a form that this version does not know");
        }
        let control = std::str::from_utf8(&row.kind).is_ok_and(is_control);
        if control != (flags & PINNED != 0) {
            self.add(FindingCode::Control, seq, "the flag of a control entry does not fit the kind");
        } else if (row.kind == b"chain.created") != (seq == 1) {
            self.add(FindingCode::Control, seq, "a chain begins with its creation, once");
        }
    }

    fn check_mac(&mut self, row: &Row, seq: u64, computed: &Hash) {
        let sealed = !row.kid.is_empty();
        if sealed != row.mac.is_some() {
            self.add(FindingCode::Mac, seq, "the entry has a key without a mac, or a mac without a key");
        } else if self.macs_checked {
            self.check_key(row, seq, sealed, computed);
        } else if self.depth == Depth::Keyed && sealed {
            self.add(FindingCode::Undetermined, seq, "the entry is sealed, and no key was given");
        }
        self.seen_sealed |= sealed;
    }

    fn check_key(&mut self, row: &Row, seq: u64, sealed: bool, computed: &Hash) {
        if row.hash != computed.as_bytes() {
            // An edited row was found by then; its mac says no more.
            return;
        }
        let Some(mac) = row.mac.as_deref().filter(|_| sealed) else {
            // Entries from before the first key are vouched for by the sealed ones that link to them.
            if self.seen_sealed {
                self.add(FindingCode::Mac, seq, "the entry carries no mac, although earlier ones do");
            }
            return;
        };
        // A name that is not text is in nobody's list.
        match std::str::from_utf8(&row.kid).ok().and_then(|kid| self.keys.verify(kid, computed, mac)) {
            None => self.add(FindingCode::UnknownKey, seq, "the entry is sealed under a key that was not given"),
            Some(true) => {}
            Some(false) => self.add(FindingCode::Mac, seq, "the mac is not that of the key"),
        }
    }

    fn compare_saved(&mut self, row: &Row, seq: u64, computed: &Hash) {
        let Some(saved) = self.check.saved.as_ref().filter(|saved| saved.size == seq && saved.origin == self.origin) else { return };
        let root = self.frontier.as_ref().map(|frontier| {
            let mut frontier = frontier.clone();
            frontier.push(computed);
            frontier.root()
        });
        let clean = self.findings.is_empty();
        if row.hash != saved.hash.as_bytes() && computed != &saved.hash {
            self.findings.add(FindingCode::Diverged, 1, seq, "the entry at the size of the saved head has another hash");
        } else if clean && root.is_some_and(|root| root != saved.root) {
            self.findings.add(FindingCode::Diverged, 1, seq, "the root at the size of the saved head is another");
        } else if clean {
            self.attested_to = Some(seq);
        }
    }

    /// Reports on a chain that is not there.
    fn no_chain(mut self) -> Result<Report> {
        let Some(saved) = &self.check.saved else { return Err(Error::not_found("no such chain")) };
        self.findings.add(FindingCode::Truncated, 1, saved.size, "the chain of the saved head is gone");
        self.origin.clone_from(&saved.origin);
        Ok(self.report())
    }

    fn end(mut self, window: &Window) -> Result<Report> {
        if !self.cut {
            self.check_head(window.head.as_ref());
            self.check_sealed_at_all();
        }
        if let Some(saved) = &self.check.saved {
            let last = self.last_seq();
            if saved.origin != self.origin {
                self.findings.add(FindingCode::Diverged, 1, saved.size, "the chain has another origin than the saved head");
            } else if !self.cut && last < saved.size {
                self.findings.add(FindingCode::Truncated, last + 1, saved.size, "the chain is shorter than the saved head");
            }
        }
        Ok(self.report())
    }

    fn check_head(&mut self, head: Option<&HeadRow>) {
        let last = self.last_seq();
        let Some(head) = head else {
            return if last == 0 {
                self.add(FindingCode::Gap, 1, "entries are missing");
            } else {
                self.add(FindingCode::Head, last, "the chain has no head");
            };
        };
        let head_seq = position(head.seq);
        if head_seq > last {
            return self.findings.add(FindingCode::Gap, last + 1, head_seq, "entries are missing");
        }
        let Some(before) = &self.before else { return self.add(FindingCode::Gap, 1, "entries are missing") };
        if head_seq < last {
            return self.findings.add(FindingCode::Head, head_seq + 1, last, "entries stand beyond the head");
        }
        if !before.is(&head.hash) || before.at != head.at {
            self.add(FindingCode::Head, last, "the head is not the last entry");
        }
        let clean = self.findings.is_empty();
        match (Frontier::from_bytes(head_seq, &head.frontier), &self.frontier) {
            (Err(_), _) => self.add(FindingCode::Root, last, "the tree of the head does not fit its length"),
            // After another finding the tree differs anyway: that is no news.
            (Ok(stored), Some(frontier)) if clean && stored.root() != frontier.root() => {
                self.add(FindingCode::Root, last, "the root of the head is not that of the entries");
            }
            _ => {}
        }
    }

    /// With a key, a chain without any MAC is one whose MACs may have been taken away.
    fn check_sealed_at_all(&mut self) {
        let last = self.last_seq();
        if self.macs_checked && !self.seen_sealed && last > 0 {
            self.findings.add(FindingCode::Mac, self.first.min(last), last, "a key was given, and no entry is sealed");
        }
    }

    fn report(self) -> Report {
        let verdict = self.findings.verdict();
        let good = verdict == Verdict::Ok;
        let to_seq = self.before.as_ref().map_or(0, |before| before.seq);
        let last = self.before.as_ref().filter(|_| good && self.rows_hashed > 0);
        Report {
            chain: self.chain.to_string(),
            verdict,
            depth: self.depth,
            authenticated: self.macs_checked && last.is_some_and(|last| last.sealed),
            hash: last.filter(|_| self.frontier.is_some()).map(|last| last.computed),
            root: last.and(self.frontier.as_ref()).map(Frontier::root),
            origin: self.origin,
            findings: self.findings.list,
            findings_left_out: self.findings.left_out,
            from_seq: self.first,
            to_seq,
            attested_to: self.attested_to.filter(|_| good),
            attested_hash: self.check.saved.as_ref().filter(|_| good && self.attested_to.is_some()).map(|saved| saved.hash),
            rows_hashed: self.rows_hashed,
        }
    }
}
