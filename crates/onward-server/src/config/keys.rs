//! The table of keys: the one place that says what may be configured. It feeds the parser, `config show`, the example and the
//! documentation.

use std::path::PathBuf;

use onward::Url;
use onward::audit::verify::SEGMENT_ROWS;
use onward::audit::{Archive, Policies};
use onward::model::{CheckpointKey, MacKeys};

use super::items::{chain, listed};
use super::settings::Settings;
use super::value::Value;
use crate::log::Format;

/// A key of the configuration.
pub(super) struct Key {
    /// Section and name, with dots.
    pub(super) name: &'static str,
    /// What it is without a word, as TOML.
    pub(super) default: &'static str,
    /// What it does, in one sentence without markup.
    pub(super) effect: &'static str,
    /// When a change acts.
    pub(super) live: Live,
    /// Whether it may be shown.
    pub(super) secrecy: Secrecy,
    set: fn(&mut Settings, &Value) -> Result<(), String>,
}

/// When a change of a key acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Live {
    /// At the next start.
    No,
    /// While the server runs, in the way that the text says.
    Yes(&'static str),
}

/// Whether a value may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Secrecy {
    Open,
    /// Shown as `***`; may also stand in a file that `<key>_file` names.
    Secret,
}

impl Key {
    /// Takes a value over.
    ///
    /// # Errors
    /// What the value should have been; never the value.
    pub(super) fn set(&self, settings: &mut Settings, value: &Value) -> Result<(), String> {
        (self.set)(settings, value)
    }

    /// Returns the default.
    pub(super) fn default_value(&self) -> Value {
        // The table is tested: each default parses.
        Value::parse(self.default).unwrap_or_else(|| Value::Text(String::new()))
    }

    /// Returns the section and the name in it.
    pub(super) fn section(&self) -> (&'static str, &'static str) {
        self.name.rsplit_once('.').unwrap_or(("", self.name))
    }
}

/// Finds a key by its name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Finds the secret that `<key>_file` names a file of.
pub(super) fn find_by_file(name: &str) -> Option<&'static Key> {
    name.strip_suffix("_file").and_then(find).filter(|key| key.secrecy == Secrecy::Secret)
}

/// Tells whether keys stand below this name.
pub(super) fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

/// Shapes a row of the table.
macro_rules! key {
    ($name:literal = $default:literal, $live:expr, $secrecy:ident, $set:expr, $effect:literal) => {
        Key { name: $name, default: $default, effect: $effect, live: $live, secrecy: Secrecy::$secrecy, set: $set }
    };
}

/// Shapes a time of the retention, no shorter than that.
macro_rules! due {
    ($name:literal, $field:ident = $default:literal, $from:literal, $effect:literal) => {
        key!(
            $name = $default,
            Live::No,
            Open,
            |to, value| {
                to.policy.$field = value.time_or_never($from..="36500d")?;
                Ok(())
            },
            $effect
        )
    };
}

const FILES: Live = Live::Yes("SIGHUP, and a look every 30 s");

