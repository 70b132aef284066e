//! `onward audit`: append to, read and verify chains.

mod checkpoint;
mod export;
mod import;
mod key;
mod maintain;
mod personal;
mod read;
mod segments;
mod verify;

pub(crate) use verify::streamed;

use clap::{Args, Subcommand};
use onward_api::client::{Client, Request, segment};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::args::EXIT_CODES;
use crate::failure::Result;
use crate::object::input;
use crate::output::Out;
use crate::target::{Otherwise, Target};

/// Verbs on chains.
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Append an entry; the answer is its place and hash
    #[command(before_help = "Examples:\n  onward audit append orders --kind order.refund --actor user:7 --resource order:42\n  onward audit append orders --kind order.refund --data refund.json --event-id refund-42\n  generate | onward audit append orders --kind report --data -\n  onward audit append orders --kind order.placed --personal buyer.json --subject user:7      what a redaction forgets\n", after_help = EXIT_CODES)]
    Append(Append),
    /// Show the newest entries, and follow
    #[command(before_help = "Examples:\n  onward audit tail orders\n  onward audit tail orders -f\n  onward audit tail orders -f --from 100 -o jsonl\n", after_help = EXIT_CODES)]
    Tail(read::Tail),
    /// Find entries
    #[command(before_help = "Examples:\n  onward audit query orders --actor user:7\n  onward audit query orders --kind order.refund --since 2026-01-01T00:00:00Z\n  onward audit query orders --from 100 --to 200 -o jsonl\n", after_help = EXIT_CODES)]
    Query(read::Query),
    /// Write a chain, or a range of it, as a file that anyone can check
    #[command(before_help = "Examples:\n  onward audit export orders > orders.ndjson\n  onward audit export orders --from 100 --to 200 > part.ndjson\n  onward audit export orders | python3 verify.py --export -\n", after_help = EXIT_CODES)]
    Export(export::Export),
    /// Make a chain of its export: the same entries, hashes, origin and head
    #[command(before_help = "Examples:\n  onward audit import orders orders.ndjson\n  onward --url sqlite:./old.db audit export orders | onward --url postgres://db/app audit import orders -\n  onward audit export orders | ONWARD_URL=http://localhost:9000 onward audit import orders -\n", after_help = EXIT_CODES)]
    Import(import::Import),
    /// Check a chain: every hash, link and MAC, and against a head saved elsewhere
    #[command(before_help = "Examples:\n  onward audit verify orders\n  onward audit verify orders --checkpoint head --save head      a head kept elsewhere shows a cut tail\n  onward --url sqlite:./app.db audit verify orders --key k1     by ourselves: trusts no server\n  onward audit verify --file orders.ndjson --key k1      an exported file: needs nothing else\n  onward audit verify --file entries.ndjson.zst --manifest manifest --vkey \"$VKEY\"      a file of an archive, by the folder alone\n", after_help = verify::EXIT_CODES)]
    Verify(verify::Verify),
    /// Get a signed checkpoint: what the chain is now, to be kept elsewhere
    #[command(before_help = "Examples:\n  onward audit checkpoint orders > orders.checkpoint\n  onward --url sqlite:./app.db audit checkpoint orders > orders.checkpoint\n  onward audit checkpoint orders --since orders.checkpoint --vkey \"$VKEY\" > newer      proves that nothing older changed\n", after_help = EXIT_CODES)]
    Checkpoint(checkpoint::Checkpoint),
    /// Prove that an entry is in a checkpoint
    #[command(before_help = "Examples:\n  onward audit inclusion orders 42 > proof.json\n  onward audit inclusion orders 42 --checkpoint orders.checkpoint > proof.json\n  onward audit inclusion orders 42 --checkpoint orders.checkpoint --vkey \"$VKEY\"\n  python3 verify.py --inclusion proof.json --checkpoint orders.checkpoint --vkey \"$VKEY\"\n", after_help = EXIT_CODES)]
    Inclusion(checkpoint::Inclusion),
    /// Forget personal data for good; the entries stay, and the chain verifies as before
    #[command(before_help = "Examples:\n  onward audit redact orders --subject user:7 --dry-run      counts what would go\n  onward audit redact orders --subject user:7 --reason 'request 4711' --yes\n  onward audit redact orders --through 500000 --reason 'ten years are over' --yes\n", after_help = EXIT_CODES)]
    Redact(personal::Redact),
    /// Show the personal data of an entry; the chain onward.admin tells who did
    #[command(before_help = "Examples:\n  onward audit personal orders 42\n  onward audit personal orders 42 -o json\n  onward --url sqlite:./app.db audit personal orders 42\n", after_help = EXIT_CODES)]
    Personal(personal::Personal),
    /// List segments of a chain's past
    #[command(before_help = "Examples:\n  onward audit segments orders\n  onward audit segments orders -o jsonl\n  onward --url sqlite:./app.db audit segments orders\n", after_help = EXIT_CODES)]
    Segments(segments::List),
    /// Seal the entries behind the last segment: what is archived and purged as one
    #[command(before_help = "Examples:\n  onward audit seal orders --reason 'end of the quarter'\n  onward audit seal orders --to 500000 --reason 'end of the quarter' --dry-run\n  onward --url sqlite:./app.db audit seal orders --reason nightly\n", after_help = EXIT_CODES)]
    Seal(segments::Seal),
    /// Write a sealed segment to the archive, and read it back
    #[command(before_help = "Examples:\n  onward audit archive orders 1 --reason retention\n  onward audit archive orders 1 --reason retention --dry-run\n  ONWARD__AUDIT__ARCHIVE=file:/mnt/archive onward --url sqlite:./app.db audit archive orders 1 --reason retention\n", after_help = EXIT_CODES)]
    Archive(segments::Archive),
    /// Delete the entries of an archived segment from the database; the proofs stay
    #[command(before_help = "Examples:\n  onward audit purge orders 1 --reason retention --yes\n  onward audit purge orders 1 --file --reason retention --yes      the file of a purged segment goes, too\n  onward audit purge orders 1 --dry-run\n", after_help = EXIT_CODES)]
    Purge(segments::Purge),
    /// Bring the entries of a purged segment back
    #[command(before_help = "Examples:\n  onward audit restore orders 1 --reason 'case 4711'\n  onward audit restore orders 1 --reason 'case 4711' --dry-run\n  onward audit restore orders 1 --until 2027-01-01T00:00:00Z --reason 'case 4711'\n", after_help = EXIT_CODES)]
    Restore(segments::Restore),
    /// Finish what dead workers left, and collect what nobody names
    #[command(before_help = "Examples:\n  onward audit heal orders --reason 'after the crash'\n  onward audit heal orders --reason look --dry-run\n  onward --url sqlite:./app.db audit heal orders --reason 'after the crash'\n", after_help = EXIT_CODES)]
    Heal(segments::Heal),
    /// Seal, archive, purge and delete what is due by the retention of the configuration
    #[command(before_help = "Examples:\n  onward audit maintain --dry-run      what is due, and nothing done\n  onward audit maintain --reason nightly\n  ONWARD__AUDIT__SEAL_AFTER=24h ONWARD__AUDIT__ARCHIVE_AFTER=0s onward --url sqlite:./app.db audit maintain\n", after_help = maintain::EXIT_CODES)]
    Maintain(maintain::Maintain),
    /// Keep a range from being purged, whatever the retention says
    #[command(subcommand)]
    Hold(segments::Hold),
    /// Make keys, and show what others need to check signatures
    #[command(subcommand)]
    Key(key::Key),
}

