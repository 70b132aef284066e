//! What operators do with locks: look at all of them, take one from its holder, switch locking off and on.

use std::io::{BufRead as _, IsTerminal as _};
use std::time::Duration;

use clap::{Args, ValueEnum};
use onward::time::Clock;
use onward_api::client::{Client, Request, header_text};
use onward_api::locks::{Broken, Locking, Status, SwitchRecord, Switched};
use onward_api::{Code, header};
use serde_json::json;

use super::path;
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
    /// Why; kept in the audit trail
    #[arg(long, value_name = "TEXT", required_unless_present = "dry_run")]
    reason: Option<String>,
    /// Yes, break it
    #[arg(long)]
    yes: bool,
    /// Leave no entry in the audit trail
    #[arg(long)]
    no_audit: bool,
    /// Only show whom it would be taken from
    #[arg(long)]
    dry_run: bool,
}

/// Switches locking off or on, in every process on the same store.
#[derive(Args, Debug)]
pub(crate) struct Switch {
    /// The position
    #[arg(value_enum, value_name = "on|off")]
    to: Position,
    /// Why; kept in the audit trail
    #[arg(long, value_name = "TEXT", required_unless_present = "dry_run")]
    reason: Option<String>,
    /// Yes, switch it off
    #[arg(long)]
    yes: bool,
    /// Only show how it stands
    #[arg(long)]
    dry_run: bool,
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
        if self.dry_run {
            out.say(format_args!("this would be broken; nothing was done"));
            return Look { key: Some(self.key) }.run(client, out).await;
        }
        if !self.yes && !confirmed(out, format_args!("break this lock? its holder's later writes are refused [y/N]")) {
            return Err(Failure::usage("this takes the lock from whoever holds it: look with --dry-run, then say --yes"));
        }
        let request = Request::delete(path(&self.key))
            .query("break", true)
            .maybe_query("audit", self.no_audit.then_some(false))
            .header(header::REASON, &header_text(self.reason.as_deref().unwrap_or_default()));
        let answer = client.call(request).await?;
        out.record(&answer.body)?;
        if answer.json::<Broken>()?.outcome == "broken" { Ok(()) } else { Err(Failure::Exit(Code::NotFound.exit())) }
    }
}

impl Switch {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        if self.dry_run {
            out.say(format_args!("nothing was done"));
            return locking(client, out).await;
        }
        let off = self.to == Position::Off;
        if off && !self.yes && !confirmed(out, format_args!("switch locking off, for every process on this store? [y/N]")) {
            return Err(Failure::usage("this switches locking off for every process on this store: say --yes"));
        }
        let body = json!({"enabled": !off, "reason": self.reason.unwrap_or_default()});
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

/// Asks the person at the terminal; without one the answer is no.
fn confirmed(out: &Out, question: std::fmt::Arguments<'_>) -> bool {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return false;
    }
    out.warn(question);
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    read.is_ok() && matches!(line.trim(), "y" | "Y" | "yes")
}
