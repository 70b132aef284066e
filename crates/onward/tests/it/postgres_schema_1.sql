-- Version 1. Text by bytes, blobs and 64-bit integers only; numbers that only grow are never computed by a later read (C2).
-- The facts of the store, one row: whoever holds its lock has the writer's right.
CREATE TABLE onward_meta (
  id smallint PRIMARY KEY CHECK (id = 1),
  schema_version integer NOT NULL,
  epoch text NOT NULL,
  revision bigint NOT NULL,
  version_floor bigint NOT NULL,
  restore_floor bigint NOT NULL,
  compacted bigint NOT NULL,
  log_bytes bigint NOT NULL,
  newest_token bigint NOT NULL,
  newest_at bigint NOT NULL,
  origin text NOT NULL,
  created_at bigint NOT NULL,
  -- Which server, in which life, and which table: another one means that the rows were restored from somewhere.
  home text NOT NULL
) WITH (fillfactor = 10);

CREATE TABLE onward_objects (
  namespace text COLLATE "C" NOT NULL,
  kind text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  uid uuid NOT NULL,
  version bigint NOT NULL CHECK (version > 0),
  revision bigint NOT NULL,
  create_revision bigint NOT NULL,
  content_type text NOT NULL,
  payload bytea NOT NULL,
  created_at bigint NOT NULL,
  updated_at bigint NOT NULL,
  -- JSON, an object of strings; NULL: none.
  labels text,
  -- Microseconds since 1970; NULL: never.
  expires_at bigint,
  PRIMARY KEY (namespace, kind, name)
) WITH (fillfactor = 85);
CREATE INDEX onward_objects_by_expiry ON onward_objects (expires_at) WHERE expires_at IS NOT NULL;

-- Who has which label, for lists by label: the same facts as onward_objects.labels, written in the same transaction.
CREATE TABLE onward_labels (
  namespace text COLLATE "C" NOT NULL,
  kind text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  value text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  PRIMARY KEY (namespace, kind, key, value, name)
);

-- The change log holds the state BEFORE each change: a create costs nothing, a delete carries its last state, and the state after a
-- change is the next before-image of its key, or the row. id = revision * 256 + ord; ord 0 is the commit's first or only row.
CREATE TABLE onward_changes (
  id bigint PRIMARY KEY,
  at bigint NOT NULL,
  op text NOT NULL CHECK (op IN ('commit', 'put', 'delete', 'expire')),
  namespace text COLLATE "C",
  kind text COLLATE "C",
  name text COLLATE "C",
  version bigint,
  note text,
  uid uuid,
  before_version bigint,
  revision bigint,
  create_revision bigint,
  content_type text,
  payload bytea,
  created_at bigint,
  updated_at bigint,
  labels text,
  expires_at bigint,
  -- What the row counts in the log, and how long the payload after the change is.
  bytes bigint NOT NULL,
  after_bytes bigint NOT NULL
);
CREATE INDEX onward_changes_of_key ON onward_changes (namespace, kind, name, id) WHERE name IS NOT NULL;

CREATE TABLE onward_fences (lock_key text COLLATE "C" PRIMARY KEY, token bigint NOT NULL, used_at bigint NOT NULL) WITH (fillfactor = 70);

CREATE TABLE onward_requests (
  id text COLLATE "C" PRIMARY KEY,
  fingerprint bytea NOT NULL,
  receipt text NOT NULL,
  expires_at bigint NOT NULL
);
CREATE INDEX onward_requests_by_expiry ON onward_requests (expires_at);

CREATE TABLE onward_chains (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text COLLATE "C" NOT NULL UNIQUE,
  origin text COLLATE "C" NOT NULL UNIQUE,
  created_at bigint NOT NULL
);

CREATE TABLE onward_heads (
  chain bigint PRIMARY KEY,
  seq bigint NOT NULL,
  hash bytea NOT NULL CHECK (octet_length(hash) = 32),
  frontier bytea NOT NULL,
  at bigint NOT NULL
) WITH (fillfactor = 50);

-- Beside the writer's right the primary key stops a fork: two successors of one entry have the same seq. No index knows kinds, actors and
-- resources: each would take every append to one more page.
CREATE TABLE onward_entries (
  chain bigint NOT NULL,
  seq bigint NOT NULL CHECK (seq > 0),
  prev bytea NOT NULL CHECK (octet_length(prev) = 32),
  hash bytea NOT NULL CHECK (octet_length(hash) = 32),
  mac bytea CHECK (mac IS NULL OR octet_length(mac) = 32),
  kid text NOT NULL,
  at bigint NOT NULL,
  event_id text NOT NULL,
  kind text COLLATE "C" NOT NULL,
  actor text COLLATE "C",
  resource text COLLATE "C",
  data bytea NOT NULL,
  pii bytea,
  flags bigint NOT NULL,
  PRIMARY KEY (chain, seq)
);

-- Trip wires against mistakes, not proof against an attacker: the verifier is.
CREATE FUNCTION onward_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '%', TG_ARGV[0]; END $$;
CREATE TRIGGER onward_entries_stay BEFORE UPDATE ON onward_entries
  FOR EACH ROW EXECUTE FUNCTION onward_refuse('audit entries are never changed');
CREATE TRIGGER onward_entries_remain BEFORE DELETE ON onward_entries
  FOR EACH ROW EXECUTE FUNCTION onward_refuse('audit entries are never deleted');
CREATE TRIGGER onward_entries_last BEFORE TRUNCATE ON onward_entries
  FOR EACH STATEMENT EXECUTE FUNCTION onward_refuse('audit entries are never deleted');
CREATE TRIGGER onward_objects_version BEFORE UPDATE OF payload, content_type, labels, expires_at ON onward_objects
  FOR EACH ROW WHEN (new.version <= old.version) EXECUTE FUNCTION onward_refuse('a changed object needs a higher version');

-- Leases on this server's clock. A row stays when its lease has ended, so that the next token is above its own.
CREATE TABLE onward_leases (
  key text COLLATE "C" PRIMARY KEY,
  owner bytea NOT NULL CHECK (octet_length(owner) = 16),
  holder text NOT NULL,
  token bigint NOT NULL CHECK (token > 0),
  -- Microseconds since 1970; 0: given back.
  until bigint NOT NULL,
  since bigint NOT NULL,
  -- Whether somebody waits for a word when it is given back.
  waited boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);

-- Every token is above this, whatever rows are gone (C4).
CREATE TABLE onward_tokens (id smallint PRIMARY KEY CHECK (id = 1), floor bigint NOT NULL);
INSERT INTO onward_tokens VALUES (1, 0);

-- Each writer's newest batch, written in the batch's own transaction: it says whether a COMMIT without an answer was applied.
CREATE TABLE onward_writers (id text COLLATE "C" PRIMARY KEY, batch bigint NOT NULL, at bigint NOT NULL) WITH (fillfactor = 30);
