-- Version 2: what cannot be read is set aside, so that the rest can be.

-- Runs of a lane's messages that cannot be decoded. Every reader passes over them; nothing deletes them.
CREATE TABLE quarantine (
    id     INTEGER PRIMARY KEY,
    lane   INTEGER NOT NULL,
    base   INTEGER NOT NULL,         -- the number of its first message
    n      INTEGER NOT NULL,         -- how many messages it was meant to hold
    reason TEXT NOT NULL,            -- what was wrong with it
    data   BLOB                      -- as it was found; NULL = not even that could be read
);
