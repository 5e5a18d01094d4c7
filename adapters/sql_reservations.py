"""Reservations in the routers' database; `SqlReservations(Database("sqlite://"))` is the twin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Connection,
    RowMapping,
    Select,
    String,
    and_,
    delete,
    insert,
    or_,
    type_coerce,
    update,
)

from tintype.adapters.sql_database import Database
from tintype.adapters.sql_records import read_text, select_texts
from tintype.adapters.sql_tables import reservation_table
from tintype.core.errors import Unavailable
from tintype.core.events import COMMIT_REQUEST
from tintype.core.reservation import Reservation, ReservationState

CLAIMED = 100
"""Rows claimed at once, at most."""

OPEN, WITHDRAWN = ReservationState.OPEN.value, ReservationState.WITHDRAWN.value

TEXTS = select_texts(reservation_table, "key", "state", "lease")
"""Reservations with their record as text."""


class SqlReservations:
    """Where the REST services and routers of one index keep what was promised. Thread-safe.

    A row that cannot be read, as one of a later version, is Unavailable: that version may be asked.
    """

    def __init__(self, database: Database) -> None:
        """Use a database whose tables are as `Database.upgrade` makes them."""
        self._database = database

    def get(self, key: str) -> Reservation | None:
        """Return a reservation."""
        return self._database.read(lambda db: _stored(db, _with_key(key)))

    def open(self, wanted: Reservation, now: datetime) -> Reservation:
        """Insert a reservation or take over the one with its key; return what is stored then."""

        def take(connection: Connection) -> Reservation:
            known = _stored(connection, _with_key(wanted.key).with_for_update())
            if known is None:
                connection.execute(insert(reservation_table), [_row(wanted)])
                return wanted
            taken = _taken_over(known, wanted, now)
            if taken is not known:
                _store(connection, taken)
            return taken

        return self._database.run(take)

    def replace(self, changed: Reservation) -> bool:
        """Store a changed reservation; False, and nothing stored, unless OPEN and of its holder.

        WITHDRAWN rows are replaced by anybody: only `leftovers` change there, and only by who knows
        of the latest attempt's.
        """

        def put(connection: Connection) -> bool:
            known = _stored(connection, _with_key(changed.key).with_for_update())
            after = None if known is None else _replaced(known, changed)
            if after is not None:
                _store(connection, after)
            return after is not None

        return self._database.run(put)

    def claim(self, before: datetime, now: datetime, lease: datetime) -> Sequence[Reservation]:
        """Lease rows with something left to do; what another is just claiming is passed over.

        These are the OPEN ones whose lease was over at `before`, and the WITHDRAWN ones with
        leftovers whose lease was over at `now`. One that cannot be read is leased and logged.
        """
        columns = reservation_table.c
        over = or_(
            and_(columns.state == OPEN, columns.lease <= before),
            and_(columns.state == WITHDRAWN, columns.lease <= now),
        )
        query = (
            TEXTS.where(columns.open, over)
            .order_by(columns.lease, columns.key)
            .limit(CLAIMED)
            .with_for_update(skip_locked=True)
        )

        def take(connection: Connection) -> Sequence[RowMapping]:
            rows = connection.execute(query).mappings().all()
            taken = type_coerce(columns.key, String).in_([row["key"] for row in rows])
            if rows:
                connection.execute(update(reservation_table).where(taken).values(lease=lease))
            return rows

        claimed = [_readable(row) for row in self._database.run(take)]
        return [replace(one, lease=lease) for one in claimed if one is not None]

    def prune(self, before: datetime) -> int:
        """Forget rows last changed before then that have nothing left to do; return how many."""
        columns = reservation_table.c
        old = delete(reservation_table).where(~columns.open, columns.changed_at < before)
        return self._database.run(lambda db: db.execute(old).rowcount)

    def close(self) -> None:
        """Release the database's connections."""
        self._database.close()


def _with_key(key: str) -> Select[Any]:
    return TEXTS.where(reservation_table.c.key == key)


def _stored(connection: Connection, query: Select[Any]) -> Reservation | None:
    """Return the one that a query finds. Raises Unavailable for one that cannot be read."""
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        return None
    found = _readable(row)
    if found is None:
        raise Unavailable("database: the reservation cannot be read")
    return found


def _store(connection: Connection, reservation: Reservation) -> None:
    change = update(reservation_table).where(reservation_table.c.key == reservation.key)
    connection.execute(change.values(_row(reservation)))


def _taken_over(known: Reservation, wanted: Reservation, now: datetime) -> Reservation:
    """Return what is stored once a reservation is wanted that is there already."""
    withdrawn = known.state is ReservationState.WITHDRAWN
    abandoned = known.state is ReservationState.OPEN and known.lease <= now
    if known.fingerprint != wanted.fingerprint or not (withdrawn or abandoned):
        return known
    return replace(
        wanted,
        first_id=known.first_id,
        attempt=known.attempt + 1 if withdrawn and known.reserves else known.attempt,
        state=ReservationState.OPEN,
        leftovers=known.leftovers,
    )


def _replaced(known: Reservation, changed: Reservation) -> Reservation | None:
    """Return what is stored once a reservation is to be replaced; None: it is not."""
    if known.state is ReservationState.OPEN:
        if changed.state is ReservationState.KEPT and known.attempt == changed.attempt:
            # Whoever has published it: those who go on with it now would take it back in vain.
            return replace(known, state=ReservationState.KEPT, leftovers=())
        return changed if known.holder == changed.holder else None
    # A later attempt may have leftovers that whoever cleared an earlier one's knows nothing of.
    same = known.state is changed.state and known.attempt == changed.attempt
    if known.state is not ReservationState.WITHDRAWN or not same:
        return None
    return replace(known, leftovers=changed.leftovers)


def _row(reservation: Reservation) -> dict[str, Any]:
    withdrawn = reservation.state is ReservationState.WITHDRAWN
    return {
        "key": reservation.key,
        "state": reservation.state.value,
        "open": reservation.state is ReservationState.OPEN
        or (withdrawn and len(reservation.leftovers) > 0),
        "lease": reservation.lease,
        "changed_at": datetime.now(UTC),
        "record": {
            "key": reservation.key,
            "first_id": reservation.first_id,
            "fingerprint": reservation.fingerprint,
            "request_type": reservation.request_type,
            "container_uuid": reservation.container_uuid,
            "snapshot_id": reservation.snapshot_id,
            "dry_run": reservation.dry_run,
            "image_id": reservation.image_id,
            "holder": reservation.holder,
            "attempt": reservation.attempt,
            "reserves": reservation.reserves,
            "leftovers": list(reservation.leftovers),
        },
    }


def _readable(row: Mapping[Any, Any]) -> Reservation | None:
    """Return what a row of TEXTS holds; None: it cannot be read."""
    return read_text("reservation", "key", row, _reservation)


def _reservation(row: Mapping[Any, Any]) -> Reservation:
    record = row["record"]
    return Reservation(
        key=record["key"],
        first_id=record["first_id"],
        fingerprint=record["fingerprint"],
        # The version before had commits only, and no dry runs.
        request_type=record.get("request_type", COMMIT_REQUEST),
        container_uuid=record["container_uuid"],
        snapshot_id=record.get("snapshot_id"),
        dry_run=record.get("dry_run", False),
        image_id=record["image_id"],
        holder=record["holder"],
        lease=row["lease"],
        attempt=record["attempt"],
        state=ReservationState(row["state"]),
        reserves=record["reserves"],
        leftovers=tuple(record["leftovers"]),
    )
