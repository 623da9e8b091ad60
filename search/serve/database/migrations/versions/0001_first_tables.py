"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "passages",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("source", sa.String(500), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("added_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_passages"),
        sa.UniqueConstraint("digest", name="uq_passages_digest"),
    )
    op.create_table(
        "embeddings",
        sa.Column("passage_id", sa.Integer, nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("passage_id", "model", name="pk_embeddings"),
        sa.ForeignKeyConstraint(["passage_id"], ["passages.id"], name="fk_embeddings_passage_id", ondelete="CASCADE"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("made_at", TIME, nullable=False),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("digest", name="uq_api_keys_digest"),
    )
    op.create_index("ix_api_keys_name", "api_keys", ["name"])
    op.create_table(
        "questions",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("request", sa.String(64), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("context", sa.Text, nullable=True),
        sa.Column("key_id", sa.Integer, nullable=True),
        sa.Column("asked_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_questions"),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name="fk_questions_key_id", ondelete="SET NULL"),
    )
    op.create_index("ix_questions_asked_at", "questions", ["asked_at"])
    op.create_table(
        "answers",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("question_id", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("start", sa.Integer, nullable=False),
        sa.Column("end", sa.Integer, nullable=False),
        sa.Column("passage_id", sa.Integer, nullable=True),
        sa.Column("variant", sa.String(200), nullable=False),
        sa.Column("milliseconds", sa.JSON, nullable=False),
        sa.Column("answered_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_answers"),
        sa.ForeignKeyConstraint(["question_id"], ["questions.id"], name="fk_answers_question_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["passage_id"], ["passages.id"], name="fk_answers_passage_id", ondelete="SET NULL"),
    )
    op.create_index("ix_answers_question_id", "answers", ["question_id"])
    op.create_table(
        "feedback",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("answer_id", sa.Integer, nullable=False),
        sa.Column("helpful", sa.Boolean, nullable=False),
        sa.Column("comment", sa.Text, nullable=True),
        sa.Column("given_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_feedback"),
        sa.ForeignKeyConstraint(["answer_id"], ["answers.id"], name="fk_feedback_answer_id", ondelete="CASCADE"),
    )
    op.create_index("ix_feedback_answer_id", "feedback", ["answer_id"])
    op.create_table(
        "switches",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("before", sa.String(200), nullable=False),
        sa.Column("after", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("switched_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_switches"),
    )
    op.create_index("ix_switches_switched_at", "switches", ["switched_at"])


def downgrade() -> None:
    for table in ("switches", "feedback", "answers", "questions", "api_keys", "embeddings", "passages"):
        op.drop_table(table)
