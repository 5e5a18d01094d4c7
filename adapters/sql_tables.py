"""The services' tables, and types that make any text storable, in the same way everywhere.

What arrived on a bus can hold NUL (which PostgreSQL refuses), lone surrogates (which have no UTF-8)
and any length. So whole records are kept as ASCII JSON, and what is searched by as a `Key` beside
them. Moments are UTC text of fixed width, which compares as time does.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects.mysql import MEDIUMTEXT
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from tintype.core.moments import utc_text

KEY_LENGTH = 255
"""Characters of a key."""

MOMENT_LENGTH = 32
"""Characters of a moment: `2026-01-02T03:04:05.678901+00:00`."""

DIGESTED = "~sha256:"
"""Begins the key of a text that cannot be one itself."""

_CONTROLS = re.compile("[\0-\x1f]")
"""NUL, which PostgreSQL refuses, and what MySQL's collation sorts before the end of a text."""


def key_of(text: str) -> str:
    """Return what stands for a text where it is searched by: the text itself, or its digest.

    Two texts never have the same key. A blank at the end cannot be kept, since MySQL's collation
    ignores it.
    """
    plain = len(text) <= KEY_LENGTH and not text.startswith(DIGESTED) and not text.endswith(" ")
    plain = plain and _CONTROLS.search(text) is None
    if plain and text.isascii():
        return text
    whole = text.encode("utf-8", "surrogatepass")
    if plain and whole == text.encode("utf-8", "replace"):
        return text
    return DIGESTED + hashlib.sha256(whole).hexdigest()


def storable(text: str) -> str:
    """Return a text for people to read, with what no database takes written as an escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


class Key(TypeDecorator[str]):
    """Text that is compared character by character; bound as `key_of`, read as it was bound.

    What was read is bound again as a plain `String`: the key of a key may be another one.
    """

    # By code point: MySQL's tables are told to (OPTIONS), PostgreSQL's columns here.
    impl = String(KEY_LENGTH).with_variant(String(KEY_LENGTH, collation="C"), "postgresql")
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the key of a text."""
        return None if value is None else key_of(value)


