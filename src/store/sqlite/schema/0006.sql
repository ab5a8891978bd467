-- The keys that sealed blobs of this file, oldest first: their public ids, never the keys.
CREATE TABLE seal_key (
    turn  INTEGER PRIMARY KEY,
    id    BLOB NOT NULL UNIQUE,
    proof BLOB NOT NULL                -- a known text, sealed: only the right key opens it
) STRICT;
