//! The command line: what may be said, and the help.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::output::{Color, Format};
use crate::target::Target;
use crate::units::some_time;
use crate::{audit, cache, dev, lock, object, prove, store};

/// The end of each help.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0 ok                 3 conflict             6 lease lost or fenced
  1 failure            4 not found            8 unreachable, or outcome unknown
  2 usage              5 busy                 9 not allowed";

const EXAMPLES: &str = "\
Examples:
  onward dev                                            a server on this machine, nothing to set up
  onward prove all                                      each bug without its protection, and none with it
  onward object put project/42 p.json --if-version 7    refused if anybody changed it since
  onward lock run nightly -- ./backup.sh                started on many hosts, runs on one
";

/// Refuses writes that are based on stale knowledge: locks with fencing, cache fill leases, compare-and-swap objects, an audit trail
#[derive(Debug, Parser)]
#[command(name = "onward", version, before_help = EXAMPLES, after_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Args, Debug)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Global {
    /// A server (http://127.0.0.1:7337) or an engine (sqlite:./app.db, memory:); else ONWARD_URL, else a running `onward dev`
    #[arg(long, global = true, value_name = "URL", env = "ONWARD_URL", hide_env = true)]
    url: Option<String>,
    /// A file with the token; else ONWARD_TOKEN, else that of `onward dev`
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How data are written
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<Format>,
    /// Say nothing but data and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// How long a request may take
    #[arg(long, global = true, value_parser = some_time, default_value = "10s", value_name = "TIME")]
    timeout: Duration,
    /// When to colour
    #[arg(long, global = true, value_enum, default_value = "auto", value_name = "WHEN")]
    pub(crate) color: Color,
}

impl Global {
    /// Returns what is said about the target.
    pub(crate) fn target(&self) -> Target {
        let url = self.url.clone().filter(|url| !url.is_empty());
        Target { url, token_file: self.token_file.clone(), timeout: self.timeout }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a server for development: loopback, SQLite or memory, nothing to set up
    Dev(dev::Dev),
    /// Show each bug without its protection, and none with it
    Prove(prove::Prove),
    /// The child of a proof.
    #[command(hide = true)]
    ProveHolder(prove::ProveHolder),
    /// Run a command under a lock, or look at one
    #[command(subcommand)]
    Lock(lock::Lock),
    /// Read, write and follow versioned objects
    #[command(subcommand)]
    Object(object::Object),
    /// Compact, back up or check a whole store
    #[command(subcommand)]
    Store(store::Store),
    /// Read, fill and invalidate cached values
    #[command(subcommand)]
    Cache(cache::Cache),
    /// Append to, read and verify chains of audit entries
    #[command(subcommand)]
    Audit(audit::Audit),
}
