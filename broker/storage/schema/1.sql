-- Version 1 of the store's file. What the columns mean together, and the formats of the blobs, is written in
-- docs/storage-format.rst. Stamps and moments are microseconds of the wall clock; numbers (seq) count a lane's
-- messages from 0; ranges are half-open.

-- Single numbers, by name.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,          -- schema_version; last_stamp; checkpoint (the last record the tables below contain);
                                     -- unclean_starts (0 after a clean close); last_destination, last_lane, last_reader,
                                     -- last_binding (the highest id ever given, dropped ones included)
    value INTEGER NOT NULL
) WITHOUT ROWID;

-- One row per commit: what it appended, settled and defined. Lives until a fold has moved it into the tables below.
CREATE TABLE rec (
    cid  INTEGER PRIMARY KEY,        -- commits in order; never used twice
    dir  BLOB NOT NULL,              -- the directory (msgpack); before `data`, so that start-up never reads a body
    data BLOB NOT NULL               -- the parts under 16 KB, packed messages back to back
);

-- Runs of a lane's messages: large parts at once, small ones when they are folded.
CREATE TABLE batch (
    id          INTEGER PRIMARY KEY,
    lane        INTEGER NOT NULL,
    base        INTEGER NOT NULL,    -- the number of its first message
    n           INTEGER NOT NULL,    -- messages in it, with consecutive numbers; at most 1,024
    before      INTEGER NOT NULL,    -- bytes of the lane in front of it, all ever appended counted
    next_expiry INTEGER NOT NULL,    -- the earliest moment one of its messages expires; 0 = none does
    max_expiry  INTEGER NOT NULL,    -- the moment from which all are expired; 0 = one of them never is
    t0          INTEGER NOT NULL,    -- the stamp of its first message
    format      INTEGER NOT NULL DEFAULT 1,  -- 1 = msgpack arrays back to back, stamp first
    data        BLOB NOT NULL,       -- at most 64 KB, or one larger message; last, so that the rest is read without it
    UNIQUE (lane, base)
);

-- Named logs.
CREATE TABLE destination (
    id   INTEGER PRIMARY KEY,        -- never used twice
    kind TEXT NOT NULL,              -- queue | topic | slot
    name TEXT NOT NULL,
    UNIQUE (kind, name)
);

-- The part of a destination that has one priority.
CREATE TABLE lane (
    id          INTEGER PRIMARY KEY, -- never used twice
    destination INTEGER,             -- NULL: dropped, and kept only until its batches are freed
    priority    INTEGER NOT NULL,
    run         INTEGER NOT NULL,    -- 0 = live, else a replay's
    next        INTEGER NOT NULL,    -- the number the next message gets
    low         INTEGER NOT NULL,    -- nothing is kept below it
    bytes       INTEGER NOT NULL,    -- all bytes ever appended
    UNIQUE (destination, priority, run)
);

-- What a queue is, beside its log. Nothing writes it yet: policies of single queues will be here.
CREATE TABLE queue (
    id     INTEGER PRIMARY KEY,      -- that of the destination which is its own log
    policy BLOB                      -- msgpack; NULL = the broker's policy
);

-- A queue on a lane.
CREATE TABLE reader (
    id       INTEGER PRIMARY KEY,    -- never used twice: it is part of delivery ids
    queue    INTEGER NOT NULL,
    lane     INTEGER NOT NULL,
    cursor   INTEGER NOT NULL,       -- everything below is settled
    reserved INTEGER NOT NULL,       -- nothing at or above it has been delivered to anybody
    UNIQUE (queue, lane)             -- read twice, a lane would be delivered twice
);

-- What is settled above a reader's cursor, 4,096 numbers a row. A chunk the cursor has passed has no row.
CREATE TABLE bits (
    reader INTEGER NOT NULL,
    chunk  INTEGER NOT NULL,         -- numbers chunk * 4096 to chunk * 4096 + 4095
    bits   BLOB NOT NULL,            -- 512 bytes, the lowest number in the lowest bit of the first byte
    PRIMARY KEY (reader, chunk)
) WITHOUT ROWID;

-- Messages that have something behind them in one queue, and those below its cursor that are not settled.
CREATE TABLE exc (
    reader   INTEGER NOT NULL,
    seq      INTEGER NOT NULL,
    attempts INTEGER NOT NULL,       -- deliveries that failed
    due      INTEGER NOT NULL,       -- until when nobody else may have it; 0 = free
    reason   TEXT NOT NULL,
    body     BLOB,                   -- of those below the cursor: the packed message; its batch may be gone
    PRIMARY KEY (reader, seq)
) WITHOUT ROWID;

-- What a queue reads beside its own log.
CREATE TABLE binding (
    id           INTEGER PRIMARY KEY,  -- never used twice
    queue        INTEGER NOT NULL,
    source       INTEGER NOT NULL,     -- a destination
    start        BLOB NOT NULL,        -- msgpack map: lane -> the first number these parameters hold for
    until        BLOB,                 -- msgpack map: lane -> where it ended; NULL = in force
    priority     INTEGER,              -- NULL here and below: as the message or the queue says
    lease        INTEGER,              -- ms
    ttl          INTEGER,              -- ms
    max_attempts INTEGER,
    filter_name  TEXT NOT NULL,        -- the filter's language; '' = no filter
    filter_text  TEXT NOT NULL,
    follows      INTEGER NOT NULL,     -- 1: what the source queue settles, this one settles too
    UNIQUE (queue, source)
);

-- Keys of publishers, against doubles. Nothing writes it yet.
CREATE TABLE dedup (
    lane  INTEGER NOT NULL,
    key   TEXT NOT NULL,
    seq   INTEGER NOT NULL,
    until INTEGER NOT NULL,          -- when it may be forgotten
    PRIMARY KEY (lane, key)
) WITHOUT ROWID;

INSERT INTO meta (key, value) VALUES
    ('schema_version', 1), ('last_stamp', 0), ('checkpoint', 0), ('unclean_starts', 0),
    ('last_destination', 0), ('last_lane', 0), ('last_reader', 0), ('last_binding', 0);
