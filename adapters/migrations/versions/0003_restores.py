"""The restores."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import MEDIUMTEXT

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

MOMENT = sa.String(32)
KEY = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")
LONG = sa.Text().with_variant(MEDIUMTEXT(), "mysql")

NULLABLE = (
    "project_id",
    "snapshot_id",
    "image_id",
    "image_name",
    "container_uuid",
    "container_name",
    "host",
    "status",
)
"""Columns that are searched by and may be NULL."""

INDEXES: Mapping[str, tuple[str, ...]] = {
    "restores_ended": ("ended", "at"),
    "restores_restore_id": ("restore_id",),
    "restores_project_id": ("project_id", "created_at", "restore_id"),
    "restores_snapshot_id": ("snapshot_id",),
    "restores_image_id": ("image_id",),
    "restores_image_name": ("image_name",),
    "restores_container_uuid": ("container_uuid",),
    "restores_container_name": ("container_name",),
    "restores_host": ("host",),
    "restores_status": ("status",),
    "restores_created_at": ("created_at", "restore_id"),
}


def upgrade() -> None:
    """Make the table, or what is still missing of it: MySQL commits each statement."""
    if not sa.inspect(op.get_bind()).has_table("restores"):
        op.create_table(
            "restores",
            sa.Column("request_id", KEY, primary_key=True),
            sa.Column("ended", sa.Boolean(), nullable=False),
            sa.Column("at", MOMENT, nullable=False),
            sa.Column("record", LONG, nullable=False),
            sa.Column("restore_id", KEY, nullable=False, server_default=""),
            *(sa.Column(name, KEY) for name in NULLABLE),
            sa.Column("created_at", KEY, nullable=False, server_default=""),
            mysql_engine="InnoDB",
            mysql_default_charset="utf8mb4",
            mysql_collate="utf8mb4_bin",
            sqlite_autoincrement=True,
        )
    present = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes("restores")}
    for name, columns in INDEXES.items():
        if name not in present:
            op.create_index(name, "restores", list(columns))


def downgrade() -> None:
    """Drop the table: hosts do not tell once more of restores that have ended."""
    op.drop_table("restores")
