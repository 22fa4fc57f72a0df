"""Jobs, their runs, and what operators did."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    _make_jobs()
    _make_runs()
    _make_audit()


def downgrade() -> None:
    """Drop them."""
    op.drop_table("audit")
    op.drop_table("runs")
    op.drop_table("jobs")


def _make_jobs() -> None:
    prefixed = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("task", prefixed, nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=True, comment="when it was first sent"),
        sa.Column(
            "changed_ms", sa.BigInteger(), nullable=False, comment="of the latest fact about it"
        ),
        sa.Column(
            "kept",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="for ever",
        ),
        sa.Column(
            "request_rank", sa.BigInteger(), nullable=False, comment="-1 until an envelope was seen"
        ),
        sa.Column("app", sa.Text(), nullable=True),
        sa.Column("tenant", sa.Text(), nullable=True),
        sa.Column("priority", sa.SmallInteger(), nullable=True),
        sa.Column("parent", sa.Text(), nullable=True),
        sa.Column("expires_ms", sa.BigInteger(), nullable=True),
        sa.Column("ttr_ms", sa.BigInteger(), nullable=True),
        sa.Column(
            "facets",
            sa.JSON(none_as_null=True).with_variant(
                postgresql.JSONB(none_as_null=True), "postgresql"
            ),
            nullable=True,
            comment="its plain top-level arguments, to be searched by",
        ),
        sa.Column(
            "envelope",
            sa.LargeBinary(),
            nullable=True,
            comment="as it was published, in MessagePack",
        ),
        sa.Column("rank", sa.BigInteger(), nullable=False),
        sa.Column(
            "moment", sa.BigInteger(), nullable=False, comment="decides between facts of one rank"
        ),
        sa.Column(
            "state", sa.Text(), nullable=False, comment="scheduled is: queued, and due later"
        ),
        sa.Column("detail", sa.Text(), nullable=True, comment="failure kind or park reason"),
        sa.Column("ok", sa.Text(), nullable=True, comment="what the handler said of its success"),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("deliveries", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("due_ms", sa.BigInteger(), nullable=True),
        sa.Column("started_ms", sa.BigInteger(), nullable=True),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("error_type", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True, comment="its beginning"),
        sa.Column("fingerprint", prefixed, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index(op.f("ix_jobs_app"), "jobs", ["app"], unique=False)
    op.create_index(
        op.f("ix_jobs_changed_ms"), "jobs", ["changed_ms"], unique=False, postgresql_using="brin"
    )
    if op.get_bind().dialect.name == "postgresql":
        newest_first = [sa.text("created_ms DESC NULLS LAST"), sa.text("id DESC")]
        op.create_index("ix_jobs_created", "jobs", newest_first)
    else:
        op.create_index("ix_jobs_created_id", "jobs", ["created_ms", "id"])
    op.create_index(
        op.f("ix_jobs_due_ms"), "jobs", ["due_ms"], unique=False, postgresql_using="brin"
    )
    op.create_index(
        op.f("ix_jobs_ended_ms"), "jobs", ["ended_ms"], unique=False, postgresql_using="brin"
    )
    if op.get_bind().dialect.name == "postgresql":
        op.create_index(
            "ix_jobs_facets",
            "jobs",
            ["facets"],
            unique=False,
            postgresql_using="gin",
            postgresql_ops={"facets": "jsonb_path_ops"},
        )
    op.create_index(
        op.f("ix_jobs_fingerprint"),
        "jobs",
        ["fingerprint"],
        unique=False,
        postgresql_where=sa.text("fingerprint IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_jobs_parent"),
        "jobs",
        ["parent"],
        unique=False,
        postgresql_where=sa.text("parent IS NOT NULL"),
    )
    op.create_index(op.f("ix_jobs_priority"), "jobs", ["priority"], unique=False)
    op.create_index(op.f("ix_jobs_queue"), "jobs", ["queue"], unique=False)
    op.create_index(op.f("ix_jobs_state"), "jobs", ["state"], unique=False)
    op.create_index(op.f("ix_jobs_task"), "jobs", ["task"], unique=False)
    op.create_index(
        op.f("ix_jobs_tenant"),
        "jobs",
        ["tenant"],
        unique=False,
        postgresql_where=sa.text("tenant IS NOT NULL"),
    )


def _make_runs() -> None:
    number: sa.types.TypeEngine[float] = sa.Double()
    op.create_table(
        "runs",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("deliveries", sa.Integer(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False, comment="message_id of what was delivered"),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("started_ms", sa.BigInteger(), nullable=True),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.Column("wait_ms", sa.BigInteger(), nullable=True),
        sa.Column("run_ms", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("ok", sa.Text(), nullable=True),
        sa.Column(
            "due_ms", sa.BigInteger(), nullable=True, comment="of the next attempt, after a retry"
        ),
        sa.Column("value", sa.Text(), nullable=True, comment="what the handler returned, as JSON"),
        sa.Column(
            "output",
            sa.Text(),
            nullable=True,
            comment="what it printed and logged, as far as it is kept",
        ),
        sa.Column("error_type", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.Text(), nullable=True),
        sa.Column(
            "progressed_ms",
            sa.BigInteger(),
            nullable=True,
            comment="when it last said how far it is",
        ),
        sa.Column("progress_done", number, nullable=True),
        sa.Column("progress_of", number, nullable=True),
        sa.Column("progress_note", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("job", "attempt", "deliveries", "message", name=op.f("pk_runs")),
    )
    op.create_index(
        op.f("ix_runs_ended_ms"), "runs", ["ended_ms"], unique=False, postgresql_using="brin"
    )


def _make_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False, comment="what it was about"),
        sa.Column("details", sa.Text(), comment="what more there is to say, a JSON object"),
        sa.Column(
            "ended_ms", sa.BigInteger(), comment="none: it was begun, and nobody knows its end"
        ),
        sa.Column("result", sa.Text(), comment="done, or why not"),
        sa.Column(
            "intent",
            sa.Text(),
            comment="which record of the control log it is: a digest",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        sa.UniqueConstraint("intent", name=op.f("uq_audit_intent")),
    )
