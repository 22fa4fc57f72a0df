"""Every SQL statement of the SQLite broker, by name.

`@name` stands for a table or index of the namespace (see `qualify`). Lists travel as one JSON
parameter and rows come back packed into one (see `packed`), because between two steps of a
statement Python may run something else for milliseconds: a statement of one step has no such gaps.
"""

from __future__ import annotations

import re
from typing import Final

_NAME: Final = re.compile(r"@([a-z_]+)")


def qualify(sql: str, namespace: str) -> str:
    """Return a statement with the namespace's own table names."""
    return _NAME.sub(rf'"{namespace}_\1"', sql)


def packed(rows: str, numbers: tuple[str, ...], blobs: tuple[str, ...]) -> str:
    """Return a statement that gives the rows of another in one: lists of numbers, joined blobs."""
    columns = [f"GROUP_CONCAT({name})" for name in numbers]
    columns += [f"GROUP_CONCAT(LENGTH({name}))" for name in blobs]
    columns += [f"CAST(GROUP_CONCAT({name}, '') AS BLOB)" for name in blobs]
    return f"SELECT {', '.join(columns)} FROM ({rows})"  # noqa: S608  # parts are constants below


# ---------------------------------------------------------------- schema and catalogue

SCHEMA: Final = """
CREATE TABLE @meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO @meta VALUES ('schema', 1), ('topology', 1), ('feed_bytes', 0), ('feed_dropped', 0);
CREATE TABLE @queues (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE);
CREATE TABLE @jobs (
    seq INTEGER PRIMARY KEY,
    queue INTEGER NOT NULL,
    state INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    place INTEGER NOT NULL,
    due INTEGER NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0,
    owner INTEGER,
    fence INTEGER,
    hold INTEGER
);
CREATE INDEX @jobs_ready ON @jobs (queue, priority DESC, place, seq) WHERE state = 1;
CREATE INDEX @jobs_scheduled ON @jobs (queue, place) WHERE state = 0;
CREATE INDEX @jobs_claimed ON @jobs (owner, queue) WHERE state = 2;
CREATE TABLE @payloads (
    seq INTEGER PRIMARY KEY, envelope BLOB NOT NULL, body BLOB NOT NULL
);
CREATE TABLE @parked (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    job TEXT NOT NULL,
    reason TEXT NOT NULL,
    owner INTEGER,
    fence INTEGER,
    envelope BLOB NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX @parked_queue ON @parked (queue, seq);
CREATE INDEX @parked_job ON @parked (job);
CREATE INDEX @parked_taken ON @parked (owner) WHERE owner IS NOT NULL;
CREATE TABLE @control (position INTEGER PRIMARY KEY AUTOINCREMENT, record TEXT NOT NULL);
CREATE TABLE @feed (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    owner INTEGER,
    size INTEGER NOT NULL,
    envelope BLOB NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX @feed_free ON @feed (seq) WHERE owner IS NULL;
CREATE INDEX @feed_taken ON @feed (owner) WHERE owner IS NOT NULL;
CREATE TABLE @owners (
    id INTEGER PRIMARY KEY, file TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL,
    expires INTEGER NOT NULL
);
CREATE TABLE @consumers (
    id INTEGER PRIMARY KEY, queue TEXT NOT NULL, owner INTEGER NOT NULL
);
CREATE INDEX @consumers_queue ON @consumers (queue);
CREATE TABLE @locks (
    name TEXT PRIMARY KEY, owner INTEGER NOT NULL, fence INTEGER NOT NULL,
    host TEXT NOT NULL, pid INTEGER NOT NULL, since INTEGER NOT NULL, expires INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE @inboxes (address TEXT PRIMARY KEY, owner INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE @replies (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, address TEXT NOT NULL, body BLOB NOT NULL
);
CREATE INDEX @replies_address ON @replies (address, seq);
"""

SCHEMA_EXISTS: Final = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = ?"
SCHEMA_VERSION: Final = "SELECT value FROM @meta WHERE key = 'schema'"
PACKS: Final = "SELECT CAST(GROUP_CONCAT(x'00ff', '') AS BLOB)"
DATA_VERSION: Final = "PRAGMA data_version"

