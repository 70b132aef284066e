//! `onward lock`: run a command on one of many hosts, with a lease that ends by itself and a token that refuses its late writes.

mod admin;
mod child;
mod lease;
mod run;
mod signals;
mod terminal;

use clap::Subcommand;

use crate::args::EXIT_CODES;
use crate::failure::Result;
use crate::output::Out;
use crate::target::{Otherwise, Target};

pub(crate) use child::{SHIM, become_command};

/// Verbs on locks.
#[derive(Debug, Subcommand)]
pub(crate) enum Lock {
    /// Run a command while holding a lock
    #[command(before_help = run::EXAMPLES, after_help = run::EXIT_CODES)]
    Run(run::Run),
    /// List locks that are held
    #[command(before_help = "Examples:\n  onward lock ls\n  onward lock ls lock:main:eu-1: -o jsonl\n  onward lock ls --watch\n", after_help = EXIT_CODES)]
    Ls(admin::Ls),
    /// Show who holds a lock; a free one is exit 4. Without a key: whether locking is on
    #[command(before_help = "Examples:\n  onward lock status nightly\n  onward lock status nightly -q || echo free\n  onward lock status -o json      is locking on, and who says so?\n", after_help = EXIT_CODES)]
    Status(admin::Look),
    /// Take a lock from its holder, whose later writes are refused; a free one is exit 4
    #[command(before_help = "Examples:\n  onward lock break nightly --dry-run\n  onward lock break nightly --reason 'host 7 is gone' --yes\n  onward lock break nightly --reason 'no store here' --no-audit --yes\n", after_help = EXIT_CODES)]
    Break(admin::Break),
    /// Switch locking off or on, in every process on the same store
    #[command(before_help = "Examples:\n  onward lock switch off --reason 'the lock engine stalls' --yes\n  onward lock switch on --reason 'it is well again'\n  onward lock switch off --dry-run\n", after_help = EXIT_CODES)]
    Switch(admin::Switch),
}

impl Lock {
    /// Does it.
    pub(crate) async fn run(self, target: &Target, out: &Out) -> Result<()> {
        let client = async || target.client(Otherwise::OwnFile).await;
        match self {
            Self::Run(run) => run.run(target, out).await,
            Self::Ls(ls) => ls.run(&client().await?, out).await,
            Self::Status(look) => look.run(&client().await?, out).await,
            Self::Break(order) => order.run(&client().await?, out).await,
            Self::Switch(switch) => switch.run(&client().await?, out).await,
        }
    }
}

/// The path of a lock.
pub(crate) fn path(key: &str) -> String {
    format!("locks/{}", onward_api::path::encode(key.as_bytes()))
}
