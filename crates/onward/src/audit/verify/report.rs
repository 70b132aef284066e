//! What a walk found: a verdict, and every finding with its place and the next step.

use std::fmt;
use std::str::FromStr;

use onward_api::number;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Extent, SavedHead};
use crate::model::merkle::Frontier;
use crate::model::{ChainName, Hash, Manifest};
use crate::time::Timestamp;

/// Most findings that a report lists; more are counted.
pub const FINDINGS_MAX: usize = 1_000;

/// What a walk says about the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing contradicts the chain, as far as the report's depth and range go.
    Ok,
    /// The chain was changed behind our back; the findings say where.
    Broken,
    /// Something that is needed to judge is absent, such as a key.
    Undetermined,
}

impl Verdict {
    /// Returns the word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Broken => "broken",
            Verdict::Undetermined => "undetermined",
        }
    }

    /// Returns the exit code of a command that ends with this verdict.
    pub const fn exit(self) -> u8 {
        match self {
            Verdict::Ok => 0,
            Verdict::Broken => 1,
            Verdict::Undetermined => 2,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Ok => "ok",
            Verdict::Broken => "broken",
            Verdict::Undetermined => "undetermined",
        })
    }
}

macro_rules! finding_codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $next:literal;)*) => {
        /// What is wrong, from a closed list; the stand-alone verifier uses the same words.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FindingCode { $($(#[$doc])* $name,)* }

        impl FindingCode {
            /// Lists every code.
            pub const ALL: &'static [FindingCode] = &[$(FindingCode::$name,)*];

            /// Returns the code as reports show it.
            pub const fn as_str(self) -> &'static str { match self { $(FindingCode::$name => $text,)* } }

            /// Returns what to do about it.
            pub const fn next_step(self) -> &'static str { match self { $(FindingCode::$name => $next,)* } }
        }
    };
}

finding_codes! {
    /// A row is not what was hashed.
    Edited = "BROKEN(edited)", "compare these rows with a backup; the rows before them still stand";
    /// A row does not link to the row before it.
    Link = "BROKEN(link)", "a row at or right before this place was replaced; compare both with a backup";
    /// Rows are missing.
    Gap = "BROKEN(gap)", "look for the missing rows in a backup";
    /// A row has no place in the chain.
    Foreign = "BROKEN(foreign)", "keep the row as evidence; it was not written by an append";
    /// A MAC is missing or wrong.
    Mac = "BROKEN(mac)", "these rows were written without the key; compare them with a backup";
    /// A row is sealed under a key that the given keys do not list.
    UnknownKey = "BROKEN(unknown_key)", "give the key if it is yours; otherwise these rows were sealed by somebody else";
    /// A row is sealed under a key that was retired before, or came later.
    KeyWindow = "BROKEN(key_window)", "find out who used the key; compare these rows with a backup";
    /// A control entry is not one, or something else pretends to be one.
    Control = "BROKEN(control)", "compare these rows with a backup; only this library writes control entries";
    /// The head is not the last entry.
    Head = "BROKEN(head)", "compare the head and the last rows with a backup";
    /// Personal data are not those that their entry commits to, or are gone without a word.
    Personal = "BROKEN(pii)", "compare these values with a backup; a redaction would have left an entry that names them";
    /// Time runs backwards.
    Time = "BROKEN(time)", "compare these rows with a backup";
    /// The rows belong to a chain of another origin or name.
    Origin = "BROKEN(origin)", "find out which chain these rows were copied from, or who renamed this one";
    /// The head's Merkle tree is not that of the rows.
    Root = "BROKEN(root)", "verify against a head that was saved outside: the rows or the head were rewritten";
    /// The chain is shorter than a head that was saved outside.
    Truncated = "TRUNCATED", "the end was cut or the database was put back; restore the missing rows";
    /// The chain has another history than a head that was saved outside.
    Diverged = "DIVERGED", "the database was rewritten, swapped or put back and then continued; compare it with a backup";
    /// The skeleton of a segment is not the one that was sealed, or contradicts a row.
    Skeleton = "BROKEN(skeleton)", "compare the skeleton and the rows with a backup";
    /// The file of a segment is missing or damaged, and the rows are there; or its manifest is.
    Degraded = "DEGRADED", "put the file back from a copy; nothing that it holds is lost yet";
    /// The file of a segment is missing or damaged, and the rows are not there.
    Lost = "LOST", "put the file back from a copy; the skeleton still proves what it must hold";
    /// The index of segments is not what the chain tells.
    Index = "INDEX_MISMATCH", "compare the objects of kind onward.segment with a backup; the chain tells what they should be";
    /// Something is still there that was purged.
    Leftover = "LEFTOVER", "remove it: nothing needs it any more";
    /// Something that is needed to judge is absent.
    Undetermined = "UNDETERMINED", "give the key and verify again";
}

