//! An engine served inside this process: the same requests and answers as from a server.

use onward::model::MacKeys;
use onward_api::client::{Client, Effect, Problem};
use onward_api::Code;

use crate::failure::Result;

/// Opens an engine and makes a client of it.
///
/// # Errors
/// Exit 2: the URL is malformed. Otherwise what the engine says.
pub(crate) async fn open(url: &str, keys: Option<MacKeys>) -> Result<Client> {
    let _ = (url, keys);
    Err(Problem::of(Code::Unsupported, Effect::NotApplied, "not built yet").into())
}
