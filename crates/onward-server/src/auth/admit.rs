//! Whether what a path names lies in the caller's scopes: asked once for all routes, before an operation begins.

use http::Method;

use super::caller::{Caller, out_of_scope};
use super::scope::Part;
use crate::call::Call;
use crate::refusal::Refusal;

/// Refuses a path outside of the caller's scopes. What a body or a list names is asked for where it is read.
///
/// A route that is not known here needs the scope `*`: a new one is closed until somebody says what it names.
pub(crate) fn admit(call: &Call, route: &str) -> Result<(), Refusal> {
    // Whoever has no token came by a route that is open to all.
    if call.caller.may_all() || matches!(call.caller, Caller::Anyone) {
        return Ok(());
    }
    let (part, rest) = route.strip_prefix("/v1/").map_or((route, ""), |tail| tail.split_once('/').unwrap_or((tail, "")));
    let caller = &call.caller;
    let inside = match (part, rest) {
        // These say nothing of a part, or their operation asks.
        ("info" | "commit" | "watch" | "/metrics", "") => true,
        ("locks", "{*key}") => caller.may(Part::Locks, &[&call.key()?]),
        ("locks", "") if call.parts.method == Method::POST => true,
        ("locks", "") => {
            // All that begins like this lies below its last whole segment.
            let prefix = call.raw_parameter("prefix").unwrap_or_default();
            caller.may(Part::Locks, &[prefix.rsplit_once(['/', ':']).map_or("", |(whole, _)| whole).as_bytes()])
        }
        ("objects", "{kind}/{*name}") => {
            let (kind, name) = call.word_and_key()?;
            caller.may(Part::Objects, &[namespace(call).as_bytes(), kind.as_bytes(), &name])
        }
        ("objects", "") if call.parts.method == Method::POST => true,
        ("objects", "") => {
            let (namespace, kind) = (call.raw_parameter("namespace"), call.raw_parameter("kind"));
            // Without a namespace the kind does not narrow it: all namespaces are meant.
            let named: Vec<&[u8]> =
                namespace.iter().flat_map(|namespace| [Some(namespace), kind.as_ref()]).flatten().map(|word| word.as_bytes()).collect();
            caller.may(Part::Objects, &named)
        }
        ("objects", "{kind}") => caller.may(Part::Objects, &[namespace(call).as_bytes(), call.segment(0)?.as_bytes()]),
        ("cache", "{namespace}/{*key}") => {
            let (namespace, key) = call.word_and_key()?;
            caller.may(Part::Cache, &[namespace.as_bytes(), &key])
        }
        ("cache", "{namespace}") => caller.may(Part::Cache, &[call.segment(0)?.as_bytes()]),
        ("chains", "") => true,
        ("chains", rest) if rest.starts_with("{chain}") => caller.may(Part::Chains, &[call.segment(0)?.as_bytes()]),
        _ => false,
    };
    if inside { Ok(()) } else { Err(out_of_scope()) }
}

/// The namespace that the query names; an operation refuses a query that is not as it should be.
fn namespace(call: &Call) -> String {
    call.raw_parameter("namespace").unwrap_or_else(|| "default".to_owned())
}
