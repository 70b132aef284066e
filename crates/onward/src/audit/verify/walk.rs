//! The walk: each row once, in order, with what is known from the rows before it.

use std::ops::ControlFlow;

use super::files::{Lack, look_for};
use super::look::{Digest, Eye, MacState, Seen};
use super::past::{Known, Past};
use super::report::Findings;
use super::segment::Life;
use super::{Check, Depth, Extent, FindingCode, HeadRow, Progress, Report, SegmentState, Source, Verdict, View};
use crate::model::merkle::Frontier;
use crate::model::{ChainName, Hash, MacKeys, Row, RowRef, Seq, genesis};
use crate::{Error, Result};

/// A row's seq as a report shows it.
fn position(seq: i64) -> u64 {
    u64::try_from(seq).unwrap_or(0)
}

/// What the walk knows of the row before.
struct Before {
    seq: u64,
    at: i64,
    /// The hash as it stands in the row.
    stored: Digest,
    /// The hash as it should stand there: equal, unless that row was edited.
    computed: Hash,
    sealed: bool,
}

impl Before {
    fn is(&self, hash: &Digest) -> bool {
        *hash == self.stored || hash.is(&self.computed)
    }
}

/// What is taken as it is of the entry before a range.
struct Believed {
    at: i64,
    stored: Digest,
    sealed: bool,
}

/// What was said outside about the chain at a size.
struct Trusted<'a> {
    origin: &'a str,
    size: u64,
    /// Only a saved head tells it.
    hash: Option<&'a Hash>,
    root: &'a Hash,
}

impl<'a> Trusted<'a> {
    fn of(check: &'a Check) -> Option<Self> {
        match (&check.saved, &check.checkpoint) {
            (Some(saved), _) => Some(Self { origin: &saved.origin, size: saved.size, hash: Some(&saved.hash), root: &saved.root }),
            (None, Some(note)) => Some(Self { origin: &note.origin, size: note.size, hash: None, root: &note.root }),
            (None, None) => None,
        }
    }
}

