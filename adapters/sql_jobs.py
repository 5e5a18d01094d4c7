"""Snapshots and restores in the index: two tables of the same make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, RowMapping, Table, delete, select, true

from tintype.adapters.sql_pages import RESTORE_PAGES, SNAPSHOT_PAGES, Listing, field_text
from tintype.adapters.sql_tables import restore_table, snapshot_table
from tintype.core.index import (
    RESTORE_FIELDS,
    SNAPSHOT_FIELDS,
    JobRecord,
    Query,
    RestoreRecord,
    SnapshotRecord,
)
from tintype.core.moments import utc_text

R = TypeVar("R", bound=JobRecord)


class Jobs(Generic[R]):
    """One of these tables. Methods are to be run in a transaction."""

    def __init__(
        self, table: Table, subject: str, fields: Sequence[str], pages: Listing, kind: type[R]
    ) -> None:
        """`subject` is the column of the id by which the jobs themselves are known."""
        self.table = table
        self._subject = subject
        self._fields = fields
        self._pages = pages
        self._kind = kind

    def of_request(self, connection: Connection, request_id: str) -> R | None:
        """Return the job of a request."""
        return self._one(connection, self.table.c.request_id == request_id)

    def find(self, connection: Connection, ident: str) -> R | None:
        """Return the job with this id, or of the request with this id."""
        column = self.table.c[self._subject]
        own = self._one(connection, (column == ident) & (column != ""))
        return own or self.of_request(connection, ident)

    def all(self, connection: Connection) -> Sequence[R]:
        """Return all, by request id."""
        rows = connection.execute(select(self.table)).mappings().all()
        return sorted(map(self.read, rows), key=lambda record: record.request_id)

    def page(self, connection: Connection, query: Query) -> Sequence[R]:
        """Return a page. Raises NotFound, ValueError."""
        visible: ColumnElement[bool] = true()
        if query.project_id is not None:
            visible = self.table.c.project_id == query.project_id
        return [*map(self.read, self._pages.page(connection, query, visible))]

    def forget(self, connection: Connection, before: datetime) -> int:
        """Delete what ended before then, and vain promises of that time; return how many."""
        then, columns = utc_text(before), self.table.c
        ended = columns.ended & (columns.at < then)
        never_told = (columns.at == "") & (columns.created_at < then)
        return connection.execute(delete(self.table).where(ended | never_told)).rowcount

    def merges(
        self, records: Sequence[JobRecord]
    ) -> Mapping[str, Callable[[RowMapping | None], dict[str, Any] | None]]:
        """Return, by request id, what brings the rows up to date with those of this kind."""
        told: dict[str, R] = {}
        for record in records:
            if isinstance(record, self._kind):
                told[record.request_id] = record.latest(told.get(record.request_id, record))
        return {request_id: self._noted(record) for request_id, record in told.items()}

    def read(self, row: RowMapping) -> R:
        """Read a row."""
        record = row["record"]
        rank = (row["ended"], row["at"], record["event_id"])
        return self._kind(record["request_id"], rank, record["payload"])

    def _one(self, connection: Connection, wanted: ColumnElement[bool]) -> R | None:
        query = select(self.table).where(wanted).order_by(self.table.c.request_id).limit(1)
        row = connection.execute(query).mappings().one_or_none()
        return None if row is None else self.read(row)

    def _noted(self, record: R) -> Callable[[RowMapping | None], dict[str, Any] | None]:
        def merge(row: RowMapping | None) -> dict[str, Any] | None:
            latest = record if row is None else self.read(row).latest(record)
            return self._row(latest) if latest is record else None

        return merge

    def _row(self, record: R) -> dict[str, Any]:
        ended, at, event_id = record.rank
        payload = record.payload
        told = {"request_id": record.request_id, "event_id": event_id, "payload": dict(payload)}
        names = ("project_id", self._subject, *self._fields)
        columns = {name: field_text(name, payload.get(name)) for name in names}
        for name in (self._subject, "created_at"):
            columns[name] = columns[name] or ""
        return {"ended": ended, "at": at, "record": told, **columns}


SNAPSHOTS = Jobs(snapshot_table, "snapshot_id", SNAPSHOT_FIELDS, SNAPSHOT_PAGES, SnapshotRecord)
RESTORES = Jobs(restore_table, "restore_id", RESTORE_FIELDS, RESTORE_PAGES, RestoreRecord)
