"""The tables.

A job's row holds two registers, each written as a whole by the fact of the highest rank that was
seen: what was asked (from published envelopes) and where it stands (from all facts). So rows come
out the same in whatever order, and however often, facts arrive; see `history.py`.

Instants are integer milliseconds since the epoch.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

_Facets = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

#: Compared byte by byte, so that PostgreSQL's indices find how a text begins.
_Prefixed = Text().with_variant(Text(collation="C"), "postgresql")

jobs: Final = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("queue", Text, nullable=False),
    Column("task", _Prefixed, nullable=False),
    Column("created_ms", BigInteger, comment="when it was first sent"),
    Column("changed_ms", BigInteger, nullable=False, comment="of the latest fact about it"),
    Column("kept", Boolean, nullable=False, server_default=text("false"), comment="for ever"),
    # What was asked: the register of published envelopes.
    Column("request_rank", BigInteger, nullable=False, comment="-1 until an envelope was seen"),
    Column("app", Text),
    Column("tenant", Text),
    Column("priority", SmallInteger),
    Column("parent", Text),
    Column("name", _Prefixed, comment="what its sender calls it"),
    Column("submitted_from", _Prefixed, comment="host:pid of whoever sent it first"),
    Column("expires_ms", BigInteger),
    Column("ttr_ms", BigInteger),
    Column("facets", _Facets, comment="its plain top-level arguments, to be searched by"),
    Column("envelope", LargeBinary, comment="as it was published, in MessagePack"),
    # Where it stands: the register of all facts.
    Column("rank", BigInteger, nullable=False),
    Column("moment", BigInteger, nullable=False, comment="decides between facts of one rank"),
    Column("state", Text, nullable=False, comment="scheduled is: queued, and due later"),
    Column("detail", Text, comment="failure kind or park reason"),
    Column("ok", Text, comment="what the handler said of its success"),
    Column("attempt", Integer, nullable=False),
    Column("deliveries", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("due_ms", BigInteger),
    Column("started_ms", BigInteger),
    Column("ended_ms", BigInteger),
    Column("worker", Text),
    Column("error_type", Text),
    Column("error_message", Text, comment="its beginning"),
    Column("fingerprint", _Prefixed),
)

# One column each: few values, so they stay small, and a database combines those that a query names.
for _name in ("queue", "task", "state", "priority", "app"):
    Index(None, jobs.c[_name])
for _name in ("tenant", "fingerprint", "parent", "name", "submitted_from"):
    Index(None, jobs.c[_name], postgresql_where=jobs.c[_name].is_not(None))
for _name in ("changed_ms", "due_ms", "ended_ms"):
    # Rows lie about in the order of their times: a block range index is a thousandth of a tree.
    Index(None, jobs.c[_name], postgresql_using="brin")
# The order in which lists are asked for unless they say otherwise; in SQLite nulls are last anyway.
Index("ix_jobs_created", jobs.c.created_ms.desc().nulls_last(), jobs.c.id.desc()).ddl_if(
    dialect="postgresql"
)
Index("ix_jobs_created_id", jobs.c.created_ms, jobs.c.id).ddl_if(dialect="sqlite")
Index(
    "ix_jobs_facets",
    jobs.c.facets,
    postgresql_using="gin",
    postgresql_ops={"facets": "jsonb_path_ops"},
).ddl_if(dialect="postgresql")

runs: Final = Table(
    "runs",
    metadata,
    Column("job", Text, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("deliveries", Integer, primary_key=True),
    Column("message", Text, primary_key=True, comment="message_id of what was delivered"),
    Column("generation", Integer, nullable=False),
    Column("queue", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("worker", Text),
    Column("started_ms", BigInteger),
    Column("ended_ms", BigInteger),
    Column("wait_ms", BigInteger),
    Column("run_ms", BigInteger),
    Column("outcome", Text),
    Column("detail", Text),
    Column("ok", Text),
    Column("due_ms", BigInteger, comment="of the next attempt, after a retry"),
    Column("value", Text, comment="what the handler returned, as JSON"),
    Column("output", Text, comment="what it printed and logged, as far as it is kept"),
    Column("error_type", Text),
    Column("error_message", Text),
    Column("traceback", Text),
    Column("fingerprint", Text),
    Column("progressed_ms", BigInteger, comment="when it last said how far it is"),
    Column("progress_done", Double),
    Column("progress_of", Double),
    Column("progress_note", Text),
)
Index(None, runs.c.ended_ms, postgresql_using="brin")

audit: Final = Table(
    "audit",
    metadata,
    # SQLite numbers rows by itself in an INTEGER key only.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("by", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False, comment="what it was about"),
    Column("details", Text, comment="what more there is to say, a JSON object"),
    Column("ended_ms", BigInteger, comment="none: it was begun, and nobody knows its end"),
    Column("result", Text, comment="done, or why not"),
    # What the control log tells is told more than once.
    Column("intent", Text, unique=True, comment="which record of the control log it is: a digest"),
)