#: What a writer must know before it starts; one row.
PREAMBLE: Final = """
SELECT (SELECT value FROM @meta WHERE key = 'topology'),
       (SELECT COALESCE(MAX(seq), 0) FROM @jobs)
"""
TOPOLOGY_VERSION: Final = "SELECT value FROM @meta WHERE key = 'topology'"
TOPOLOGY_CHANGED: Final = "UPDATE @meta SET value = value + 1 WHERE key = 'topology'"
META: Final = "SELECT key, value FROM @meta"
META_SET: Final = "INSERT OR REPLACE INTO @meta VALUES (?, ?)"
META_REMOVE: Final = "DELETE FROM @meta WHERE key = ?"
QUEUES: Final = "SELECT id, name FROM @queues"
QUEUE_CREATE: Final = "INSERT OR IGNORE INTO @queues (name) VALUES (?)"
QUEUE_REMOVE: Final = "DELETE FROM @queues WHERE id = ?"
QUEUE_CONTENT: Final = """
SELECT (SELECT COUNT(*) FROM @jobs WHERE queue = :id AND state = 1)
     + (SELECT COUNT(*) FROM @jobs WHERE queue = :id AND state = 0)
     + (SELECT COUNT(*) FROM @jobs INDEXED BY @jobs_claimed WHERE queue = :id AND state = 2)
     + (SELECT COUNT(*) FROM @parked WHERE queue = :name)
"""

# ---------------------------------------------------------------- jobs

JOB_COLUMNS: Final = "INSERT INTO @jobs (seq, queue, state, priority, place, due) VALUES "
PAYLOAD_COLUMNS: Final = "INSERT INTO @payloads (seq, envelope, body) VALUES "

#: The first jobs of a queue; the cross join keeps their order.
READY_ROWS: Final = """
SELECT ready.seq, ready.failures, payload.envelope, payload.body
FROM (SELECT seq, failures FROM @jobs WHERE queue = :queue AND state = 1
      ORDER BY priority DESC, place, seq LIMIT :limit) AS ready
CROSS JOIN @payloads AS payload ON payload.seq = ready.seq
"""
NEXT_DUE: Final = "SELECT MIN(place) FROM @jobs WHERE queue = :queue AND state = 0"
#: Whether a claim would find anything; asked before the write lock is.
READY_PROBE: Final = """
SELECT EXISTS (SELECT 1 FROM @jobs WHERE queue = :queue AND state = 1),
       (SELECT MIN(place) FROM @jobs WHERE queue = :queue AND state = 0)
"""
PROMOTE: Final = """
UPDATE @jobs SET state = 1 WHERE state = 0 AND seq IN (
    SELECT seq FROM @jobs WHERE queue = :queue AND state = 0 AND place <= :now
    ORDER BY place LIMIT :limit)
"""
CLAIM: Final = """
UPDATE @jobs SET state = 2, owner = :owner, fence = :fence
WHERE state = 1 AND seq IN (SELECT value FROM JSON_EACH(:seqs))
"""
HELD_ROWS: Final = """
SELECT seq, fence FROM @jobs
WHERE seq IN (SELECT value FROM JSON_EACH(:seqs)) AND owner = :owner AND state = 2
"""
JOBS_DELETE: Final = "DELETE FROM @jobs WHERE seq IN (SELECT value FROM JSON_EACH(?))"
PAYLOADS_DELETE: Final = "DELETE FROM @payloads WHERE seq IN (SELECT value FROM JSON_EACH(?))"
EXTEND: Final = """
UPDATE @jobs SET hold = :hold
WHERE seq = :seq AND state = 2 AND owner = :owner AND fence = :fence
"""
UNTAKE: Final = """
UPDATE @jobs SET state = 1, owner = NULL, fence = NULL, hold = NULL
WHERE state = 2 AND owner = :owner AND seq IN (SELECT value FROM JSON_EACH(:seqs))
"""

# ---------------------------------------------------------------- parking lots

PARKED_COLUMNS: Final = "INSERT INTO @parked (queue, job, reason, envelope, body) VALUES "
PARKED_PAGE: Final = """
SELECT seq, envelope, body FROM @parked WHERE queue = :queue AND seq > :after
ORDER BY seq LIMIT :limit
"""
PARKED_FREE: Final = """
SELECT seq, envelope, body FROM @parked
WHERE queue = :queue AND seq > :after AND owner IS NULL AND (:reason IS NULL OR reason = :reason)
ORDER BY seq LIMIT :limit
"""
PARKED_FREE_IDS: Final = """
SELECT seq, envelope, body FROM @parked
WHERE job IN (SELECT value FROM JSON_EACH(:ids)) AND queue = :queue AND seq > :after
  AND owner IS NULL AND (:reason IS NULL OR reason = :reason)
ORDER BY seq LIMIT :limit
"""
PARKED_TAKE: Final = """
UPDATE @parked SET owner = :owner, fence = :fence
WHERE owner IS NULL AND seq IN (SELECT value FROM JSON_EACH(:seqs))
"""
PARKED_HELD_ROWS: Final = """
SELECT seq, fence FROM @parked
WHERE seq IN (SELECT value FROM JSON_EACH(:seqs)) AND owner = :owner
"""
PARKED_DELETE: Final = "DELETE FROM @parked WHERE seq IN (SELECT value FROM JSON_EACH(?))"
PARKED_PUT_BACK: Final = """
UPDATE @parked SET owner = NULL, fence = NULL WHERE owner = :owner AND fence = :fence
"""

