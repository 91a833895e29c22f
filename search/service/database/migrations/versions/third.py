"""What comes first in the queue, and which ends of searches others were told of."""

import sqlalchemy as sa
from alembic import op

revision = "3"
down_revision = "2"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("searches", sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
    op.add_column("searches", sa.Column("told_ms", sa.BigInteger))
    op.execute("UPDATE searches SET told_ms = ended_ms")


def downgrade() -> None:
    """Remove the columns."""
    op.drop_column("searches", "told_ms")
    op.drop_column("searches", "priority")
