-- What a record refers to, frozen with its event.
ALTER TABLE event ADD COLUMN context BLOB;
-- A stage is read oldest first, ties in the reverse of the answer; numbers are judged outside of SQL.
DROP INDEX stage_by_age;
CREATE INDEX stage_by_age ON stage (connection, feed, order_stamp, place DESC);
