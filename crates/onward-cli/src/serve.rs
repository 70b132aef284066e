//! `onward serve`: a server for production.

use clap::Args;
use onward_server::{Configuration, Orders, Serve as Server};
use tokio::runtime::Builder;

use crate::args::EXIT_CODES;
use crate::config::{Place, load};
use crate::dev::{ended, refused};
use crate::failure::{Failure, Result};
use crate::output::{Format, Out};

/// The least threads that serve: one that is busy leaves another.
const THREADS_LEAST: usize = 2;

/// Starts a server.
#[derive(Args, Debug)]
#[command(before_help = "Examples:\n  onward serve --config onward.toml\n  onward serve --listen 127.0.0.1:7337\n  ONWARD__STORE__URL=sqlite:/data/onward.db onward serve\n", after_help = EXIT_CODES)]
pub(crate) struct Serve {
    #[command(flatten)]
    place: Place,
    /// Listen here; may be repeated [default: 127.0.0.1:7337]
    #[arg(long, value_name = "IP:PORT")]
    listen: Vec<String>,
    /// Listen beyond loopback without TLS, where something else encrypts
    #[arg(long)]
    insecure_plaintext: bool,
}

impl Serve {
    fn load(&self) -> Result<Configuration> {
        let mut sources = self.place.sources().with_texts("--listen", "server.listen", &self.listen);
        if self.insecure_plaintext {
            sources = sources.with_switch("--insecure-plaintext", "server.allow.insecure_plaintext");
        }
        load(&sources)
    }

    /// Makes the runtime with as many threads as the configuration says.
    pub(crate) fn runtime(&self) -> Result<Builder> {
        let threads = match self.load()?.settings().threads {
            0 => std::thread::available_parallelism().map_or(THREADS_LEAST, usize::from).max(THREADS_LEAST),
            threads => threads,
        };
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(threads);
        Ok(builder)
    }

    /// Serves until Ctrl-C or SIGTERM.
    pub(crate) async fn run(self, out: &Out) -> Result<()> {
        let configuration = self.load()?;
        let unheard = |e| Failure::io("cannot listen for signals", &e);
        // Before the ready line: who reads it may end us at once.
        let orders = Orders::of_process().map_err(unheard)?;
        orders.look_on_hangup().map_err(unheard)?;
        let server = Server::start(&configuration).await.map_err(refused)?;
        match out.format() {
            Format::Table => out.line(&format!("onward {} serves {}", env!("CARGO_PKG_VERSION"), server.serving().urls.join(" ")))?,
            Format::Json | Format::Jsonl => out.line(&serde_json::to_string(server.serving()).unwrap_or_default())?,
        }
        ended(server.run(&orders).await, out)
    }
}
