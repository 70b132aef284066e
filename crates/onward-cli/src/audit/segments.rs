//! Segments and holds: the past of a chain leaves the database, and comes back.

use std::time::Duration;

use clap::{Args, Subcommand};
use onward::time::{Clock, Timestamp};
use onward_api::client::{Client, Request, segment};
use onward_api::header;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::args::EXIT_CODES;
use crate::deed::Deed;
use crate::failure::Result;
use crate::output::Out;
use crate::pages::{Columns, Writer};
use crate::wait;

/// How long the work on a segment may take.
pub(super) const LONG: Duration = Duration::from_secs(3_600);
/// How often it is asked how far the work is.
const ASK_EVERY: Duration = Duration::from_millis(250);

const COLUMNS: Columns =
    &[("FROM", "from"), ("TO", "to"), ("STATE", "state"), ("STEPS", "gen"), ("SINCE", "changed_at"), ("UNTIL", "until"), ("DONE", "done")];
const HOLD_COLUMNS: Columns = &[("ID", "id"), ("FROM", "from"), ("TO", "to"), ("AT", "at"), ("BY", "by"), ("REASON", "reason")];

/// Lists segments.
#[derive(Args, Debug)]
pub(crate) struct List {
    /// The chain
    chain: String,
}

/// Why, and whether only to look.
#[derive(Args, Debug)]
pub(crate) struct Why {
    /// Why; kept in the chain itself
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Only look whether it could be done
    #[arg(long)]
    dry_run: bool,
}

/// Seals.
#[derive(Args, Debug)]
pub(crate) struct Seal {
    /// The chain
    chain: String,
    /// The last entry [default: the newest, at most 1048576 entries]
    #[arg(long, value_name = "SEQ")]
    to: Option<u64>,
    #[command(flatten)]
    why: Why,
}

/// Archives.
#[derive(Args, Debug)]
pub(crate) struct Archive {
    /// The chain
    chain: String,
    /// The first entry of the segment
    from: u64,
    #[command(flatten)]
    why: Why,
}

/// Purges.
#[derive(Args, Debug)]
pub(crate) struct Purge {
    /// The chain
    chain: String,
    /// The first entry of the segment
    from: u64,
    /// The file of a purged segment, instead of its entries
    #[arg(long)]
    file: bool,
    #[command(flatten)]
    deed: Deed,
}

/// Restores.
#[derive(Args, Debug)]
pub(crate) struct Restore {
    /// The chain
    chain: String,
    /// The first entry of the segment
    from: u64,
    /// Until when; then they may be purged again
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    #[command(flatten)]
    why: Why,
}

/// Heals.
#[derive(Args, Debug)]
pub(crate) struct Heal {
    /// The chain
    chain: String,
    #[command(flatten)]
    why: Why,
}

/// Verbs on holds.
#[derive(Debug, Subcommand)]
pub(crate) enum Hold {
    /// Place a hold: a running purge stops within one batch
    #[command(before_help = "Examples:\n  onward audit hold place orders --reason 'case 4711'\n  onward audit hold place orders --from 100 --to 900 --reason 'case 4711'\n  onward audit hold place orders --from 100 --to 900 --reason 'case 4711' -o json\n", after_help = EXIT_CODES)]
    Place {
        /// The chain
        chain: String,
        /// The first entry [default: 1]
        #[arg(long, value_name = "SEQ")]
        from: Option<u64>,
        /// The last entry [default: all that come, too]
        #[arg(long, value_name = "SEQ")]
        to: Option<u64>,
        #[command(flatten)]
        why: Why,
    },
    /// List the holds
    #[command(before_help = "Examples:\n  onward audit hold ls orders\n  onward audit hold ls orders -o json\n  onward --url sqlite:./app.db audit hold ls orders\n", after_help = EXIT_CODES)]
    Ls {
        /// The chain
        chain: String,
    },
    /// End a hold
    #[command(before_help = "Examples:\n  onward audit hold release orders 3f9a0c1d2e4b --reason 'case closed' --yes\n  onward audit hold release orders 3f9a0c1d2e4b --reason 'case closed'      asks first\n  onward --url sqlite:./app.db audit hold release orders 3f9a0c1d2e4b --reason 'case closed' --yes\n", after_help = EXIT_CODES)]
    Release {
        /// The chain
        chain: String,
        /// The hold
        id: String,
        #[command(flatten)]
        deed: Deed,
    },
}

fn path(chain: &str, rest: &str) -> String {
    format!("chains/{}/{rest}", segment(chain))
}

