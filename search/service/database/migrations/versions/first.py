"""Searches, their architectures and the keys of requests."""

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None
branch_labels = None
depends_on = None


def _search_id(*, primary_key: bool = False, index: bool = False) -> sa.Column[str]:
    reference = sa.ForeignKey("searches.id", ondelete="CASCADE")
    return sa.Column(
        *("search_id", sa.String(120), reference),
        primary_key=primary_key,
        index=index,
        nullable=False,
    )


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "searches",
        sa.Column("id", sa.String(120), primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False, unique=True),
        sa.Column("name", sa.String(100), nullable=False, index=True),
        sa.Column("state", sa.String(20), nullable=False, index=True),
        sa.Column("reason", sa.String(2000), nullable=False),
        sa.Column("wish", sa.String(20), nullable=False),
        sa.Column("owner", sa.String(100), nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("progress", sa.JSON, nullable=False),
        sa.Column("frame", sa.JSON, nullable=False),
        sa.Column("handle", sa.String(300), nullable=False),
        sa.Column("launches", sa.Integer, nullable=False),
        sa.Column("losses", sa.Integer, nullable=False),
        sa.Column("epochs", sa.Integer, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("started_ms", sa.BigInteger),
        sa.Column("ended_ms", sa.BigInteger),
    )
    op.create_table(
        "architectures",
        _search_id(primary_key=True),
        sa.Column("key", sa.String(120), primary_key=True),
        sa.Column("origin", sa.String(30), nullable=False),
        sa.Column("flops", sa.BigInteger, nullable=False),
        sa.Column("params", sa.BigInteger, nullable=False),
        sa.Column("validation_accuracy", sa.Double, nullable=False),
        sa.Column("on_front", sa.Boolean, nullable=False),
        sa.Column("outcome", sa.JSON, nullable=False),
    )
    op.create_index("ix_architectures_front", "architectures", ["search_id", "on_front"])
    op.create_table(
        "idempotency_keys",
        sa.Column("owner", sa.String(100), primary_key=True),
        sa.Column("key", sa.String(200), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        _search_id(index=True),
    )


def downgrade() -> None:
    """Remove the tables."""
    for name in ("idempotency_keys", "architectures", "searches"):
        op.drop_table(name)
