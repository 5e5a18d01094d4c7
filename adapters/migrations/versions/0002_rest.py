"""What the REST service lists containers and snapshots by, and its reservations."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import MEDIUMTEXT

from tintype.adapters.sql_tables import key_of
from tintype.core.moments import moment

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BATCH = 500
"""Rows rewritten with one statement."""

MOMENT = sa.String(32)
KEY = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")
LONG = sa.Text().with_variant(MEDIUMTEXT(), "mysql")

NULLABLE: Mapping[str, tuple[str, ...]] = {
    "containers": ("project_id", "host", "state", "created_at"),
    "snapshots": (
        "project_id",
        "container_uuid",
        "container_name",
        "host",
        "image_id",
        "image_name",
        "status",
    ),
}
"""New columns."""

FILLED: Mapping[str, tuple[str, ...]] = {
    "containers": (),
    "snapshots": ("snapshot_id", "created_at"),
}
"""New columns that are never NULL: most lists are in the order of an index over them."""

INDEXES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "containers": {
        "containers_project_id": ("project_id",),
        "containers_host": ("host",),
        "containers_state": ("state",),
        "containers_created_at": ("created_at",),
    },
    "snapshots": {
        "snapshots_snapshot_id": ("snapshot_id",),
        "snapshots_project_id": ("project_id", "created_at", "snapshot_id"),
        "snapshots_container_uuid": ("container_uuid",),
        "snapshots_container_name": ("container_name",),
        "snapshots_host": ("host",),
        "snapshots_image_id": ("image_id",),
        "snapshots_image_name": ("image_name",),
        "snapshots_status": ("status",),
        "snapshots_created_at": ("created_at", "snapshot_id"),
    },
    "reservations": {"reservations_lease": ("open", "lease")},
}

STATES = ("Running", "Stopped", "Paused")
"""States that are told as they are; any other is `Other`."""

Read = Callable[[Any], dict[str, str | None]]
"""From a record to the columns that are searched by."""


def upgrade() -> None:
    """Add the columns, fill them from the records, and make the table of reservations."""
    for table in ("containers", "snapshots"):
        _columns(table)
    _fill("containers", "uuid", _container)
    _fill("snapshots", "request_id", _snapshot)
    if not sa.inspect(op.get_bind()).has_table("reservations"):
        op.create_table(
            "reservations",
            sa.Column("key", KEY, primary_key=True),
            sa.Column("state", sa.String(16), nullable=False),
            sa.Column("open", sa.Boolean(), nullable=False),
            sa.Column("lease", MOMENT, nullable=False),
            sa.Column("changed_at", MOMENT, nullable=False),
            sa.Column("record", LONG, nullable=False),
            mysql_engine="InnoDB",
            mysql_default_charset="utf8mb4",
            mysql_collate="utf8mb4_bin",
            sqlite_autoincrement=True,
        )
    for table in INDEXES:
        _indexes(table)


def downgrade() -> None:
    """Drop what was added; what the REST services have in hand is lost."""
    op.drop_table("reservations")
    for table in ("snapshots", "containers"):
        for index in INDEXES[table]:
            op.drop_index(index, table)
        for column in (*NULLABLE[table], *FILLED[table]):
            op.drop_column(table, column)


def _columns(table: str) -> None:
    """Add the columns that are not there yet: MySQL commits each statement."""
    present = {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)}
    wanted = [sa.Column(name, KEY) for name in NULLABLE[table]]
    wanted += [sa.Column(name, KEY, nullable=False, server_default="") for name in FILLED[table]]
    for column in wanted:
        if column.name not in present:
            op.add_column(table, column)


def _indexes(table: str) -> None:
    present = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}
    for name, columns in INDEXES[table].items():
        if name not in present:
            op.create_index(name, table, list(columns))


def _fill(table: str, identity: str, read: Read) -> None:
    """Fill the columns of all rows, a batch at a time; what cannot be read is left as it is."""
    connection = op.get_bind()
    own, record = sa.column(identity, sa.String), sa.column("record", sa.Text)
    rows = sa.select(own, record).select_from(sa.table(table)).order_by(own)
    query = rows.limit(BATCH).with_for_update()
    batch = connection.execute(query).all()
    while batch:
        read_rows = [(name, _readable(text, read)) for name, text in batch]
        _update(table, identity, {name: columns for name, columns in read_rows if columns})
        batch = connection.execute(query.where(own > batch[-1][0])).all()


def _update(table: str, identity: str, filled: Mapping[str, Mapping[str, str | None]]) -> None:
    if not filled:
        return
    names = next(iter(filled.values())).keys()
    rows = sa.table(table, *(sa.column(name) for name in (identity, *names)))
    values: dict[str, Any] = {name: sa.bindparam(name) for name in names}
    change = sa.update(rows).where(rows.c[identity] == sa.bindparam("this")).values(values)
    op.get_bind().execute(change, [{"this": key, **filled[key]} for key in filled])


def _readable(record: str, read: Read) -> dict[str, str | None] | None:
    try:
        columns = read(json.loads(record))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return {name: None if text is None else key_of(text) for name, text in columns.items()}


def _container(record: Any) -> dict[str, str | None]:
    facts: Mapping[str, Any] = record["facts"]
    # What is no key itself has changed with this version.
    names = ("name", "engine_id", "project_id", "host")
    state = facts.get("state")
    return {
        **{name: _text(facts.get(name)) for name in names},
        "state": state if state in STATES else "Other",
        "created_at": _moment(facts.get("created_at")),
    }


def _snapshot(record: Any) -> dict[str, str | None]:
    payload: Mapping[str, Any] = record["payload"]
    told = {name: _text(payload.get(name)) for name in NULLABLE["snapshots"]}
    uuid = told["container_uuid"]
    return {
        **told,
        "container_uuid": None if uuid is None else uuid.lower(),
        "snapshot_id": _text(payload.get("snapshot_id")) or "",
        "created_at": _moment(payload.get("created_at")) or "",
    }


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _moment(value: object) -> str | None:
    return moment(value) or _text(value)
