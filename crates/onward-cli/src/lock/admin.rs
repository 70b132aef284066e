//! What operators do with locks: look at all of them, take one from its holder, switch locking off and on.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::{Args, ValueEnum};
use onward::time::Clock;
use onward_api::client::{Client, Request};
use onward_api::locks::{Broken, Locking, Status, SwitchRecord, Switched};
use onward_api::{Code, header};
use serde_json::json;

use super::path;
use crate::deed::Deed;
use crate::failure::{Failure, Result};
use crate::output::{Format, Out, Table};
use crate::pages::{Columns, Pages};
use crate::wait;

/// The path of the kill switch.
const SWITCH: &str = "admin/lock-switch";
/// How often a watched list is looked at.
const WATCH: Duration = Duration::from_secs(2);

const COLUMNS: Columns = &[
    ("KEY", "key"),
    ("HOLDER", "holder"),
    ("TOKEN", "token"),
    ("SINCE", "since"),
    ("REMAINING_MS", "remaining_ms"),
    ("WAITERS", "waiters"),
];

/// Lists locks that are held.
#[derive(Args, Debug)]
pub(crate) struct Ls {
    /// Only keys that begin so
    prefix: Option<String>,
    /// At most so many
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Look again every 2s until Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// Looks at a lock, or at locking as a whole.
#[derive(Args, Debug)]
pub(crate) struct Look {
    /// The key; without one: whether locking is on, who says so, and how the engine is
    key: Option<String>,
}

/// Takes a lock from its holder.
#[derive(Args, Debug)]
pub(crate) struct Break {
    /// The key
    key: String,
    #[command(flatten)]
    deed: Deed,
    /// Leave no entry in the audit trail
    #[arg(long)]
    no_audit: bool,
}

/// Switches locking off or on, in every process on the same store.
#[derive(Args, Debug)]
pub(crate) struct Switch {
    /// The position
    #[arg(value_enum, value_name = "on|off")]
    to: Position,
    #[command(flatten)]
    deed: Deed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Position {
    /// Locks are taken
    On,
    /// No lock is taken: commands and bodies run without one, and say so
    Off,
}

impl Ls {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let clock = Clock::system();
        loop {
            if self.watch && out.format() == Format::Table && std::io::stdout().is_terminal() {
                out.bytes(b"\x1b[H\x1b[2J")?;
            }
            let request = Request::get("locks").maybe_query("prefix", self.prefix.as_deref());
            Pages::new(request, COLUMNS, self.limit).write(client, out).await?;
            if !self.watch {
                return Ok(());
            }
            wait::pause(&clock, WATCH).await;
        }
    }
}

impl Look {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let Some(key) = self.key else { return locking(client, out).await };
        let answer = client.call(Request::get(path(&key))).await?;
        out.record(&answer.body)?;
        if answer.json::<Status>()?.state == "held" { Ok(()) } else { Err(Failure::Exit(Code::NotFound.exit())) }
    }
}

impl Break {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        if self.deed.is_dry(out) {
            return Look { key: Some(self.key) }.run(client, out).await;
        }
        self.deed.confirm(out, format_args!("this takes the lock from whoever holds it, and refuses that holder's later writes"))?;
        let request = Request::delete(path(&self.key))
            .query("break", true)
            .maybe_query("audit", self.no_audit.then_some(false))
            .text_header(header::REASON, self.deed.reason());
        let answer = client.call(request).await?;
        out.record(&answer.body)?;
        if answer.json::<Broken>()?.outcome == "broken" { Ok(()) } else { Err(Failure::Exit(Code::NotFound.exit())) }
    }
}

impl Switch {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        if self.deed.is_dry(out) {
            return locking(client, out).await;
        }
        let off = self.to == Position::Off;
        if off {
            self.deed.confirm(out, format_args!("this switches locking off for every process on this store"))?;
        }
        let body = json!({"enabled": !off, "reason": self.deed.reason()});
        let answer = client.call(Request::put(SWITCH).json(&body)).await?;
        if out.format() != Format::Table {
            return out.record(&answer.body);
        }
        let Switched { old, new } = answer.json()?;
        let mut table = Table::default();
        table.row(["old".to_owned(), old.as_ref().map_or_else(|| "on  never set".to_owned(), spell)]);
        table.row(["new".to_owned(), spell(&new)]);
        out.bytes(table.to_string().as_bytes())
    }
}

/// Shows whether locking is on, who says so, and how its engine is.
async fn locking(client: &Client, out: &Out) -> Result<()> {
    let answer = client.call(Request::get(SWITCH)).await?;
    if out.format() != Format::Table {
        return out.record(&answer.body);
    }
    let all: Locking = answer.json()?;
    let word = |on: bool| if on { "on" } else { "off" }.to_owned();
    let mut table = Table::default();
    table.row(["locking".to_owned(), format!("{}  decided by: {}", word(all.enabled), all.source)]);
    table.row(["configuration".to_owned(), word(all.configured)]);
    table.row(["switch".to_owned(), all.live.as_ref().map_or_else(|| "never set".to_owned(), spell)]);
    let latency = all.latency_us.map_or_else(String::new, |us| format!("  answered in {us} us"));
    table.row(["engine".to_owned(), format!("{}  {}{latency}", all.engine, all.state)]);
    table
        .row(["defaults".to_owned(), format!("a lease of {} ms, a wait of {} ms at most a call", all.default_ttl_ms, all.longest_wait_ms)]);
    out.bytes(table.to_string().as_bytes())
}

fn spell(record: &SwitchRecord) -> String {
    let SwitchRecord { enabled, by, at, reason } = record;
    format!("{}  {at}  {}  {reason}", if *enabled { "on" } else { "off" }, by.as_deref().unwrap_or("-"))
}
