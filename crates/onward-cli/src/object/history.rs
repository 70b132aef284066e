//! `history`: the changes of an object, the newest first.

use clap::Args;
use onward_api::client::{Client, Request};
use serde_json::Value;

use super::Place;
use crate::failure::Result;
use crate::output::{Format, Out};
use crate::pages::{Columns, Pages};

const COLUMNS: Columns =
    &[("REVISION", "revision"), ("VERSION", "version"), ("OP", "op"), ("AT", "at"), ("TYPE", "content_type"), ("LABELS", "labels")];

/// Tells the changes of an object.
#[derive(Args, Debug)]
pub(crate) struct History {
    #[command(flatten)]
    place: Place,
    /// At most so many
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
}

impl History {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let request = Request::get(self.place.path()?)
            .maybe_query("namespace", self.place.namespace.namespace.as_deref())
            .query("history", true)
            // The table does not show payloads.
            .maybe_query("payload", (out.format() == Format::Table).then_some(false));
        let end: Value = Pages::new(request, COLUMNS, self.limit).write(client, out).await?;
        if let Some(oldest) = end.get("oldest").filter(|oldest| **oldest != 0) {
            out.detail(format_args!("what came up to revision {oldest} is no longer kept"));
        }
        Ok(())
    }
}
