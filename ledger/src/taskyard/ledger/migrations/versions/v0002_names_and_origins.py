"""What senders call their jobs, and where jobs were sent first."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("name", "what its sender calls it"),
    ("submitted_from", "host:pid of whoever sent it first"),
)


def upgrade() -> None:
    """Add them; jobs that are there have neither."""
    for name, comment in _COLUMNS:
        prefixed = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
        op.add_column("jobs", sa.Column(name, prefixed, nullable=True, comment=comment))
        op.create_index(
            op.f(f"ix_jobs_{name}"),
            "jobs",
            [name],
            unique=False,
            postgresql_where=sa.text(f"{name} IS NOT NULL"),
        )


def downgrade() -> None:
    """Drop them."""
    for name, _ in reversed(_COLUMNS):
        op.drop_index(op.f(f"ix_jobs_{name}"), "jobs")
        op.drop_column("jobs", name)
