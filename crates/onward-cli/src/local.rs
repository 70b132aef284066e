//! An engine served inside this process: the same requests and answers as from a server, and the same code on our side.

use onward::model::MacKeys;
use onward::{Config, Onward};
use onward_api::client::{Client, Local};
use onward_server::{State, router};

use crate::failure::Result;

/// Opens an engine and makes a client of it. Without a key, that of the environment is used.
///
/// # Errors
/// Exit 2: the URL or a key is malformed. Otherwise what the engine says.
pub(crate) async fn open(url: &str, keys: Option<MacKeys>) -> Result<Client> {
    let config = Config::new(url).with_environment()?;
    let config = match keys {
        Some(keys) => config.with_keys(keys),
        None => config,
    };
    let onward = Onward::connect(config).await?;
    Ok(Client::local(Local::new(router(State::embedded(onward))), None)?)
}
