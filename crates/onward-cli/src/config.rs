//! `onward config`: what a server would be told, and from where.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use onward_server::{Configuration, Origins, Reach, Sources, check};
use serde_json::json;

use crate::args::EXIT_CODES;
use crate::failure::{Failure, Result};
use crate::output::{Format, Out};

/// Looks at the configuration of `onward serve`.
#[derive(Subcommand, Debug)]
pub(crate) enum Config {
    /// Show every key with its value, as a file that reads back
    Show(Show),
    /// Check the configuration as a start would, and start nothing
    Check(Check),
}

/// Where the configuration is.
#[derive(Args, Debug)]
pub(crate) struct Place {
    /// The file [default: ./onward.toml, else the user's, else /etc/onward/onward.toml, else none]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Place {
    /// Returns where the configuration comes from.
    pub(crate) fn sources(&self) -> Sources {
        let sources = Sources::of_process();
        match &self.config {
            Some(path) => sources.with_file(path.clone()),
            None => sources,
        }
    }
}

/// Loads the configuration.
///
/// # Errors
/// Exit 2 with every problem.
pub(crate) fn load(sources: &Sources) -> Result<Configuration> {
    Configuration::load(sources).map_err(Failure::usage)
}

/// Shows the configuration.
#[derive(Args, Debug)]
#[command(before_help = "Examples:\n  onward config show\n  onward config show --origin\n  onward config show --config onward.toml -o json\n", after_help = EXIT_CODES)]
pub(crate) struct Show {
    #[command(flatten)]
    place: Place,
    /// Show where each value came from
    #[arg(long)]
    origin: bool,
}

/// Checks the configuration.
#[derive(Args, Debug)]
#[command(before_help = "Examples:\n  onward config check\n  onward config check --config onward.toml\n  onward config check --config onward.toml --offline\n", after_help = EXIT_CODES)]
pub(crate) struct Check {
    #[command(flatten)]
    place: Place,
    /// Look at the configuration and its files only, not at addresses and engines
    #[arg(long)]
    offline: bool,
}

impl Config {
    /// Shows or checks.
    pub(crate) async fn run(self, out: &Out) -> Result<()> {
        match self {
            Config::Show(show) => show.run(out),
            Config::Check(asked) => {
                let configuration = load(&asked.place.sources())?;
                // Whatever is wrong, a start could not run: exit 2.
                let reach = if asked.offline { Reach::Offline } else { Reach::Online };
                check(&configuration, reach).await.map_err(Failure::usage)?;
                out.say(format_args!("{}: ok", name(&configuration)));
                Ok(())
            }
        }
    }
}

impl Show {
    fn run(self, out: &Out) -> Result<()> {
        let configuration = load(&self.place.sources())?;
        match out.format() {
            Format::Table => {
                let origins = if self.origin { Origins::Shown } else { Origins::Hidden };
                out.bytes(configuration.to_toml(origins).as_bytes())
            }
            Format::Json => out.line(&json!({"file": configuration.file(), "items": configuration.rows()}).to_string()),
            Format::Jsonl => configuration.rows().iter().try_for_each(|row| out.line(&json!(row).to_string())),
        }
    }
}

/// Says which file was read.
fn name(configuration: &Configuration) -> String {
    configuration.file().map_or_else(|| "no file".to_owned(), |path| path.display().to_string())
}
