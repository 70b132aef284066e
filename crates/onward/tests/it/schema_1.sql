-- The first schema, as its files have it: kept apart from the library's own copy, so that an edit of that one shows.
-- Version 1. Blobs and integers only; numbers that only grow are never computed by a later read (C2).
-- The facts of the store, one row.
CREATE TABLE onward_meta (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  schema_version INTEGER NOT NULL,
  epoch TEXT NOT NULL,
  revision INTEGER NOT NULL,
  version_floor INTEGER NOT NULL,
  restore_floor INTEGER NOT NULL,
  compacted INTEGER NOT NULL,
  log_bytes INTEGER NOT NULL,
  newest_token INTEGER NOT NULL,
  at INTEGER NOT NULL,
  origin TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  -- 1 in a backup that nobody opened yet: opening it is the restore.
  is_copy INTEGER NOT NULL
) STRICT;

CREATE TABLE onward_objects (
  namespace TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
  uid BLOB NOT NULL CHECK (length(uid) = 16),
  version INTEGER NOT NULL CHECK (version > 0),
  revision INTEGER NOT NULL,
  create_revision INTEGER NOT NULL,
  content_type TEXT NOT NULL,
  payload BLOB NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  PRIMARY KEY (namespace, kind, name)
) STRICT;

-- The change log holds the state BEFORE each change: a create costs nothing, a delete carries its last state, and the state after a
-- change is the next before-image of its key, or the row. id = revision * 256 + ord; ord 0 is the commit's own row.
CREATE TABLE onward_changes (
  id INTEGER PRIMARY KEY,
  at INTEGER NOT NULL,
  op TEXT NOT NULL CHECK (op IN ('commit', 'put', 'delete')),
  namespace TEXT, kind TEXT, name TEXT,
  version INTEGER,
  note TEXT,
  before_meta TEXT,
  before_payload BLOB
) STRICT;
CREATE INDEX onward_changes_of_key ON onward_changes (namespace, kind, name, id) WHERE name IS NOT NULL;

CREATE TABLE onward_fences (lock_key TEXT PRIMARY KEY, token INTEGER NOT NULL, used_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE onward_requests (
  id TEXT PRIMARY KEY,
  fingerprint BLOB NOT NULL,
  receipt TEXT NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX onward_requests_by_expiry ON onward_requests (expires_at);

CREATE TABLE onward_chains (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, origin TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL) STRICT;

CREATE TABLE onward_heads (
  chain INTEGER PRIMARY KEY,
  seq INTEGER NOT NULL,
  hash BLOB NOT NULL CHECK (length(hash) = 32),
  frontier BLOB NOT NULL,
  at INTEGER NOT NULL
) STRICT;

-- Two constraints stop a fork beside the writer's right: one entry a position, and one successor a hash.
CREATE TABLE onward_entries (
  chain INTEGER NOT NULL,
  seq INTEGER NOT NULL CHECK (seq > 0),
  prev BLOB NOT NULL CHECK (length(prev) = 32),
  hash BLOB NOT NULL CHECK (length(hash) = 32),
  mac BLOB CHECK (mac IS NULL OR length(mac) = 32),
  kid TEXT NOT NULL,
  at INTEGER NOT NULL,
  event_id TEXT NOT NULL,
  kind TEXT NOT NULL,
  actor TEXT,
  resource TEXT,
  data BLOB NOT NULL,
  pii BLOB,
  flags INTEGER NOT NULL,
  PRIMARY KEY (chain, seq),
  UNIQUE (chain, prev)
) STRICT;
CREATE INDEX onward_entries_by_kind ON onward_entries (chain, kind, seq);
CREATE INDEX onward_entries_by_actor ON onward_entries (chain, actor, seq) WHERE actor IS NOT NULL;
CREATE INDEX onward_entries_by_resource ON onward_entries (chain, resource, seq) WHERE resource IS NOT NULL;

-- Trip wires against mistakes, not proof against an attacker: the verifier is.
CREATE TRIGGER onward_entries_stay BEFORE UPDATE ON onward_entries BEGIN SELECT raise(ABORT, 'audit entries are never changed'); END;
CREATE TRIGGER onward_entries_remain BEFORE DELETE ON onward_entries BEGIN SELECT raise(ABORT, 'audit entries are never deleted'); END;
CREATE TRIGGER onward_objects_version BEFORE UPDATE OF payload, content_type ON onward_objects WHEN new.version <= old.version
  BEGIN SELECT raise(ABORT, 'a changed object needs a higher version'); END;
