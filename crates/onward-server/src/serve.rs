//! `onward serve`: check, open the engines, listen, say that it is ready; refuse what would be unsafe, with the way out.

use std::sync::Arc;
use std::time::Duration;

use onward::audit::Means;
use onward::observe::Grade;
use onward::{Config, Onward, Url};
use serde::Serialize;

use crate::config::{Configuration, Settings};
use crate::listen::{Drained, Server};
use crate::metrics::Metrics;
use crate::orders::Orders;
use crate::start::{StartError, failed};
use crate::state::{Hosts, State};
use crate::tls::Tls;
use crate::wait::sleep;
use crate::{log, notify};

/// The writer moves, or somebody has to look.
pub(crate) const STUCK: Duration = Duration::from_secs(10);

/// Where a server is ready.
#[derive(Clone, Debug, Serialize)]
pub struct Serving {
    /// The base of all routes, without `/v1`, of each address.
    pub urls: Vec<String>,
    /// Where the metrics are open to everybody, if they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_url: Option<String>,
    /// The process.
    pub pid: u32,
}

/// A server that listens, as its configuration says.
#[derive(Debug)]
pub struct Serve {
    server: Server,
    state: State,
    serving: Serving,
}

impl Serve {
    /// Checks the configuration, opens the engines and listens; nothing is served before [`Serve::run`].
    ///
    /// # Errors
    /// [`StartError::Usage`]: what would be unsafe, or cannot be: the message says why and what to do. [`StartError::Failed`]: an engine or
    /// an address is away.
    pub async fn start(configuration: &Configuration) -> Result<Self, StartError> {
        let settings = configuration.settings();
        log::install(settings.log);
        refuse(configuration)?;
        let tls = tls(settings)?;
        let metrics = Arc::new(Metrics::default());
        let onward = open(settings, metrics.clone()).await?;
        let state = State::listed(onward, &settings.tokens, metrics)
            .with_limits(settings.limits)
            .with_timeouts(settings.timeouts)
            .with_rate(settings.rate)
            .requiring(&settings.ready_requires);
        if !state.has_tokens().await? {
            return Err(StartError::Usage(
                "there is no token, so nobody could call: run `onward token create --role admin --scope '*' --ttl 90d --url STORE` \
                 with the URL of the store (it needs no server), or list one in auth.tokens"
                    .to_owned(),
            ));
        }
        let state = if settings.cache_url.is_none() { state.without_cache() } else { state };
        let state = if settings.cache_unleased { state.with_unleased_fills() } else { state };
        let hosts = if settings.hosts.is_empty() { Hosts::Any } else { Hosts::Named(settings.hosts.clone()) };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let bound = Server::bind_all(&settings.listen, tls, hosts, state.clone()).await;
        let server = bound.map_err(failed("cannot listen"))?.with_shutdown(settings.shutdown);
        let server = match settings.metrics_listen {
            Some(address) => server.with_open_metrics(address).await.map_err(failed("cannot listen for /metrics"))?,
            None => server,
        };
        let metrics_url = server.metrics_address().map(|address| format!("http://{address}/metrics"));
        let urls = server.addresses().into_iter().map(|address| format!("{scheme}://{address}")).collect();
        Ok(Self { server, state, serving: Serving { urls, metrics_url, pid: std::process::id() } })
    }

    /// Returns where it is ready.
    pub fn serving(&self) -> &Serving {
        &self.serving
    }

    /// Looks at the certificate's files this often instead of every 30 s.
    #[must_use]
    pub fn with_look(mut self, every: Duration) -> Self {
        self.server = self.server.with_look(every);
        self
    }

    /// Looks this often what is due in the life of the chains, instead of every 30 s.
    #[must_use]
    pub fn with_chores(mut self, every: Duration) -> Self {
        self.server = self.server.with_chores(every);
        self
    }

    /// Serves until the order to end, then drains.
    pub async fn run(self, orders: &Orders) -> Drained {
        log::info(&format!("ready: {}", self.serving.urls.join(" ")));
        notify::tell("READY=1");
        let ending = async {
            orders.ended().await;
            log::info("ending: not ready, then draining");
            notify::tell("STOPPING=1");
            std::future::pending().await
        };
        tokio::select! {
            // In this order: a drain that has nothing to wait for must not end before it was told.
            biased;
            never = ending => never,
            drained = self.server.serve(orders) => drained,
            never = show_life(&self.state) => never,
        }
    }
}

/// Shows the service manager that we live, as long as we do.
async fn show_life(state: &State) -> Drained {
    let Some(rhythm) = notify::rhythm() else { return std::future::pending().await };
    loop {
        if is_alive(state) {
            notify::tell("WATCHDOG=1");
        }
        sleep(rhythm).await;
    }
}

