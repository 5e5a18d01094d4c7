"""The dispatches in the routers' database; `SqlDispatches(Database("sqlite://"))` is the twin."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    Select,
    String,
    delete,
    func,
    insert,
    select,
    type_coerce,
    update,
)

from tintype.adapters.sql_database import Database
from tintype.adapters.sql_records import read_text, select_texts
from tintype.adapters.sql_tables import dispatch_table, letter_table
from tintype.adapters.sqlite_journal import DEAD_LETTER_BYTES, DEAD_LETTERS, REASON_LENGTH
from tintype.core.dispatch import Dispatch, DispatchState
from tintype.core.events import Event, Requester, canonical
from tintype.core.jobs import Fault
from tintype.core.moments import utc_text
from tintype.core.ports import Admission, DeadLetter

ORDER = list(DispatchState)
"""States, each further than those before it."""

TEXTS = select_texts(dispatch_table, "request_id", "state", "due")
"""Dispatches with their record as text."""


class SqlDispatches:
    """Where the routers of one index keep their requests. Thread-safe."""

    def __init__(self, database: Database) -> None:
        """Use a database whose tables are as `Database.upgrade` makes them."""
        self._database = database

    def admit(self, dispatch: Dispatch) -> Admission:
        """Take a request in, once."""
        columns = dispatch_table.c
        query = select(columns.record).where(columns.request_id == dispatch.request_id)

        def take(connection: Connection) -> Admission:
            known = connection.scalar(query)
            if known is not None:
                same = known["fingerprint"] == dispatch.fingerprint
                return Admission.DUPLICATE if same else Admission.CONFLICT
            connection.execute(insert(dispatch_table), [_row(dispatch)])
            return Admission.NEW

        return self._database.run(take)

    def get(self, request_id: str) -> Dispatch | None:
        """Return a dispatch."""
        query = _with_id(request_id)
        row = self._database.read(lambda db: db.execute(query).mappings().one_or_none())
        return None if row is None else _dispatch(row)

    def replace(self, dispatch: Dispatch, expected: DispatchState) -> bool:
        """Store a changed dispatch, if nobody has moved it on."""
        columns = dispatch_table.c
        change = (
            update(dispatch_table)
            .where(columns.request_id == dispatch.request_id, columns.state == expected.value)
            .values(_row(dispatch))
        )
        return self._database.run(lambda db: db.execute(change).rowcount == 1)

    def heard(self, request_id: str, state: DispatchState, due: datetime) -> None:
        """Note that a host has accepted or ended a request; told again, only `due` is new."""

        def move(connection: Connection) -> None:
            row = connection.execute(_with_id(request_id).with_for_update()).mappings().first()
            if row is None or not _moves(_dispatch(row), state):
                return
            known = _dispatch(row)
            asked = known.asked and state is not DispatchState.ACCEPTED
            changed = replace(known, state=state, due=due, asked=asked)
            change = update(dispatch_table).where(dispatch_table.c.request_id == request_id)
            connection.execute(change.values(_row(changed)))

        self._database.run(move)

    def claim(self, now: datetime, lease: timedelta, limit: int = 100) -> Sequence[Dispatch]:
        """Lease due dispatches; those that another router is just claiming are passed over."""
        columns, until = dispatch_table.c, now + lease
        query = (
            TEXTS.where(columns.open, columns.due <= now)
            .order_by(columns.due, columns.request_id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )

        def take(connection: Connection) -> Sequence[Dispatch]:
            rows = connection.execute(query).mappings().all()
            known = [row["request_id"] for row in rows]
            taken = type_coerce(columns.request_id, String).in_(known)
            if rows:
                connection.execute(update(dispatch_table).where(taken).values(due=until))
            return [replace(dispatch, due=until) for dispatch in _readable(rows)]

        return self._database.run(take)

    def of_container(self, uuid: str) -> Sequence[Dispatch]:
        """Return the dispatches of a container that have not ended, oldest first."""
        columns = dispatch_table.c
        query = TEXTS.where(
            columns.container_uuid == uuid.lower(), columns.state != DispatchState.ENDED.value
        )
        rows = self._database.read(lambda db: db.execute(query).mappings().all())
        return sorted(_readable(rows), key=lambda one: (one.received_at, one.request_id))

    def reject(self, key: str, reason: str, message: Mapping[str, Any]) -> None:
        """Keep a message that could not be used, once."""
        columns = letter_table.c
        text = canonical(message).decode("ascii")
        if len(text) > DEAD_LETTER_BYTES or not text.startswith("{"):
            text = json.dumps({"truncated": text[:DEAD_LETTER_BYTES], "bytes": len(text)})
        letter = {
            "key": key,
            "received_at": utc_text(datetime.now(UTC)),
            "reason": reason[:REASON_LENGTH],
            "message": text,
        }

        def bury(connection: Connection) -> None:
            if connection.scalar(select(columns.id).where(columns.key == key)) is not None:
                return
            connection.execute(insert(letter_table), [letter])
            newest = connection.scalar(select(func.max(columns.id)))
            old = columns.id <= (newest or 0) - DEAD_LETTERS
            connection.execute(delete(letter_table).where(old))

        self._database.run(bury)

    def dead_letters(self) -> Sequence[DeadLetter]:
        """Return all messages kept."""
        query = select(letter_table).order_by(letter_table.c.id)
        rows = self._database.read(lambda db: db.execute(query).mappings().all())
        return [
            DeadLetter(row["id"], row["received_at"], row["reason"], _load_message(row["message"]))
            for row in rows
        ]

    def prune(self, before: datetime) -> int:
        """Forget what ended, or was kept, before then; a fault still to be told stays."""
        ended = ~dispatch_table.c.open & (dispatch_table.c.changed_at < before)
        old = letter_table.c.received_at < utc_text(before)

        def forget(connection: Connection) -> int:
            gone = connection.execute(delete(dispatch_table).where(ended)).rowcount
            return gone + connection.execute(delete(letter_table).where(old)).rowcount

        return self._database.run(forget)

    def close(self) -> None:
        """Release the database's connections."""
        self._database.close()