class Moment(TypeDecorator[datetime]):
    """A moment, as text."""

    impl = String(MOMENT_LENGTH)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        """Return a moment as text."""
        return None if value is None else utc_text(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:
        """Read a moment."""
        return None if value is None else datetime.fromisoformat(value)


class Long(TypeDecorator[str]):
    """Text of more than the 64 KiB that MySQL's TEXT holds."""

    impl = Text().with_variant(MEDIUMTEXT(), "mysql")
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return a text without what no database takes."""
        return None if value is None else storable(value)


class Json(TypeDecorator[Any]):
    """A JSON document, as ASCII text in which every string survives."""

    impl = Text().with_variant(MEDIUMTEXT(), "mysql")
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        """Write a document."""
        return json.dumps(value, separators=(",", ":"), default=repr)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """Read a document."""
        return json.loads(value)


OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_default_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "sqlite_autoincrement": True,
}

metadata = MetaData()

container_table = Table(
    "containers",
    metadata,
    Column("uuid", Key, primary_key=True),
    Column("engine_id", Key),
    Column("name", Key),
    Column("deleted", Boolean, nullable=False),
    Column("heard_at", String(MOMENT_LENGTH), nullable=False),
    Column("record", Json, nullable=False),
    Column("project_id", Key),
    Column("host", Key),
    Column("state", Key),
    Column("created_at", Key),
    Index("containers_engine_id", "engine_id"),
    Index("containers_name", "name"),
    Index("containers_heard_at", "heard_at"),
    Index("containers_project_id", "project_id"),
    Index("containers_host", "host"),
    Index("containers_state", "state"),
    Index("containers_created_at", "created_at"),
    **OPTIONS,
)
"""`record`: all of a `ContainerRecord` but `heard_at`. The columns after it are searched by."""

snapshot_table = Table(
    "snapshots",
    metadata,
    Column("request_id", Key, primary_key=True),
    Column("ended", Boolean, nullable=False),
    Column("at", String(MOMENT_LENGTH), nullable=False),
    Column("record", Json, nullable=False),
    Column("snapshot_id", Key, nullable=False, server_default=""),
    Column("project_id", Key),
    Column("container_uuid", Key),
    Column("container_name", Key),
    Column("host", Key),
    Column("image_id", Key),
    Column("image_name", Key),
    Column("status", Key),
    Column("created_at", Key, nullable=False, server_default=""),
    Index("snapshots_ended", "ended", "at"),
    Index("snapshots_snapshot_id", "snapshot_id"),
    Index("snapshots_project_id", "project_id", "created_at", "snapshot_id"),
    Index("snapshots_container_uuid", "container_uuid"),
    Index("snapshots_container_name", "container_name"),
    Index("snapshots_host", "host"),
    Index("snapshots_image_id", "image_id"),
    Index("snapshots_image_name", "image_name"),
    Index("snapshots_status", "status"),
    Index("snapshots_created_at", "created_at", "snapshot_id"),
    **OPTIONS,
)
"""`ended` and `at` are the rank's; `record`: request id, event id and payload. The columns after it
are searched by. Two are never NULL, so that an index has them in the order of most lists."""

restore_table = Table(
    "restores",
    metadata,
    Column("request_id", Key, primary_key=True),
    Column("ended", Boolean, nullable=False),
    Column("at", String(MOMENT_LENGTH), nullable=False),
    Column("record", Json, nullable=False),
    Column("restore_id", Key, nullable=False, server_default=""),
    Column("project_id", Key),
    Column("snapshot_id", Key),
    Column("image_id", Key),
    Column("image_name", Key),
    Column("container_uuid", Key),
    Column("container_name", Key),
    Column("host", Key),
    Column("status", Key),
    Column("created_at", Key, nullable=False, server_default=""),
    Index("restores_ended", "ended", "at"),
    Index("restores_restore_id", "restore_id"),
    Index("restores_project_id", "project_id", "created_at", "restore_id"),
    Index("restores_snapshot_id", "snapshot_id"),
    Index("restores_image_id", "image_id"),
    Index("restores_image_name", "image_name"),
    Index("restores_container_uuid", "container_uuid"),
    Index("restores_container_name", "container_name"),
    Index("restores_host", "host"),
    Index("restores_status", "status"),
    Index("restores_created_at", "created_at", "restore_id"),
    **OPTIONS,
)
"""As `snapshots`."""

dispatch_table = Table(
    "dispatches",
    metadata,
    Column("request_id", Key, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("open", Boolean, nullable=False),
    Column("due", Moment, nullable=False),
    Column("container_uuid", Key),
    Column("changed_at", Moment, nullable=False),
    Column("record", Json, nullable=False),
    Index("dispatches_due", "open", "due"),
    Index("dispatches_container_uuid", "container_uuid"),
    **OPTIONS,
)
"""`open`: not ended, or with a fault to tell. `record`: all but `state` and `due`."""

reservation_table = Table(
    "reservations",
    metadata,
    Column("key", Key, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("open", Boolean, nullable=False),
    Column("lease", Moment, nullable=False),
    Column("changed_at", Moment, nullable=False),
    Column("record", Json, nullable=False),
    Index("reservations_lease", "open", "lease"),
    **OPTIONS,
)
"""`open`: with something left to do. `record`: all but `state` and `lease`."""

letter_table = Table(
    "dead_letters",
    metadata,
    # SQLite counts up only what it calls INTEGER.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("key", Key, nullable=False, unique=True),
    Column("received_at", String(MOMENT_LENGTH), nullable=False),
    Column("reason", Long, nullable=False),
    Column("message", Long, nullable=False),
    **OPTIONS,
)
"""Messages that could not be used."""
