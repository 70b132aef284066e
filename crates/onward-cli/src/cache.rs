//! `onward cache`: fill leases from the shell; a late fill is refused.

use std::time::Duration;

use clap::{Args, Subcommand};
use onward_api::client::{Request, segment};
use onward_api::locks::Outcome;
use onward_api::{Code, header, path};
use serde_json::json;

use crate::args::EXIT_CODES;
use crate::deed::Deed;
use crate::failure::{Failure, Result};
use crate::object::input;
use crate::output::{Format, Out};
use crate::target::{Otherwise, Target};
use crate::units::{duration, millis, some_time};

/// Verbs on cached values.
#[derive(Debug, Subcommand)]
pub(crate) enum Cache {
    /// Write a cached value to stdout; a miss is exit 4
    #[command(before_help = "Examples:\n  onward cache get web project:42\n  onward cache get web project:42 --field html\n  nonce=$(onward cache get web project:42 --lease)      exit 4: a miss, and ours to fill; exit 5: somebody else fills\n  onward cache get web project:42 --lease --stale 1h -o json      an old value at once, and for one caller the lease to refresh it\n", after_help = EXIT_CODES)]
    Get(Get),
    /// Fill a value under a lease; superseded by an invalidation is exit 3
    #[command(before_help = "Examples:\n  onward cache put web project:42 p.json --fill $nonce --ttl 60s\n  render 42 | onward cache put web project:42 - --fill $nonce --ttl 5m --field html\n  onward cache put web project:42 p.json --fill $nonce --ttl 1h -o json\n  onward cache put web rates r.json --unleased --ttl 1m      without a lease, where the server has cache.unleased = true\n", after_help = EXIT_CODES)]
    Put(Put),
    /// Drop a value, or keep it as stale, and refuse every fill that began before
    #[command(before_help = "Examples:\n  onward cache invalidate web project:42\n  onward cache invalidate web project:42 --field html\n  onward cache invalidate web project:42 --expire      whoever asks for stale values may still see it\n  onward cache invalidate web project:42 -o json\n", after_help = EXIT_CODES)]
    Invalidate(Invalidate),
    /// Drop a whole namespace
    #[command(before_help = "Examples:\n  onward cache flush web --dry-run\n  onward cache flush web --reason 'bad deploy' --yes\n  onward --url http://127.0.0.1:7337 cache flush web --reason 'bad deploy' --yes -o json\n", after_help = EXIT_CODES)]
    Flush(Flush),
    /// Count what a namespace holds
    #[command(before_help = "Examples:\n  onward cache stats web\n  onward cache stats web -o json\n  onward --url http://127.0.0.1:7337 cache stats web\n", after_help = EXIT_CODES)]
    Stats(Stats),
}

/// Which value.
#[derive(Args, Debug)]
struct Place {
    /// The namespace
    #[arg(value_name = "NS")]
    namespace: String,
    /// The key
    key: String,
    /// A field of the key
    #[arg(long)]
    field: Option<String>,
}

/// Reads a value.
#[derive(Args, Debug)]
pub(crate) struct Get {
    #[command(flatten)]
    place: Place,
    /// On a miss take the lease to fill it, and write its nonce to stdout
    #[arg(long)]
    lease: bool,
    /// How long to wait for somebody else's fill
    #[arg(long, value_parser = duration, default_value = "2s", value_name = "TIME", requires = "lease")]
    wait: Duration,
    /// Take a value whose life ended at most so long ago, and on a lease its nonce beside it
    #[arg(long, value_parser = some_time, value_name = "TIME", requires = "lease")]
    stale: Option<Duration>,
}

/// Fills a value.
#[derive(Args, Debug)]
pub(crate) struct Put {
    #[command(flatten)]
    place: Place,
    /// The file with the value; - for stdin
    #[arg(value_name = "FILE")]
    file: String,
    /// The nonce that `get --lease` wrote
    #[arg(long, value_name = "NONCE", required_unless_present = "unleased")]
    fill: Option<String>,
    /// Save it without a lease, where the server takes that: it may be older than an invalidation
    #[arg(long, conflicts_with = "fill")]
    unleased: bool,
    /// How long the value lives
    #[arg(long, value_parser = duration, value_name = "TIME")]
    ttl: Duration,
    /// How long after that it is kept for those who ask for stale values
    #[arg(long, value_parser = some_time, value_name = "TIME")]
    stale: Option<Duration>,
}

/// Invalidates a value.
#[derive(Args, Debug)]
pub(crate) struct Invalidate {
    #[command(flatten)]
    place: Place,
    /// Keep the value, but only as stale
    #[arg(long)]
    expire: bool,
}

/// Flushes a namespace.
#[derive(Args, Debug)]
pub(crate) struct Flush {
    /// The namespace
    #[arg(value_name = "NS")]
    namespace: String,
    #[command(flatten)]
    deed: Deed,
}