impl FindingCode {
    /// Tells whether the finding makes the chain broken.
    pub const fn is_bad(self) -> bool {
        !matches!(self, FindingCode::Undetermined | FindingCode::Leftover)
    }
}

impl fmt::Display for FindingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for FindingCode {
    type Err = crate::Error;

    fn from_str(text: &str) -> crate::Result<Self> {
        let found = FindingCode::ALL.iter().copied().find(|code| code.as_str() == text);
        found.ok_or_else(|| crate::Error::invalid("unknown code of a finding"))
    }
}

impl Serialize for FindingCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for FindingCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What is wrong.
    pub code: FindingCode,
    /// The first seq that it concerns; 0 for rows before the first.
    #[serde(with = "number")]
    pub from_seq: u64,
    /// The last seq that it concerns.
    #[serde(with = "number")]
    pub to_seq: u64,
    /// Why the verifier says so.
    pub reason: String,
    /// What to do about it.
    pub next_step: String,
}

/// How much a walk believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// Every hash and link, the head and its root: what anyone can check.
    Public,
    /// All that, and every MAC.
    Keyed,
}

/// What a walk over a chain found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The chain's name.
    pub chain: String,
    /// The chain's identity in the world.
    pub origin: String,
    /// Whether the chain is good.
    pub verdict: Verdict,
    /// How much was believed.
    pub depth: Depth,
    /// Every entry up to the last is proved to be written by a holder of the key. Without it, hashes were believed.
    pub authenticated: bool,
    /// The findings in the order of the walk, at most [`FINDINGS_MAX`]; neighbours with one cause are one finding.
    pub findings: Vec<Finding>,
    /// How many findings more there were.
    #[serde(with = "number")]
    pub findings_left_out: u64,
    /// The first seq of the walk.
    #[serde(with = "number")]
    pub from_seq: u64,
    /// The last seq of the walk; 0 if there was no entry.
    #[serde(with = "number")]
    pub to_seq: u64,
    /// Up to where a head saved outside vouches for the chain.
    #[serde(default, with = "number::optional")]
    pub attested_to: Option<u64>,
    /// The hash of that saved head.
    #[serde(default)]
    pub attested_hash: Option<Hash>,
    /// How many rows were hashed.
    #[serde(with = "number")]
    pub rows_hashed: u64,
    /// How many entries were known by the skeleton of their segment only.
    #[serde(default, with = "number")]
    pub rows_known: u64,
    /// Which entries were hashed.
    #[serde(default)]
    pub extent: Extent,
    /// The hash of the last entry, if the walk began at the first entry or behind a saved head, and nothing is wrong.
    #[serde(default)]
    pub hash: Option<Hash>,
    /// The root over all entries, under the same condition.
    #[serde(default)]
    pub root: Option<Hash>,
    /// The roots that this root is made of, from which an incremental verification goes on; under the same condition.
    #[serde(default)]
    pub frontier: Option<Frontier>,
    /// Whether the chain keeps this verdict, or a worse one; only of a whole chain, and only if the store could be written.
    #[serde(default)]
    pub kept: bool,
}

