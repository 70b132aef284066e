//! An engine served inside this process: the same requests and answers as from a server, and the same code on our side.

use onward::model::MacKeys;
use onward::{Config, Onward};
use onward_api::client::{Client, Local};
use onward_server::{State, router};

use crate::failure::{Failure, Result};

/// Opens an engine and makes a client of it. Without keys, those of the environment are used.
///
/// # Errors
/// Exit 2: the URL or a key is malformed. Otherwise what the engine says.
pub(crate) async fn open(url: &str, keys: Option<MacKeys>) -> Result<Client> {
    let keys = match keys {
        Some(keys) => keys,
        None => MacKeys::none(),
    };
    let onward = Onward::connect(Config::new(url).with_keys(keys)).await?;
    Ok(Client::local(Local::new(router(State::embedded(onward))), None)?)
}
