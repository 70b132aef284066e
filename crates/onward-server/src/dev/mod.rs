//! A development server: zero configuration, one machine, one user.
//!
//! Binds loopback only, keeps everything in one folder, makes its own token and audit keys, and tells the tools of the same user where it
//! runs. Reads no configuration file; of the environment it heeds `ONWARD__OPS__LOG`, `ONWARD__LOCKS__ENABLED`, `ONWARD__AUDIT__KEY` and
//! `ONWARD__AUDIT__SIGNING_KEY`.

mod announce;
mod folder;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use onward::model::{CheckpointKey, MacKeys};
use onward::{Config, Onward, random};
use serde::Serialize;

use crate::auth::Token;
use crate::config::{Configuration, Sources};
use crate::listen::{Drained, Server};
use crate::log;
use crate::metrics::Metrics;
use crate::orders::Orders;
use crate::start::{StartError, failed};
use crate::state::State;
use announce::Announced;
pub use announce::{Running, running};
use folder::Folder;

/// The port that is tried first.
const PORT: u16 = 7337;
/// The name of the one token, as audit entries show it.
const NAME: &str = "dev";

/// How to start a development server.
#[derive(Clone, Debug, Default)]
pub struct DevOptions {
    /// Where to keep everything; a temporary folder if absent.
    pub data: Option<PathBuf>,
    /// The port; 0 takes a free one. Absent: 7337, or a free one if that is busy.
    pub port: Option<u16>,
}

/// Where a server is ready: the one line that `-o json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Ready {
    /// The base of all routes, without `/v1`.
    pub url: String,
    /// The web console; not built.
    pub ui_url: Option<String>,
    /// The description of the API as a page.
    pub docs_url: Option<String>,
    /// The token; secret.
    pub token: String,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Whether that folder is deleted at exit.
    pub temporary: bool,
    /// The process.
    pub pid: u32,
    /// Whether port 7337 was busy and another one was taken.
    #[serde(skip)]
    pub port_was_busy: bool,
}

/// A development server that listens.
#[derive(Debug)]
pub struct Dev {
    ready: Ready,
    server: Server,
    folder: Folder,
    announced: Option<Announced>,
}

impl Dev {
    /// Opens the folder and the engines and listens; nothing is served before [`Dev::run`].
    ///
    /// # Errors
    /// [`StartError::Usage`]: the folder is in use by another process, the port that was asked for is busy, a file in the folder is not what
    /// it should be, or the environment holds a bad value. [`StartError::Failed`]: anything else.
    pub async fn start(options: DevOptions) -> Result<Self, StartError> {
        let configuration = Configuration::load(&Sources::of_dev()).map_err(|error| StartError::Usage(error.to_string()))?;
        log::install(configuration.settings().log);
        let folder = Folder::open(options.data.as_deref())?;
        let token = folder.secret("dev.token", Token::draw().secret(), |text| text.parse::<Token>().ok())?;
        let key: String = random::bytes::<32>().iter().map(|byte| format!("{byte:02x}")).collect();
        let keys = folder.secret("audit.key", &key, |text| MacKeys::parse(text).ok())?;
        let seed: String = random::bytes::<32>().iter().map(|byte| format!("{byte:02x}")).collect();
        let signing = folder.secret("checkpoint.key", &seed, |text| CheckpointKey::parse(text).ok())?;
        let store = folder.path().join("onward.db");
        let store = store.to_str().ok_or_else(|| StartError::Usage("the data folder's name is not UTF-8".to_owned()))?;
        let archive = format!("file:{}", folder.path().join("archive").display());
        let metrics = Arc::new(Metrics::default());
        // Keys in the environment win over the folder's own.
        let config = Config::new(format!("sqlite:{store}")).with_keys(keys).with_signing_key(signing).with_archive_at(archive);
        let config = config.with_observer(metrics.clone()).with_environment()?;
        let onward = Onward::connect(config).await?;
        // One machine, one user: nobody else can be misled by what he saves.
        let state = State::new(onward, NAME, &token, metrics).with_unleased_fills();
        let (server, port_was_busy) = bind(options.port, state).await?;
        let address = server.local_addr().map_err(failed("the address of the listener"))?;
        let ready = Ready {
            url: format!("http://{address}"),
            ui_url: None,
            docs_url: Some(format!("http://{address}/docs")),
            token: token.secret().to_owned(),
            data_dir: folder.path().to_owned(),
            temporary: folder.is_temporary(),
            pid: std::process::id(),
            port_was_busy,
        };
        let announced = announce::announce(&Running { url: ready.url.clone(), token: ready.token.clone(), pid: ready.pid });
        Ok(Self { ready, server, folder, announced })
    }

    /// Returns where it is ready.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Serves until the order to end, drains for 2 s, and removes a temporary folder.
    pub async fn run(self, orders: &Orders) -> Drained {
        let drained = self.server.serve(orders).await;
        drop(self.announced);
        drop(self.folder);
        drained
    }
}

async fn bind(port: Option<u16>, state: State) -> Result<(Server, bool), StartError> {
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match Server::bind(at(port.unwrap_or(PORT)), state.clone()).await {
        Ok(server) => Ok((server, false)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match port {
            Some(port) => Err(StartError::Usage(format!("port {port} is busy; --port 0 takes a free one"))),
            None => Ok((Server::bind(at(0), state).await.map_err(failed("no free port"))?, true)),
        },
        Err(error) => Err(failed("the listener")(error)),
    }
}
