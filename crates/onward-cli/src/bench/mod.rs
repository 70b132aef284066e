//! `onward bench`: load on one part of a server or an engine, with latencies and with a verdict on what was promised.
//!
//! Every client keeps what it was told; after the clock has stopped the whole history is judged: holds that overlap (INV-1), reads
//! behind an acknowledged invalidation (INV-2), increments that were lost (INV-3), receipts that the chain does not have (INV-5). A
//! verdict is only `PASS` if there was something to go wrong; a closed loop says that it is one, because its latencies leave out the
//! time that a call would have waited for its turn.

mod audit;
mod cache;
mod load;
mod lock;
mod machine;
mod report;
mod store;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use onward::time::Clock;
use onward_api::client::Client;
use serde::Serialize;

use crate::args::EXIT_CODES;
use crate::failure::{Failure, Result};
use crate::output::Out;
use crate::seed::{Random, draw_seed};
use crate::target::{Otherwise, Target, is_elsewhere};
use load::{Load, Plan, drive};
use machine::Machine;
use report::{Report, Verdict};

const EXAMPLES: &str = "\
Examples:
  onward bench lock --clients 50                  50 clients, one key
  onward bench store --keys 100 --skew 1.1 --url sqlite:./bench.db
  onward bench audit --rate 500 -o json > new.json && onward bench audit --rate 500 --compare new.json";

/// What is put under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Part {
    /// Acquire and release; no two holds of a key may overlap, tokens must grow
    Lock,
    /// Nine reads and one invalidation in ten; no read may be older than an invalidation that was acknowledged before it
    Cache,
    /// Read, add one, write if unchanged; no acknowledged addition may be lost
    Store,
    /// Append; every receipt must be in a chain that verifies
    Audit,
}

/// Puts one part under load.
#[derive(Args, Clone, Debug)]
#[command(before_help = EXAMPLES, after_help = EXIT_CODES)]
pub(crate) struct Bench {
    /// The part
    part: Part,
    #[command(flatten)]
    options: Options,
    /// Show the ratio to this earlier answer of `-o json`
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// Call it a failure if nothing contended
    #[arg(long)]
    strict: bool,
    /// Yes, also on a server of another machine
    #[arg(long)]
    yes: bool,
}

/// How much load.
#[derive(Args, Clone, Debug, Serialize)]
struct Options {
    /// How many clients work at once, 1..=1024
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u32).range(1..=1024))]
    clients: u32,
    /// How long is measured, in seconds, 1..=3600
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// How long before that nothing is measured, in seconds
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u64).range(0..=600))]
    warmup: u64,
    /// Over how many keys, 1..=100000
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    keys: u32,
    /// How uneven: 0 for even, 1 for Zipf's law
    #[arg(long, value_name = "S", default_value = "0", value_parser = skew)]
    skew: f64,
    /// Bytes of each payload
    #[arg(long, value_name = "BYTES", default_value = "512", value_parser = clap::value_parser!(u32).range(0..=900_000))]
    payload: u32,
    /// Begin this many a second over all clients, whatever comes back; latency counts from when one should have begun
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: Option<u64>,
    /// What keys and turns are drawn from [default: drawn, and printed]
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
}

fn skew(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|skew| (0.0..=4.0).contains(skew)).ok_or_else(|| "a number of 0 to 4".to_owned())
}

impl Bench {
    /// Runs the load and judges it; a broken promise is exit 1.
    pub(crate) async fn run(mut self, target: &Target, out: &Out) -> Result<()> {
        if target.url.as_deref().is_some_and(is_elsewhere) && !self.yes {
            return Err(Failure::usage("this loads a server of another machine: say --yes"));
        }
        let seed = *self.options.seed.get_or_insert_with(draw_seed);
        let old = self.compare.as_deref().map(report::read).transpose()?;
        let client = target.client(Otherwise::Refuse).await?;
        let prefix = format!("bench-{:08x}{:08x}", Random::new(draw_seed(), "bench").bits() >> 32, seed);
        let machine = Machine::here(target.url.as_deref())?;
        let plan = Plan::new(Clock::system(), &self.options, seed);
        let report = match self.part {
            Part::Lock => self.measure(lock::Locks::new(prefix, &self.options), client, plan, machine, (target, out)).await?,
            Part::Cache => self.measure(cache::Values::new(prefix, &self.options), client, plan, machine, (target, out)).await?,
            Part::Store => {
                self.measure(store::Counters::create(prefix, &client, &self.options).await?, client, plan, machine, (target, out)).await?
            }
            Part::Audit => self.measure(audit::Appends::new(prefix, &self.options), client, plan, machine, (target, out)).await?,
        };
        report.show(old.as_ref(), out)?;
        match report.verdict() {
            Verdict::Fail => Err(Failure::Exit(1)),
            Verdict::Inconclusive if self.strict => Err(Failure::Exit(1)),
            Verdict::Pass | Verdict::Inconclusive => Ok(()),
        }
    }

    async fn measure<L: Load>(
        &self,
        load: L,
        client: Client,
        plan: Plan,
        machine: Machine,
        (target, out): (&Target, &Out),
    ) -> Result<Report> {
        let done = drive(load, &client, plan, machine, out.progress("s")).await?;
        let judgement = done.load.judge(&client, done.records).await?;
        Ok(Report::new(self.part, target.url.as_deref(), self.options.clone(), done.tally, judgement))
    }
}
