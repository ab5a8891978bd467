-- The records that a feed's listings named, so far as nobody concluded that they are gone.
CREATE TABLE roll (
    connection TEXT NOT NULL,
    feed       TEXT NOT NULL,
    record_id  TEXT NOT NULL,
    asked      INTEGER NOT NULL DEFAULT 0,     -- 1 once it was read because a listing did not name it
    PRIMARY KEY (connection, feed, record_id)
) STRICT, WITHOUT ROWID;

-- When a feed's last complete poll ended: a sweep is due so long after the one before, over any restart.
ALTER TABLE feed ADD COLUMN completed_at INTEGER;
-- How many changes a feed's polls brought that were new.
ALTER TABLE feed ADD COLUMN found INTEGER NOT NULL DEFAULT 0;
