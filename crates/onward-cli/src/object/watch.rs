//! `watch`: every commit once, in order (INV-4).

use clap::Args;
use onward_api::client::{Client, Request};
use serde_json::Value;

use super::Which;
use crate::failure::Result;
use crate::follow::Follow;
use crate::output::{Format, Out, cell, plain};

/// Follows changes.
#[derive(Args, Debug)]
pub(crate) struct Watch {
    /// Only objects of this kind
    kind: Option<String>,
    #[command(flatten)]
    which: Which,
    /// Begin after this revision [default: now]
    #[arg(long, value_name = "REVISION")]
    from: Option<u64>,
}

impl Watch {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let request = self
            .which
            .ask(Request::get("watch"))
            .maybe_query("kind", self.kind.as_deref())
            .query("from", self.from.map_or_else(|| "now".to_owned(), |revision| revision.to_string()));
        let mut follow = Follow::connect(client, request).await?;
        loop {
            let event = follow.next(out).await?;
            match (event.name.as_str(), out.stream_format()) {
                ("change", Format::Table) => rows(&event.data, out)?,
                ("change", _) => out.json_line(&event.data)?,
                _ => {}
            }
        }
    }
}

fn rows(data: &str, out: &Out) -> Result<()> {
    let event: Value = serde_json::from_str(data).unwrap_or_default();
    let show = |value: &Value, name: &str| plain(&cell(value.get(name).unwrap_or(&Value::Null)));
    for change in event.get("changes").and_then(Value::as_array).into_iter().flatten() {
        let (revision, op, version) = (show(&event, "revision"), show(change, "op"), show(change, "version"));
        out.line(&format!("{revision}  {op}  {}/{}  version {version}", show(change, "kind"), show(change, "name")))?;
    }
    Ok(())
}