/// Counts a namespace.
#[derive(Args, Debug)]
pub(crate) struct Stats {
    /// The namespace
    #[arg(value_name = "NS")]
    namespace: String,
}

impl Place {
    fn path(&self) -> String {
        format!("cache/{}/{}", segment(&self.namespace), path::encode(self.key.as_bytes()))
    }
}

impl Cache {
    /// Does it.
    pub(crate) async fn run(self, target: &Target, out: &Out) -> Result<()> {
        match self {
            Self::Get(get) => get.run(target, out).await,
            Self::Put(put) => put.run(target, out).await,
            Self::Invalidate(Invalidate { place, expire }) => {
                let mode = expire.then_some("expire");
                let request = Request::delete(place.path()).maybe_query("field", place.field.as_deref()).maybe_query("mode", mode);
                out.record(&target.client(Otherwise::Refuse).await?.call(request).await?.body)
            }
            Self::Flush(flush) => flush.run(target, out).await,
            Self::Stats(Stats { namespace }) => {
                out.record(&target.client(Otherwise::Refuse).await?.call(Request::get(all_of(&namespace))).await?.body)
            }
        }
    }
}

impl Get {
    async fn run(self, target: &Target, out: &Out) -> Result<()> {
        let mut request = Request::get(self.place.path()).maybe_query("field", self.place.field.as_deref());
        request = if self.lease { request.query("wait_ms", millis(self.wait)) } else { request.query("lease", false) };
        request = request.maybe_query("stale_ms", self.stale.map(millis));
        match target.client(Otherwise::Refuse).await?.call(request).await {
            Ok(answer) if answer.status == http::StatusCode::ACCEPTED => {
                out.say(format_args!("somebody else fills it"));
                Err(Failure::Exit(Code::ResourceLocked.exit()))
            }
            Ok(answer) => {
                if answer.header(header::STALE).is_none() {
                    return out.bytes(&answer.body);
                }
                let nonce = answer.header(header::FILL);
                if out.format() != Format::Table {
                    let value = onward_api::base64::encode(&answer.body);
                    return out.record(json!({"outcome": "stale", "value_base64": value, "fill": nonce}).to_string().as_bytes());
                }
                // Stdout is for the value; the lease travels beside it.
                match nonce {
                    Some(nonce) => out.warn(format_args!("stale, and ours to refresh: {nonce}")),
                    None => out.say(format_args!("stale; somebody else refreshes it")),
                }
                out.bytes(&answer.body)
            }
            Err(problem) => {
                if let (Code::CacheMiss, Some(nonce)) = (problem.code(), problem.header(header::FILL)) {
                    let ttl = problem.header(header::FILL_TTL_MS).and_then(onward_api::number::parse);
                    match out.format() {
                        Format::Table => out.line(nonce)?,
                        _ => out.record(json!({"outcome": "lease", "fill": nonce, "fill_ttl_ms": ttl}).to_string().as_bytes())?,
                    }
                    out.say(format_args!("a miss, and ours to fill: the nonce is on stdout"));
                    return Err(Failure::Exit(Code::CacheMiss.exit()));
                }
                Err(problem.into())
            }
        }
    }
}

impl Put {
    async fn run(self, target: &Target, out: &Out) -> Result<()> {
        let request = Request::put(self.place.path())
            .maybe_query("field", self.place.field.as_deref())
            .header(header::TTL_MS, &millis(self.ttl).to_string())
            .body("application/octet-stream", input(&self.file)?);
        let request = match &self.fill {
            Some(fill) => request.header(header::FILL, fill),
            None => request.query("unleased", self.unleased),
        };
        let request = match self.stale {
            Some(stale) => request.header(header::STALE_MS, &millis(stale).to_string()),
            None => request,
        };
        let answer = target.client(Otherwise::Refuse).await?.call(request).await?;
        out.record(&answer.body)?;
        let why = match answer.json::<Outcome>()?.outcome.as_str() {
            "superseded" if self.unleased => "somebody else fills or invalidates the key: the value was not kept",
            "superseded" => "the key was invalidated since the miss: the value was not kept",
            "guarded" => "a writer is at work on the key: the value was not kept",
            _ => return Ok(()),
        };
        out.say(format_args!("{why}"));
        Err(Failure::Exit(Code::StateConflict.exit()))
    }
}

impl Flush {
    async fn run(self, target: &Target, out: &Out) -> Result<()> {
        if self.deed.is_dry(out) {
            return out.record(&target.client(Otherwise::Refuse).await?.call(Request::get(all_of(&self.namespace))).await?.body);
        }
        self.deed.confirm(out, format_args!("this drops every value of the namespace"))?;
        let request = Request::delete(all_of(&self.namespace)).text_header(header::REASON, self.deed.reason());
        out.record(&target.client(Otherwise::Refuse).await?.call(request).await?.body)
    }
}

/// The path of a namespace.
fn all_of(namespace: &str) -> String {
    format!("cache/{}", segment(namespace))
}
