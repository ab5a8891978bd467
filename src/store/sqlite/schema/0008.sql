-- What a version says of its record as a whole ('merged Patient/7', 'entered-in-error'); null where it says nothing.
ALTER TABLE stage ADD COLUMN meaning TEXT;
ALTER TABLE inbox ADD COLUMN meaning TEXT;
ALTER TABLE quarantine ADD COLUMN meaning TEXT;
ALTER TABLE event ADD COLUMN meaning TEXT;
-- Whether a record's last accepted version says that it was merged: one that no longer says so was parted again.
ALTER TABLE head ADD COLUMN merged INTEGER NOT NULL DEFAULT 0;