def _with_id(request_id: str) -> Select[Any]:
    return select(dispatch_table).where(dispatch_table.c.request_id == request_id)


def _moves(dispatch: Dispatch, state: DispatchState) -> bool:
    """Tell whether a host's word changes a dispatch."""
    over = dispatch.state is DispatchState.ENDED or dispatch.fault is not None
    return not over and ORDER.index(state) >= ORDER.index(dispatch.state)


def _row(dispatch: Dispatch) -> dict[str, Any]:
    ended = dispatch.state is DispatchState.ENDED
    uuid = dispatch.container_uuid
    return {
        "request_id": dispatch.request_id,
        "state": dispatch.state.value,
        "open": not ended or dispatch.fault is not None,
        "due": dispatch.due,
        "container_uuid": None if uuid is None else uuid.lower(),
        "changed_at": datetime.now(UTC),
        "record": {
            "request_id": dispatch.request_id,
            "fingerprint": dispatch.fingerprint,
            "request": _event(dispatch.request),
            "received_at": utc_text(dispatch.received_at),
            "deadline": utc_text(dispatch.deadline),
            "host": dispatch.host,
            "container_uuid": uuid,
            "accept_by": None if dispatch.accept_by is None else utc_text(dispatch.accept_by),
            "fault": None if dispatch.fault is None else asdict(dispatch.fault),
            "attempts": dispatch.attempts,
            "asked": dispatch.asked,
        },
    }


def _readable(rows: Iterable[Mapping[Any, Any]]) -> list[Dispatch]:
    """Return what rows of TEXTS hold, but those that cannot be read."""
    found = (read_text("dispatch", "request_id", row, _dispatch) for row in rows)
    return [dispatch for dispatch in found if dispatch is not None]


def _dispatch(row: Mapping[Any, Any]) -> Dispatch:
    record = row["record"]
    request, fault, accept_by = record["request"], record["fault"], record["accept_by"]
    return Dispatch(
        request_id=record["request_id"],
        fingerprint=record["fingerprint"],
        request=Event(**{**request, "requester": Requester(**request["requester"])}),
        received_at=datetime.fromisoformat(record["received_at"]),
        deadline=datetime.fromisoformat(record["deadline"]),
        due=row["due"],
        state=DispatchState(row["state"]),
        host=record["host"],
        container_uuid=record["container_uuid"],
        accept_by=None if accept_by is None else datetime.fromisoformat(accept_by),
        fault=None if fault is None else Fault(**fault),
        attempts=record["attempts"],
        asked=record["asked"],
    )


def _event(event: Event) -> dict[str, Any]:
    return {
        "type": event.type,
        "payload": dict(event.payload),
        "requester": asdict(event.requester),
        "id": event.id,
        "attempt": event.attempt,
    }


def _load_message(text: str) -> dict[str, Any]:
    """Read a dead letter; how deep it may be nested depends on how deep the stack is now."""
    try:
        message: dict[str, Any] = json.loads(text)
    except RecursionError:
        return {"unread": text}
    return message
