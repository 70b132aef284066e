//! The verdicts, and how they are said.

use std::io::{Write, stderr, stdout};
use std::time::Duration;

use onward::Url;
use serde::Serialize;

use super::scenario::{Claim, Scenario};
use super::setting::{Count, Outcome};

/// What a scenario showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// The bug appeared without the protection, and not with it.
    Pass,
    /// The bug appeared with the protection, or a side could not be run.
    Fail,
    /// The bug did not appear without the protection: nothing is proved.
    NotShown,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Verdict::Pass => "ok",
            Verdict::Fail => "FAILED",
            Verdict::NotShown => "NOT SHOWN",
        }
    }
}

/// One scenario with both counts.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    name: &'static str,
    claim: String,
    /// The engines that it ran on.
    on: String,
    #[serde(skip)]
    counted: &'static str,
    unprotected: Unprotected,
    protected: Protected,
    verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    ms: u64,
}

#[derive(Debug, Serialize)]
struct Unprotected {
    rounds: u64,
    bad: u64,
    example: Option<String>,
}

#[derive(Debug, Serialize)]
struct Protected {
    rounds: u64,
    bad: u64,
    refused: u64,
}

impl Shown {
    pub(super) fn judge(scenario: Scenario, on: String, unprotected: Outcome, protected: Outcome, took: Duration) -> Self {
        let error = match (&unprotected, &protected) {
            (Err(e), _) => Some(format!("the unprotected side could not be run: {}", chain(&**e))),
            (_, Err(e)) => Some(format!("the protected side could not be run: {}", chain(&**e))),
            _ => None,
        };
        let (without, with): (Count, Count) = (unprotected.unwrap_or_default(), protected.unwrap_or_default());
        let (verdict, reason) = if error.is_some() {
            (Verdict::Fail, error)
        } else if with.bad > 0 {
            (Verdict::Fail, Some(format!("with the protection: {}", with.example.unwrap_or_default())))
        } else if without.bad == 0 || with.rounds == 0 {
            (Verdict::NotShown, Some("the bug did not appear without the protection, so this proves nothing".to_owned()))
        } else {
            (Verdict::Pass, None)
        };
        let Claim { tried, counted } = scenario.claim();
        Self {
            name: scenario.name(),
            claim: format!("{tried}; counted: {counted}"),
            on,
            counted,
            unprotected: Unprotected { rounds: without.rounds, bad: without.bad, example: without.example },
            protected: Protected { rounds: with.rounds, bad: with.bad, refused: with.refused },
            verdict,
            reason,
            ms: millis(took),
        }
    }
}

/// Everything that was shown.
#[derive(Debug, Serialize)]
pub(super) struct Proof {
    schema: &'static str,
    version: &'static str,
    /// The engine that was tried; null: embedded ones.
    url: Option<String>,
    seed: u32,
    verdict: Verdict,
    ms: u64,
    scenarios: Vec<Shown>,
}

impl Proof {
    pub(super) fn new(seed: u32, url: Option<&str>, took: Duration, scenarios: Vec<Shown>) -> Self {
        let all = |verdict| scenarios.iter().any(|shown| shown.verdict == verdict);
        let verdict = if all(Verdict::Fail) {
            Verdict::Fail
        } else if all(Verdict::NotShown) {
            Verdict::NotShown
        } else {
            Verdict::Pass
        };
        Self {
            schema: "onward.prove/1",
            version: env!("CARGO_PKG_VERSION"),
            url: url.map(|url| Url::from(url).to_string()),
            seed,
            verdict,
            ms: millis(took),
            scenarios,
        }
    }

    pub(super) fn verdict(&self) -> Verdict {
        self.verdict
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// An error and its causes in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Writes a line of data; a reader that went away is no failure.
fn say(line: &str) {
    let _ = writeln!(stdout(), "{line}");
}

/// Writes a line of talk.
pub(super) fn complain(line: &str) {
    let _ = writeln!(stderr(), "onward prove: {line}");
}

pub(super) fn print_seed(seed: u32) {
    say(&format!("seed {seed}; how often it went wrong, without the protection and with it"));
}

pub(super) fn print_claim(scenario: Scenario, on: &str) {
    say(&format!("{:<15} {}  [{on}]", scenario.name(), scenario.claim().tried));
}

pub(super) fn print_shown(shown: &Shown) {
    let (without, with) = (&shown.unprotected, &shown.protected);
    let ratio = |bad: u64, rounds: u64| format!("{bad}/{rounds}");
    say(&format!(
        "{:15} unprotected {:>9}   protected {:>7}   {:<9}  {}",
        "",
        ratio(without.bad, without.rounds),
        ratio(with.bad, with.rounds),
        shown.verdict.word(),
        shown.counted
    ));
    if let Some(example) = &without.example {
        say(&format!("{:15} such as: {example}", ""));
    }
    if let Some(reason) = &shown.reason {
        say(&format!("{:15} {reason}", ""));
    }
}

pub(super) fn print_end(proof: &Proof) {
    let passed = proof.scenarios.iter().filter(|shown| shown.verdict == Verdict::Pass).count();
    let seconds = Duration::from_millis(proof.ms).as_secs_f64();
    say(&format!("{passed} of {} shown in {seconds:.1} s: {}", proof.scenarios.len(), proof.verdict.word()));
}

pub(super) fn print_json(proof: &Proof) {
    match serde_json::to_string(proof) {
        Ok(json) => say(&json),
        Err(e) => complain(&format!("the answer cannot be written: {e}")),
    }
}
