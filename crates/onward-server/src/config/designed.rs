//! What stands in the design and is not built.

/// Designed, not built.
const DESIGNED: &[&str] = &[
    "audit.anchors",
    "audit.keys_file",
    "audit.origin",
    "audit.url",
    "client",
    "ops.traces",
    "server.limits.commit_body",
    "server.public.trusted_proxies",
    "server.public.url",
    "server.surface",
    "store.migrate",
    "store.pool",
    "store.queue",
    "store.request_ids",
];

/// Tells whether a name is part of the design, and not built: it is refused with that reason (C9).
pub(super) fn is_designed(name: &str) -> bool {
    DESIGNED.iter().any(|designed| name.strip_prefix(designed).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_designed_is_known_by_whole_words() {
        assert!(DESIGNED.is_sorted());
        assert!(is_designed("client.url") && is_designed("store.pool") && !is_designed("store.pools"));
    }
}
