//! The statements on leases: each one atomic step under the row's lock, on the server's clock (C1, C5).
//!
//! `clock` is read once, when the statement begins. Whatever it then waits for, the lease counts from before, so it never ends later in
//! the table than its holder was told. `held` locks the newest state of a row; the change that follows cannot meet another.

/// The server's clock in microseconds, unless a test brings its own as `$1`.
const CLOCK: &str = "clock AS MATERIALIZED (SELECT coalesce($1::int8, (extract(epoch FROM clock_timestamp()) * 1000000)::int8) AS us)";

/// The channel on which the end of a lease is told to those who wait for it.
pub(super) const CHANNEL: &str = "onward_locks";

/// Takes a key that is free: key, owner, holder, ttl. Rows: token, remaining, owner, whether it was granted by this.
///
/// A key that somebody holds is only read: who comes in vain locks no row and waits for no disk. The row of somebody else may be missing, if
/// it came since the statement began: the caller then looks once more.
pub(super) fn acquire() -> String {
    format!(
        "WITH {CLOCK},
         held AS MATERIALIZED (
           SELECT l.token, l.until - c.us AS remaining, l.owner FROM onward_leases l, clock c WHERE l.key = $2 AND l.until > c.us),
         got AS (
           INSERT INTO onward_leases AS l (key, owner, holder, token, until, since)
           SELECT $2, $3, $4, greatest(t.floor + 1, c.us), c.us + $5, c.us FROM clock c, onward_tokens t
           WHERE NOT EXISTS (SELECT FROM held)
           ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, holder = excluded.holder, until = excluded.until,
             since = excluded.since, token = greatest(l.token + 1, excluded.token)
           WHERE l.until <= excluded.since
           RETURNING l.token, l.until - l.since AS remaining, l.owner)
         SELECT token, remaining, owner, true FROM got UNION ALL SELECT token, remaining, owner, false FROM held"
    )
}

/// Asks to be told when a lease ends: key. Rows: remaining; none: the key is free.
///
/// If somebody waits already, the row is only read: a release that is on its way saw that as well, and its word is still to come.
pub(super) fn wait() -> String {
    format!(
        "WITH {CLOCK},
         asked AS MATERIALIZED (SELECT l.until - c.us AS remaining FROM onward_leases l, clock c WHERE l.key = $2 AND l.waited AND l.until > c.us),
         held AS MATERIALIZED (SELECT * FROM onward_leases WHERE key = $2 AND NOT EXISTS (SELECT FROM asked) FOR UPDATE),
         told AS (UPDATE onward_leases l SET waited = true FROM held h, clock c WHERE l.key = h.key AND NOT h.waited AND h.until > c.us)
         SELECT h.until - c.us FROM held h, clock c WHERE h.until > c.us UNION ALL SELECT remaining FROM asked"
    )
}

/// Extends leases: keys, owners, ttls. Rows: which of them, token, remaining. One that is named twice is answered twice.
pub(super) fn renew() -> String {
    format!(
        "WITH {CLOCK}, {HELD},
         kept AS (
           UPDATE onward_leases l SET until = greatest(h.until, c.us + h.length)
           FROM (SELECT h.key, h.until, max(a.length) AS length FROM held h JOIN asked a ON a.key = h.key AND a.owner = h.owner
                 GROUP BY h.key, h.until) h, clock c
           WHERE l.key = h.key AND h.until > c.us
           RETURNING l.key, l.owner, l.token, l.until - c.us AS remaining)
         SELECT a.n, k.token, k.remaining FROM kept k JOIN asked a ON a.key = k.key AND a.owner = k.owner"
    )
}

/// Ends leases: keys, owners, how long each key stays taken, and by whom then. Rows: which of them.
pub(super) fn release() -> String {
    format!(
        "WITH {CLOCK}, {HELD},
         freed AS (
           UPDATE onward_leases l SET owner = a.stranger, waited = h.waited AND a.length > 0,
             until = CASE WHEN a.length > 0 THEN c.us + a.length ELSE 0 END
           FROM asked a JOIN held h ON h.key = a.key AND h.owner = a.owner, clock c
           WHERE l.key = h.key AND h.until > c.us
           RETURNING a.n, l.key, h.waited AND a.length <= 0 AS told)
         SELECT n, CASE WHEN told THEN pg_notify('{CHANNEL}', key) END FROM freed"
    )
}

/// What [`renew`] and [`release`] begin with; rows are locked in one order, so that no two of them wait for each other.
const HELD: &str = "asked AS MATERIALIZED (
           SELECT * FROM unnest($2::text[], $3::bytea[], $4::int8[], $5::bytea[]) WITH ORDINALITY AS a (key, owner, length, stranger, n)),
         held AS MATERIALIZED (SELECT * FROM onward_leases WHERE key = ANY ($2) ORDER BY key FOR UPDATE)";

/// Takes a key from whoever holds it: key, owner, holder, ttl. Rows: token; none: it is free.
pub(super) fn take_over() -> String {
    format!(
        "WITH {CLOCK},
         held AS MATERIALIZED (SELECT * FROM onward_leases WHERE key = $2 FOR UPDATE),
         took AS (
           UPDATE onward_leases l SET owner = $3, holder = $4, until = c.us + $5, since = c.us,
             token = greatest(h.token + 1, t.floor + 1, c.us)
           FROM held h, clock c, onward_tokens t WHERE l.key = h.key AND h.until > c.us AND h.owner <> $3
           RETURNING l.token)
         SELECT token FROM took
         UNION ALL
         SELECT h.token FROM held h, clock c WHERE h.until > c.us AND h.owner = $3"
    )
}

/// Reads the live lease of a key. Rows: key, owner, holder, token, remaining, since.
pub(super) fn inspect() -> String {
    format!(
        "WITH {CLOCK} SELECT l.key, owner, holder, token, until - c.us, since FROM onward_leases l, clock c WHERE key = $2 AND until > c.us"
    )
}

/// Reads live leases in the order of their keys: prefix, after, limit. Rows as [`inspect`].
pub(super) fn list() -> String {
    format!(
        "WITH {CLOCK} SELECT l.key, owner, holder, token, until - c.us, since FROM onward_leases l, clock c
         WHERE key >= $2 AND starts_with(key, $2) AND key > $3 AND until > c.us ORDER BY key LIMIT $4"
    )
}

/// Raises the floor of tokens.
pub(super) const RAISE: &str = "UPDATE onward_tokens SET floor = $1 WHERE floor < $1";

/// Deletes rows that have long ended and are below the floor; then raises the floor for the next time. In this order and in transactions
/// of their own: an acquire that still sees the floor as it was finds the row.
pub(super) fn prune() -> [String; 2] {
    let ended = format!("until < c.us - {IDLE_US}");
    [
        format!(
            "WITH {CLOCK}, old AS MATERIALIZED (
               SELECT key FROM onward_leases l, clock c, onward_tokens t WHERE {ended} AND l.token <= t.floor LIMIT 1000 FOR UPDATE OF l SKIP LOCKED)
             DELETE FROM onward_leases l USING old WHERE l.key = old.key"
        ),
        format!(
            "WITH {CLOCK}, old AS (SELECT max(token) AS newest FROM onward_leases, clock c WHERE {ended})
             UPDATE onward_tokens SET floor = newest FROM old WHERE newest > floor"
        ),
    ]
}

/// Seven days.
const IDLE_US: i64 = 7 * 24 * 3_600 * 1_000_000;
