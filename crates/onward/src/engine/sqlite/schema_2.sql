-- Version 2: labels and time to live of objects. It adds to version 1 and rewrites no row.
-- JSON, an object of strings; NULL: none.
ALTER TABLE onward_objects ADD COLUMN labels TEXT;
-- Microseconds since 1970, by the engine's clock; NULL: never.
ALTER TABLE onward_objects ADD COLUMN expires_at INTEGER;
CREATE INDEX onward_objects_by_expiry ON onward_objects (expires_at, namespace, kind, name, version) WHERE expires_at IS NOT NULL;

-- Who has which label, for lists by label: the same facts as onward_objects.labels, written in the same transaction.
CREATE TABLE onward_labels (
  namespace TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, name TEXT NOT NULL,
  PRIMARY KEY (namespace, kind, key, value, name)
) STRICT, WITHOUT ROWID;

-- 1: the delete is the end of the object's time to live.
ALTER TABLE onward_changes ADD COLUMN expired INTEGER;

DROP TRIGGER onward_objects_version;
CREATE TRIGGER onward_objects_version BEFORE UPDATE OF payload, content_type, labels, expires_at ON onward_objects WHEN new.version <= old.version
  BEGIN SELECT raise(ABORT, 'a changed object needs a higher version'); END;

-- A writer of version 1 knows no labels and would lose them in the log, and it does not look at the number of the schema. It reads this
-- column by its old name, so it stops with an error; opened anew, it finds the number that it does look at, and says so.
ALTER TABLE onward_meta RENAME COLUMN at TO newest_at;
UPDATE onward_meta SET schema_version = 2;
