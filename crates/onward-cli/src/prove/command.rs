//! `prove` as it is said on the command line.

use clap::Args;

use super::{Choice, Format, Holder, Options, Protection, hold, run};
use crate::failure::{Failure, Result};
use crate::output;

const EXAMPLES: &str = "\
Examples:
  onward prove                           every scenario, in under half a minute
  onward prove paused-holder             one of them
  onward prove blocked-archive --entries 200000
  onward prove all --url redis://127.0.0.1   with its locks and its cache on that Redis
  onward prove all -o json --seed 7      for machines, with a schedule that repeats";

/// Run each bug without its protection, where it must appear, and with it, where it must not
///
/// Stores are files made for this, whatever the URL says; of a Redis the locks and the cache are used. Each line says what it ran on.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES, after_help = crate::args::EXIT_CODES)]
pub(crate) struct Prove {
    /// all, lost-update, lost-create, stale-cache, herd, paused-holder, tampering or blocked-archive
    #[arg(default_value = "all", value_name = "SCENARIO")]
    scenario: Choice,
    /// How many rounds of each, 1..=10000
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,
    /// How many entries blocked-archive archives, 1000..=1000000 [default: 10000]
    #[arg(long, value_name = "N")]
    entries: Option<u64>,
    /// What everything random is drawn from
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
    /// Take the protection away, to see that a proof can fail
    #[arg(long, hide = true)]
    remove_protection: bool,
}

impl Prove {
    /// Runs it.
    pub(crate) async fn run(self, url: Option<String>, format: Option<output::Format>) -> Result<()> {
        let options = Options {
            choice: self.scenario,
            rounds: self.rounds,
            entries: self.entries,
            seed: self.seed,
            url,
            format: match format {
                None | Some(output::Format::Table) => Format::Table,
                Some(output::Format::Json | output::Format::Jsonl) => Format::Json,
            },
            protection: if self.remove_protection { Protection::Removed } else { Protection::On },
        };
        ended(run(options).await)
    }
}

/// The child that `paused-holder` stops and wakes; nobody else calls it.
#[derive(Debug, Args)]
pub(crate) struct ProveHolder {
    url: String,
    name: String,
    #[arg(long)]
    fenced: bool,
}

impl ProveHolder {
    /// Runs it.
    pub(crate) async fn run(self) -> Result<()> {
        let locks = std::env::var(super::LOCKS).ok();
        ended(hold(Holder { url: self.url, locks, name: self.name, fenced: self.fenced }).await)
    }
}

fn ended(code: u8) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(Failure::Exit(code)) }
}
