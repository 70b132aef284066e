-- Version 3. The index of (chain, prev) goes: hashes land anywhere in it, so each append wrote one more page, and the larger the chain the
-- more often an old one. The primary key already stops a fork: two successors of one entry have the same seq.
CREATE TABLE onward_entries_3 (
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
  PRIMARY KEY (chain, seq)
) STRICT;
INSERT INTO onward_entries_3 SELECT * FROM onward_entries ORDER BY rowid;
DROP TABLE onward_entries;
ALTER TABLE onward_entries_3 RENAME TO onward_entries;
CREATE INDEX onward_entries_by_kind ON onward_entries (chain, kind, seq);
CREATE INDEX onward_entries_by_actor ON onward_entries (chain, actor, seq) WHERE actor IS NOT NULL;
CREATE INDEX onward_entries_by_resource ON onward_entries (chain, resource, seq) WHERE resource IS NOT NULL;
CREATE TRIGGER onward_entries_stay BEFORE UPDATE ON onward_entries BEGIN SELECT raise(ABORT, 'audit entries are never changed'); END;
CREATE TRIGGER onward_entries_remain BEFORE DELETE ON onward_entries BEGIN SELECT raise(ABORT, 'audit entries are never deleted'); END;
