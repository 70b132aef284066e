//! The scenarios by name.

use std::str::FromStr;

use super::setting::{Outcome, Setting, Side};
use super::{blocked_archive, herd, lost_create, lost_update, paused_holder, stale_cache, tampering};

/// One bug and what prevents it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// Two requests change one document, and the second erases the first.
    LostUpdate,
    /// Two replicas make the same thing.
    LostCreate,
    /// A slow reader puts a row back that was changed meanwhile.
    StaleCache,
    /// Everyone loads what one load would give.
    Herd,
    /// A holder sleeps past its lease and writes.
    PausedHolder,
    /// Somebody with the database file changes the past.
    Tampering,
    /// The past of a chain is archived, and whoever appends waits for it.
    BlockedArchive,
}

impl Scenario {
    /// Every scenario, in the order in which they run.
    pub(crate) const ALL: &'static [Scenario] = &[
        Scenario::LostUpdate,
        Scenario::LostCreate,
        Scenario::StaleCache,
        Scenario::Herd,
        Scenario::PausedHolder,
        Scenario::Tampering,
        Scenario::BlockedArchive,
    ];

    /// Returns the name that users type.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Scenario::LostUpdate => "lost-update",
            Scenario::LostCreate => "lost-create",
            Scenario::StaleCache => "stale-cache",
            Scenario::Herd => "herd",
            Scenario::PausedHolder => "paused-holder",
            Scenario::Tampering => "tampering",
            Scenario::BlockedArchive => "blocked-archive",
        }
    }

    /// Returns what is tried and what is counted.
    pub(crate) const fn claim(self) -> Claim {
        match self {
            Scenario::LostUpdate => lost_update::CLAIM,
            Scenario::LostCreate => lost_create::CLAIM,
            Scenario::StaleCache => stale_cache::CLAIM,
            Scenario::Herd => herd::CLAIM,
            Scenario::PausedHolder => paused_holder::CLAIM,
            Scenario::Tampering => tampering::CLAIM,
            Scenario::BlockedArchive => blocked_archive::CLAIM,
        }
    }

    /// Returns what it stands on.
    pub(super) const fn needs(self) -> Needs {
        match self {
            Scenario::LostUpdate | Scenario::LostCreate | Scenario::Tampering | Scenario::BlockedArchive => Needs::Store,
            Scenario::StaleCache | Scenario::Herd => Needs::Cache,
            Scenario::PausedHolder => Needs::LocksAndStore,
        }
    }

    /// Runs one side.
    pub(super) async fn run(self, setting: &Setting, side: Side) -> Outcome {
        match self {
            Scenario::LostUpdate => lost_update::run(setting, side).await,
            Scenario::LostCreate => lost_create::run(setting, side).await,
            Scenario::StaleCache => stale_cache::run(setting, side).await,
            Scenario::Herd => herd::run(setting, side).await,
            Scenario::PausedHolder => paused_holder::run(setting, side).await,
            Scenario::Tampering => tampering::run(setting, side).await,
            Scenario::BlockedArchive => blocked_archive::run(setting, side).await,
        }
    }
}

/// The parts that a scenario is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    Store,
    Cache,
    LocksAndStore,
}

/// What a scenario shows, in words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim {
    /// What is tried: without the protection, and with it.
    pub(super) tried: &'static str,
    /// What counts as gone wrong.
    pub(super) counted: &'static str,
}

/// Which scenarios to run: `all`, or one by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Choice {
    /// All of them.
    #[default]
    All,
    /// One.
    One(Scenario),
}

impl Choice {
    pub(super) fn scenarios(&self) -> &[Scenario] {
        match self {
            Choice::All => Scenario::ALL,
            Choice::One(scenario) => std::slice::from_ref(scenario),
        }
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Choice::All);
        }
        let found = Scenario::ALL.iter().find(|scenario| scenario.name() == text);
        let names = || Scenario::ALL.iter().map(|scenario| scenario.name()).collect::<Vec<_>>().join(", ");
        found.map(|scenario| Choice::One(*scenario)).ok_or_else(|| format!("a scenario is all, {}", names()))
    }
}
