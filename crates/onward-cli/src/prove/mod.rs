//! `onward prove`: each bug with its protection off, where it must appear, and on, where it must not.
//!
//! Owns the scenarios, their counts and their verdicts; holds no rule of the library. Both sides run one schedule, drawn from one seed;
//! barriers force the bad interleaving, so that a count of zero on the unprotected side means that the proof is broken, not that the bug
//! is rare. Everything runs on embedded engines in a temporary folder, or what is about a cache on a server that is named. Shows INV-1 (paused-holder), INV-2 (stale-cache), INV-3
//! (lost-update, lost-create), INV-5 and INV-7 (tampering), INV-6 (blocked-archive).
//!
//! Refuses to call a proof good that cannot fail: an unprotected count of zero is a failure too.

mod blocked_archive;
mod command;
mod herd;
mod lost_create;
mod lost_update;
mod paused_holder;
mod report;
mod scenario;
mod setting;
mod stale_cache;
mod tampering;

use std::time::Duration;

use onward::time::Clock;

pub(crate) use command::{Prove, ProveHolder};
pub(crate) use paused_holder::{Holder, hold};
use report::{Proof, Shown, Verdict};
use scenario::Claim;
pub(crate) use scenario::{Choice, Scenario};
use setting::{Count, Named, Outcome, Setting, Side};

use crate::seed::{Random, draw_seed};

/// How long one side of a scenario may take before it counts as hung.
const LIMIT: Duration = Duration::from_secs(120);

/// Tells the child where the locks are: a URL may hold a password, which a command line shows to everybody.
const LOCKS: &str = "ONWARD_PROVE_LOCKS";

/// Most rounds of a scenario.
pub(crate) const ROUNDS_MAX: u64 = 10_000;

/// How many entries may be archived.
const ENTRIES: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;

/// What to prove, and how to say it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// Which scenarios.
    pub(crate) choice: Choice,
    /// How many rounds of each, 1..=10,000; each scenario has its own default.
    pub(crate) rounds: Option<u64>,
    /// How many entries are archived, 1,000..=1,000,000; blocked-archive has its own default.
    pub(crate) entries: Option<u64>,
    /// What everything random is drawn from; drawn and printed if absent.
    pub(crate) seed: Option<u32>,
    /// What the command line names. Of a Redis the locks and the cache are used; everything else is made anew in a folder of its own.
    pub(crate) url: Option<String>,
    /// Whether the answer is JSON.
    pub(crate) format: Format,
    /// Whether the protected side is protected.
    pub(crate) protection: Protection,
}

/// How the answer is written to stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Format {
    /// Two lines a scenario.
    #[default]
    Table,
    /// One object, `onward.prove/1`.
    Json,
}

/// Whether the protected side is protected; only a test of the proof itself takes it away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Protection {
    /// As a user runs it.
    #[default]
    On,
    /// Both sides are unprotected: every scenario must fail.
    Removed,
}

/// Runs the scenarios and returns the exit code: 0 all shown, 1 a protection failed or a bug did not appear, 2 wrong usage or no room.
///
/// Needs a multi-threaded Tokio runtime.
pub(crate) async fn run(options: Options) -> u8 {
    if options.rounds.is_some_and(|rounds| !(1..=ROUNDS_MAX).contains(&rounds)) {
        report::complain(&format!("rounds is 1..={ROUNDS_MAX}"));
        return 2;
    }
    if options.entries.is_some_and(|entries| !ENTRIES.contains(&entries)) {
        report::complain("entries is 1000..=1000000");
        return 2;
    }
    let seed = options.seed.unwrap_or_else(draw_seed);
    let named = match options.url.as_deref().map(Named::read).transpose() {
        Ok(named) => named.flatten(),
        Err(e) => {
            report::complain(&e.to_string());
            return 2;
        }
    };
    if named.is_none() && options.url.is_some() {
        report::complain("the URL names no Redis and is not used: everything runs on stores made for this, here");
    }
    let setting = match Setting::new(seed, options.rounds, options.entries, named) {
        Ok(setting) => setting,
        Err(e) => {
            report::complain(&format!("there is no room for the proofs: {e}"));
            return 2;
        }
    };
    let clock = Clock::system();
    let started = clock.now();
    let mut shown = Vec::new();
    if options.format == Format::Table {
        report::print_seed(seed);
    }
    for &scenario in options.choice.scenarios() {
        if options.format == Format::Table {
            report::print_claim(scenario, &setting.stands_on(scenario.needs()));
        }
        let one = show(scenario, &setting, options.protection, &clock).await;
        if options.format == Format::Table {
            report::print_shown(&one);
        }
        shown.push(one);
    }
    let proof = Proof::new(seed, setting.named(), clock.now().since(started), shown);
    match options.format {
        Format::Table => report::print_end(&proof),
        Format::Json => report::print_json(&proof),
    }
    if proof.verdict() == Verdict::Pass { 0 } else { 1 }
}

/// Runs both sides of a scenario and judges them.
async fn show(scenario: Scenario, setting: &Setting, protection: Protection, clock: &Clock) -> Shown {
    let started = clock.now();
    let second = match protection {
        Protection::On => Side::Protected,
        Protection::Removed => Side::Unprotected,
    };
    let unprotected = side(scenario, setting, "unprotected", Side::Unprotected).await;
    let protected = match unprotected {
        Ok(_) => side(scenario, setting, "protected", second).await,
        Err(_) => Ok(Count::default()),
    };
    setting.progress().clear();
    Shown::judge(scenario, setting.stands_on(scenario.needs()), unprotected, protected, clock.now().since(started))
}

async fn side(scenario: Scenario, setting: &Setting, label: &'static str, side: Side) -> Outcome {
    setting.begin(scenario.name(), label);
    let clock = Clock::system();
    tokio::select! {
        outcome = scenario.run(setting, side) => outcome,
        // A proof that hangs must end all the same (C7).
        () = crate::wait::pause(&clock, LIMIT) => Err(format!("it took longer than {} s", LIMIT.as_secs()).into()),
    }
}
