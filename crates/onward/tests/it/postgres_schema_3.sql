-- Version 3: personal data stand apart from the entries that commit to them, so that they can be forgotten.
-- The bytes of a row that is deleted stay in its page, before a VACUUM and after it. So there are two shelves, and all values stand on one:
-- once some are forgotten, the others are carried to the other shelf, and the files of the first are thrown away as a whole.
CREATE TABLE onward_personal (
  shelf smallint NOT NULL,
  chain bigint NOT NULL,
  seq bigint NOT NULL,
  subject text COLLATE "C" NOT NULL,
  salt bytea NOT NULL,
  value bytea NOT NULL,
  PRIMARY KEY (shelf, chain, seq)
) PARTITION BY LIST (shelf);
-- No VACUUM is needed where files are thrown away, and one would stand in the way of that.
CREATE TABLE onward_personal_0 PARTITION OF onward_personal FOR VALUES IN (0)
  WITH (autovacuum_enabled = false, toast.autovacuum_enabled = false);
CREATE TABLE onward_personal_1 PARTITION OF onward_personal FOR VALUES IN (1)
  WITH (autovacuum_enabled = false, toast.autovacuum_enabled = false);
CREATE INDEX onward_personal_by_subject ON onward_personal (chain, subject, seq);
-- An ANALYZE would copy values into the statistics, where nobody finds them.
ALTER TABLE onward_personal ALTER subject SET STATISTICS 0, ALTER salt SET STATISTICS 0, ALTER value SET STATISTICS 0;
ALTER TABLE onward_personal_0 ALTER subject SET STATISTICS 0, ALTER salt SET STATISTICS 0, ALTER value SET STATISTICS 0;
ALTER TABLE onward_personal_1 ALTER subject SET STATISTICS 0, ALTER salt SET STATISTICS 0, ALTER value SET STATISTICS 0;

-- On which shelf values are put; whether something was forgotten since that was so; whether values are being carried to it from the other.
CREATE TABLE onward_shelves (
  id smallint PRIMARY KEY CHECK (id = 1),
  current smallint NOT NULL CHECK (current IN (0, 1)),
  soiled boolean NOT NULL,
  carrying boolean NOT NULL,
  -- Whether rows may go: set and taken back in the transaction that deletes. Always false for everybody else.
  forgetting boolean NOT NULL
);
INSERT INTO onward_shelves VALUES (1, 0, false, false, false);

CREATE FUNCTION onward_refuse_unless_forgetting() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF NOT (SELECT forgetting FROM onward_shelves) THEN
    RAISE EXCEPTION 'personal data go by a redaction only';
  END IF;
  RETURN old;
END $$;
CREATE TRIGGER onward_personal_stay BEFORE UPDATE ON onward_personal
  FOR EACH ROW EXECUTE FUNCTION onward_refuse('personal data are never changed');
CREATE TRIGGER onward_personal_remain BEFORE DELETE ON onward_personal
  FOR EACH ROW EXECUTE FUNCTION onward_refuse_unless_forgetting();
CREATE TRIGGER onward_personal_last BEFORE TRUNCATE ON onward_personal_0
  FOR EACH STATEMENT EXECUTE FUNCTION onward_refuse_unless_forgetting();
CREATE TRIGGER onward_personal_last BEFORE TRUNCATE ON onward_personal_1
  FOR EACH STATEMENT EXECUTE FUNCTION onward_refuse_unless_forgetting();