/// Every key, in the order of the example.
pub(super) static KEYS: &[Key] = &[
    key!(
        "server.listen" = r#"["127.0.0.1:7337"]"#,
        Live::No,
        Open,
        |to, value| {
            let parsed = value.texts().ok().map(|texts| texts.into_iter().map(str::parse).collect::<Result<Vec<_>, _>>());
            to.listen = parsed
                .and_then(Result::ok)
                .filter(|all| (1..=16).contains(&all.len()))
                .ok_or("1 to 16 addresses such as \"127.0.0.1:7337\"")?;
            Ok(())
        },
        "Addresses to listen on, IP:PORT; anything but loopback needs TLS."
    ),
    key!(
        "server.allow.insecure_plaintext" = "false",
        Live::No,
        Open,
        |to, value| {
            to.insecure_plaintext = value.switch()?;
            Ok(())
        },
        "Listen beyond loopback without TLS: whoever sees the network sees the tokens."
    ),
    key!(
        "server.allow.memory" = "false",
        Live::No,
        Open,
        |to, value| {
            to.allow_memory = value.switch()?;
            Ok(())
        },
        "Keep the store in memory: everything is lost at the end, and one process only."
    ),
    key!(
        "server.public.hosts" = "[]",
        Live::No,
        Open,
        |to, value| {
            to.hosts = value.texts()?.into_iter().map(str::to_owned).collect();
            Ok(())
        },
        "Names that a request may call this server by, without port; any other gets 421. Empty: any."
    ),
    key!(
        "server.tls.cert_file" = r#""""#,
        FILES,
        Open,
        |to, value| {
            to.tls.cert = path(value)?;
            Ok(())
        },
        "PEM: the certificate, then those that lead to its root. Empty: plain HTTP."
    ),
    key!(
        "server.tls.key_file" = r#""""#,
        FILES,
        Open,
        |to, value| {
            to.tls.key = path(value)?;
            Ok(())
        },
        "PEM: the private key of the certificate."
    ),
    key!(
        "server.limits.threads" = "0",
        Live::No,
        Open,
        |to, value| {
            to.threads = value.places(0..=1_024)?;
            Ok(())
        },
        "Threads that serve; 0: one a core, at least 2."
    ),
    key!(
        "server.limits.connections" = "10000",
        Live::No,
        Open,
        |to, value| {
            to.limits.connections = value.places(1..=1_000_000)?;
            Ok(())
        },
        "Connections at once; one more is closed."
    ),
    key!(
        "server.limits.requests" = "1024",
        Live::No,
        Open,
        |to, value| {
            to.limits.requests = value.places(1..=1_000_000)?;
            Ok(())
        },
        "Requests that run at once; one more is 503."
    ),
    key!(
        "server.limits.waits" = "4096",
        Live::No,
        Open,
        |to, value| {
            to.limits.waits = value.places(1..=1_000_000)?;
            Ok(())
        },
        "Calls that wait for a lock, a fill or a verdict at once; one more is 503."
    ),
    key!(
        "server.limits.streams" = "1000",
        Live::No,
        Open,
        |to, value| {
            to.limits.streams = value.places(1..=1_000_000)?;
            Ok(())
        },
        "Event streams at once; one more is 503."
    ),
    key!(
        "server.limits.streams_per_token" = "100",
        Live::No,
        Open,
        |to, value| {
            to.limits.streams_per_token = value.places(1..=1_000_000)?;
            Ok(())
        },
        "Event streams of one token at once; one more is 429."
    ),
    key!(
        "server.timeouts.header" = r#""10s""#,
        Live::No,
        Open,
        |to, value| {
            to.timeouts.head = value.time("100ms"..="10m")?;
            Ok(())
        },
        "A TLS handshake, and a head, each; also how long a connection may be idle."
    ),
    key!(
        "server.timeouts.body" = r#""30s""#,
        Live::No,
        Open,
        |to, value| {
            to.timeouts.body = value.time("100ms"..="10m")?;
            Ok(())
        },
        "A body, from the end of the head."
    ),
    key!(
        "server.timeouts.request" = r#""10s""#,
        Live::No,
        Open,
        |to, value| {
            to.timeouts.request = value.time("100ms"..="10m")?;
            Ok(())
        },
        "The work of a request, beside what it waits for; a caller may ask for less."
    ),
    key!(
        "server.timeouts.stalled" = r#""30s""#,
        Live::No,
        Open,
        |to, value| {
            to.timeouts.stalled = value.time("100ms"..="10m")?;
            Ok(())
        },
        "An answer that the caller does not read; then the connection is cut."
    ),
    key!(
        "server.timeouts.stream_max_age" = r#""1h""#,
        Live::No,
        Open,
        |to, value| {
            to.timeouts.stream_age = value.time("1s"..="7d")?;
            Ok(())
        },
        "An event stream; up to a tenth sooner by chance, it ends with bye max_age and its client comes back."
    ),
    key!(
        "server.shutdown.delay" = r#""5s""#,
        Live::No,
        Open,
        |to, value| {
            to.shutdown.delay = value.time("0s"..="10m")?;
            Ok(())
        },
        "At the end: not ready, but serving, so that load balancers look elsewhere."
    ),
    key!(
        "server.shutdown.drain" = r#""20s""#,
        Live::No,
        Open,
        |to, value| {
            to.shutdown.drain = value.time("0s"..="10m")?;
            Ok(())
        },
        "After the delay: time for requests in flight."
    ),
    key!(
        "server.shutdown.total" = r#""30s""#,
        Live::No,
        Open,
        |to, value| {
            to.shutdown.total = value.time("0s"..="1h")?;
            Ok(())
        },
        "From the first signal to the end; what is left then is cut."
    ),
    key!(
        "store.url" = r#""sqlite:./onward.db""#,
        Live::No,
        Secret,
        |to, value| {
            let text = value.text()?;
            let known = ["sqlite:", "postgres://", "postgresql://"];
            if text != "memory:" && !known.iter().any(|scheme| text.len() > scheme.len() && text.starts_with(scheme)) {
                return Err("sqlite:PATH, postgres://HOST/DATABASE or memory:".to_owned());
            }
            to.store_url = text.into();
            Ok(())
        },
        "Store, audit trail and locks: sqlite:PATH, postgres://HOST/DATABASE, or memory: where allowed."
    ),
    key!(
        "store.history" = r#""7d""#,
        Live::No,
        Open,
        |to, value| {
            to.retention.age = value.time("1m"..="3650d")?;
            Ok(())
        },
        "How long the change log keeps a commit: history, watch and resumed cursors reach back this far."
    ),
    key!(
        "store.history_size" = r#""4GiB""#,
        Live::No,
        Open,
        |to, value| {
            to.retention.bytes = value.size("1MiB"..="1024TiB")?;
            Ok(())
        },
        "The change log's size; the oldest commits go first."
    ),
    key!(
        "locks.url" = r#""""#,
        Live::No,
        Secret,
        |to, value| {
            let text = value.text()?;
            let known = ["sqlite:", "postgres://", "postgresql://", "redis://", "rediss://"];
            if !matches!(text, "" | "memory:") && !known.iter().any(|scheme| text.len() > scheme.len() && text.starts_with(scheme)) {
                return Err("redis://HOST, postgres://HOST/DATABASE, sqlite:PATH or memory:, or empty for beside the store".to_owned());
            }
            to.locks_url = url(text);
            Ok(())
        },
        "Locks apart from the store: redis://HOST, rediss://HOST[?ca=FILE] for TLS, postgres://HOST/DATABASE, sqlite:PATH or memory:. Empty: beside the store."
    ),
    key!(
        "locks.enabled" = "true",
        Live::No,
        Open,
        |to, value| {
            to.locks_enabled = value.switch()?;
            Ok(())
        },
        "The kill switch: false refuses every lock with locking_off, whatever onward lock switch says."
    ),
    key!(
        "locks.namespace" = r#""main""#,
        Live::No,
        Open,
        |to, value| {
            let text = value.text()?;
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
            if !(1..=32).contains(&text.len()) || !text.bytes().all(plain) {
                return Err("[a-z0-9_-]{1,32}".to_owned());
            }
            text.clone_into(&mut to.lock_namespace);
            Ok(())
        },
        "Whose kill switch is heeded: applications that share an engine have one each."
    ),
    key!(
        "cache.url" = r#""""#,
        Live::No,
        Secret,
        |to, value| {
            let text = value.text()?;
            let known = ["redis://", "rediss://", "redis+cluster://", "rediss+cluster://"];
            let is_known = |url: &str| known.iter().any(|scheme| url.len() > scheme.len() && url.starts_with(scheme));
            if !matches!(text, "" | "memory:") && !text.split(',').all(is_known) {
                return Err("redis://HOST, several of them with commas between, memory:, or empty for no cache".to_owned());
            }
            to.cache_url = url(text);
            Ok(())
        },
        "The cache: redis://HOST, rediss://HOST[?ca=FILE] for TLS, redis+cluster://NODE, or several servers that share the keys, with commas between; memory:; empty for none."
    ),
    key!(
        "cache.scope" = r#""shared""#,
        Live::No,
        Open,
        |to, value| {
            to.cache_scope = value.word(&["shared", "process"])?;
            Ok(())
        },
        "Who sees the cache; memory: has to be \"process\", so that nobody takes it for shared."
    ),
    key!(
        "cache.layout" = r#""onward""#,
        Live::No,
        Open,
        |to, value| {
            to.cache_layout = value.word(&["onward", "utopia", "utopia-case-sensitive"])?;
            Ok(())
        },
        "How a cache on Redis lies there: as our own, or sharing the purges of its namespace default with the PHP library utopia-php/cache, which folds the letters of keys or not."
    ),
    key!(
        "cache.size" = r#""64MiB""#,
        Live::No,
        Open,
        |to, value| {
            to.cache_bytes = usize::try_from(value.size("1MiB"..="1TiB")?).unwrap_or(usize::MAX);
            Ok(())
        },
        "The bound of a cache in memory."
    ),
    key!(
        "cache.unleased" = "false",
        Live::No,
        Open,
        |to, value| {
            to.cache_unleased = value.switch()?;
            Ok(())
        },
        "Take values without a fill lease (PUT with unleased=true): they may be older than an invalidation."
    ),
    key!(
        "audit.key" = r#""""#,
        Live::No,
        Secret,
        |to, value| {
            let text = value.text()?;
            let wanted = "64 hex digits, or a name, a colon and 64 hex digits; in a file one key a line";
            to.audit_key = if text.is_empty() { MacKeys::none() } else { MacKeys::parse(text).map_err(|_| wanted)? };
            Ok(())
        },
        "The keys that seal audit entries, one a line; the last one seals. Empty: entries are chained by hash, and not sealed."
    ),
    key!(
        "audit.signing_key" = r#""""#,
        Live::No,
        Secret,
        |to, value| {
            let text = value.text()?;
            let parsed = if text.is_empty() { None } else { Some(CheckpointKey::parse(text).map_err(|_| "64 hex digits")?) };
            to.signing_key = parsed;
            Ok(())
        },
        "The key that signs checkpoints, another than audit.key. Empty: there are none."
    ),
    key!(
        "audit.archive" = r#""""#,
        Live::No,
        Open,
        |to, value| {
            let text = value.text()?;
            if !text.is_empty() {
                Archive::read(text).map_err(|e| format!("file:PATH, s3://BUCKET/PREFIX, or empty: {}", e.message()))?;
            }
            to.archive_url = url(text);
            Ok(())
        },
        "Where segments of chains are archived: file:PATH, on another disk than the store, or s3://BUCKET/PREFIX (a build with the feature s3). Empty: they are not."
    ),
    due!(
        "audit.seal_after",
        seal_after = r#""never""#,
        "0s",
        "How old the oldest entry behind the last segment of a chain gets before what is there is sealed; never: only by hand."
    ),
    key!(
        "audit.segment_rows" = "65536",
        Live::No,
        Open,
        |to, value| {
            to.policy.segment_rows = value.count(1..=SEGMENT_ROWS)?;
            Ok(())
        },
        "Most entries of a segment that the server seals by itself."
    ),
    key!(
        "audit.segment_bytes" = r#""256MiB""#,
        Live::No,
        Open,
        |to, value| {
            to.policy.segment_bytes = value.size("1KiB"..="4GiB")?;
            Ok(())
        },
        "Most bytes of text and data of a segment that the server seals by itself."
    ),
    due!(
        "audit.archive_after",
        archive_after = r#""never""#,
        "0s",
        "How long a sealed segment waits before it is written to audit.archive; never: only by hand."
    ),
    due!(
        "audit.purge_after",
        purge_after = r#""never""#,
        "0s",
        "How long the entries of an archived segment stay in the store; needs audit.key and audit.signing_key; never: only by hand."
    ),
    due!(
        "audit.delete_files_after",
        delete_files_after = r#""never""#,
        "0s",
        "How long the file of a purged segment stays; with it goes the last copy of its entries; never: only by hand."
    ),
    due!(
        "audit.checkpoint_every",
        checkpoint_every = r#""1h""#,
        "1m",
        "How old the newest signed checkpoint of a chain in audit.archive gets, if the chain grew since; without audit.archive or audit.signing_key there are none; never: only before a purge."
    ),
    due!(
        "audit.verify_every",
        verify_every = r#""24h""#,
        "1m",
        "How old the newest verdict on a chain gets before what came since is verified; all of it where no checkpoint in audit.archive vouches for the rest; never: only by hand."
    ),
    due!(
        "audit.verify_full_every",
        verify_full_every = r#""7d""#,
        "1m",
        "How old the newest verdict on every entry of a chain gets before all of them are verified again; never: only by hand."
    ),
    key!(
        "audit.chains" = "[]",
        Live::No,
        Open,
        |to, value| {
            to.policies = value.list()?.iter().try_fold(Policies::new(to.policy.clone()).map_err(|e| e.to_string())?, |all, one| {
                let (chain, policy) = chain(one, &to.policy)?;
                all.with_chain(chain, policy).map_err(|e| e.message().to_owned())
            })?;
            Ok(())
        },
        "Chains with other times, each { match = \"orders*\", seal_after, segment_rows, segment_bytes, archive_after, purge_after, delete_files_after, checkpoint_every, verify_every, verify_full_every }; the first that fits counts, and what it leaves out is as above. Of chains of ours, such as onward.admin, the past is left alone unless they are named."
    ),
    key!(
        "auth.rate.per_second" = "1000",
        Live::No,
        Open,
        |to, value| {
            to.rate.per_second = u32::try_from(value.count(1..=1_000_000)?).unwrap_or(u32::MAX);
            Ok(())
        },
        "Requests that one token may send in the long run; more are 429."
    ),
    key!(
        "auth.rate.burst" = "2000",
        Live::No,
        Open,
        |to, value| {
            to.rate.burst = u32::try_from(value.count(1..=1_000_000)?).unwrap_or(u32::MAX);
            Ok(())
        },
        "Requests that one token may send at once after a pause."
    ),
    key!(
        "auth.tokens" = "[]",
        Live::No,
        Open,
        |to, value| {
            to.tokens = value.list()?.iter().map(listed).collect::<Result<_, _>>()?;
            Ok(())
        },
        "Tokens beside those in the store, each { name, role, scopes, sha256 } with the SHA-256 of the whole token in hex."
    ),
    key!(
        "ops.log.level" = r#""info""#,
        Live::No,
        Open,
        |to, value| {
            to.log.levels = value.text()?.parse()?;
            Ok(())
        },
        "What is logged: error, warn, info or debug, and by target, such as info,onward::request=debug."
    ),
    key!(
        "ops.log.format" = r#""auto""#,
        Live::No,
        Open,
        |to, value| {
            to.log.format = match value.word(&["auto", "json", "text"])? {
                "json" => Format::Json,
                "text" => Format::Text,
                _ => Format::Auto,
            };
            Ok(())
        },
        "How it is logged on stderr: json, text, or auto: text on a terminal, else json."
    ),
    key!(
        "ops.metrics.listen" = r#""""#,
        Live::No,
        Open,
        |to, value| {
            let text = value.text()?;
            let address = || text.parse().map(Some).map_err(|_| "an address such as \"127.0.0.1:9464\", or empty");
            to.metrics_listen = if text.is_empty() { None } else { address()? };
            Ok(())
        },
        "An address of its own for /metrics, IP:PORT, plain and without a token. Empty: /metrics for tokens only."
    ),
    key!(
        "ops.ready_requires" = "[]",
        Live::No,
        Open,
        |to, value| {
            let part = |text: &&str| matches!(*text, "store" | "locks");
            let parts = value.texts()?;
            if !parts.iter().all(part) {
                return Err("store, locks".to_owned());
            }
            to.ready_requires = parts.into_iter().map(str::to_owned).collect();
            Ok(())
        },
        "Parts without whose engine /readyz is 503: store, locks. Empty: degraded, and the caller gets the typed error."
    ),
];

