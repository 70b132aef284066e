//! `onward store`: what operators do to a store as a whole.

use std::time::Duration;

use clap::{Args, Subcommand};
use onward_api::client::Request;
use onward_api::info::{Findings, Grade};

use crate::args::EXIT_CODES;
use crate::doctor::show;
use crate::failure::{Failure, Result};
use crate::output::Out;
use crate::save::save;
use crate::target::{Otherwise, Target};

/// How long work on a whole store may take before it says anything.
const LONG: Duration = Duration::from_secs(600);

/// Verbs on a store.
#[derive(Debug, Subcommand)]
pub(crate) enum Store {
    /// Take the change log off up to a revision; objects stay
    #[command(before_help = "Examples:\n  onward store compact 120000\n  onward store compact 120000 -o json\n  onward --url sqlite:./app.db store compact 120000\n", after_help = EXIT_CODES)]
    Compact(Compact),
    /// Copy the whole store to a new file, while writers run
    #[command(before_help = "Examples:\n  onward store backup monday.db\n  onward store backup - | zstd > monday.db.zst\n  onward dev --data restored   with monday.db as restored/onward.db: opening a copy is the restore\n", after_help = EXIT_CODES)]
    Backup(Backup),
    /// Look whether what is stored contradicts itself: exit 1 if it does
    #[command(before_help = "Examples:\n  onward store check\n  onward --url sqlite:./monday.db store check\n  onward store check -o jsonl\n", after_help = EXIT_CODES)]
    Check,
}

/// Compacts.
#[derive(Args, Debug)]
pub(crate) struct Compact {
    /// The last revision to take off: watches that are not beyond it have to list again
    #[arg(value_name = "REVISION")]
    up_to: u64,
}

/// Backs up.
#[derive(Args, Debug)]
pub(crate) struct Backup {
    /// The new file; - for stdout
    #[arg(value_name = "FILE")]
    file: String,
}

impl Store {
    /// Does it.
    pub(crate) async fn run(self, target: &Target, out: &Out) -> Result<()> {
        let client = target.client(Otherwise::Refuse).await?;
        match self {
            Self::Compact(compact) => {
                let request = Request::post("admin/compact").json(&serde_json::json!({"up_to": compact.up_to})).timeout(LONG);
                let answer = client.call(request).await?;
                out.record(&answer.body)
            }
            Self::Backup(backup) => {
                let bytes = save(client.download(Request::get("admin/backup"), LONG).await?, &backup.file, "backup", out).await?;
                out.say(format_args!("{bytes} bytes; opening the copy gives it an epoch of its own"));
                Ok(())
            }
            Self::Check => {
                let answer = client.call(Request::get("admin/check").timeout(LONG)).await?;
                let findings = answer.json::<Findings>()?.findings;
                let worst = findings.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Ok);
                show(&findings, out)?;
                if worst == Grade::Ok { Ok(()) } else { Err(Failure::Exit(1)) }
            }
        }
    }
}
