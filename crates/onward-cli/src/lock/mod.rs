//! `onward lock`: run a command on one of many hosts, with a lease that ends by itself and a token that refuses its late writes.

mod child;
mod lease;
mod run;
mod signals;
mod terminal;

use clap::{Args, Subcommand};
use onward_api::client::{Client, Request};
use onward_api::locks;

use crate::args::EXIT_CODES;
use crate::failure::{Failure, Result};
use crate::output::Out;
use crate::target::{Otherwise, Target};

pub(crate) use child::{SHIM, become_command};

/// Verbs on locks.
#[derive(Debug, Subcommand)]
pub(crate) enum Lock {
    /// Run a command while holding a lock
    #[command(before_help = run::EXAMPLES, after_help = run::EXIT_CODES)]
    Run(run::Run),
    /// Show who holds a lock; a free one is exit 4
    #[command(before_help = "Examples:\n  onward lock status nightly\n  onward lock status nightly -o json\n  onward lock status nightly -q || echo free\n", after_help = EXIT_CODES)]
    Status(Status),
}

/// Looks at a lock.
#[derive(Args, Debug)]
pub(crate) struct Status {
    /// The key
    key: String,
}

impl Lock {
    /// Does it.
    pub(crate) async fn run(self, target: &Target, out: &Out) -> Result<()> {
        match self {
            Self::Run(run) => run.run(target, out).await,
            Self::Status(status) => status.run(&target.client(Otherwise::OwnFile).await?, out).await,
        }
    }
}

impl Status {
    async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let answer = client.call(Request::get(path(&self.key))).await?;
        out.record(&answer.body)?;
        match answer.json::<locks::Status>()?.state.as_str() {
            "held" => Ok(()),
            _ => Err(Failure::Exit(onward_api::Code::NotFound.exit())),
        }
    }
}

/// The path of a lock.
pub(crate) fn path(key: &str) -> String {
    format!("locks/{}", onward_api::path::encode(key.as_bytes()))
}
