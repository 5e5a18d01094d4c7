"""The index in a SQL database; `SqlIndex(Database("sqlite://"))` is the in-memory twin.

What merging does is said once, in `core.index`. Here it happens under row locks, taken in the order
of the keys, so that routers that merge at the same time come to the same rows.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    true,
    update,
)

from tintype.adapters.sql_database import Database
from tintype.adapters.sql_pages import CONTAINER_PAGES, SNAPSHOT_PAGES, field_text
from tintype.adapters.sql_tables import container_table, key_of, snapshot_table
from tintype.core.index import SNAPSHOT_FIELDS, ContainerRecord, Query, Sighting, SnapshotRecord
from tintype.core.moments import utc_text

BATCH = 500
"""Rows asked for in one statement."""

ENGINE_ID_START = re.compile("[0-9a-f]{12,128}")
"""What counts as the start of an engine id: Docker's short id, or more of it."""

Merge = Callable[[RowMapping | None], dict[str, Any] | None]
"""From the row that is there to the one that shall be; None: it is right already."""


class Rows:
    """The statements that bring a table's rows up to date: built once, as this takes longest."""

    def __init__(self, table: Table, identity: str) -> None:
        column = table.c[identity]
        self.identity = identity
        self.lock = (
            select(table)
            .where(column.in_(bindparam("names", expanding=True)))
            .order_by(column)
            .with_for_update()
        )
        self.insert = insert(table)
        others: dict[str, Any] = {
            one.name: bindparam(one.name) for one in table.c if one is not column
        }
        self.update = update(table).where(column == bindparam("this")).values(others)


CONTAINERS = Rows(container_table, "uuid")
SNAPSHOTS = Rows(snapshot_table, "request_id")


@dataclass(eq=False, slots=True)
class _Waiting:
    """Sightings of a caller that waits for its turn."""

    sightings: Sequence[Sighting]
    committed: bool | None = None
    """With its group; None: it is in none yet."""


