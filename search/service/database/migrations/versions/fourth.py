"""Scores in the place of accuracies: what a search calls good has a name of its own."""

import json

import sqlalchemy as sa
from alembic import op

revision = "4"
down_revision = "3"
branch_labels = None
depends_on = None

_NAMES = {"validation_accuracy": "validation_score", "test_accuracy": "test_score"}


def upgrade() -> None:
    """Rename the column, and the numbers in what is stored of each network."""
    with op.batch_alter_table("architectures") as table:
        table.alter_column("validation_accuracy", new_column_name="validation_score")
    _rename(_NAMES)


def downgrade() -> None:
    """The inverse."""
    with op.batch_alter_table("architectures") as table:
        table.alter_column("validation_score", new_column_name="validation_accuracy")
    _rename({new: old for old, new in _NAMES.items()})


def _rename(names: dict[str, str]) -> None:
    rows = sa.table(
        "architectures",
        sa.column("search_id", sa.String),
        sa.column("key", sa.String),
        sa.column("outcome", sa.JSON),
    )
    connection = op.get_bind()
    for search_id, key, stored in connection.execute(sa.select(rows)).all():
        outcome = json.loads(stored) if isinstance(stored, str) else stored
        renamed = {names.get(name, name): value for name, value in outcome.items()}
        connection.execute(
            sa.update(rows)
            .where(rows.c.search_id == search_id, rows.c.key == key)
            .values(outcome=renamed)
        )
