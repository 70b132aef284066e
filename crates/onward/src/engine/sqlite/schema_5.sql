-- Version 5: segments of chains can leave the database. Their index, their skeletons and holds are objects.
-- Few entries are control entries, so an append writes nothing here.
CREATE INDEX onward_entries_pinned ON onward_entries (chain, seq) WHERE flags & 1 = 1;

-- What a batch that deletes may delete: written and taken back in its own transaction. Always empty for everybody else.
CREATE TABLE onward_purging (chain INTEGER NOT NULL, from_seq INTEGER NOT NULL, to_seq INTEGER NOT NULL) STRICT;
DROP TRIGGER onward_entries_remain;
CREATE TRIGGER onward_entries_remain BEFORE DELETE ON onward_entries
  WHEN old.flags & 1 = 1 OR NOT EXISTS
    (SELECT 1 FROM onward_purging p WHERE p.chain = old.chain AND old.seq BETWEEN p.from_seq AND p.to_seq)
  BEGIN SELECT raise(ABORT, 'audit entries are deleted by a purge only, and control entries never'); END;
