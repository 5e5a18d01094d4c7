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
from tintype.adapters.sql_jobs import RESTORES, SNAPSHOTS
from tintype.adapters.sql_pages import CONTAINER_PAGES, field_text
from tintype.adapters.sql_tables import container_table, key_of
from tintype.core.index import (
    ContainerRecord,
    JobRecord,
    Query,
    RestoreRecord,
    Sighting,
    SnapshotRecord,
)
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


CONTAINER_ROWS = Rows(container_table, "uuid")
SNAPSHOT_ROWS = Rows(SNAPSHOTS.table, "request_id")
RESTORE_ROWS = Rows(RESTORES.table, "request_id")


@dataclass(eq=False, slots=True)
class _Waiting:
    """Sightings of a caller that waits for its turn."""

    sightings: Sequence[Sighting]
    committed: bool | None = None
    """With its group; None: it is in none yet."""


class SqlIndex:
    """The read model of containers, snapshots and restores. Thread-safe.

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
        self._store({CONTAINER_ROWS: merges})

    def note(self, records: Sequence[JobRecord]) -> None:
        """Keep the latest of what is known of snapshots and restores."""
        self._store(
            {SNAPSHOT_ROWS: SNAPSHOTS.merges(records), RESTORE_ROWS: RESTORES.merges(records)}
        )

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
        return self._database.read(lambda db: SNAPSHOTS.of_request(db, request_id))

    def find_snapshot(self, ident: str) -> SnapshotRecord | None:
        """Return the snapshot with this id, or of the request with this id."""
        return self._database.read(lambda db: SNAPSHOTS.find(db, ident))

    def snapshots(self) -> Sequence[SnapshotRecord]:
        """Return all snapshots."""
        return self._database.read(SNAPSHOTS.all)

    def list_snapshots(self, query: Query) -> Sequence[SnapshotRecord]:
        """Return a page of snapshots.

        Raises NotFound for a marker that is not known, ValueError for an unknown field.
        """
        return self._database.read(lambda db: SNAPSHOTS.page(db, query))

    def restore(self, request_id: str) -> RestoreRecord | None:
        """Return how a restore stands."""
        return self._database.read(lambda db: RESTORES.of_request(db, request_id))

    def find_restore(self, ident: str) -> RestoreRecord | None:
        """Return the restore with this id, or of the request with this id."""
        return self._database.read(lambda db: RESTORES.find(db, ident))

    def restores(self) -> Sequence[RestoreRecord]:
        """Return all restores."""
        return self._database.read(RESTORES.all)

    def list_restores(self, query: Query) -> Sequence[RestoreRecord]:
        """Return a page of restores.

        Raises NotFound for a marker that is not known, ValueError for an unknown field.
        """
        return self._database.read(lambda db: RESTORES.page(db, query))

    def heard_at(self) -> str | None:
        """Return the latest moment that anything was told of a container."""
        query = select(func.max(container_table.c.heard_at))
        latest: str | None = self._database.read(lambda db: db.scalar(query))
        return latest

    def prune(self, before: datetime) -> int:
        """Forget what was not heard of, or ended, before then, and vain promises of that time."""
        silent = delete(container_table).where(container_table.c.heard_at < utc_text(before))

        def forget(connection: Connection) -> int:
            gone = connection.execute(silent).rowcount
            return gone + SNAPSHOTS.forget(connection, before) + RESTORES.forget(connection, before)

        return self._database.run(forget)

    def close(self) -> None:
        """Release the database's connections."""
        self._database.close()

    def _store(self, tables: Mapping[Rows, Mapping[str, Merge]]) -> None:
        """Bring rows up to date in one transaction; a row that another inserts begins it anew."""
        batches = [
            (rows, {name: merges[name] for name in names[start : start + BATCH]})
            for rows, merges in tables.items()
            for names in (sorted(merges, key=key_of),)
            for start in range(0, len(names), BATCH)
        ]

        def merge(connection: Connection) -> None:
            for rows, merges in batches:
                _merge(connection, rows, merges)

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
