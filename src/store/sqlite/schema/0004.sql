-- The context of the trace that a change's first poll began, as the traceparent header spells it; null where nothing is
-- traced. Whoever fetches, fans out or delivers it, after a restart too, adds to that trace.
ALTER TABLE stage ADD COLUMN trace TEXT;
ALTER TABLE inbox ADD COLUMN trace TEXT;
ALTER TABLE quarantine ADD COLUMN trace TEXT;
ALTER TABLE event ADD COLUMN trace TEXT;

-- Gauges count these by connection.
CREATE INDEX quarantine_by_connection ON quarantine (connection);
CREATE INDEX delivery_dead_by_connection ON delivery (connection) WHERE state = 'dead';
