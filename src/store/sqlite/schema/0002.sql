-- The destinations in force: what is pending for one that left goes where its subscription goes now.
CREATE TABLE destination (
    name TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
