//! The items of lists: what one chain's policy and one listed token consist of.

use std::time::Duration;

use onward::audit::Policy;
use onward::audit::verify::SEGMENT_ROWS;

use super::settings::ListedToken;
use super::value::Value;
use crate::auth::NotAScope;
use crate::auth::tokens::check_name;

/// The policy of some chains: what is left out is as for the others.
pub(super) fn chain<'a>(value: &'a Value, rest: &Policy) -> Result<(&'a str, Policy), String> {
    let members = value.table(&[
        "match",
        "seal_after",
        "segment_rows",
        "segment_bytes",
        "archive_after",
        "purge_after",
        "delete_files_after",
        "checkpoint_every",
        "verify_every",
        "verify_full_every",
    ])?;
    let time = |name: &str, rest: Option<Duration>| members.get(name).map_or(Ok(rest), |value| value.time_or_never("0s"..="36500d"));
    let every = |name: &str, rest: Option<Duration>| members.get(name).map_or(Ok(rest), |value| value.time_or_never("1m"..="36500d"));
    let policy = Policy {
        seal_after: time("seal_after", rest.seal_after)?,
        segment_rows: members.get("segment_rows").map_or(Ok(rest.segment_rows), |value| value.count(1..=SEGMENT_ROWS))?,
        segment_bytes: members.get("segment_bytes").map_or(Ok(rest.segment_bytes), |value| value.size("1KiB"..="4GiB"))?,
        archive_after: time("archive_after", rest.archive_after)?,
        purge_after: time("purge_after", rest.purge_after)?,
        delete_files_after: time("delete_files_after", rest.delete_files_after)?,
        checkpoint_every: every("checkpoint_every", rest.checkpoint_every)?,
        verify_every: every("verify_every", rest.verify_every)?,
        verify_full_every: every("verify_full_every", rest.verify_full_every)?,
    };
    let chain = members.get("match").ok_or("each of them has a `match`, the name of a chain or its beginning and a *")?.text()?;
    Ok((chain, policy))
}

/// A token that the configuration lists.
pub(super) fn listed(value: &Value) -> Result<ListedToken, String> {
    let members = value.table(&["name", "role", "scopes", "sha256"])?;
    let text = |name: &str| members.get(name).and_then(|value| value.text().ok()).filter(|text| !text.is_empty());
    let mut sha256 = [0; 32];
    text("sha256").and_then(|digits| hex::decode_to_slice(digits, &mut sha256).ok()).ok_or("each token has a `sha256` of 64 hex digits")?;
    let scopes = members.get("scopes").map_or(Ok(vec!["*"]), Value::texts).map_err(|_| "the `scopes` of a token are a list of texts")?;
    let scopes = scopes.into_iter().map(|scope| scope.parse().map_err(|e: NotAScope| e.to_string())).collect::<Result<_, _>>()?;
    let name = text("name").ok_or("each token has a `name`")?.to_owned();
    check_name(&name)?;
    Ok(ListedToken {
        name,
        role: text("role").and_then(|word| word.parse().ok()).ok_or("each token has a `role`: viewer, writer, operator or admin")?,
        scopes,
        sha256,
    })
}
