//! Personal data: kept apart from entries, and forgotten for good.

use clap::Args;
use onward_api::client::{Client, Request, segment};
use onward_api::header;
use serde_json::{Map, Value, json};

use crate::deed::Deed;
use crate::failure::{Failure, Result};
use crate::object::input;
use crate::output::Out;

use super::segments::LONG;

/// Forgets personal data.
#[derive(Args, Debug)]
pub(crate) struct Redact {
    /// The chain
    chain: String,
    /// Of whom
    #[arg(long, value_name = "NAME", required_unless_present = "through", conflicts_with = "through")]
    subject: Option<String>,
    /// Everybody's, up to this entry
    #[arg(long, value_name = "SEQ")]
    through: Option<u64>,
    #[command(flatten)]
    deed: Deed,
}

/// Shows personal data.
#[derive(Args, Debug)]
pub(crate) struct Personal {
    /// The chain
    chain: String,
    /// The entry
    seq: u64,
}

impl Redact {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let mut members = Map::from_iter([("subject".to_owned(), json!(self.subject)), ("through_seq".to_owned(), json!(self.through))]);
        members.retain(|_, value| !value.is_null());
        let dry = self.deed.is_dry(out);
        if dry {
            members.insert("dry_run".to_owned(), Value::from(true));
        } else {
            self.deed.confirm(out, format_args!("this forgets personal data of {} for good", self.chain))?;
        }
        let reason = if dry && self.deed.reason().is_empty() { "a look" } else { self.deed.reason() };
        let request = Request::post(format!("chains/{}/redactions", segment(&self.chain)));
        let request = request.text_header(header::REASON, reason).json(&Value::Object(members)).timeout(LONG);
        out.record(&client.call(request).await?.body)
    }
}

impl Personal {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let path = format!("chains/{}/entries/{}/personal", segment(&self.chain), self.seq);
        out.record(&client.call(Request::get(path)).await?.body)
    }
}

/// Reads a file with the personal data of an entry to append.
pub(super) fn to_append(subject: Option<&str>, file: Option<&str>) -> Result<Option<Value>> {
    let (subject, file) = match (subject, file) {
        (Some(subject), Some(file)) => (subject, file),
        (None, None) => return Ok(None),
        _ => return Err(Failure::usage(format_args!("--personal and --subject belong together"))),
    };
    let bytes = input(file)?;
    Ok(Some(match std::str::from_utf8(&bytes) {
        Ok(text) => json!({"subject": subject, "data_text": text}),
        Err(_) => json!({"subject": subject, "data_base64": onward_api::base64::encode(&bytes)}),
    }))
}
