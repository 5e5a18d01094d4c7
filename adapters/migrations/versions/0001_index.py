"""The index, the dispatches and the dead letters."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import MEDIUMTEXT

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

MOMENT = sa.String(32)
KEY = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")
LONG = sa.Text().with_variant(MEDIUMTEXT(), "mysql")
COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables."""
    _table(
        "containers",
        sa.Column("uuid", KEY, primary_key=True),
        sa.Column("engine_id", KEY),
        sa.Column("name", KEY),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.Column("heard_at", MOMENT, nullable=False),
        sa.Column("record", LONG, nullable=False),
    )
    _index("containers", "containers_engine_id", "engine_id")
    _index("containers", "containers_name", "name")
    _index("containers", "containers_heard_at", "heard_at")
    _table(
        "snapshots",
        sa.Column("request_id", KEY, primary_key=True),
        sa.Column("ended", sa.Boolean(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("record", LONG, nullable=False),
    )
    _index("snapshots", "snapshots_ended", "ended", "at")
    _table(
        "dispatches",
        sa.Column("request_id", KEY, primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.Column("due", MOMENT, nullable=False),
        sa.Column("container_uuid", KEY),
        sa.Column("changed_at", MOMENT, nullable=False),
        sa.Column("record", LONG, nullable=False),
    )
    _index("dispatches", "dispatches_due", "open", "due")
    _index("dispatches", "dispatches_container_uuid", "container_uuid")
    _table(
        "dead_letters",
        sa.Column("id", COUNTER, primary_key=True),
        sa.Column("key", KEY, nullable=False, unique=True),
        sa.Column("received_at", MOMENT, nullable=False),
        sa.Column("reason", LONG, nullable=False),
        sa.Column("message", LONG, nullable=False),
    )


def downgrade() -> None:
    """Drop the tables: all in them is learnt again, but the dispatches in hand."""
    for name in ("dead_letters", "dispatches", "snapshots", "containers"):
        op.drop_table(name)


def _table(name: str, *columns: sa.Column[Any]) -> None:
    if not sa.inspect(op.get_bind()).has_table(name):
        op.create_table(
            name,
            *columns,
            mysql_engine="InnoDB",
            mysql_default_charset="utf8mb4",
            mysql_collate="utf8mb4_bin",
            sqlite_autoincrement=True,
        )


def _index(table: str, name: str, *columns: str) -> None:
    present = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}
    if name not in present:
        op.create_index(name, table, list(columns))
