//! `query` and `tail`.

use clap::{Args, ValueEnum};
use onward::time::Timestamp;
use onward_api::client::{Client, Request};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::entries;
use crate::failure::Result;
use crate::follow::Follow;
use crate::output::{Format, Out, cell, plain};
use crate::pages::{Columns, Pages, Writer};

const COLUMNS: Columns = &[("SEQ", "seq"), ("AT", "at"), ("KIND", "kind"), ("ACTOR", "actor"), ("RESOURCE", "resource"), ("DATA", "data")];

/// Which way to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Order {
    /// Oldest first
    Asc,
    /// Newest first
    Desc,
}

/// Finds entries.
#[derive(Args, Debug)]
pub(crate) struct Query {
    /// The chain
    chain: String,
    /// From this entry on
    #[arg(long, value_name = "SEQ")]
    from: Option<u64>,
    /// Up to this entry
    #[arg(long, value_name = "SEQ")]
    to: Option<u64>,
    /// Not before this time
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// Only this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only this actor
    #[arg(long)]
    actor: Option<String>,
    /// Only this resource
    #[arg(long)]
    resource: Option<String>,
    /// Which way
    #[arg(long, value_enum, default_value = "asc")]
    order: Order,
    /// At most so many
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

/// Shows the newest entries.
#[derive(Args, Debug)]
pub(crate) struct Tail {
    /// The chain
    chain: String,
    /// Go on as entries are appended
    #[arg(short, long)]
    follow: bool,
    /// Begin with this entry [default: the newest 10; with -f: the next]
    #[arg(long, value_name = "SEQ")]
    from: Option<u64>,
}

impl Query {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let request = Request::get(entries(&self.chain))
            .maybe_query("from_seq", self.from)
            .maybe_query("to_seq", self.to)
            .maybe_query("since", self.since)
            .maybe_query("until", self.until)
            .maybe_query("kind", self.kind.as_deref())
            .maybe_query("actor", self.actor.as_deref())
            .maybe_query("resource", self.resource.as_deref())
            .query("order", if self.order == Order::Asc { "asc" } else { "desc" });
        Pages::new(request, COLUMNS, self.limit).write(client, out).await.map(|_| ())
    }
}

impl Tail {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let request = Request::get(entries(&self.chain)).maybe_query("from_seq", self.from);
        if self.follow {
            return follow(request, client, out).await;
        }
        if self.from.is_some() {
            return Pages::new(request.query("order", "asc"), COLUMNS, None).write(client, out).await.map(|_| ());
        }
        #[derive(Deserialize)]
        struct Page {
            items: Vec<Box<RawValue>>,
        }
        let mut newest: Page = client.call(request.query("order", "desc").query("limit", 10)).await?.json()?;
        newest.items.reverse();
        let mut writer = Writer::new(COLUMNS, out);
        writer.items(&newest.items)?;
        writer.end(&Value::Null)
    }
}

async fn follow(request: Request, client: &Client, out: &Out) -> Result<()> {
    let mut follow = Follow::connect(client, request).await?;
    loop {
        let event = follow.next(out).await?;
        if event.id.is_none() {
            continue;
        }
        if out.stream_format() != Format::Table {
            out.json_line(&event.data)?;
            continue;
        }
        let entry: Value = serde_json::from_str(&event.data).unwrap_or_default();
        let cells: Vec<String> = COLUMNS.iter().map(|(_, member)| plain(&cell(entry.get(*member).unwrap_or(&Value::Null)))).collect();
        out.line(&cells.join("  "))?;
    }
}
