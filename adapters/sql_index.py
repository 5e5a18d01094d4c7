"""The index in a SQL database; `SqlIndex(Database("sqlite://"))` is the in-memory twin.

What merging does is said once, in `core.index`. Here it happens under row locks, taken in the order
of the keys, so that routers that merge at the same time come to the same rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
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
    update,
)

from tintype.adapters.sql_database import Database
from tintype.adapters.sql_tables import container_table, key_of, snapshot_table, utc
from tintype.core.index import ContainerRecord, Sighting, SnapshotRecord

BATCH = 500
"""Rows asked for in one statement."""

ENGINE_ID_START = re.compile("[0-9a-f]{1,128}")
"""What an engine id may begin with."""

Merge = Callable[[RowMapping | None], dict[str, Any] | None]
"""From the row that is there to the one that shall be; None: it is right already."""


class SqlIndex:
    """The read model of containers and snapshots. Thread-safe."""

    def __init__(self, database: Database) -> None:
        """Use a database whose tables are as `Database.upgrade` makes them."""
        self._database = database

    def sight(self, sightings: Sequence[Sighting]) -> None:
        """Merge what events say into the records."""
        told: dict[str, list[Sighting]] = {}
        for sighting in sightings:
            told.setdefault(sighting.uuid.lower(), []).append(sighting)
        merges = {uuid: _sighted(uuid, news) for uuid, news in told.items()}
        self._store(container_table, "uuid", merges)

    def note(self, snapshots: Sequence[SnapshotRecord]) -> None:
        """Keep the latest of what is known of snapshots."""
        told: dict[str, SnapshotRecord] = {}
        for record in snapshots:
            told[record.request_id] = record.latest(told.get(record.request_id, record))
        merges = {request_id: _noted(record) for request_id, record in told.items()}
        self._store(snapshot_table, "request_id", merges)

    def find(self, ident: str) -> Sequence[ContainerRecord]:
        """Return the living containers that `ident` may stand for."""
        table = container_table.c
        kinds = [(table.uuid == ident.lower()) | (table.engine_id == ident), table.name == ident]
        if ENGINE_ID_START.fullmatch(ident):
            beyond = ident[:-1] + chr(ord(ident[-1]) + 1)
            kinds.append((table.engine_id >= ident) & (table.engine_id < beyond))

        def look(connection: Connection) -> Sequence[ContainerRecord]:
            found = (_living(connection, kind) for kind in kinds)
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

    def snapshot(self, request_id: str) -> SnapshotRecord | None:
        """Return how a snapshot stands."""
        query = select(snapshot_table).where(snapshot_table.c.request_id == request_id)
        row = self._database.read(lambda db: db.execute(query).mappings().one_or_none())
        return None if row is None else _snapshot(row)

    def snapshots(self) -> Sequence[SnapshotRecord]:
        """Return all snapshots."""
        rows = self._database.read(lambda db: db.execute(select(snapshot_table)).mappings().all())
        return sorted(map(_snapshot, rows), key=lambda record: record.request_id)

    def heard_at(self) -> str | None:
        """Return the latest moment that anything was told of a container."""
        query = select(func.max(container_table.c.heard_at))
        latest: str | None = self._database.read(lambda db: db.scalar(query))
        return latest

    def prune(self, before: datetime) -> int:
        """Forget what was not heard of, or ended, before then."""
        then = utc(before)
        ended = snapshot_table.c.ended & (snapshot_table.c.at < then)

        def forget(connection: Connection) -> int:
            silent = connection.execute(
                delete(container_table).where(container_table.c.heard_at < then)
            )
            return (
                silent.rowcount + connection.execute(delete(snapshot_table).where(ended)).rowcount
            )

        return self._database.run(forget)

    def close(self) -> None:
        """Release the database's connections."""
        self._database.close()

    def _store(self, table: Table, identity: str, merges: Mapping[str, Merge]) -> None:
        """Bring rows up to date in one transaction; a row that another inserts begins it anew."""
        names = sorted(merges, key=key_of)
        batches = [names[start : start + BATCH] for start in range(0, len(names), BATCH)]

        def merge(connection: Connection) -> None:
            for batch in batches:
                _merge(connection, table, identity, {name: merges[name] for name in batch})

        if batches:
            self._database.run(merge)


def _merge(
    connection: Connection, table: Table, identity: str, merges: Mapping[str, Merge]
) -> None:
    column = table.c[identity]
    query = select(table).where(column.in_(merges)).order_by(column).with_for_update()
    known = {row[identity]: row for row in connection.execute(query).mappings()}
    new: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    for name, merge in merges.items():
        row = known.get(key_of(name))
        values = merge(row)
        if values is not None:
            (new if row is None else changed).append({identity: name, **values})
    if new:
        connection.execute(insert(table), new)
    if changed:
        others = [name for name in changed[0] if name != identity]
        change = update(table).where(column == bindparam(f"this_{identity}"))
        connection.execute(
            change.values({name: bindparam(name) for name in others}),
            [{f"this_{identity}": row.pop(identity), **row} for row in changed],
        )


def _living(connection: Connection, *conditions: ColumnElement[bool]) -> list[ContainerRecord]:
    query = select(container_table).where(container_table.c.deleted_at.is_(None), *conditions)
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
        row["deleted_at"],
        row["heard_at"],
    )


def _container_row(record: ContainerRecord) -> dict[str, Any]:
    return {
        "engine_id": record.facts.get("engine_id"),
        "name": record.name,
        "deleted_at": record.deleted_at,
        "heard_at": record.heard_at,
        "record": {
            "uuid": record.uuid,
            "facts": dict(record.facts),
            "versions": dict(record.versions),
        },
    }


def _snapshot(row: RowMapping) -> SnapshotRecord:
    record = row["record"]
    rank = (row["ended"], row["at"], record["event_id"])
    return SnapshotRecord(record["request_id"], rank, record["payload"])


def _snapshot_row(record: SnapshotRecord) -> dict[str, Any]:
    ended, at, event_id = record.rank
    told = {"request_id": record.request_id, "event_id": event_id, "payload": dict(record.payload)}
    return {"ended": ended, "at": at, "record": told}