/// A file; empty for none.
fn path(value: &Value) -> Result<Option<PathBuf>, String> {
    Ok(Some(value.text()?).filter(|text| !text.is_empty()).map(PathBuf::from))
}

/// A URL where a part is kept, if any is named.
fn url(text: &str) -> Option<Url> {
    (!text.is_empty()).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::designed::is_designed;

    #[test]
    fn each_default_fits_its_key() {
        let mut settings = Settings::default();
        for key in KEYS {
            let value = Value::parse(key.default).unwrap_or_else(|| panic!("{}", key.name));
            assert_eq!(key.set(&mut settings, &value), Ok(()), "{}", key.name);
        }
        assert_eq!(settings.limits, crate::Limits::default());
        assert_eq!(settings.timeouts, crate::Timeouts::default());
        assert_eq!(settings.retention, onward::commit::Retention::default());
        assert!(settings.locks_enabled && settings.audit_key.is_empty());
    }

    #[test]
    fn a_name_stands_once_and_is_built_or_not() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(!is_designed(key.name) && !is_section(key.name), "{}", key.name);
            assert!(KEYS.iter().skip(index + 1).all(|other| other.name != key.name), "{}", key.name);
            assert!(key.effect.ends_with('.') && !key.effect.contains(['|', '`']), "{}", key.effect);
        }
    }
}
