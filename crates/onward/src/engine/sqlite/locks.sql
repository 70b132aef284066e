-- Leases end by themselves: `until_ns` is time since boot, suspend included, and means nothing under another boot.
CREATE TABLE IF NOT EXISTS onward_leases (
  key TEXT PRIMARY KEY,
  owner BLOB NOT NULL CHECK (length(owner) = 16),
  holder TEXT NOT NULL,
  token INTEGER NOT NULL CHECK (token > 0),
  until_ns INTEGER NOT NULL,
  boot TEXT NOT NULL,
  since INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Tokens up to `reserved_to` were made durable ahead of their use: another boot goes on above it (C4).
CREATE TABLE IF NOT EXISTS onward_tokens (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  last INTEGER NOT NULL,
  reserved_to INTEGER NOT NULL,
  boot TEXT NOT NULL
) STRICT;
INSERT OR IGNORE INTO onward_tokens (id, last, reserved_to, boot) VALUES (1, 0, 0, '');
