-- One row: what is counted over the whole store.
CREATE TABLE store (
    only     INTEGER PRIMARY KEY CHECK (only = 1),
    revision INTEGER NOT NULL          -- of the definitions in force
) STRICT;
INSERT INTO store (only, revision) VALUES (1, 0);

-- One row per connection ever seen: its lease, the end of its log, and how far the log is fanned out.
CREATE TABLE connection (
    name          TEXT PRIMARY KEY,
    in_force      INTEGER NOT NULL DEFAULT 0,
    fence         INTEGER NOT NULL DEFAULT 0,  -- of the last grant; 0 before the first
    holder        TEXT,
    lease_until   INTEGER,
    last_event    INTEGER NOT NULL DEFAULT 0,  -- the last position given out; it outlives swept events
    fanned_event  INTEGER NOT NULL DEFAULT 0,
    fanned_within TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE subscription (
    name        TEXT PRIMARY KEY,
    connections TEXT NOT NULL,         -- '*', or names with commas between
    topic       TEXT NOT NULL,         -- '*', or a record type
    begins      TEXT NOT NULL,         -- 'now' or 'beginning'
    content     TEXT NOT NULL,
    format      TEXT NOT NULL,
    destination TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- How each subscription stands on each connection it ever covered: its numbers outlive it.
CREATE TABLE standing (
    connection   TEXT NOT NULL,
    subscription TEXT NOT NULL,
    after        INTEGER NOT NULL,
    own          INTEGER,              -- its own place in the log; null while it moves with the others
    last_number  INTEGER NOT NULL,
    pending      INTEGER NOT NULL DEFAULT 0,   -- kept by the triggers below
    in_force     INTEGER NOT NULL,
    PRIMARY KEY (connection, subscription)
) STRICT, WITHOUT ROWID;
CREATE INDEX standing_by_subscription ON standing (subscription, connection);

CREATE TABLE feed (
    connection        TEXT NOT NULL,
    name              TEXT NOT NULL,
    cursor            BLOB,            -- sealed, as all blobs
    poll              INTEGER NOT NULL,
    resume            BLOB,
    stage             TEXT NOT NULL,   -- 'none', 'collecting' or 'releasing'
    baseline          TEXT NOT NULL,   -- 'unproven' or 'complete'
    advanced_at       INTEGER,
    fresh_as_of       INTEGER,
    after_cursor      BLOB,            -- what releasing the stage ends with
    after_baseline    TEXT,
    after_fresh_as_of INTEGER,
    PRIMARY KEY (connection, name)
) STRICT;

-- The ledger: the last accepted version of each record, and all accepted ids.
CREATE TABLE head (
    connection   TEXT NOT NULL,
    record_type  TEXT NOT NULL,
    record_id    TEXT NOT NULL,
    version      TEXT NOT NULL,
    event_id     TEXT NOT NULL,
    order_number INTEGER,              -- less 2^63, so that all of u64 keeps its order
    order_stamp  INTEGER,
    hash         TEXT,
    deleted      INTEGER NOT NULL,
    changes      INTEGER NOT NULL,
    PRIMARY KEY (connection, record_type, record_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE accepted (
    connection TEXT NOT NULL,
    event_id   TEXT NOT NULL,
    shown_at   INTEGER NOT NULL,       -- when the source showed it last, to the day
    stamp      INTEGER,
    head       INTEGER NOT NULL DEFAULT 0,     -- 1 while it is a head's id: then it never expires
    PRIMARY KEY (connection, event_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX accepted_to_expire ON accepted (connection, shown_at) WHERE head = 0;

-- Changes that wait: in a stage for their poll's last page, in the inbox for their record, in quarantine for people.
CREATE TABLE stage (
    connection TEXT NOT NULL, feed TEXT NOT NULL, place INTEGER NOT NULL, fresh_as_of INTEGER NOT NULL,
    record_type TEXT NOT NULL, record_id TEXT NOT NULL, shown TEXT NOT NULL, novelty TEXT NOT NULL, version_id TEXT,
    clue TEXT NOT NULL, version TEXT, event_id TEXT, order_number INTEGER, order_stamp INTEGER,
    first_version INTEGER NOT NULL, hash TEXT, body BLOB
) STRICT;
CREATE INDEX stage_by_age ON stage (connection, feed, order_stamp, order_number, place DESC);
CREATE INDEX stage_by_place ON stage (connection, feed, place);
CREATE INDEX stage_by_record ON stage (connection, record_type, record_id, feed);

CREATE TABLE inbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    connection TEXT NOT NULL, feed TEXT NOT NULL, fresh_as_of INTEGER NOT NULL,
    record_type TEXT NOT NULL, record_id TEXT NOT NULL, shown TEXT NOT NULL, novelty TEXT NOT NULL, version_id TEXT,
    clue TEXT NOT NULL, version TEXT, event_id TEXT, order_number INTEGER, order_stamp INTEGER,
    first_version INTEGER NOT NULL, hash TEXT, body BLOB,
    baseline      TEXT NOT NULL,       -- the feed's when the change was first shown
    generation    INTEGER NOT NULL,    -- raised by every further showing
    attempts      INTEGER NOT NULL,
    claims        INTEGER NOT NULL,
    claimed_fence INTEGER,             -- a claim under an earlier fence is void
    due_at        INTEGER NOT NULL,
    written_at    INTEGER NOT NULL,
    last_reason   TEXT
) STRICT;
CREATE UNIQUE INDEX inbox_once ON inbox (connection, event_id) WHERE event_id IS NOT NULL;
CREATE INDEX inbox_by_record ON inbox (connection, record_type, record_id, id);
CREATE INDEX inbox_in_order ON inbox (connection, id, due_at);

CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    connection TEXT NOT NULL, feed TEXT NOT NULL, fresh_as_of INTEGER NOT NULL,
    record_type TEXT NOT NULL, record_id TEXT NOT NULL, shown TEXT NOT NULL, novelty TEXT NOT NULL, version_id TEXT,
    clue TEXT NOT NULL, version TEXT, event_id TEXT, order_number INTEGER, order_stamp INTEGER,
    first_version INTEGER NOT NULL, hash TEXT, body BLOB,
    baseline TEXT NOT NULL,
    reason   TEXT NOT NULL,
    at       INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX quarantine_once ON quarantine (connection, event_id) WHERE event_id IS NOT NULL;
CREATE UNIQUE INDEX quarantine_record_once ON quarantine (connection, record_type, record_id) WHERE event_id IS NULL;

-- The event log.
CREATE TABLE event (
    seq         INTEGER PRIMARY KEY,
    connection  TEXT NOT NULL,
    position    INTEGER NOT NULL,      -- dense per connection, from 1
    id          TEXT NOT NULL,
    record_type TEXT NOT NULL,
    record_id   TEXT NOT NULL,
    version     TEXT NOT NULL,
    version_id  TEXT,
    kind        TEXT NOT NULL,
    changed_at  INTEGER,
    fresh_as_of INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    late        INTEGER NOT NULL,
    feed        TEXT NOT NULL,
    body        BLOB
) STRICT;
CREATE UNIQUE INDEX event_in_order ON event (connection, position);
CREATE UNIQUE INDEX event_once ON event (id, connection);
CREATE INDEX event_by_time ON event (recorded_at, connection, position);

-- The outbox, settled rows included.
CREATE TABLE delivery (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    subscription   TEXT NOT NULL,
    connection     TEXT NOT NULL,
    event          INTEGER NOT NULL,
    number         INTEGER NOT NULL,   -- dense per subscription and connection, from 1
    record_type    TEXT NOT NULL,
    record_id      TEXT NOT NULL,
    destination    TEXT NOT NULL,
    content        TEXT NOT NULL,
    format         TEXT NOT NULL,
    renderer       INTEGER NOT NULL,
    state          TEXT NOT NULL,      -- 'pending', 'done', 'dead' or 'cancelled'
    ready          INTEGER NOT NULL,   -- 1 for the lowest pending number of its record and subscription
    attempts       INTEGER NOT NULL,
    scheduled_from INTEGER NOT NULL,
    due_at         INTEGER NOT NULL,
    replay         INTEGER NOT NULL,
    last_outcome   TEXT,
    settled_at     INTEGER
) STRICT;
CREATE UNIQUE INDEX delivery_once ON delivery (connection, event, subscription);
CREATE INDEX delivery_due ON delivery (destination, due_at, id) WHERE state = 'pending' AND ready = 1;
CREATE INDEX delivery_line ON delivery (subscription, connection, record_type, record_id, number) WHERE state = 'pending';
CREATE INDEX delivery_waiting ON delivery (connection, scheduled_from) WHERE state = 'pending';
CREATE INDEX delivery_over ON delivery (settled_at) WHERE state IN ('done', 'cancelled');
CREATE INDEX delivery_dead ON delivery (settled_at, id) WHERE state = 'dead';

CREATE TRIGGER delivery_owed AFTER INSERT ON delivery WHEN new.state = 'pending' BEGIN
    UPDATE standing SET pending = pending + 1 WHERE connection = new.connection AND subscription = new.subscription;
END;
CREATE TRIGGER delivery_settled AFTER UPDATE OF state ON delivery
WHEN old.state = 'pending' AND new.state <> 'pending' BEGIN
    UPDATE standing SET pending = pending - 1 WHERE connection = new.connection AND subscription = new.subscription;
END;
CREATE TRIGGER delivery_owed_again AFTER UPDATE OF state ON delivery
WHEN old.state <> 'pending' AND new.state = 'pending' BEGIN
    UPDATE standing SET pending = pending + 1 WHERE connection = new.connection AND subscription = new.subscription;
END;
