-- Version 2: segments of chains can leave the database. Their index, their skeletons and holds are objects.
-- Few entries are control entries, so an append writes nothing here.
CREATE INDEX onward_entries_pinned ON onward_entries (chain, seq) WHERE flags & 1 = 1;

-- What a batch that deletes may delete: written and taken back in its own transaction. Always empty for everybody else.
CREATE TABLE onward_purging (chain bigint NOT NULL, from_seq bigint NOT NULL, to_seq bigint NOT NULL);
DROP TRIGGER onward_entries_remain ON onward_entries;
CREATE FUNCTION onward_refuse_unless_purging() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF EXISTS (SELECT FROM gone AS g WHERE g.flags & 1 = 1 OR NOT EXISTS
      (SELECT FROM onward_purging AS p WHERE p.chain = g.chain AND g.seq BETWEEN p.from_seq AND p.to_seq)) THEN
    RAISE EXCEPTION 'audit entries are deleted by a purge only, and control entries never';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER onward_entries_remain AFTER DELETE ON onward_entries REFERENCING OLD TABLE AS gone
  FOR EACH STATEMENT EXECUTE FUNCTION onward_refuse_unless_purging();