/// Asks for an act for a reason.
fn act(path: String, reason: &str, dry_run: bool, mut members: Map<String, Value>) -> Request {
    members.retain(|_, value| !value.is_null());
    if dry_run {
        members.insert("dry_run".to_owned(), Value::from(true));
    }
    let reason = if dry_run && reason.is_empty() { "a look" } else { reason };
    Request::post(path).text_header(header::REASON, reason).json(&Value::Object(members)).timeout(LONG)
}

/// Does long work on a segment, and shows how far it is meanwhile.
async fn work(client: &Client, out: &Out, chain: &str, from: u64, request: Request) -> Result<()> {
    #[derive(Deserialize)]
    struct Row {
        from: u64,
        to: u64,
        done: u64,
    }
    let clock = Clock::system();
    let mut progress = out.progress("entries");
    let place = path(chain, &format!("segments/{from}"));
    let watch = async {
        loop {
            wait::pause(&clock, ASK_EVERY).await;
            // Who cannot be told how far it is waits all the same.
            let asked = client.call(Request::get(place.clone())).await;
            if let Ok(Row { from, to, done }) = asked.and_then(|answer| answer.json()) {
                progress.at(done, to + 1 - from);
            }
        }
    };
    let answer = tokio::select! {
        answer = client.call(request) => answer?,
        () = watch => return Ok(()),
    };
    out.record(&answer.body)
}

async fn table(client: &Client, out: &Out, columns: Columns, request: Request) -> Result<()> {
    #[derive(Deserialize)]
    struct Page {
        items: Vec<Box<RawValue>>,
    }
    let page: Page = client.call(request).await?.json()?;
    let mut writer = Writer::new(columns, out);
    writer.items(&page.items)?;
    writer.end(&Value::Null)
}

impl List {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        #[derive(Deserialize)]
        struct Page {
            items: Vec<Box<RawValue>>,
            next_after: Option<u64>,
        }
        let (mut writer, mut after) = (Writer::new(COLUMNS, out), None);
        loop {
            let page: Page = client.call(Request::get(path(&self.chain, "segments")).maybe_query("after", after)).await?.json()?;
            writer.items(&page.items)?;
            after = page.next_after;
            if after.is_none() {
                return writer.end(&Value::Null);
            }
        }
    }
}

impl Seal {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let members = Map::from_iter([("to_seq".to_owned(), json!(self.to))]);
        let answer = client.call(act(path(&self.chain, "segments"), &self.why.reason, self.why.dry_run, members)).await?;
        out.record(&answer.body)
    }
}

impl Archive {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let place = path(&self.chain, &format!("segments/{}/archive", self.from));
        work(client, out, &self.chain, self.from, act(place, &self.why.reason, self.why.dry_run, Map::new())).await
    }
}

impl Purge {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let dry = self.deed.is_dry(out);
        if !dry {
            let what = if self.file { "the only copy of these entries" } else { "entries" };
            self.deed.confirm(out, format_args!("this deletes {what} of segment {} of {}", self.from, self.chain))?;
        }
        let members = if self.file { Map::from_iter([("file".to_owned(), json!(true))]) } else { Map::new() };
        let place = path(&self.chain, &format!("segments/{}/purge", self.from));
        work(client, out, &self.chain, self.from, act(place, self.deed.reason(), dry, members)).await
    }
}

impl Restore {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let members = Map::from_iter([("until".to_owned(), json!(self.until))]);
        let place = path(&self.chain, &format!("segments/{}/restore", self.from));
        work(client, out, &self.chain, self.from, act(place, &self.why.reason, self.why.dry_run, members)).await
    }
}

impl Heal {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let answer = client.call(act(path(&self.chain, "heal"), &self.why.reason, self.why.dry_run, Map::new())).await?;
        out.record(&answer.body)
    }
}

impl Hold {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        match self {
            Self::Place { chain, from, to, why } => {
                let members = Map::from_iter([("from_seq".to_owned(), json!(from)), ("to_seq".to_owned(), json!(to))]);
                let answer = client.call(act(path(&chain, "holds"), &why.reason, why.dry_run, members)).await?;
                out.record(&answer.body)
            }
            Self::Ls { chain } => table(client, out, HOLD_COLUMNS, Request::get(path(&chain, "holds"))).await,
            Self::Release { chain, id, deed } => {
                if deed.is_dry(out) {
                    return table(client, out, HOLD_COLUMNS, Request::get(path(&chain, "holds"))).await;
                }
                deed.confirm(out, format_args!("what the hold {id} keeps may be purged then"))?;
                let request = Request::delete(path(&chain, &format!("holds/{}", segment(&id))));
                let answer = client.call(request.text_header(header::REASON, deed.reason())).await?;
                out.record(&answer.body)
            }
        }
    }
}
