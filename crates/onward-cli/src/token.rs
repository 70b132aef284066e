//! `onward token`: who may call a server. On an engine's URL it needs none.

use std::time::Duration;

use clap::{Args, Subcommand};
use onward_api::client::{Request, segment};
use onward_api::header;
use onward_api::tokens::{Create as Asked, Created};

use crate::args::EXIT_CODES;
use crate::deed::Deed;
use crate::failure::{Failure, Result};
use crate::output::{Format, Out};
use crate::pages::{Columns, Pages};
use crate::target::{Otherwise, Target};
use crate::units::{millis, some_time};

const COLUMNS: Columns =
    &[("ID", "id"), ("NAME", "name"), ("ROLE", "role"), ("SCOPES", "scopes"), ("CREATED", "created_at"), ("ENDS", "expires_at")];

/// Verbs on tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token; its secret is written to stdout, this once
    #[command(before_help = "Examples:\n  onward token create --role admin --scope '*' --ttl 90d --url sqlite:./onward.db      needs no server\n  onward token create --role writer --scope objects:project --scope chains:billing --ttl 30d --name ci > ci.token\n  onward token create --role viewer --scope '*' --ttl never --yes -o json\n", after_help = EXIT_CODES)]
    Create(Create),
    /// List the tokens in the store, without their secrets
    #[command(before_help = "Examples:\n  onward token ls\n  onward token ls -o jsonl\n  onward --url sqlite:./onward.db token ls\n", after_help = EXIT_CODES)]
    Ls(Ls),
    /// End a token: every server refuses it within 5 seconds
    #[command(before_help = "Examples:\n  onward token revoke 4fK2aZ81bQ0c --reason 'laptop lost' --yes\n  onward token revoke 4fK2aZ81bQ0c --dry-run\n  onward token revoke 4fK2aZ81bQ0c --reason rotated --yes --url sqlite:./onward.db\n", after_help = EXIT_CODES)]
    Revoke(Revoke),
}

/// How long a token lives.
#[derive(Clone, Copy, Debug)]
enum Life {
    For(Duration),
    Never,
}

fn life(text: &str) -> std::result::Result<Life, String> {
    if text == "never" { Ok(Life::Never) } else { some_time(text).map(Life::For) }
}

/// Makes a token.
#[derive(Args, Debug)]
pub(crate) struct Create {
    /// What it may do; each role includes the ones before it
    #[arg(long, value_parser = ["viewer", "writer", "operator", "admin"])]
    role: String,
    /// Where: *, locks:KEY.., objects:[NAMESPACE/]KIND, cache:NAMESPACE.., chains:CHAIN; may be repeated
    #[arg(long, value_name = "SCOPE", required = true)]
    scope: Vec<String>,
    /// How long it lives, such as 90d, or `never`
    #[arg(long, value_parser = life, value_name = "TIME")]
    ttl: Life,
    /// The name that audit entries show; its id if absent
    #[arg(long)]
    name: Option<String>,
    /// Yes, a token that does not end by itself
    #[arg(long)]
    yes: bool,
}

/// Lists tokens.
#[derive(Args, Debug)]
pub(crate) struct Ls {
    /// At most so many
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

/// Revokes a token.
#[derive(Args, Debug)]
pub(crate) struct Revoke {
    /// The part of the token behind `onw_`
    id: String,
    #[command(flatten)]
    deed: Deed,
}

impl Token {
    pub(crate) async fn run(self, target: &Target, out: &Out) -> Result<()> {
        match self {
            Self::Create(create) => create.run(target, out).await,
            Self::Ls(ls) => {
                let client = target.client(Otherwise::Refuse).await?;
                let _end: serde_json::Value = Pages::new(Request::get("admin/tokens"), COLUMNS, ls.limit).write(&client, out).await?;
                Ok(())
            }
            Self::Revoke(revoke) => revoke.run(target, out).await,
        }
    }
}

impl Create {
    async fn run(self, target: &Target, out: &Out) -> Result<()> {
        let ttl = match self.ttl {
            Life::For(ttl) => Some(ttl),
            Life::Never if self.yes => None,
            Life::Never => return Err(Failure::usage("a token that never ends is only ended by hand: say --yes, or give it a --ttl")),
        };
        let asked = Asked { name: self.name, role: self.role, scopes: self.scope, ttl_ms: ttl.map(millis), never_expires: ttl.is_none() };
        let asked = serde_json::to_value(asked).map_err(|e| Failure::usage(format_args!("the token cannot be asked for: {e}")))?;
        let answer = target.client(Otherwise::Refuse).await?.call(Request::post("admin/tokens").json(&asked)).await?;
        if out.format() != Format::Table {
            return out.record(&answer.body);
        }
        let made: Created = answer.json()?;
        let end = made.about.expires_at.map_or_else(|| "until it is revoked".to_owned(), |end| format!("until {end}"));
        out.say(format_args!(
            "token {}, {} of {}, {end}; this is the only time that it is shown",
            made.about.id,
            made.about.role,
            made.about.scopes.join(" ")
        ));
        out.line(&made.token)
    }
}

impl Revoke {
    async fn run(self, target: &Target, out: &Out) -> Result<()> {
        let path = format!("admin/tokens/{}", segment(&self.id));
        if self.deed.is_dry(out) {
            return out.record(&target.client(Otherwise::Refuse).await?.call(Request::get(path)).await?.body);
        }
        self.deed.confirm(out, format_args!("whoever uses this token is cut off"))?;
        let request = Request::delete(path).text_header(header::REASON, self.deed.reason());
        out.record(&target.client(Otherwise::Refuse).await?.call(request).await?.body)
    }
}
