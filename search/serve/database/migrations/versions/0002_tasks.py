"""Questions say what was asked for: an answer, or a completion."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if "task" in {column["name"] for column in sa.inspect(op.get_bind()).get_columns("questions")}:
        return  # earlier versions committed it, on SQLite, before its revision, and may have been killed between
    task = sa.Column("task", sa.String(50), nullable=False, server_default="question-answering")
    op.add_column("questions", task)


def downgrade() -> None:
    op.drop_column("questions", "task")
