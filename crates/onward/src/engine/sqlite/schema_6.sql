-- Version 6: personal data stand apart from the entries that commit to them, so that they can be forgotten. Rows come in their order at
-- the end and never go: what is forgotten is overwritten by zeros of the same length where it stands. So no row is ever moved from page to
-- page, and no copy of one stays behind in the free part of a page. The only index holds numbers.
CREATE TABLE onward_personal (
  id INTEGER PRIMARY KEY,
  chain INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  subject BLOB NOT NULL,
  salt BLOB NOT NULL CHECK (length(salt) = 32),
  value BLOB NOT NULL,
  UNIQUE (chain, seq)
) STRICT;
CREATE TRIGGER onward_personal_remain BEFORE DELETE ON onward_personal
  BEGIN SELECT raise(ABORT, 'personal data are overwritten, never deleted'); END;
