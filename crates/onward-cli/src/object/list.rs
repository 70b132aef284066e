//! `list`: all pages of one revision.

use clap::Args;
use onward_api::client::{Client, Request, segment};
use serde_json::Value;

use super::Which;
use crate::failure::Result;
use crate::output::{Format, Out};
use crate::pages::{Columns, Pages};

const COLUMNS: Columns = &[
    ("NAME", "name"),
    ("VERSION", "version"),
    ("REVISION", "revision"),
    ("TYPE", "content_type"),
    ("UPDATED", "updated_at"),
    ("LABELS", "labels"),
];

/// Lists objects.
#[derive(Args, Debug)]
pub(crate) struct List {
    /// The kind of objects
    kind: String,
    #[command(flatten)]
    which: Which,
    /// At most so many
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

impl List {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let request = self
            .which
            .ask(Request::get(format!("objects/{}", segment(&self.kind))))
            // The table does not show payloads.
            .maybe_query("payload", (out.format() == Format::Table).then_some(false));
        let end: Value = Pages::new(request, COLUMNS, self.limit).write(client, out).await?;
        if let Some(revision) = end.get("revision") {
            out.detail(format_args!("as of revision {revision}"));
        }
        Ok(())
    }
}
