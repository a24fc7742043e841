-- Version 3: publishers' keys by the thousand; what is retained of a lane.

-- Keys of publishers, against doubles. They are written by folds and only ever read together, at a start; a row each
-- would cost a fold 5 us a key.
DROP TABLE dedup;
CREATE TABLE dedup (
    id    INTEGER PRIMARY KEY,
    until INTEGER NOT NULL,          -- when all keys of the row may be forgotten
    keys  BLOB NOT NULL              -- msgpack: [[lane, seq, key, until], ...]; of two with the same lane and key the
                                     -- later `until` holds; keys of lanes that are gone mean nothing
);
CREATE INDEX dedup_until ON dedup (until);

-- Nothing at or above this number may go, whatever is settled; NULL = nothing is retained.
ALTER TABLE lane ADD COLUMN keep INTEGER;
