//! `import`: a chain from elsewhere, out of its export.

use std::io::Read as _;
use std::time::Duration;

use clap::Args;
use onward_api::NDJSON_TYPE;
use onward_api::client::{Client, Request, segment};

use super::verify::show;
use crate::failure::{Failure, Result};
use crate::output::Out;

/// How long the server may work on it.
const LONG: Duration = Duration::from_secs(3_600);

/// Makes a chain of an export.
#[derive(Args, Debug)]
pub(crate) struct Import {
    /// The chain, which is not there yet; it keeps the name that it has in the file
    chain: String,
    /// The export of a whole chain; - for stdin
    #[arg(value_name = "FILE")]
    file: String,
}

impl Import {
    /// Sends the file, which the server verifies before it writes anything; shows what it found in its own rows then.
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let mut file = Vec::new();
        let read = match self.file.as_str() {
            "-" => std::io::stdin().lock().read_to_end(&mut file),
            path => std::fs::File::open(path).and_then(|mut opened| opened.read_to_end(&mut file)),
        };
        read.map_err(|e| Failure::usage(format_args!("cannot read {}: {e}", self.file)))?;
        let request = Request::post(format!("chains/{}/import", segment(&self.chain))).body(NDJSON_TYPE, file).timeout(LONG);
        show(&client.call(request).await?.json()?, out)
    }
}
