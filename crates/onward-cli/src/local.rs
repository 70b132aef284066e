//! An engine served inside this process: the same requests and answers as from a server, and the same code on our side.

use onward::model::MacKeys;
use onward::{Config, Onward};
use onward_api::client::{Client, Local};
use onward_server::{Configuration, State, router};

use crate::failure::Result;

/// Opens an engine and makes a client of it.
///
/// # Errors
/// Exit 2: the URL, or a key in the environment, is malformed. Otherwise what the engine says.
pub(crate) async fn open(url: &str) -> Result<Client> {
    connect(Config::new(url).with_environment()?).await
}

/// Opens an engine to judge what is there: nothing is made. Without a key, that of the environment is used.
///
/// # Errors
/// As [`open`]; exit 4: there is no such file.
pub(crate) async fn open_existing(url: &str, keys: Option<MacKeys>) -> Result<Client> {
    let config = Config::new(url).with_environment()?.with_existing_file();
    connect(match keys {
        Some(keys) => config.with_keys(keys),
        None => config,
    })
    .await
}

/// Opens an engine as the configuration of a server says that it is kept: archive, keys and retention.
///
/// # Errors
/// As [`open`]; exit 2: the retention needs what the configuration does not have.
pub(crate) async fn open_configured(url: &str, configuration: &Configuration) -> Result<Client> {
    connect(configuration.settings().engines(url)?).await
}

async fn connect(config: Config) -> Result<Client> {
    let onward = Onward::connect(config).await?;
    Ok(Client::local(Local::new(router(State::embedded(onward))), None)?)
}
