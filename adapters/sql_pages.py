"""Pages of the index: its rows in any order, filtered, from a marker on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    String,
    Table,
    and_,
    func,
    literal,
    literal_column,
    or_,
    select,
)

from tintype.adapters.sql_tables import container_table, restore_table, snapshot_table
from tintype.core.errors import NotFound
from tintype.core.index import CONTAINER_FIELDS, RESTORE_FIELDS, SNAPSHOT_FIELDS, Query
from tintype.core.moments import moment


class Listing:
    """Pages of a table, in any of its orders. What is missing is sorted as an empty text."""

    def __init__(self, table: Table, identity: str, fields: Sequence[str]) -> None:
        self._table = table
        self._identity = identity
        self._fields = fields
        blank: Any = literal_column("''")
        self._orders: dict[str, ColumnElement[str]] = {
            name: func.coalesce(column, blank) if column.nullable else column
            for name in (identity, *fields)
            for column in (table.c[name],)
        }

    def page(
        self, connection: Connection, query: Query, visible: ColumnElement[bool], *more: Any
    ) -> Sequence[RowMapping]:
        """Return the rows of a page: what is visible, meets `more` conditions and the filters.

        The marker need but be visible: what it names may no longer be what is looked for. Raises
        NotFound, and ValueError for a field that cannot be sorted or filtered by.
        """
        unknown = {query.sort, *query.filters} - {*self._fields}
        if unknown - {self._identity} or self._identity in query.filters:
            raise ValueError(f"no fields to sort and filter by: {sorted(unknown)}")
        order = [self._orders[name] for name in dict.fromkeys((query.sort, self._identity))]
        conditions = [visible, *more]
        conditions += [
            self._table.c[name] == field_text(name, value) for name, value in query.filters.items()
        ]
        if query.marker is not None:
            last = self._marked(connection, query, visible, order)
            conditions.append(_beyond(order, last, descending=query.descending))
        ordered = [one.desc() if query.descending else one.asc() for one in order]
        rows = select(self._table).where(*conditions).order_by(*ordered).limit(query.limit)
        return connection.execute(rows).mappings().all()

    def _marked(
        self,
        connection: Connection,
        query: Query,
        visible: ColumnElement[bool],
        order: Sequence[ColumnElement[str]],
    ) -> Sequence[str]:
        """Return what the marker has in the fields that order the rows."""
        here = self._table.c[self._identity] == query.marker
        # Ids are unique unless somebody forged an event: its last row then, so that lists end.
        ordered = [one.asc() if query.descending else one.desc() for one in order]
        found = select(*order).where(here, visible).order_by(*ordered).limit(1)
        row = connection.execute(found).first()
        if row is None:
            raise NotFound(f"marker: nothing is known of {query.marker!r}")
        return tuple(row)


def _beyond(
    order: Sequence[ColumnElement[str]], last: Sequence[str], *, descending: bool
) -> ColumnElement[bool]:
    """Return what holds for rows after the one with these values.

    The first comparison is one that an index is searched by.
    """
    texts = [literal(text, String) for text in last]
    beyond = [(a < b) if descending else (a > b) for a, b in zip(order, texts, strict=True)]
    if len(order) == 1:
        return beyond[0]
    from_here = order[0] <= texts[0] if descending else order[0] >= texts[0]
    return and_(from_here, or_(*beyond))


def field_text(name: str, value: object) -> str | None:
    """Return what a field is sorted and filtered by; None: it is none that can be."""
    if not isinstance(value, str):
        return None
    if name == "created_at":
        return moment(value) or value
    return value.lower() if name == "container_uuid" else value


CONTAINER_PAGES = Listing(container_table, "uuid", CONTAINER_FIELDS)
SNAPSHOT_PAGES = Listing(snapshot_table, "snapshot_id", SNAPSHOT_FIELDS)
RESTORE_PAGES = Listing(restore_table, "restore_id", RESTORE_FIELDS)
