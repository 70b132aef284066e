//! `onward dev`: a server on this machine.

use std::path::PathBuf;

use clap::Args;
use onward_api::client::Problem;
use onward_api::{Code, Effect};
use onward_server::{Dev as Server, DevOptions, Drained, Orders, Ready, StartError};

use crate::args::EXIT_CODES;
use crate::failure::{Failure, Result};
use crate::output::{Format, Out};

/// How much of the token the banner's first line shows.
const TOKEN_HEAD: usize = 8;

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
    /// Serves until Ctrl-C or SIGTERM.
    pub(crate) async fn run(self, out: &Out) -> Result<()> {
        // Before the ready line: who reads it may end us at once.
        let orders = Orders::of_process().map_err(|e| Failure::io("cannot listen for signals", &e))?;
        let server = Server::start(DevOptions { data: self.data, port: self.port }).await.map_err(refused)?;
        let ready = server.ready();
        match out.format() {
            Format::Table => out.bytes(banner(ready).as_bytes())?,
            Format::Json | Format::Jsonl => out.line(&serde_json::to_string(ready).unwrap_or_default())?,
        }
        ended(server.run(&orders).await, out)
    }
}

/// Says how a server ended; what was cut is a failure.
pub(crate) fn ended(drained: Drained, out: &Out) -> Result<()> {
    match drained {
        Drained::Clean => Ok(()),
        Drained::Cut => {
            out.warn(format_args!("onward: requests that took too long were cut"));
            Err(Failure::Exit(1))
        }
    }
}

/// Says why a server did not start.
pub(crate) fn refused(error: StartError) -> Failure {
    match error {
        StartError::Usage(message) => Failure::usage(message),
        StartError::Failed(message) => Failure::Problem(Problem::of(Code::Internal, Effect::NotApplied, message)),
    }
}

/// What a person sees: where it is, what it is not, and lines to paste.
fn banner(ready: &Ready) -> String {
    let Ready { url, token, data_dir, .. } = ready;
    let title = format!(" onward {} dev: one machine, one user. NOT FOR PRODUCTION ", env!("CARGO_PKG_VERSION"));
    let rule = "─".repeat(title.chars().count());
    let busy = if ready.port_was_busy { "  (port 7337 was busy)" } else { "" };
    let keep = if ready.temporary { " (deleted at exit; keep it: onward dev --data ./data)" } else { "" };
    let head: String = token.chars().take(TOKEN_HEAD).collect();
    format!(
        "╭{rule}╮\n│{title}│\n╰{rule}╯\n\
         API   {url}/v1{busy}    docs  {url}/docs\n\
         data  {}{keep}\n\
         token  {head}… (admin; printed whole below)\n\
         try   curl -X PUT -H 'Authorization: Bearer {token}' -H 'If-None-Match: *' --json '{{\"open\":true}}' {url}/v1/objects/project/42\n\
         next  onward lock run demo -- sleep 5                (in another terminal; it finds this server by itself)\n",
        data_dir.display(),
    )
}
