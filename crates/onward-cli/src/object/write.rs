//! `put` and `delete`: a write says what it believes, or says that it does not care.

use std::io::Read as _;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use onward_api::client::{Request, header_text};
use onward_api::{Ttl, header};

use super::Place;
use crate::failure::{Failure, Result};
use crate::output::Out;
use crate::target::{Otherwise, Target};
use crate::units::{millis, some_time};

/// The most that is read from a file or from stdin: far above the server's limit, so that the server names it.
const INPUT_BYTES_MAX: u64 = 64 << 20;

/// Writes an object.
#[derive(Args, Debug)]
pub(crate) struct Put {
    #[command(flatten)]
    place: Place,
    /// The file with the new payload; - for stdin
    #[arg(value_name = "FILE")]
    file: String,
    #[command(flatten)]
    belief: PutBelief,
    #[command(flatten)]
    extras: Extras,
    #[command(flatten)]
    common: Common,
    /// The payload's type [default: application/json if it is JSON, else application/octet-stream]
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
}

/// Deletes an object.
#[derive(Args, Debug)]
pub(crate) struct Delete {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    belief: DeleteBelief,
    #[command(flatten)]
    common: Common,
}

/// What a put believes.
#[derive(Args, Debug)]
#[group(multiple = false)]
struct PutBelief {
    /// Only if the object still is at this version
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
    /// Only if there is no such object
    #[arg(long)]
    create: bool,
    /// Whatever is there
    #[arg(long)]
    overwrite: bool,
}

/// What a delete believes.
#[derive(Args, Debug)]
#[group(multiple = false)]
struct DeleteBelief {
    /// Only if the object still is at this version
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
    /// Whatever is there
    #[arg(long)]
    overwrite: bool,
}

/// What both take.
#[derive(Args, Debug)]
pub(super) struct Common {
    /// Refuse if a newer holder of this lock was seen; may be repeated
    #[arg(long, value_name = "KEY=TOKEN")]
    fence: Vec<String>,
    /// The same id again happens once
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

/// What a write that leaves an object takes beside.
#[derive(Args, Debug)]
pub(super) struct Extras {
    /// A label of the object; may be repeated [default: its labels stay]
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Whether these are all labels, or are laid over those that are there [default: set]
    #[arg(long, value_name = "HOW")]
    labels: Option<Labels>,
    /// How long the object lives, or never [default: as it was]
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    ttl: Option<Ttl>,
}

/// What becomes of labels.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Labels {
    /// The object has these labels and no others
    Set,
    /// These are laid over those that are there
    Merge,
}

fn ttl(text: &str) -> std::result::Result<Ttl, String> {
    if text == "never" { Ok(Ttl::Never) } else { some_time(text).map(|time| Ttl::Millis(millis(time))) }
}

impl Extras {
    pub(super) fn add(&self, mut request: Request) -> Result<Request> {
        for label in &self.label {
            if !label.contains('=') {
                return Err(Failure::usage("a label is KEY=VALUE, such as team=blue"));
            }
            request = request.text_header(header::LABEL, label);
        }
        if let Some(labels) = self.labels {
            let how = match labels {
                Labels::Set => "set",
                Labels::Merge => "merge",
            };
            request = request.header(header::LABELS, how);
        }
        Ok(match self.ttl {
            Some(ttl) => request.header(header::TTL_MS, &ttl.to_string()),
            None => request,
        })
    }
}

impl Put {
    pub(super) async fn run(self, target: &Target, out: &Out) -> Result<()> {
        let request = Request::put(self.place.path()?);
        let request = match (self.belief.if_version, self.belief.create, self.belief.overwrite) {
            (Some(version), ..) => request.header("if-match", &format!("\"{version}\"")),
            (_, true, _) => request.header("if-none-match", "*"),
            (.., true) => request.query("overwrite", true),
            _ => return Err(Failure::usage("a write says what it believes: --if-version VERSION, --create, or --overwrite")),
        };
        let payload = input(&self.file)?;
        let kind = self.content_type.unwrap_or_else(|| guess(&payload).to_owned());
        send(self.extras.add(request)?.body(&kind, payload), &self.place, &self.common, target, out).await
    }
}

impl Delete {
    pub(super) async fn run(self, target: &Target, out: &Out) -> Result<()> {
        let request = Request::delete(self.place.path()?);
        let request = match (self.belief.if_version, self.belief.overwrite) {
            (Some(version), _) => request.header("if-match", &format!("\"{version}\"")),
            (_, true) => request.query("overwrite", true),
            _ => return Err(Failure::usage("a delete says what it believes: --if-version VERSION, or --overwrite")),
        };
        send(request, &self.place, &self.common, target, out).await
    }
}

pub(super) async fn send(request: Request, place: &Place, common: &Common, target: &Target, out: &Out) -> Result<()> {
    let mut request = request.maybe_query("namespace", place.namespace.namespace.as_deref());
    for fence in &common.fence {
        let parts = fence.rsplit_once('=').filter(|(key, token)| !key.is_empty() && onward_api::number::parse(token).is_some());
        let Some((key, token)) = parts else {
            return Err(Failure::usage("a fence is KEY=TOKEN: the lock's key and the number from ONWARD_FENCE"));
        };
        request = request.header(header::FENCE, &format!("{token} {}", header_text(key)));
    }
    if let Some(id) = &common.request_id {
        request = request.header(header::IDEMPOTENCY_KEY, id);
    }
    let answer = target.client(Otherwise::Refuse).await?.call(request).await?;
    out.record(&answer.body)
}

/// Reads a file, or stdin for `-`.
pub(crate) fn input(file: &str) -> Result<Bytes> {
    let mut bytes = Vec::new();
    let read = match file {
        "-" => std::io::stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes),
        path => std::fs::File::open(path).and_then(|file| file.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes)),
    };
    read.map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Failure::usage(format_args!("there is no file {file}: name a file, or - to read standard input")),
        _ => Failure::usage(format_args!("cannot read {file}: {e}")),
    })?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(Failure::usage(format_args!("{file} is longer than anything that can be written")));
    }
    Ok(bytes.into())
}

fn guess(payload: &[u8]) -> &'static str {
    let json = serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok();
    if json { "application/json" } else { "application/octet-stream" }
}
