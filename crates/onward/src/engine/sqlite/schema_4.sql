-- Version 4. The indexes of kinds, actors and resources go: each append wrote a page of each of them, and with many chains a page of its
-- own. A query looks at the entries themselves, a bounded number a page.
DROP INDEX onward_entries_by_kind;
DROP INDEX onward_entries_by_actor;
DROP INDEX onward_entries_by_resource;