impl Report {
    /// Returns the exit code of a command that ends with this report.
    pub const fn exit(&self) -> u8 {
        self.verdict.exit()
    }

    /// Returns the head to keep outside; `None` unless the whole chain is good, what a saved head vouched for included.
    pub fn saved_head(&self, saved_at: Timestamp) -> Option<SavedHead> {
        let (hash, root, frontier) = (self.hash?, self.root?, self.frontier.clone()?);
        let chain = ChainName::new(&self.chain).ok()?;
        let (origin, size) = (self.origin.clone(), self.to_seq);
        (self.verdict == Verdict::Ok && frontier.size() == size).then_some(SavedHead {
            chain,
            origin,
            size,
            hash,
            root,
            frontier,
            saved_at,
        })
    }
}

impl Report {
    /// The report on a file that is not the one that its manifest names: nothing that it says counts.
    pub(crate) fn of_another_file(manifest: &Manifest, depth: Depth) -> Self {
        let Manifest { origin, from, to, .. } = manifest;
        let mut findings = Findings::default();
        findings.add(FindingCode::Degraded, *from, *to, "the file is not the one that the manifest names");
        Self {
            chain: origin.rsplit_once('/').map_or("", |(_, chain)| chain).to_owned(),
            origin: origin.clone(),
            verdict: findings.verdict(),
            depth,
            authenticated: false,
            findings: findings.list,
            findings_left_out: 0,
            from_seq: *from,
            to_seq: *to,
            attested_to: None,
            attested_hash: None,
            rows_hashed: 0,
            rows_known: 0,
            extent: Extent::Full,
            hash: None,
            root: None,
            frontier: None,
            kept: false,
        }
    }
}

impl fmt::Display for Report {
    /// Writes a line for each finding and one with the verdict.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(
                f,
                "{} {} {}..{}: {}; {}",
                self.chain, finding.code, finding.from_seq, finding.to_seq, finding.reason, finding.next_step
            )?;
        }
        if self.findings_left_out > 0 {
            writeln!(f, "{}: {} findings more", self.chain, self.findings_left_out)?;
        }
        write!(f, "{}: {}, entries {}..{}, {} hashed", self.chain, self.verdict, self.from_seq, self.to_seq, self.rows_hashed)?;
        if self.rows_known > 0 {
            write!(f, ", {} known by skeleton", self.rows_known)?;
        }
        f.write_str(if self.authenticated { ", authenticated" } else { ", not authenticated" })?;
        match self.attested_to {
            Some(size) => write!(f, ", attested to {size}"),
            None => f.write_str(", not attested"),
        }
    }
}

/// Collects findings: merges neighbours with one cause, keeps the first thousand, counts the rest.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) list: Vec<Finding>,
    pub(super) left_out: u64,
    bad: bool,
    undetermined: bool,
}

impl Findings {
    pub(super) fn add(&mut self, code: FindingCode, from_seq: u64, to_seq: u64, reason: &str) {
        self.bad |= code.is_bad();
        self.undetermined |= code == FindingCode::Undetermined;
        // Near the end of the list only: one row may have several findings, and a cause that goes on has one of them in each row.
        let recent = self.list.iter_mut().rev().take(FindingCode::ALL.len());
        let mut same = recent.filter(|last| last.code == code && last.to_seq.checked_add(1) == Some(from_seq) && last.reason == reason);
        if let Some(last) = same.next() {
            last.to_seq = to_seq;
        } else if self.list.len() < FINDINGS_MAX {
            self.list.push(Finding { code, from_seq, to_seq, reason: reason.to_owned(), next_step: code.next_step().to_owned() });
        } else {
            self.left_out += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn verdict(&self) -> Verdict {
        if self.bad {
            Verdict::Broken
        } else if self.undetermined {
            Verdict::Undetermined
        } else {
            Verdict::Ok
        }
    }
}
