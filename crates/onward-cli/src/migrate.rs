//! `onward migrate`: the schema of a database, before the replicas that need it start.

use clap::Subcommand;
use onward::{Config, Migration, Onward};
use serde_json::json;

use crate::args::EXIT_CODES;
use crate::failure::{Failure, Result};
use crate::output::Out;
use crate::target::Target;

/// Verbs on a schema.
#[derive(Debug, Subcommand)]
pub(crate) enum Migrate {
    /// Show what is there and what would be done: exit 1 if anything is due
    #[command(before_help = "Examples:\n  onward --url postgres://db.example/app migrate plan\n  onward migrate plan -o json || onward migrate apply      with ONWARD_URL\n", after_help = EXIT_CODES)]
    Plan,
    /// Bring the schema to this version, as the role that owns the tables; harmless to repeat
    #[command(before_help = "Examples:\n  onward --url postgres://owner@db.example/app migrate apply\n  ONWARD_URL=postgres://owner@db.example/app onward migrate apply\n  onward --url postgres://owner@db.example/app migrate apply -o json\n", after_help = EXIT_CODES)]
    Apply,
}

impl Migrate {
    /// Does it, on the database itself: a server migrates its own when it starts.
    pub(crate) async fn run(self, target: &Target, out: &Out) -> Result<()> {
        let url = target.url.as_deref().ok_or_else(|| Failure::usage("name the database, such as --url postgres://HOST/DATABASE"))?;
        let config = Config::new(url);
        let found = Onward::plan(&config).await?;
        match self {
            Self::Plan => {
                show(found, out)?;
                if found.is_due() { Err(Failure::Exit(1)) } else { Ok(()) }
            }
            Self::Apply => {
                // Opening it is the migration, and says the same as a replica that starts.
                drop(Onward::connect(config.clone()).await?);
                show(Onward::plan(&config).await?, out)
            }
        }
    }
}

fn show(migration: Migration, out: &Out) -> Result<()> {
    let Migration { found, wanted, restored } = migration;
    out.record(json!({"found": found, "wanted": wanted, "restored": restored, "due": migration.is_due()}).to_string().as_bytes())
}
