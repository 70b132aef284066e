//! `onward object`: versioned objects by compare-and-swap.

mod history;
mod list;
mod patch;
mod touch;
mod transfer;
mod watch;
mod write;

use clap::{Args, Subcommand};
use onward_api::client::{Request, segment};
use onward_api::{OBJECT_TYPE, path};

use crate::args::EXIT_CODES;
use crate::failure::{Failure, Result};
use crate::output::Out;
use crate::target::{Otherwise, Target};

pub(crate) use write::input;

/// Verbs on objects.
#[derive(Debug, Subcommand)]
pub(crate) enum Object {
    /// Write the object's bytes to stdout, exactly
    #[command(before_help = "Examples:\n  onward object get project/42\n  onward object get project/42 --meta -o json\n  onward object get project/42 -n eu > p.json\n", after_help = EXIT_CODES)]
    Get(Get),
    /// Write an object, if it is as you believe it is
    #[command(before_help = "Examples:\n  onward object put project/42 p.json --create\n  onward object put project/42 p.json --if-version 7\n  echo '{}' | onward object put project/42 - --if-version 7 --fence nightly=$ONWARD_FENCE\n  onward object put session/42 s.json --create --label team=blue --ttl 30m\n", after_help = EXIT_CODES)]
    Put(write::Put),
    /// Change a JSON object on the server: one attempt on its newest state
    #[command(before_help = "Examples:\n  onward object patch project/42 --add /hits=1\n  onward object patch project/42 --compare /state=open --set /state=closed\n  echo '{\"draft\":null}' | onward object patch project/42 --merge -\n", after_help = EXIT_CODES)]
    Patch(patch::Patch),
    /// Give an object a new version, and what else is named; its content stays
    #[command(before_help = "Examples:\n  onward object touch session/42 --ttl 30m\n  onward object touch project/42 --if-version 7 --label team=blue\n  onward object touch project/42 -o json\n", after_help = EXIT_CODES)]
    Touch(touch::Touch),
    /// Delete an object, if it is as you believe it is
    #[command(before_help = "Examples:\n  onward object delete project/42 --if-version 7\n  onward object delete project/42 --overwrite\n  onward object delete project/42 --if-version 7 -o json\n", after_help = EXIT_CODES)]
    Delete(write::Delete),
    /// Tell the changes of an object, the newest first
    #[command(before_help = "Examples:\n  onward object history project/42\n  onward object history project/42 --limit 5 -o jsonl\n  onward object history project/42 -n eu\n", after_help = EXIT_CODES)]
    History(history::History),
    /// List the objects of a kind
    #[command(before_help = "Examples:\n  onward object list project\n  onward object list project --prefix eu/ --limit 20\n  onward object list project --label team=blue --label urgent -o jsonl\n  onward object list project --label 'team in (blue, red)'\n", after_help = EXIT_CODES)]
    List(list::List),
    /// Create objects from a file; what exists stays as it is
    #[command(before_help = "Examples:\n  onward object import objects.jsonl\n  onward --url sqlite:./old.db object export - | onward --url sqlite:./new.db object import -\n  onward object import objects.jsonl   once more: safe, it only counts what exists\n", after_help = EXIT_CODES)]
    Import(transfer::Import),
    /// Write all objects to a file, as they are at one revision
    #[command(before_help = "Examples:\n  onward object export objects.jsonl\n  onward object export - --kind project --prefix eu/\n  onward object export - -n eu | gzip > eu.jsonl.gz\n", after_help = EXIT_CODES)]
    Export(transfer::Export),
    /// Follow changes as they are committed, across cut connections
    #[command(before_help = "Examples:\n  onward object watch\n  onward object watch project --prefix eu/\n  onward object watch project --from 1207 -o table\n", after_help = EXIT_CODES)]
    Watch(watch::Watch),
}

/// Where an object is.
#[derive(Args, Debug)]
pub(crate) struct Place {
    /// The object: its kind, a slash, its name
    #[arg(value_name = "KIND/NAME")]
    object: String,
    #[command(flatten)]
    namespace: Namespace,
}

/// Which namespace.
#[derive(Args, Debug)]
pub(crate) struct Namespace {
    /// The namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

/// Which objects of a list, a watch or an export.
#[derive(Args, Debug)]
pub(crate) struct Which {
    #[command(flatten)]
    namespace: Namespace,
    /// Only names that begin so
    #[arg(long)]
    prefix: Option<String>,
    /// Only objects with this label, with any value of it, or with one of several ("KEY in (A, B)"); may be repeated, and all must hold
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
}

impl Which {
    fn ask(&self, request: Request) -> Request {
        request
            .maybe_query("namespace", self.namespace.namespace.as_deref())
            .maybe_query("prefix", self.prefix.as_deref())
            .queries("label", &self.label)
    }
}

impl Place {
    fn path(&self) -> Result<String> {
        match self.object.split_once('/') {
            Some((kind, name)) if !kind.is_empty() && !name.is_empty() => {
                Ok(format!("objects/{}/{}", segment(kind), path::encode(name.as_bytes())))
            }
            _ => Err(Failure::usage("an object is KIND/NAME, such as project/42")),
        }
    }
}

/// Reads an object.
#[derive(Args, Debug)]
pub(crate) struct Get {
    #[command(flatten)]
    place: Place,
    /// Show version, times and labels with the payload
    #[arg(long)]
    meta: bool,
    /// As it was at this revision
    #[arg(long, value_name = "REVISION")]
    at: Option<u64>,
}

impl Object {
    /// Does it.
    pub(crate) async fn run(self, target: &Target, out: &Out) -> Result<()> {
        match self {
            Self::Get(get) => get.run(target, out).await,
            Self::Put(put) => put.run(target, out).await,
            Self::Patch(patch) => patch.run(target, out).await,
            Self::Touch(touch) => touch.run(target, out).await,
            Self::Delete(delete) => delete.run(target, out).await,
            Self::History(history) => history.run(&target.client(Otherwise::Refuse).await?, out).await,
            Self::List(list) => list.run(&target.client(Otherwise::Refuse).await?, out).await,
            Self::Import(import) => import.run(&target.client(Otherwise::Refuse).await?, out).await,
            Self::Export(export) => export.run(&target.client(Otherwise::Refuse).await?, out).await,
            Self::Watch(watch) => watch.run(&target.client(Otherwise::Refuse).await?, out).await,
        }
    }
}

impl Get {
    async fn run(self, target: &Target, out: &Out) -> Result<()> {
        let path = self.place.path()?;
        let client = target.client(Otherwise::Refuse).await?;
        let request = Request::get(path).maybe_query("namespace", self.place.namespace.namespace.as_deref()).maybe_query("at", self.at);
        if self.meta {
            let answer = client.call(request.header("accept", OBJECT_TYPE)).await?;
            return out.record(&answer.body);
        }
        let answer = client.call(request).await?;
        out.detail(format_args!("version {}", answer.header("etag").unwrap_or("-")));
        out.bytes(&answer.body)
    }
}
