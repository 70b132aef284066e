//! `list`: all pages of one revision.

use clap::Args;
use onward_api::client::{Client, Request, segment};
use serde_json::Value;

use super::Namespace;
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
    namespace: Namespace,
    /// Only names that begin so
    #[arg(long)]
    prefix: Option<String>,
    /// Only objects with this label, or with any value of it; may be repeated, and all must hold
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// At most so many
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

impl List {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let request = Request::get(format!("objects/{}", segment(&self.kind)))
            .maybe_query("namespace", self.namespace.namespace.as_deref())
            .maybe_query("prefix", self.prefix.as_deref())
            .queries("label", &self.label)
            // The table does not show payloads.
            .maybe_query("payload", (out.format() == Format::Table).then_some(false));
        let end: Value = Pages::new(request, COLUMNS, self.limit).write(client, out).await?;
        if let Some(revision) = end.get("revision") {
            out.detail(format_args!("as of revision {revision}"));
        }
        Ok(())
    }
}
