//! The command line: what may be said, and the help.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::failure::Failure;
use crate::output::{Color, Format, Out};
use crate::progress::When;
use crate::target::{Target, trusting};
use crate::units::some_time;
use crate::{audit, bench, cache, config, dev, doctor, help, lock, migrate, object, prove, serve, store, token};

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
#[command(name = "onward", version, before_help = EXAMPLES, after_help = EXIT_CODES, propagate_version = true, disable_help_subcommand = true)]
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
    /// A server (https://onward.example) or an engine (sqlite:./app.db, postgres://HOST/DATABASE, redis://HOST, memory:); else ONWARD_URL, else a running `onward dev`
    #[arg(long, global = true, value_name = "URL", env = "ONWARD_URL", hide_env = true)]
    url: Option<String>,
    /// A file with the token; else ONWARD_TOKEN, else that of `onward dev`
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A PEM file of the certificates that https://, rediss:// and postgres:// trust, instead of the machine's; else ONWARD_CA_FILE
    #[arg(long, global = true, value_name = "FILE", env = "ONWARD_CA_FILE", hide_env = true)]
    ca_file: Option<PathBuf>,
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
    /// When to show how far long work is
    #[arg(long, global = true, value_enum, default_value = "auto", value_name = "WHEN")]
    pub(crate) progress: When,
}

impl Global {
    /// Returns what is said about the target.
    pub(crate) fn target(&self) -> Target {
        let url = self.url.as_deref().filter(|url| !url.is_empty()).map(|url| trusting(url, self.ca_file.as_deref()));
        Target { url, token_file: self.token_file.clone(), ca_file: self.ca_file.clone(), timeout: self.timeout }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a server for development: loopback, SQLite or memory, nothing to set up
    Dev(dev::Dev),
    /// Start a server for production, as its configuration says
    Serve(serve::Serve),
    /// Show or check the configuration of a server
    #[command(subcommand)]
    Config(config::Config),
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
    /// Look at or bring up the schema of a database
    #[command(subcommand)]
    Migrate(migrate::Migrate),
    /// Read, fill and invalidate cached values
    #[command(subcommand)]
    Cache(cache::Cache),
    /// Append to, read and verify chains of audit entries
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Make, list and revoke the tokens that a server takes
    #[command(subcommand)]
    Token(token::Token),
    /// Put a part under load: latencies, and a verdict on what was promised
    Bench(bench::Bench),
    /// Try what is promised, look at what it stands on, and say what to do
    Doctor(doctor::Doctor),
    /// Write a completion script for a shell
    Completions(help::Completions),
    /// Write the manual pages
    Man(help::Man),
    /// Explain a command, the exit codes or the keys
    Help(help::Help),
}

/// Reads the command line. A wrong one, a call for help or for the version ends here, as the failure to tell or with all that was said.
pub(crate) fn read(args: impl IntoIterator<Item = OsString>) -> Result<Cli, (Failure, Out)> {
    let args: Vec<OsString> = args.into_iter().collect();
    Cli::try_parse_from(&args).map_err(|error| {
        if error.use_stderr() && asks_for_json(&args) {
            let text = error.render().to_string();
            let told = text.lines().map(|line| line.trim().trim_start_matches("error: ")).filter(|line| !line.is_empty());
            let detail = told
                .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
                .collect::<Vec<_>>()
                .join("; ");
            return (Failure::usage(detail), Out::new(Some(Format::Json), false, false, Color::Never, When::Never));
        }
        // clap writes help to stdout and complaints to stderr; who reads neither is not our failure.
        let _ = error.print();
        (Failure::Exit(u8::try_from(error.exit_code()).unwrap_or(2)), Out::new(None, false, false, Color::Never, When::Never))
    })
}

/// Whether a command line that could not be read asks for JSON all the same.
fn asks_for_json(args: &[OsString]) -> bool {
    let args: Vec<&str> = args.iter().take_while(|arg| *arg != "--").filter_map(|arg| arg.to_str()).collect();
    let json = |format: &str| matches!(format, "json" | "jsonl");
    let joined = args.iter().any(|arg| ["--output=", "-o=", "-o"].iter().find_map(|flag| arg.strip_prefix(flag)).is_some_and(json));
    joined || args.windows(2).any(|pair| matches!(pair[0], "-o" | "--output") && json(pair[1]))
}
