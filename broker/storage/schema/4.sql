-- Version 4: bindings to patterns of topics, and those that begin in the past.

-- The binding to a pattern that this one follows from; 0: somebody asked for it.
ALTER TABLE binding ADD COLUMN pattern INTEGER NOT NULL DEFAULT 0;
-- msgpack map: lane -> [number, filter]: up to it the filter is asked as messages are delivered.
ALTER TABLE binding ADD COLUMN past BLOB NOT NULL DEFAULT x'80';