class SqlIndex:
    """The read model of containers and snapshots. Thread-safe.

    What several threads sight at once goes in together: while one transaction runs, those that come
    wait, and whichever is next takes all of them into the next one.
    """

    def __init__(self, database: Database) -> None:
        """Use a database whose tables are as `Database.upgrade` makes them."""
        self._database = database
        self._turn = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._waiting_lock = threading.Lock()

    def sight(self, sightings: Sequence[Sighting]) -> None:
        """Merge what events say into the records; return when they are committed."""
        mine = _Waiting(sightings)
        with self._waiting_lock:
            self._waiting.append(mine)
        with self._turn:
            if mine.committed is None:
                self._commit_waiting()
        if not mine.committed:
            # Alone: what its group failed of may be another's. If not, it fails as that did.
            self._sight(sightings)

    def _commit_waiting(self) -> None:
        """Commit what waits, and tell all who wait whether it was; raise what one met alone."""
        with self._waiting_lock:
            group, self._waiting = self._waiting, []
        committed = False
        try:
            self._sight([sighting for one in group for sighting in one.sightings])
            committed = True
        except Exception:
            if len(group) == 1:
                raise
        finally:
            for one in group:
                one.committed = committed

    def _sight(self, sightings: Sequence[Sighting]) -> None:
        told: dict[str, list[Sighting]] = {}
        for sighting in sightings:
            told.setdefault(sighting.uuid.lower(), []).append(sighting)
        merges = {uuid: _sighted(uuid, news) for uuid, news in told.items()}
        self._store(CONTAINERS, merges)

    def note(self, snapshots: Sequence[SnapshotRecord]) -> None:
        """Keep the latest of what is known of snapshots."""
        told: dict[str, SnapshotRecord] = {}
        for record in snapshots:
            told[record.request_id] = record.latest(told.get(record.request_id, record))
        merges = {request_id: _noted(record) for request_id, record in told.items()}
        self._store(SNAPSHOTS, merges)

    def find(
        self, ident: str, usable: Callable[[ContainerRecord], bool] = lambda record: True
    ) -> Sequence[ContainerRecord]:
        """Return the usable, living containers that `ident` may stand for."""
        table = container_table.c
        kinds = [(table.uuid == ident.lower()) | (table.engine_id == ident), table.name == ident]
        if ENGINE_ID_START.fullmatch(ident):
            beyond = ident[:-1] + chr(ord(ident[-1]) + 1)
            kinds.append((table.engine_id >= ident) & (table.engine_id < beyond))

        def look(connection: Connection) -> Sequence[ContainerRecord]:
            found = ([*filter(usable, _living(connection, kind))] for kind in kinds)
            return next(filter(None, found), [])

        return self._database.read(look)

    def container(self, uuid: str) -> ContainerRecord | None:
        """Return what is known of a container."""
        query = select(container_table).where(container_table.c.uuid == uuid.lower())
        row = self._database.read(lambda db: db.execute(query).mappings().one_or_none())
        return None if row is None else _container(row)

    def containers(self) -> Sequence[ContainerRecord]:
        """Return all living containers."""
        return self._database.read(_living)

    def list_containers(self, query: Query) -> Sequence[ContainerRecord]:
        """Return a page of living containers.

        Raises NotFound for a marker that is not known, ValueError for an unknown field.
        """
        columns = container_table.c
        visible: ColumnElement[bool] = true()
        if query.project_id is not None:
            visible = columns.project_id == query.project_id
        marker = None if query.marker is None else query.marker.lower()
        asked = replace(query, marker=marker)

        def look(connection: Connection) -> Sequence[RowMapping]:
            return CONTAINER_PAGES.page(connection, asked, visible, ~columns.deleted)

        return [_container(row) for row in self._database.read(look)]

    def snapshot(self, request_id: str) -> SnapshotRecord | None:
        """Return how a snapshot stands."""
        query = select(snapshot_table).where(snapshot_table.c.request_id == request_id)
        row = self._database.read(lambda db: db.execute(query).mappings().one_or_none())
        return None if row is None else _snapshot(row)

    def find_snapshot(self, ident: str) -> SnapshotRecord | None:
        """Return the snapshot with this id, or of the request with this id."""
        columns = snapshot_table.c
        query = select(snapshot_table).order_by(columns.request_id)
        own = query.where(columns.snapshot_id == ident, columns.snapshot_id != "").limit(1)
        row = self._database.read(lambda db: db.execute(own).mappings().one_or_none())
        return self.snapshot(ident) if row is None else _snapshot(row)

    def snapshots(self) -> Sequence[SnapshotRecord]:
        """Return all snapshots."""
        rows = self._database.read(lambda db: db.execute(select(snapshot_table)).mappings().all())
        return sorted(map(_snapshot, rows), key=lambda record: record.request_id)

    def list_snapshots(self, query: Query) -> Sequence[SnapshotRecord]:
        """Return a page of snapshots.

        Raises NotFound for a marker that is not known, ValueError for an unknown field.
        """
        visible: ColumnElement[bool] = true()
        if query.project_id is not None:
            visible = snapshot_table.c.project_id == query.project_id

        def look(connection: Connection) -> Sequence[RowMapping]:
            return SNAPSHOT_PAGES.page(connection, query, visible)

        return [_snapshot(row) for row in self._database.read(look)]

    def heard_at(self) -> str | None:
        """Return the latest moment that anything was told of a container."""
        query = select(func.max(container_table.c.heard_at))
        latest: str | None = self._database.read(lambda db: db.scalar(query))
        return latest

    def prune(self, before: datetime) -> int:
        """Forget what was not heard of, or ended, before then, and vain promises of that time."""
        then = utc_text(before)
        columns = snapshot_table.c
        ended = columns.ended & (columns.at < then)
        never_told = (columns.at == "") & (columns.created_at < then)

        def forget(connection: Connection) -> int:
            silent = connection.execute(
                delete(container_table).where(container_table.c.heard_at < then)
            )
            past = connection.execute(delete(snapshot_table).where(ended | never_told))
            return silent.rowcount + past.rowcount

        return self._database.run(forget)

    def close(self) -> None:
        """Release the database's connections."""
        self._database.close()

    def _store(self, rows: Rows, merges: Mapping[str, Merge]) -> None:
        """Bring rows up to date in one transaction; a row that another inserts begins it anew."""
        names = sorted(merges, key=key_of)
        batches = [names[start : start + BATCH] for start in range(0, len(names), BATCH)]

        def merge(connection: Connection) -> None:
            for batch in batches:
                _merge(connection, rows, {name: merges[name] for name in batch})

        if batches:
            self._database.run(merge)


