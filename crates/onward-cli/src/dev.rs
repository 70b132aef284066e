//! `onward dev`: a server on this machine.

use std::path::PathBuf;

use clap::Args;

use crate::args::EXIT_CODES;
use crate::failure::Result;
use crate::output::Out;

/// Starts a development server.
#[derive(Args, Debug)]
#[command(before_help = "Examples:\n  onward dev\n  onward dev --data ./data\n  onward dev --port 0 -o json        any free port, one line of JSON when it is ready\n", after_help = EXIT_CODES)]
pub(crate) struct Dev {
    /// Keep the data here [default: a temporary folder, deleted at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Listen on this port; 0 for any free one [default: 7337, or a free one if that is busy]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
}

impl Dev {
    pub(crate) async fn run(self, _out: &Out) -> Result<()> {
        Ok(())
    }
}
