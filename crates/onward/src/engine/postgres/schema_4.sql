-- Version 4: a batch that deletes entries is looked at as a whole, once: before, the trigger asked for each row whether it may go.
-- The rows that go must lie between the ends of one range that is allowed, which says as much of their lowest and their highest place as
-- of each.
CREATE OR REPLACE FUNCTION onward_refuse_unless_purging() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF EXISTS (SELECT FROM
      (SELECT chain, min(seq) AS low, max(seq) AS high, bool_or(flags & 1 = 1) AS pinned FROM gone GROUP BY chain) AS g
      WHERE g.pinned OR NOT EXISTS
        (SELECT FROM onward_purging AS p WHERE p.chain = g.chain AND p.from_seq <= g.low AND g.high <= p.to_seq)) THEN
    RAISE EXCEPTION 'audit entries are deleted by a purge only, and control entries never';
  END IF;
  RETURN NULL;
END $$;
