//! `key`: keys of the audit trail. They are files of the user, never rows of a database.

use std::path::PathBuf;

use clap::Subcommand;
use onward::model::CheckpointKey;
use onward::random;

use crate::failure::{Failure, Result};
use crate::output::Out;

/// Verbs on keys.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Draw a key: for audit.key, or another one for audit.signing_key
    #[command(
        before_help = "Examples:\n  (umask 077; onward audit key new > signing.key)\n  (umask 077; onward audit key new > audit.key)      another one, for the MACs\n  onward audit key new | vault kv put secret/onward signing_key=-\n"
    )]
    New,
    /// Show the key that checks a chain's checkpoints; give it to whoever verifies
    #[command(
        before_help = "Examples:\n  onward audit key show signing.key --origin onward.local/4b1c/orders\n  onward audit key show signing.key --origin onward.local/4b1c/orders > orders.vkey\n  onward audit key show signing.key --origin onward.local/4b1c/orders -o json\n"
    )]
    Show {
        /// The file of the signing key
        key: PathBuf,
        /// The origin of the chain, as `GET /v1/chains/CHAIN` shows it
        #[arg(long)]
        origin: String,
    },
}

impl Key {
    pub(super) fn run(self, out: &Out) -> Result<()> {
        match self {
            Self::New => out.line(&random::bytes::<32>().iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
            Self::Show { key, origin } => {
                let text = std::fs::read_to_string(&key);
                let text = text.map_err(|e| Failure::usage(format_args!("cannot read the key file {}: {e}", key.display())))?;
                out.line(&CheckpointKey::parse(&text)?.vkey(&origin).to_string())
            }
        }
    }
}
