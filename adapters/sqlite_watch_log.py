"""The watch log in the journal's file, so that one transaction covers it and the outbox."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tintype.adapters.sqlite_journal import SqliteJournal, enqueue
from tintype.core.events import Event
from tintype.core.ports import Known


class SqliteWatchLog:
    """WatchLog of one host, in a journal that is open. Thread-safe as the journal is."""

    def __init__(self, journal: SqliteJournal) -> None:
        self._journal = journal

    def resume_point(self) -> int | None:
        """Return the `at` of the last engine event that was told."""
        with self._journal.transaction() as db:
            row = db.execute("SELECT resume_point FROM watch").fetchone()
        return None if row is None else row["resume_point"]

    def known(self) -> Mapping[str, Known]:
        """Return the containers told of, by engine id."""
        with self._journal.transaction() as db:
            rows = db.execute("SELECT * FROM containers").fetchall()
        return {row["engine_id"]: Known(json.loads(row["payload"]), row["since"]) for row in rows}

    def observe(
        self,
        events: Sequence[Event],
        told: Mapping[str, Mapping[str, Any] | None],
        resume_point: int | None = None,
    ) -> None:
        """Record events and what they tell together."""
        now = datetime.now(UTC).isoformat()
        with self._journal.transaction() as db:
            for event in events:
                enqueue(db, event)
            for engine_id, payload in told.items():
                if payload is None:
                    db.execute("DELETE FROM containers WHERE engine_id = ?", (engine_id,))
                    continue
                db.execute(
                    "INSERT INTO containers (engine_id, payload, since) VALUES (?, ?, ?)"
                    " ON CONFLICT (engine_id) DO UPDATE SET payload = excluded.payload",
                    (engine_id, json.dumps(payload), now),
                )
            if resume_point is not None:
                db.execute(
                    "INSERT INTO watch (id, resume_point) VALUES (1, ?)"
                    " ON CONFLICT (id) DO UPDATE SET resume_point = excluded.resume_point",
                    (resume_point,),
                )

    def ticked_at(self) -> datetime | None:
        """Return until when schedules were looked at."""
        with self._journal.transaction() as db:
            row = db.execute("SELECT ticked_at FROM watch").fetchone()
        return row and row["ticked_at"] and datetime.fromisoformat(row["ticked_at"])

    def tick(self, events: Sequence[Event], at: datetime) -> None:
        """Record what schedules ask for, and that they were looked at."""
        with self._journal.transaction() as db:
            for event in events:
                enqueue(db, event)
            db.execute(
                "INSERT INTO watch (id, ticked_at) VALUES (1, ?)"
                " ON CONFLICT (id) DO UPDATE SET ticked_at = excluded.ticked_at",
                (at.isoformat(),),
            )
