//! `touch`: a new version of the same content, with another time to live or other labels if they are named.

use clap::Args;
use onward_api::client::Request;

use super::Place;
use super::write::{Common, Extras, send};
use crate::failure::Result;
use crate::output::Out;
use crate::target::Target;

/// Touches an object.
#[derive(Args, Debug)]
pub(crate) struct Touch {
    #[command(flatten)]
    place: Place,
    /// Only if the object still is at this version
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
    #[command(flatten)]
    extras: Extras,
    #[command(flatten)]
    common: Common,
}

impl Touch {
    pub(super) async fn run(self, target: &Target, out: &Out) -> Result<()> {
        let request = self.extras.add(Request::patch(self.place.path()?).query("touch", true))?;
        let request = match self.if_version {
            Some(version) => request.header("if-match", &format!("\"{version}\"")),
            None => request,
        };
        send(request, &self.place, &self.common, target, out).await
    }
}
