"""The answers of a passage are found by an index where it is removed."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_answers_passage_id", "answers", ["passage_id"])


def downgrade() -> None:
    op.drop_index("ix_answers_passage_id", "answers")