pub(super) struct Walk<'a> {
    chain: &'a ChainName,
    pub(super) check: &'a Check,
    keys: &'a MacKeys,
    depth: Depth,
    findings: Findings,
    /// The origin that hashes are computed with.
    origin: String,
    eye: Eye<'a>,
    first: u64,
    before: Option<Before>,
    /// The tree over all rows so far; absent in a walk that begins behind entries that nobody vouches for, and after a hole.
    frontier: Option<Frontier>,
    /// The last entry of the newest gap.
    lost_at: u64,
    /// Whether the walk ended at `to`, before the chain did.
    pub(super) cut: bool,
    /// The segments, whose entries may be absent.
    pub(super) past: Past<'a>,
    /// Entries that were known by a skeleton only.
    rows_known: u64,
    /// What kept the walk from reading on.
    pub(super) failed: Option<Error>,
    /// The seq of the last row that came, whatever it was.
    pub(super) reached: i64,
    head: i64,
    rows_hashed: u64,
    bytes_hashed: u64,
    /// Whether a row with a MAC has been seen, or stands right before the range.
    seen_sealed: bool,
    macs_checked: bool,
    attested_to: Option<u64>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(source: &'a dyn Source, chain: &'a ChainName, check: &'a Check, keys: &'a MacKeys) -> Self {
        let depth = check.depth.unwrap_or(if keys.is_empty() { Depth::Public } else { Depth::Keyed });
        let since = check.saved.as_ref().filter(|_| check.extent == Extent::Incremental);
        let first = since.map_or_else(|| check.from.map_or(1, Seq::get), |saved| saved.size + 1);
        Self {
            chain,
            check,
            keys,
            depth,
            findings: Findings::default(),
            origin: String::new(),
            eye: Eye::new("", keys, depth),
            first,
            before: None,
            frontier: match since {
                Some(saved) => Some(saved.frontier.clone()),
                None => (first == 1).then(Frontier::default),
            },
            lost_at: 0,
            cut: false,
            past: Past::new(source, chain),
            rows_known: 0,
            failed: None,
            reached: i64::MIN,
            head: 0,
            rows_hashed: 0,
            bytes_hashed: 0,
            seen_sealed: false,
            macs_checked: depth == Depth::Keyed && !keys.is_empty(),
            attested_to: None,
        }
    }

    /// Where reading begins: with the row before the range, or with whatever stands first.
    pub(super) fn before_first(&self) -> i64 {
        if self.first == 1 { i64::MIN } else { self.first.cast_signed() - 1 }
    }

    /// The first position behind the entries that surely are to be walked.
    pub(super) fn known_end(&self) -> i64 {
        let end = self.head.saturating_add(1);
        self.check.to.map_or(end, |to| end.min(to.get().cast_signed() + 1))
    }

    pub(super) fn eye(&self) -> Eye<'a> {
        Eye::new(&self.origin, self.keys, self.depth)
    }

    pub(super) fn progress(&self) -> Progress {
        let (rows_hashed, bytes_hashed) = (self.rows_hashed, self.bytes_hashed);
        Progress { rows_hashed, bytes_hashed, seq: self.last_seq(), head: position(self.head) }
    }

    fn last_seq(&self) -> u64 {
        self.before.as_ref().map_or(self.lost_at, |before| before.seq)
    }

    fn add(&mut self, code: FindingCode, seq: u64, reason: &str) {
        self.findings.add(code, seq, seq, reason);
    }

    /// Takes the origin from the first view.
    pub(super) fn begin(&mut self, view: &View) {
        self.origin.clone_from(&view.origin);
        self.eye = self.eye();
        if !view.origin.ends_with(&format!("/{}", self.chain)) {
            self.add(FindingCode::Origin, 1, "the origin of the chain is not that of its name");
        }
    }

    /// Tells whether a range begins behind everything that there is.
    pub(super) fn is_beyond(&self, view: &View) -> bool {
        let head = view.head.as_ref().map_or(0, |head| position(head.seq));
        self.check.from.is_some() && self.first > 1 && self.before.is_none() && head < self.first - 1
    }

    pub(super) fn saw(&mut self, view: &View) {
        self.head = view.head.as_ref().map_or(0, |head| head.seq);
    }

    /// Looks at the next row.
    pub(super) fn look(&mut self, row: &RowRef<'_>) -> Seen {
        if row.seq == 1 && self.first == 1 && self.before.is_none() {
            self.find_origin(row);
        }
        self.eye.look(row)
    }

    /// Takes the control entries of segments that were read together with the next rows.
    pub(super) fn learn(&mut self, controls: &[Row]) {
        for (code, first, last, reason) in self.past.learn(controls, &self.origin, self.keys, self.depth) {
            self.findings.add(code, first, last, reason);
        }
    }

    /// Takes rows that were looked at, until the range ends.
    ///
    /// # Errors
    /// A skeleton could not be read.
    pub(super) fn judge_all(&mut self, rows: Vec<Seen>) -> Result<()> {
        for row in rows {
            if self.judge(row).is_break() {
                break;
            }
        }
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Takes the next row, which was looked at.
    fn judge(&mut self, row: Seen) -> ControlFlow<()> {
        let expected = match &self.before {
            Some(before) => before.seq + 1,
            // The believed row before a range that does not begin at the first entry.
            None if self.first > 1 => self.first - 1,
            None => 1,
        };
        if let Some(to) = self.check.to.filter(|to| row.seq > to.get().cast_signed()) {
            self.cut = true;
            self.absent(expected, to.get());
            return ControlFlow::Break(());
        }
        self.reached = row.seq;
        let seq = position(row.seq);
        if row.seq < 1 || seq < expected {
            let reason = if row.seq < 1 { "a row stands before the first entry" } else { "two rows have one position" };
            self.add(FindingCode::Foreign, seq, reason);
            return ControlFlow::Continue(());
        }
        if seq > expected {
            self.absent(expected, seq - 1);
        }
        let known = self.known(seq);
        if self.failed.is_some() {
            return ControlFlow::Break(());
        }
        if seq < self.first {
            self.believe(Believed { at: row.at, stored: row.stored, sealed: row.sealed }, seq);
            return ControlFlow::Continue(());
        }
        self.rows_hashed += 1;
        self.bytes_hashed += row.bytes as u64;
        self.check_links(&row, seq);
        if let Some((code, reason)) = row.content {
            self.add(code, seq, reason);
        }
        if let Some((code, reason)) = row.control {
            self.add(code, seq, reason);
        }
        self.check_mac(&row, seq);
        self.check_known(&row, seq, known.as_ref());
        if let Some((code, reason)) = row.commitment.and_then(|_| self.past.redactions.judge(seq, row.beside)) {
            self.add(code, seq, reason);
        }
        self.compare_saved(&row.stored, &row.computed, seq);
        match (&mut self.frontier, row.leaf) {
            (Some(frontier), Some(leaf)) => frontier.push_leaf(leaf),
            _ => self.frontier = None,
        }
        self.before = Some(Before { seq, at: row.at, stored: row.stored, computed: row.computed, sealed: row.sealed });
        ControlFlow::Continue(())
    }

    /// Takes entries that are not there: known by their skeleton where they may be absent, a gap where not.
    fn absent(&mut self, first: u64, last: u64) {
        let mut seq = first;
        while seq <= last && self.failed.is_none() {
            match self.known(seq).filter(|known| known.state.may_lack_rows()) {
                Some(known) => {
                    if known.pinned {
                        self.add(FindingCode::Gap, seq, "a control entry is missing, which no purge removes");
                    }
                    self.pass(seq, known.hash);
                    seq += 1;
                }
                None => {
                    let end = self.past.next_excuse(seq).map_or(last, |next| last.min(next - 1));
                    self.findings.add(FindingCode::Gap, seq, end, "entries are missing");
                    (self.before, self.frontier, self.lost_at) = (None, None, end);
                    seq = end + 1;
                }
            }
        }
    }

    /// Passes an entry that is known by its skeleton only.
    fn pass(&mut self, seq: u64, hash: Hash) {
        let stored = Digest::Whole(hash);
        if seq < self.first {
            let (at, sealed) = (i64::MIN, self.seen_sealed);
            return self.believe(Believed { at, stored, sealed }, seq);
        }
        let (at, sealed) = self.before.as_ref().map_or((i64::MIN, self.seen_sealed), |before| (before.at, before.sealed));
        if let (Some(prev), Some(before)) = (self.past.begins(seq), &self.before)
            && !before.is(&Digest::Whole(prev))
        {
            self.add(FindingCode::Link, seq, "the segment does not link to the entry before it");
        }
        self.rows_known += 1;
        self.compare_saved(&stored, &hash, seq);
        if let Some(frontier) = &mut self.frontier {
            frontier.push(&hash);
        }
        self.before = Some(Before { seq, at, stored, computed: hash, sealed });
    }

    /// What the segment of an entry knows of it.
    fn known(&mut self, seq: u64) -> Option<Known> {
        let mut found = Vec::new();
        let known = self.past.at(seq, &mut found);
        found.into_iter().for_each(|(code, first, last, reason)| self.findings.add(code, first, last, reason));
        known.unwrap_or_else(|error| {
            self.failed = Some(error);
            None
        })
    }

    /// Compares a row with the skeleton of its segment.
    fn check_known(&mut self, row: &Seen, seq: u64, known: Option<&Known>) {
        let Some(known) = known else { return };
        // An edited row was found by then.
        let is_whole = row.stored.is(&row.computed);
        if !row.stored.is(&known.hash) {
            if known.state.may_lack_rows() {
                self.add(FindingCode::Foreign, seq, "the row is not the one that was purged from this place");
            } else if is_whole {
                self.add(FindingCode::Skeleton, seq, "the row is not the one that the skeleton knows");
            }
        } else if row.pinned != known.pinned {
            self.add(FindingCode::Control, seq, "the skeleton knows the row otherwise: as a control entry, or as none");
        } else if !known.pinned && matches!(known.state, SegmentState::Purged | SegmentState::FilePurged) {
            self.add(FindingCode::Leftover, seq, "the entry is purged, and its row is still there");
        }
    }

    /// Takes the row before the range as it is; the saved head of an incremental walk must be that row.
    fn believe(&mut self, row: Believed, seq: u64) {
        let computed = match &row.stored {
            Digest::Whole(stored) => *stored,
            Digest::Odd(_) => genesis(""),
        };
        self.seen_sealed = row.sealed;
        if let Some(saved) = self.check.saved.as_ref().filter(|_| self.check.extent == Extent::Incremental) {
            if row.stored.is(&saved.hash) {
                self.attested_to = Some(saved.size);
            } else if saved.origin == self.origin {
                self.findings.add(FindingCode::Diverged, 1, seq, "the entry at the size of the saved head has another hash");
            }
        }
        self.before = Some(Before { seq, at: row.at, stored: row.stored, computed, sealed: row.sealed });
    }

    /// Notices that the rows belong to another chain, and goes on with their own origin so that other findings stay exact.
    fn find_origin(&mut self, first: &RowRef<'_>) {
        if first.prev == genesis(&self.origin).as_bytes() {
            return;
        }
        #[derive(serde::Deserialize)]
        struct Created {
            origin: String,
        }
        let Ok(Created { origin }) = serde_json::from_slice(first.data) else { return };
        let mut eye = Eye::new(&origin, self.keys, self.depth);
        let seen = eye.look(first);
        if seen.prev.is(&genesis(&origin)) && seen.stored.is(&seen.computed) {
            self.add(FindingCode::Origin, 1, "the first entry was written for a chain of another origin");
            (self.origin, self.eye) = (origin, eye);
        }
    }

    fn check_links(&mut self, row: &Seen, seq: u64) {
        if seq == 1 && !row.prev.is(&genesis(&self.origin)) {
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

    fn check_mac(&mut self, row: &Seen, seq: u64) {
        // An edited row was found by then; its mac says no more.
        let is_whole = row.stored.is(&row.computed);
        match row.mac {
            MacState::Half => self.add(FindingCode::Mac, seq, "the entry has a key without a mac, or a mac without a key"),
            MacState::Unchecked if self.depth == Depth::Keyed => {
                self.add(FindingCode::Undetermined, seq, "the entry is sealed, and no key was given");
            }
            // Entries from before the first key are vouched for by the sealed ones that link to them.
            MacState::Absent if is_whole && self.macs_checked && self.seen_sealed => {
                self.add(FindingCode::Mac, seq, "the entry carries no mac, although earlier ones do");
            }
            MacState::Absent if is_whole && self.macs_checked && self.keys.is_sealed_at(&self.origin, seq) => {
                self.add(FindingCode::Mac, seq, "the entry carries no mac, although it was sealed when the next key came");
            }
            MacState::UnknownKey if is_whole => {
                self.add(FindingCode::UnknownKey, seq, "the entry is sealed under a key that was not given");
            }
            MacState::Retired if is_whole => {
                self.add(FindingCode::KeyWindow, seq, "the entry is sealed under a key that was retired before it");
            }
            MacState::Early if is_whole => {
                self.add(FindingCode::KeyWindow, seq, "the entry is sealed under a key that came after it");
            }
            MacState::Wrong if is_whole => self.add(FindingCode::Mac, seq, "the mac is not that of the key"),
            _ => {}
        }
        self.seen_sealed |= row.sealed;
    }

    fn compare_saved(&mut self, stored: &Digest, computed: &Hash, seq: u64) {
        let Some(saved) = Trusted::of(self.check).filter(|saved| saved.size == seq && saved.origin == self.origin) else { return };
        let root = self.frontier.as_ref().map(|frontier| {
            let mut frontier = frontier.clone();
            frontier.push(computed);
            frontier.root()
        });
        let clean = self.findings.is_empty();
        if saved.hash.is_some_and(|hash| !stored.is(hash) && computed != hash) {
            self.findings.add(FindingCode::Diverged, 1, seq, "the entry at the size of the saved head has another hash");
        } else if clean && root.is_some_and(|root| root != *saved.root) {
            self.findings.add(FindingCode::Diverged, 1, seq, "the root at the size of the saved head is another");
        } else if clean && (saved.hash.is_some() || root.is_some()) {
            self.attested_to = Some(seq);
        }
    }

    /// Looks for the files of the segments that were passed, and compares the index with what the chain tells.
    pub(super) fn check_files(&mut self, source: &dyn Source) -> Result<()> {
        for from in std::mem::take(&mut self.past.passed) {
            let Some(life) = self.past.fold.lives.get(&from).cloned() else { continue };
            let Some(file) = &life.archive else { continue };
            let mut found = look_for(source, self.chain, file, &life, self.check.archives, &self.origin)?;
            if found.is_some() {
                // It may have gone, or come, since its state was read.
                let mut controls = self.past.wanted();
                source.read(i64::MAX, &mut controls, &mut |_| ControlFlow::Break(()))?;
                self.learn(&controls.rows);
            }
            let state = self.past.fold.lives.get(&from).map_or(life.state(), Life::state);
            if life.state() != state {
                found = look_for(source, self.chain, file, &life, self.check.archives, &self.origin)?;
            }
            let code = match (state, &found) {
                (SegmentState::FilePurged, None | Some(Lack::Manifest(_))) => {
                    Some((FindingCode::Leftover, "the file is purged, and it is still there"))
                }
                (SegmentState::FilePurged, Some(_)) => None,
                (_, Some(Lack::Unseen)) => None,
                // What a manifest says stands in the chain as well: nothing is lost with it.
                (SegmentState::Archived, Some(lack)) | (_, Some(lack @ Lack::Manifest(_))) => Some((FindingCode::Degraded, lack.reason())),
                (_, Some(lack)) => Some((FindingCode::Lost, lack.reason())),
                (_, None) => None,
            };
            if let Some((code, reason)) = code {
                self.findings.add(code, life.border.from, life.border.to, reason);
            }
        }
        Ok(())
    }

    /// Asks for the newest control entries, if much waits for an explanation.
    pub(super) fn explain(&mut self, source: &dyn Source) -> Result<()> {
        if self.past.redactions.waits_for_much() {
            let mut controls = self.past.wanted();
            source.read(i64::MAX, &mut controls, &mut |_| ControlFlow::Break(()))?;
            self.learn(&controls.rows);
            self.check_personal();
        }
        Ok(())
    }

    /// Reports personal data that are gone without a word.
    pub(super) fn check_personal(&mut self) {
        for (from, to) in self.past.redactions.end() {
            self.findings.add(FindingCode::Personal, from, to, "the personal data are gone, and no entry tells of a redaction");
        }
    }

    /// Compares the index of segments with what the chain tells.
    pub(super) fn check_index(&mut self, index: &[Vec<u8>]) {
        #[derive(serde::Deserialize)]
        struct Indexed {
            from: u64,
            #[serde(rename = "gen")]
            generation: u64,
            state: SegmentState,
        }
        let rows: Vec<Option<Indexed>> = index.iter().map(|row| serde_json::from_slice(row).ok()).collect();
        for (from, life) in &self.past.fold.lives {
            let fits = |row: &Indexed| row.from == *from && row.generation == life.generation && row.state == life.state();
            if !rows.iter().flatten().any(fits) {
                self.findings.add(FindingCode::Index, *from, life.border.to, "the row of the segment is not what the chain tells of it");
            }
        }
        if rows.len() > self.past.fold.lives.len() || rows.iter().any(Option::is_none) {
            self.findings.add(FindingCode::Index, 0, 0, "there are rows of segments that the chain does not tell of");
        }
    }

    /// Reports on a chain that is not there.
    pub(super) fn no_chain(mut self) -> Result<Report> {
        let Some(saved) = Trusted::of(self.check) else { return Err(Error::not_found("no such chain")) };
        self.findings.add(FindingCode::Truncated, 1, saved.size, "the chain of the saved head is gone");
        self.origin = saved.origin.to_owned();
        Ok(self.report())
    }

    pub(super) fn end(mut self, view: &View) -> Result<Report> {
        // Of a chain that ends before an incremental walk begins, the saved head says all that there is to say.
        let nothing = self.check.extent == Extent::Incremental && self.before.is_none();
        if !self.cut && !nothing {
            self.check_head(view.head.as_ref());
            self.check_sealed_at_all();
        }
        if let Some(saved) = Trusted::of(self.check) {
            let last = if nothing { view.head.as_ref().map_or(0, |head| position(head.seq)).min(saved.size - 1) } else { self.last_seq() };
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
        if !before.is(&Digest::of(&head.hash)) || before.at != head.at {
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
        let last = self.before.as_ref().filter(|_| good && (self.rows_hashed > 0 || self.check.extent == Extent::Incremental));
        Report {
            chain: self.chain.to_string(),
            verdict,
            depth: self.depth,
            authenticated: self.macs_checked && last.is_some_and(|last| last.sealed),
            hash: last.filter(|_| self.frontier.is_some()).map(|last| last.computed),
            root: last.and(self.frontier.as_ref()).map(Frontier::root),
            frontier: last.and(self.frontier),
            extent: self.check.extent,
            kept: false,
            origin: self.origin,
            findings: self.findings.list,
            findings_left_out: self.findings.left_out,
            from_seq: self.first,
            to_seq,
            attested_to: self.attested_to.filter(|_| good),
            attested_hash: self.check.saved.as_ref().filter(|_| good && self.attested_to.is_some()).map(|saved| saved.hash),
            rows_hashed: self.rows_hashed,
            rows_known: self.rows_known,
        }
    }
}