/// Tells whether the writer moves. That the runtime does, whoever gets the answer sees.
pub(crate) fn is_alive(state: &State) -> bool {
    state.onward().store().queue().at_work() < STUCK
}

/// Checks a configuration as a start would, and starts nothing: files, addresses and engines too, unless `reach` says no.
///
/// # Errors
/// As [`Serve::start`].
pub async fn check(configuration: &Configuration, reach: Reach) -> Result<(), StartError> {
    let settings = configuration.settings();
    refuse(configuration)?;
    tls(settings)?;
    if reach == Reach::Offline {
        return Ok(());
    }
    for address in &settings.listen {
        match tokio::net::TcpListener::bind(address).await {
            // It may well be the server itself that has it.
            Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
                return Err(StartError::Usage(format!("cannot listen on {address}: {error}")));
            }
            _ => {}
        }
    }
    let mut config = Config::new(settings.store_url.clone()).with_existing_file();
    if let Some(url) = &settings.locks_url {
        config = config.with_locks_at(url.clone());
    }
    if let Some(url) = &settings.cache_url {
        config = config.with_cache_at(url.clone()).with_cache_layout(settings.cache_layout.parse()?);
    }
    // A folder is made by the server, as who it runs.
    if let Some(url) = settings.archive_url.as_ref().filter(|url| !url.is_file()) {
        config = config.with_archive_at(url.clone());
    }
    match Onward::connect(config).await {
        Ok(onward) => match onward.check().await?.into_iter().find(|finding| finding.grade == Grade::Failure) {
            Some(bad) => Err(StartError::Usage(format!("{}: {}; {}", bad.check, bad.found, bad.fix.unwrap_or_default()))),
            None => Ok(()),
        },
        // The first start makes it.
        Err(error) if error.kind() == onward::Kind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// How far a check goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The configuration and its files.
    Offline,
    /// Addresses and engines too.
    Online,
}

/// Refuses what each value allows and all together do not.
fn refuse(configuration: &Configuration) -> Result<(), StartError> {
    let settings = configuration.settings();
    let place = |key: &str| configuration.origin(key).map(ToString::to_string).unwrap_or_default();
    let refuse = |message: String| Err(StartError::Usage(message));
    let open = settings.listen.iter().find(|address| !address.ip().is_loopback());
    if let Some(address) = open.filter(|_| settings.tls.cert.is_none() && !settings.insecure_plaintext) {
        return refuse(format!(
            "server.listen ({}) has {address}: beyond loopback, tokens and data would cross the network in the clear; set \
             server.tls.cert_file and key_file, or say --insecure-plaintext where something else encrypts",
            place("server.listen")
        ));
    }
    if settings.tls.cert.is_some() != settings.tls.key.is_some() {
        return refuse("server.tls.cert_file and server.tls.key_file go together: one of them is missing".to_owned());
    }
    if settings.store_url.is_memory() && !settings.allow_memory {
        return refuse(format!(
            "store.url ({}) is memory: everything is lost at the end, and no other process sees the locks; use sqlite:PATH, or set \
             server.allow.memory = true",
            place("store.url")
        ));
    }
    if settings.locks_url.as_ref().is_some_and(Url::is_memory) && !settings.allow_memory {
        return refuse(format!(
            "locks.url ({}) is memory: no other process sees the locks; use redis://HOST, or set server.allow.memory = true",
            place("locks.url")
        ));
    }
    let means =
        Means { archive: settings.archive_url.is_some(), keys: !settings.audit_key.is_empty(), signing: settings.signing_key.is_some() };
    if let Err(error) = settings.policies.check(means) {
        return refuse(format!("{}: set audit.archive, audit.key and audit.signing_key, or take the policy out", error.message()));
    }
    if settings.cache_url.as_ref().is_some_and(Url::is_memory) && settings.cache_scope != "process" {
        return refuse(format!(
            "cache.url ({}) is memory: each process has a cache of its own; use redis://HOST, or say so with cache.scope = \"process\"",
            place("cache.url")
        ));
    }
    Ok(())
}

fn tls(settings: &Settings) -> Result<Option<Tls>, StartError> {
    match (&settings.tls.cert, &settings.tls.key) {
        (Some(cert), Some(key)) => {
            let tls = Tls::open(cert.clone(), key.clone()).map_err(|why| StartError::Usage(format!("server.tls: {why}")))?;
            Ok(Some(tls))
        }
        _ => Ok(None),
    }
}

async fn open(settings: &Settings, metrics: Arc<Metrics>) -> Result<Onward, StartError> {
    let config = settings.engines(settings.store_url.clone())?.with_observer(metrics);
    Ok(Onward::connect(config).await?)
}