# ---------------------------------------------------------------- control log

CONTROL_APPEND: Final = "INSERT INTO @control (record) SELECT value FROM JSON_EACH(?)"
#: Where the last record about draining stands, so that producers find it at once.
CONTROL_DRAIN: Final = """
INSERT OR REPLACE INTO @meta SELECT 'drain', MAX(position) FROM @control
WHERE position > (SELECT MAX(position) FROM @control) - :appended
  AND JSON_EXTRACT(record, '$.key') = :key
"""
DRAINING: Final = """
SELECT (SELECT record FROM @control
        WHERE position = (SELECT value FROM @meta WHERE key = 'drain'))
"""
CONTROL_END: Final = "SELECT COALESCE(MAX(position), 0) FROM @control"
CONTROL_CHUNK: Final = """
SELECT COUNT(*), MAX(position), '[' || GROUP_CONCAT(record, ',') || ']'
FROM (SELECT position, record FROM @control WHERE position > ? ORDER BY position LIMIT ?)
"""

# ---------------------------------------------------------------- lifecycle feed

FEED_COLUMNS: Final = "INSERT INTO @feed (size, envelope, body) VALUES "
FEED_GROW: Final = "UPDATE @meta SET value = value + ? WHERE key = 'feed_bytes'"
FEED_BYTES: Final = "SELECT value FROM @meta WHERE key = 'feed_bytes'"
FEED_STATS: Final = """
SELECT (SELECT value FROM @meta WHERE key = 'feed_bytes'),
       (SELECT value FROM @meta WHERE key = 'feed_dropped')
"""
FEED_DROPPED: Final = "UPDATE @meta SET value = value + ? WHERE key = 'feed_dropped'"
FEED_EXCESS_ROWS: Final = """
SELECT seq, size FROM (
    SELECT seq, size, SUM(size) OVER (ORDER BY seq) - size AS before
    FROM (SELECT seq, size FROM @feed WHERE owner IS NULL ORDER BY seq LIMIT 10000))
WHERE before < :excess
"""
FEED_FREE_ROWS: Final = """
SELECT seq, envelope, body FROM @feed WHERE owner IS NULL ORDER BY seq LIMIT :limit
"""
FEED_ANY_FREE: Final = "SELECT EXISTS (SELECT 1 FROM @feed WHERE owner IS NULL)"
FEED_TAKE: Final = """
UPDATE @feed SET owner = :owner
WHERE owner IS NULL AND seq IN (SELECT value FROM JSON_EACH(:seqs))
"""
FEED_SIZE: Final = """
SELECT COALESCE(SUM(size), 0) FROM @feed
WHERE owner = :owner AND seq IN (SELECT value FROM JSON_EACH(:seqs))
"""
FEED_DELETE: Final = """
DELETE FROM @feed WHERE owner = :owner AND seq IN (SELECT value FROM JSON_EACH(:seqs))
"""
FEED_DROP: Final = "DELETE FROM @feed WHERE seq IN (SELECT value FROM JSON_EACH(?))"
FEED_PUT_BACK: Final = """
UPDATE @feed SET owner = NULL
WHERE owner = :owner AND seq IN (SELECT value FROM JSON_EACH(:seqs))
"""
FEED_CLEAR: Final = "DELETE FROM @feed"

# ---------------------------------------------------------------- owners, consumers

OWNER_PUT: Final = """
INSERT INTO @owners (id, file, host, pid, expires) VALUES (:id, :file, :host, :pid, :expires)
ON CONFLICT (id) DO UPDATE SET expires = excluded.expires
"""
OWNERS_OTHER: Final = """
SELECT id, file, expires,
       EXISTS (SELECT 1 FROM @jobs WHERE owner = owners.id AND state = 2)
       OR EXISTS (SELECT 1 FROM @parked WHERE owner = owners.id)
       OR EXISTS (SELECT 1 FROM @feed WHERE owner = owners.id)
FROM @owners AS owners WHERE id <> ?
"""
OWNER_OF: Final = "SELECT file, expires FROM @owners WHERE id = ?"
OWNER_FILES: Final = "SELECT file FROM @owners"
OWNER_REMOVE: Final = "DELETE FROM @owners WHERE id = ?"
OWNER_QUEUES: Final = """
SELECT name FROM @queues
WHERE id IN (SELECT DISTINCT queue FROM @jobs WHERE owner = ? AND state = 2)
"""
JOBS_REQUEUE: Final = """
UPDATE @jobs SET state = 1, owner = NULL, fence = NULL, hold = NULL, failures = failures + 1
WHERE state = 2 AND owner = :owner AND (hold IS NULL OR hold <= :now)
"""
PARKED_FREE_OWNER: Final = "UPDATE @parked SET owner = NULL, fence = NULL WHERE owner = ?"
FEED_FREE_OWNER: Final = "UPDATE @feed SET owner = NULL WHERE owner = ?"
LOCKS_REMOVE_OWNER: Final = "DELETE FROM @locks WHERE owner = ?"
CONSUMERS_REMOVE_OWNER: Final = "DELETE FROM @consumers WHERE owner = ?"
REPLIES_REMOVE_OWNER: Final = """
DELETE FROM @replies WHERE address IN (SELECT address FROM @inboxes WHERE owner = ?)
"""
INBOXES_REMOVE_OWNER: Final = "DELETE FROM @inboxes WHERE owner = ?"
CONSUMER_PUT: Final = "INSERT OR REPLACE INTO @consumers (id, queue, owner) VALUES (?, ?, ?)"
CONSUMER_REMOVE: Final = "DELETE FROM @consumers WHERE id = ?"

