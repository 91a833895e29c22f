"""Kinds of study: until now all were searches."""

import sqlalchemy as sa
from alembic import op

revision = "5"
down_revision = "4"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    kind = sa.Column("kind", sa.String(20), nullable=False, server_default="search")
    op.add_column("searches", kind)


def downgrade() -> None:
    """Remove the column, and the studies that an older version would take for searches."""
    op.execute("DELETE FROM searches WHERE kind <> 'search'")
    op.drop_column("searches", "kind")
