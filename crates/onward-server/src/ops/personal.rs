//! Personal data of entries: read by who may, and forgotten for good.

use std::time::Duration;

use http::StatusCode;
use onward::audit::{Act, Redact};
use onward::model::{Personal, Seq};
use onward_api::base64;
use onward_api::chains::{self, Redaction};

use super::chains::chain;
use super::commit::data;
use super::json;
use crate::call::Call;
use crate::refusal::{Answer, Refusal};

/// How long a redaction may take beyond the deadline of other calls; the same call again goes on.
const LONG: Duration = Duration::from_secs(3_600);
/// Longest question.
const BYTES: usize = 4 << 10;

/// Reads what an append brings along.
pub(super) fn personal(asked: chains::Personal) -> Result<Personal, Refusal> {
    let chains::Personal { subject, data: json, data_text, data_base64 } = asked;
    let value = data(json.as_deref(), data_text, data_base64.as_deref()).map_err(|e| e.under("/personal"))?;
    Ok(Personal::new(subject, value.as_bytes().clone()))
}

/// `GET /v1/chains/{chain}/entries/{seq}/personal`
pub(crate) async fn get(call: Call) -> Answer {
    call.query(&[])?;
    let chain = chain(&call)?;
    let seq: Seq = call.segment(2)?.parse()?;
    let kept = call.reading(chain.personal(seq)).await?;
    let text = std::str::from_utf8(&kept.personal.value).ok();
    let shown = chains::KeptPersonal {
        seq: kept.seq.get(),
        subject: kept.personal.subject.clone(),
        data: text.map(str::to_owned),
        data_base64: text.is_none().then(|| base64::encode(&kept.personal.value)),
        salt: kept.salt.iter().map(|byte| format!("{byte:02x}")).collect(),
        commitment: kept.commitment().to_string(),
    };
    json(StatusCode::OK, &shown)
}

/// `POST /v1/chains/{chain}/redactions`
pub(crate) async fn redact(mut call: Call) -> Answer {
    call.query(&[])?;
    let chain = chain(&call)?;
    let asked: Redaction = call.json(BYTES).await?;
    let what = match (asked.subject, asked.through_seq) {
        (Some(subject), None) => Redact::Subject(subject),
        (None, Some(seq)) => Redact::Through(Seq::new(seq)?),
        _ => return Err(Refusal::member("/subject", "either subject or through_seq")),
    };
    let act = Act::because(call.reason()?).by(call.caller.actor(None));
    let act = if asked.dry_run { act.dry() } else { act };
    call.begin_wait()?;
    json(StatusCode::OK, &call.waiting(LONG, Refusal::unknown, async { chain.redact(&what, &act).await }).await?)
}