/// Appends an entry.
#[derive(Args, Debug)]
pub(crate) struct Append {
    /// The chain
    chain: String,
    /// What happened
    #[arg(long)]
    kind: String,
    /// Who did it
    #[arg(long)]
    actor: Option<String>,
    /// To what
    #[arg(long)]
    resource: Option<String>,
    /// A file with the data, kept byte for byte; - for stdin
    #[arg(long, value_name = "FILE")]
    data: Option<String>,
    /// A file with personal data, kept apart, so that they can be redacted; - for stdin
    #[arg(long, value_name = "FILE", requires = "subject")]
    personal: Option<String>,
    /// Whom the personal data are about
    #[arg(long, value_name = "NAME", requires = "personal")]
    subject: Option<String>,
    /// The same id again is appended once
    #[arg(long, value_name = "ID")]
    event_id: Option<String>,
}

impl Audit {
    /// Does it, with a client for all but a verification of our own.
    pub(crate) async fn run(self, target: &Target, out: &Out) -> Result<()> {
        let client = || target.client(Otherwise::Refuse);
        match self {
            Self::Append(append) => append.run(&client().await?, out).await,
            Self::Tail(tail) => tail.run(&client().await?, out).await,
            Self::Export(export) => export.run(&client().await?, out).await,
            Self::Import(import) => import.run(&client().await?, out).await,
            Self::Query(query) => query.run(&client().await?, out).await,
            Self::Verify(verify) => verify.run(target, out).await,
            Self::Checkpoint(checkpoint) => checkpoint.run(&client().await?, out).await,
            Self::Inclusion(inclusion) => inclusion.run(&client().await?, out).await,
            Self::Key(key) => key.run(target, out).await,
            Self::Redact(redact) => redact.run(&client().await?, out).await,
            Self::Personal(personal) => personal.run(&client().await?, out).await,
            Self::Segments(list) => list.run(&client().await?, out).await,
            Self::Seal(seal) => seal.run(&client().await?, out).await,
            Self::Archive(archive) => archive.run(&client().await?, out).await,
            Self::Purge(purge) => purge.run(&client().await?, out).await,
            Self::Restore(restore) => restore.run(&client().await?, out).await,
            Self::Heal(heal) => heal.run(&client().await?, out).await,
            Self::Maintain(maintain) => maintain.run(target, out).await,
            Self::Hold(hold) => hold.run(&client().await?, out).await,
        }
    }
}

impl Append {
    async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let mut entry = Map::new();
        entry.insert("kind".to_owned(), Value::from(self.kind));
        for (name, value) in [("actor", self.actor), ("resource", self.resource), ("event_id", self.event_id)] {
            if let Some(value) = value {
                entry.insert(name.to_owned(), Value::from(value));
            }
        }
        if let Some(file) = &self.data {
            let bytes = input(file)?;
            match std::str::from_utf8(&bytes) {
                Ok(text) => entry.insert("data_text".to_owned(), Value::from(text)),
                Err(_) => entry.insert("data_base64".to_owned(), Value::from(onward_api::base64::encode(&bytes))),
            };
        }
        if let Some(personal) = personal::to_append(self.subject.as_deref(), self.personal.as_deref())? {
            entry.insert("personal".to_owned(), personal);
        }
        #[derive(Deserialize)]
        struct Receipts {
            receipts: [Box<RawValue>; 1],
        }
        let answer = client.call(Request::post(entries(&self.chain)).json(&json!({"entries": [entry]}))).await?;
        let Receipts { receipts: [receipt] } = answer.json()?;
        out.record(receipt.get().as_bytes())
    }
}

/// The path of a chain's entries.
fn entries(chain: &str) -> String {
    format!("chains/{}/entries", segment(chain))
}
