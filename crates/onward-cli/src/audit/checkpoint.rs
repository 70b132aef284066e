//! `checkpoint` and `inclusion`: what is kept outside, and what it proves. Every answer is checked here before it is shown.

use std::path::{Path, PathBuf};

use clap::Args;
use onward::audit;
use onward::model::{self, CHECKPOINT_BYTES, Vkey};
use onward_api::client::{Client, Request, segment};

use crate::failure::{Failure, Result};
use crate::output::Out;

/// Gets a checkpoint.
#[derive(Args, Debug)]
pub(crate) struct Checkpoint {
    /// The chain
    chain: String,
    /// An older checkpoint; the chain must be its continuation
    #[arg(long, value_name = "FILE", requires = "vkey")]
    since: Option<PathBuf>,
    /// The key that checks the signatures: ORIGIN+ID+KEY
    #[arg(long)]
    vkey: Option<String>,
}

/// Proves an entry.
#[derive(Args, Debug)]
pub(crate) struct Inclusion {
    /// The chain
    chain: String,
    /// The entry
    seq: u64,
    /// The checkpoint that it must be in [default: the chain as it is now]
    #[arg(long, value_name = "FILE", requires = "vkey")]
    checkpoint: Option<PathBuf>,
    /// The key that checks the signature: ORIGIN+ID+KEY
    #[arg(long, requires = "checkpoint")]
    vkey: Option<String>,
}

/// Reads the text of a checkpoint, or of a manifest.
pub(super) fn read_note(path: &Path) -> Result<String> {
    let read = std::fs::read_to_string(path);
    let text = read.map_err(|e| Failure::usage(format_args!("cannot read {}: {e}", path.display())))?;
    if text.len() > CHECKPOINT_BYTES {
        Err(Failure::usage(format_args!("{} is no signed note of ours: it is too long", path.display())))
    } else {
        Ok(text)
    }
}

/// The path of a chain's proofs.
fn proofs(chain: &str) -> Request {
    Request::get(format!("chains/{}/proofs", segment(chain)))
}

/// Opens a file's checkpoint, whose chain must be the one that was asked for.
fn open(path: &Path, vkey: &str) -> Result<model::Checkpoint> {
    Ok(Vkey::parse(vkey)?.open(&read_note(path)?)?)
}

/// What contradicts a checkpoint is bad data: exit 1.
fn contradiction(message: &str) -> Failure {
    Failure::from(onward::Error::integrity(message)).with_exit(1)
}

impl Checkpoint {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let answer = client.call(Request::get(format!("chains/{}/checkpoint", segment(&self.chain)))).await?;
        let note = String::from_utf8_lossy(&answer.body).into_owned();
        if let Some(vkey) = &self.vkey {
            let new = Vkey::parse(vkey)?.open(&note)?;
            if let Some(path) = &self.since {
                self.compare(client, &open(path, vkey)?, &new).await?;
                out.say(format_args!("the chain only grew since that checkpoint"));
            }
        }
        out.bytes(note.as_bytes())
    }

    async fn compare(&self, client: &Client, old: &model::Checkpoint, new: &model::Checkpoint) -> Result<()> {
        if old.size > new.size {
            return Err(contradiction("TRUNCATED: the chain is shorter than the older checkpoint"));
        }
        let request = proofs(&self.chain).query("first", old.size).query("second", new.size);
        let proved: audit::Consistency = client.call(request).await?.json()?;
        let same = proved.first == old.size && proved.first_root == old.root && proved.second == new.size && proved.second_root == new.root;
        if !same || proved.check().is_err() {
            return Err(contradiction("DIVERGED: the chain is not the continuation of the older checkpoint"));
        }
        Ok(())
    }
}

impl Inclusion {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let trusted = match (&self.checkpoint, &self.vkey) {
            (Some(path), Some(vkey)) => Some(open(path, vkey)?),
            _ => None,
        };
        let size = trusted.as_ref().map(|trusted| trusted.size);
        let answer = client.call(proofs(&self.chain).query("seq", self.seq).maybe_query("size", size)).await?;
        let proved: audit::Inclusion = answer.json()?;
        let same = |trusted: &model::Checkpoint| {
            proved.origin == trusted.origin && proved.size == trusted.size && proved.root == trusted.root && proved.seq == self.seq
        };
        if proved.check().is_err() || !trusted.as_ref().is_none_or(same) {
            return Err(contradiction("DIVERGED: the entry is not proved to be in the checkpoint"));
        }
        out.record(&answer.body)
    }
}