# ---------------------------------------------------------------- locks

LOCK_HOLDER: Final = """
SELECT owner, host, pid, since, expires FROM @locks WHERE name = ?
"""
LOCKS_ALL: Final = """
SELECT name, owner, host, pid, since, expires FROM @locks ORDER BY name
"""
LOCK_PUT: Final = """
INSERT OR REPLACE INTO @locks (name, owner, fence, host, pid, since, expires)
VALUES (:name, :owner, :fence, :host, :pid, :since, :expires)
"""
LOCKS_RENEW: Final = "UPDATE @locks SET expires = :expires WHERE owner = :owner"
LOCKS_OF: Final = "SELECT fence FROM @locks WHERE owner = ?"
LOCK_REMOVE: Final = "DELETE FROM @locks WHERE name = ? AND owner = ? AND fence = ?"

# ---------------------------------------------------------------- replies

INBOX_PUT: Final = "INSERT OR REPLACE INTO @inboxes (address, owner) VALUES (?, ?)"
INBOX_REMOVE: Final = "DELETE FROM @inboxes WHERE address = ?"
INBOXES_KNOWN: Final = """
SELECT address FROM @inboxes WHERE address IN (SELECT value FROM JSON_EACH(?))
"""
REPLY_COLUMNS: Final = "INSERT INTO @replies (address, body) VALUES "
REPLY_ROWS: Final = (
    "SELECT seq, body FROM @replies WHERE address = :address ORDER BY seq LIMIT 1000"
)
REPLY_PROBE: Final = "SELECT EXISTS (SELECT 1 FROM @replies WHERE address = ?)"
REPLIES_DELETE: Final = "DELETE FROM @replies WHERE seq IN (SELECT value FROM JSON_EACH(?))"
REPLIES_CLEAR: Final = "DELETE FROM @replies WHERE address = ?"

# ---------------------------------------------------------------- watching

#: Of the watched queues, those with something ready and the next due instant of each.
LOOK_QUEUES: Final = """
SELECT name,
       EXISTS (SELECT 1 FROM @jobs WHERE queue = queues.id AND state = 1),
       (SELECT MIN(place) FROM @jobs WHERE queue = queues.id AND state = 0)
FROM @queues AS queues WHERE name IN (SELECT value FROM JSON_EACH(?))
"""
LOOK_INBOXES: Final = """
SELECT value FROM JSON_EACH(?) AS watched
WHERE EXISTS (SELECT 1 FROM @replies WHERE address = watched.value)
"""

# ---------------------------------------------------------------- numbers

FEED_HELD: Final = """
SELECT (SELECT COUNT(*) FROM @feed WHERE owner IS NULL),
       (SELECT COUNT(*) FROM @feed WHERE owner IS NOT NULL)
"""

#: One row per queue; every count is over an index that holds nothing else.
STATS: Final = """
SELECT
    (SELECT COUNT(*) FROM @jobs WHERE queue = :id AND state = 1),
    (SELECT COUNT(*) FROM @jobs WHERE queue = :id AND state = 0 AND place <= :now),
    (SELECT COUNT(*) FROM @jobs WHERE queue = :id AND state = 0 AND place > :now),
    (SELECT COUNT(*) FROM @jobs INDEXED BY @jobs_claimed WHERE state = 2 AND queue = :id),
    (SELECT COUNT(*) FROM @parked WHERE queue = :name),
    (SELECT COUNT(*) FROM @consumers WHERE queue = :name),
    (SELECT MIN(due) FROM (
        SELECT (SELECT due FROM @jobs
                WHERE queue = :id AND state = 1 AND priority = levels.value
                ORDER BY place, seq LIMIT 1) AS due
        FROM JSON_EACH('[0,1,2,3,4,5,6,7,8,9]') AS levels)),
    (SELECT MIN(place) FROM @jobs WHERE queue = :id AND state = 0 AND place <= :now)
"""
