-- The state's epoch: what others remember of it (a shared deduplication) counts under its own epoch only.
ALTER TABLE store ADD COLUMN epoch TEXT NOT NULL DEFAULT '';
UPDATE store SET epoch = lower(hex(randomblob(16)));
-- Set in the copies that `backup` makes: a service starts on one only after `recover`.
ALTER TABLE store ADD COLUMN copied_at INTEGER;

-- Subscriptions that an operator paused: they are numbered on, but nothing of theirs is attempted. Their deliveries
-- are never `ready`.
CREATE TABLE pause (
    subscription TEXT PRIMARY KEY,
    since        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What operators changed: moved cursors, pauses, recoveries.
CREATE TABLE audit (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    action  TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail  TEXT NOT NULL
) STRICT;