def _merge(connection: Connection, rows: Rows, merges: Mapping[str, Merge]) -> None:
    locked = connection.execute(rows.lock, {"names": list(merges)}).mappings()
    known = {row[rows.identity]: row for row in locked}
    new: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    for name, merge in merges.items():
        row = known.get(key_of(name))
        values = merge(row)
        if values is not None:
            if row is None:
                new.append({rows.identity: name, **values})
            else:
                changed.append({"this": name, **values})
    if new:
        connection.execute(rows.insert, new)
    if changed:
        connection.execute(rows.update, changed)


def _living(connection: Connection, *conditions: ColumnElement[bool]) -> list[ContainerRecord]:
    query = select(container_table).where(~container_table.c.deleted, *conditions)
    records = map(_container, connection.execute(query).mappings())
    return sorted(records, key=lambda record: record.uuid)


def _sighted(uuid: str, news: Sequence[Sighting]) -> Merge:
    def merge(row: RowMapping | None) -> dict[str, Any] | None:
        before = ContainerRecord(uuid) if row is None else _container(row)
        after = reduce(ContainerRecord.merged, news, before)
        return None if row is not None and after == before else _container_row(after)

    return merge


def _noted(record: SnapshotRecord) -> Merge:
    def merge(row: RowMapping | None) -> dict[str, Any] | None:
        latest = record if row is None else _snapshot(row).latest(record)
        return _snapshot_row(latest) if latest is record else None

    return merge


def _container(row: RowMapping) -> ContainerRecord:
    record = row["record"]
    return ContainerRecord(
        record["uuid"],
        record["facts"],
        {fact: (at, by, what) for fact, (at, by, what) in record["versions"].items()},
        record["deleted_at"],
        record["exists_at"],
        row["heard_at"],
    )


def _container_row(record: ContainerRecord) -> dict[str, Any]:
    return {
        "engine_id": record.facts.get("engine_id"),
        "name": record.name,
        "deleted": record.deleted,
        "heard_at": record.heard_at,
        "record": {
            "uuid": record.uuid,
            "facts": dict(record.facts),
            "versions": dict(record.versions),
            "deleted_at": record.deleted_at,
            "exists_at": record.exists_at,
        },
        "project_id": record.project_id,
        "host": record.host,
        "state": record.state.value,
        "created_at": field_text("created_at", record.facts.get("created_at")),
    }


def _snapshot(row: RowMapping) -> SnapshotRecord:
    record = row["record"]
    rank = (row["ended"], row["at"], record["event_id"])
    return SnapshotRecord(record["request_id"], rank, record["payload"])


def _snapshot_row(record: SnapshotRecord) -> dict[str, Any]:
    ended, at, event_id = record.rank
    told = {"request_id": record.request_id, "event_id": event_id, "payload": dict(record.payload)}
    names = ("project_id", "snapshot_id", *SNAPSHOT_FIELDS)
    columns = {name: field_text(name, record.payload.get(name)) for name in names}
    for name in ("snapshot_id", "created_at"):
        columns[name] = columns[name] or ""
    return {"ended": ended, "at": at, "record": told, **columns}
