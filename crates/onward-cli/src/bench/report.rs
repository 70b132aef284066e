//! The verdict and the figures, for people and for machines.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::load::Tally;
use super::machine::Seen;
use super::{Options, Part};
use crate::failure::{Failure, Result};
use crate::output::{Format, Out, Table};

const SCHEMA: &str = "onward.bench/1";

/// What the history says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// There were races, and the promise held.
    Pass,
    /// The promise was broken.
    Fail,
    /// The promise held, and nothing tried to break it.
    Inconclusive,
}

/// The verdict and why.
#[derive(Clone, Debug)]
pub(super) struct Judgement {
    pub(super) verdict: Verdict,
    evidence: String,
}

impl Judgement {
    /// The promise was broken here.
    pub(super) fn fail(evidence: String) -> Self {
        Self { verdict: Verdict::Fail, evidence }
    }

    /// The promise held; whether that says something depends on whether there were races.
    pub(super) fn pass(evidence: String, raced: bool, without: &str) -> Self {
        if raced {
            Self { verdict: Verdict::Pass, evidence }
        } else {
            Self { verdict: Verdict::Inconclusive, evidence: format!("{evidence}; but {without}, so this shows little") }
        }
    }
}

/// Latencies in microseconds; three digits count.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Latency {
    p50: u64,
    p90: u64,
    p99: u64,
    #[serde(rename = "p99.9")]
    p999: u64,
    max: u64,
}

/// Everything about one run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    schema: &'static str,
    part: Part,
    url: Option<String>,
    options: Options,
    #[serde(rename = "loop")]
    shape: &'static str,
    machine: Option<Seen>,
    ops: u64,
    elapsed_ms: u64,
    rate: f64,
    latency_us: Latency,
    conflicts: u64,
    unknown: u64,
    refused: u64,
    not_begun: u64,
    verdict: Verdict,
    evidence: String,
}

/// What is compared of an earlier run.
#[derive(Debug, Deserialize)]
pub(super) struct Old {
    schema: String,
    rate: f64,
    latency_us: Latency,
}

/// Reads an earlier answer of `-o json`.
pub(super) fn read(path: &Path) -> Result<Old> {
    let text = std::fs::read(path).map_err(|e| Failure::usage(format_args!("cannot read {}: {e}", path.display())))?;
    let old: Old =
        serde_json::from_slice(&text).map_err(|e| Failure::usage(format_args!("{} is no answer of bench: {e}", path.display())))?;
    if old.schema == SCHEMA { Ok(old) } else { Err(Failure::usage(format_args!("{} is {}, not {SCHEMA}", path.display(), old.schema))) }
}

impl Report {
    pub(super) fn new(part: Part, url: Option<&str>, options: Options, tally: Tally, judgement: Judgement) -> Self {
        let at = |quantile| tally.latency.value_at_quantile(quantile);
        let latency_us = Latency { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: tally.latency.max() };
        let (ops, seconds) = (tally.latency.len(), tally.elapsed.as_secs_f64());
        Self {
            schema: SCHEMA,
            part,
            url: url.map(str::to_owned),
            shape: if options.rate.is_some() { "open" } else { "closed" },
            options,
            machine: tally.machine,
            ops,
            elapsed_ms: u64::try_from(tally.elapsed.as_millis()).unwrap_or(u64::MAX),
            rate: if seconds > 0.0 { (ops as f64 / seconds * 10.0).round() / 10.0 } else { 0.0 },
            latency_us,
            conflicts: tally.conflicts,
            unknown: tally.unknown,
            refused: tally.refused,
            not_begun: tally.not_begun,
            verdict: judgement.verdict,
            evidence: judgement.evidence,
        }
    }

    pub(super) fn verdict(&self) -> Verdict {
        self.verdict
    }

    pub(super) fn show(&self, old: Option<&Old>, out: &Out) -> Result<()> {
        if out.format() != Format::Table {
            return out.line(&serde_json::to_string(self).unwrap_or_default());
        }
        let (options, latency) = (&self.options, self.latency_us);
        let mut table = Table::default();
        let mut row = |name: &str, text: String| table.row([name.to_owned(), text]);
        let shape = match options.rate {
            Some(rate) => format!("{rate} turns a second, latency from the intended start"),
            None => "closed loop: latency leaves out what waits behind a slow turn".to_owned(),
        };
        let keys = if options.keys == 1 { "1 key".to_owned() } else { format!("{} keys", options.keys) };
        row("load", format!("{} clients, {keys}, {} bytes, seed {}; {shape}", options.clients, options.payload, options.seed.unwrap_or(0)));
        row("rate", format!("{:.1} a second ({} in {:.1} s)", self.rate, self.ops, self.elapsed_ms as f64 / 1_000.0));
        let quantiles = [("p50", latency.p50), ("p90", latency.p90), ("p99", latency.p99), ("p99.9", latency.p999), ("max", latency.max)];
        row("latency", quantiles.map(|(name, micros)| format!("{name} {}", time(micros))).join("  "));
        row(
            "races",
            format!("{} conflicts, {} refused, {} unknown, {} not begun", self.conflicts, self.refused, self.unknown, self.not_begun),
        );
        if let Some(seen) = &self.machine {
            let idle = seen.idle_percent.map_or("unknown".to_owned(), |idle| format!("{idle:.0} %"));
            let sync = seen.fdatasync_us.map_or("unknown".to_owned(), time);
            row("machine", format!("{} cores, {idle} idle; fdatasync {sync} in {}", seen.cores, seen.folder.display()));
        }
        if let Some(old) = old {
            let ratio = |new: f64, old: f64| if old > 0.0 { format!("{:.2}", new / old) } else { "-".to_owned() };
            let tail = ratio(latency.p99 as f64, old.latency_us.p99 as f64);
            row(
                "to old",
                format!("rate {}, p50 {}, p99 {tail}", ratio(self.rate, old.rate), ratio(latency.p50 as f64, old.latency_us.p50 as f64)),
            );
        }
        let word = match self.verdict {
            Verdict::Pass => "PASS",
            Verdict::Fail => "FAIL",
            Verdict::Inconclusive => "INCONCLUSIVE",
        };
        row("verdict", format!("{word}: {}", self.evidence));
        out.bytes(table.to_string().as_bytes())
    }
}

/// Microseconds as a person reads them.
fn time(micros: u64) -> String {
    let time = Duration::from_micros(micros);
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.2} ms", time.as_secs_f64() * 1_000.0),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}
