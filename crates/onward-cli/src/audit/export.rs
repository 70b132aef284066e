//! `export`: a chain, or a range of it, as a file that anyone can check.

use std::time::Duration;

use clap::Args;
use onward_api::client::{Client, Request, segment};

use crate::failure::Result;
use crate::output::Out;

/// Exports a range.
#[derive(Args, Debug)]
pub(crate) struct Export {
    /// The chain
    chain: String,
    /// Begin with this entry
    #[arg(long, value_name = "SEQ")]
    from: Option<u64>,
    /// End with this entry [default: the newest]
    #[arg(long, value_name = "SEQ")]
    to: Option<u64>,
}

impl Export {
    /// Writes the file to stdout as it comes; what was cut off has no end and is no export.
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let request = Request::get(format!("chains/{}/export", segment(&self.chain)))
            .maybe_query("from_seq", self.from)
            .maybe_query("to_seq", self.to);
        let mut pieces = client.download(request, Duration::ZERO).await?;
        while let Some(piece) = pieces.next().await? {
            out.bytes(&piece)?;
        }
        Ok(())
    }
}
