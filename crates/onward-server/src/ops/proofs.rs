//! Checkpoints of chains, and proofs over them.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use onward::Code;
use onward::model::Seq;

use super::chains::chain;
use super::json;
use crate::call::Call;
use crate::refusal::{Answer, Refusal};

/// `GET /v1/chains/{chain}/checkpoint`
pub(crate) async fn checkpoint(call: Call) -> Answer {
    call.query(&[])?;
    let chain = chain(&call)?;
    let note = call.reading(chain.checkpoint()).await?.ok_or_else(|| Refusal::new(Code::NotFound, "no such chain"))?;
    let mut response = Response::new(Body::from(note));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

/// `GET /v1/chains/{chain}/proofs`
pub(crate) async fn proofs(call: Call) -> Answer {
    let query = call.query(&["seq", "size", "first", "second"])?;
    let chain = chain(&call)?;
    let number = |name: &str| query.parse::<Seq>(name, "a seq, from 1");
    match (number("seq")?, number("size")?, number("first")?, number("second")?) {
        (Some(seq), size, None, None) => json(StatusCode::OK, &call.reading(chain.prove_inclusion(seq, size)).await?),
        (None, None, Some(first), second) => json(StatusCode::OK, &call.reading(chain.prove_consistency(first, second)).await?),
        _ => Err(Refusal::new(Code::InvalidRequest, "a proof is of `seq` up to `size`, or from `first` to `second`")),
    }
}
