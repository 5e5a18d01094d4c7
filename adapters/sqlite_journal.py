"""The journal and the outbox in one SQLite file, so that one transaction covers both.

WAL with `synchronous=FULL`: what a method returned from is on disk. `SqliteJournal(":memory:")` is
the in-memory twin: the same code without the file.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tintype.core.errors import Unavailable
from tintype.core.events import (
    ENDS,
    OUTCOMES,
    SNAPSHOT_EXISTS,
    Event,
    Requester,
    canonical,
    derived_id,
    is_about_restore,
    is_about_snapshot,
)
from tintype.core.jobs import LOCK_FIELD
from tintype.core.moments import utc_text
from tintype.core.ports import Admission, Cancellation, DeadLetter, OutboxRow, Work
from tintype.core.steps import CLEANUP, ENTRIES, UNREADABLE, subject_id_of

VERSION = 3
"""Of the tables below. Before 1.0 a journal of another version is refused, never converted."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (instance TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS requests (
    seq         INTEGER PRIMARY KEY,
    request_id  TEXT NOT NULL UNIQUE,
    subject_id  TEXT NOT NULL UNIQUE,     -- of the snapshot or restore that it asks for
    fingerprint TEXT NOT NULL,
    deadline    TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('ready', 'running', 'done')),
    step        TEXT,             -- the next step, as JSON; NULL once done
    attempt     INTEGER NOT NULL DEFAULT 0,
    not_before  TEXT NOT NULL,
    entry       INTEGER NOT NULL DEFAULT 0,  -- 1 if the step takes a place for work in hand
    place       INTEGER NOT NULL DEFAULT 0,  -- 1 while it counts as work in hand
    answered    INTEGER NOT NULL DEFAULT 0,
    container   TEXT,             -- engine id that the request has to itself until its outcome
    cancelled   TEXT,             -- why it is to stop, as JSON
    undo        TEXT,             -- the step that takes back a good outcome, as JSON
    latest      TEXT,             -- its latest event, as JSON
    updated_at  TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS requests_open ON requests (state, not_before) WHERE state != 'done';
CREATE TABLE IF NOT EXISTS outbox (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id     TEXT NOT NULL UNIQUE,
    event_type   TEXT NOT NULL,
    event        TEXT NOT NULL,
    created_at   TEXT NOT NULL,
    confirmed_at TEXT
);
CREATE INDEX IF NOT EXISTS outbox_pending ON outbox (id) WHERE confirmed_at IS NULL;
CREATE TABLE IF NOT EXISTS watch (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    resume_point INTEGER,         -- `at` of the engine's last event that was told, nanoseconds
    ticked_at    TEXT             -- until when schedules were looked at
);
CREATE TABLE IF NOT EXISTS containers (
    engine_id TEXT PRIMARY KEY,
    payload   TEXT NOT NULL,      -- what was told last
    since     TEXT NOT NULL       -- when it was first told of
);
CREATE TABLE IF NOT EXISTS dead_letters (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    key         TEXT NOT NULL UNIQUE,
    received_at TEXT NOT NULL,
    reason      TEXT NOT NULL,
    message     TEXT NOT NULL
);
"""

CLAIM = """
SELECT request_id, subject_id, step, attempt, deadline, cancelled, latest FROM requests AS mine
WHERE state = 'ready' AND not_before <= :now
  AND (cancelled IS NOT NULL OR NOT entry OR place OR :places IS NULL
       OR (SELECT count(*) FROM requests WHERE state != 'done' AND place) < :places)
  AND (cancelled IS NOT NULL OR NOT EXISTS (
    SELECT 1 FROM requests AS other
    WHERE other.container = mine.container AND other.seq != mine.seq
      AND (other.state = 'running'
           OR (other.state = 'ready' AND other.seq < mine.seq AND other.place >= mine.place))))
ORDER BY seq LIMIT 1
"""

LETTERS = "SELECT * FROM dead_letters ORDER BY id"
LIVE = "SELECT request_id FROM requests WHERE state != 'done'"

CONTAINER_EVENTS_KEPT = timedelta(hours=1)
"""How long a confirmed event about a container is remembered, against telling it twice; and one
that tells of a snapshot once more."""

DEAD_LETTER_BYTES = 64 * 1024
"""What is kept of a message that could not be used."""

DEAD_LETTERS = 10_000
"""How many are kept, the newest, so that a sender of rubbish cannot fill the disk."""

SPENT = ""
"""Fingerprint of a request that was answered before it came: it is any request."""

REASON_LENGTH = 4000
"""Characters kept of the reason why."""


class JournalInUse(Exception):
    """Another process works with this journal."""


class SqliteJournal:
    """Journal and Outbox of one host. Thread-safe; one process at a time."""

    def __init__(self, path: Path | str) -> None:
        """Open or create the journal.

        Raises JournalInUse when another process has it, OSError when it cannot be created.
        """
        self._lock = threading.RLock()
        self._guard = None if str(path) == ":memory:" else _exclusive(Path(path))
        try:
            if self._guard is not None:
                _make_private(path)
            self._db = _connect(path)
        except sqlite3.Error as error:
            self._release()
            raise OSError(f"{path}: {error}") from error
        except OSError:
            self._release()
            raise

    @property
    def instance(self) -> str:
        """Short id of this journal, drawn once: tells this Tintype's captures from another's."""
        with self.transaction() as db:
            return str(db.execute("SELECT instance FROM meta").fetchone()["instance"])

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit all or nothing.

        Raises Unavailable when the disk is full, or the file locked or damaged.
        """
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                except BaseException:
                    if self._db.in_transaction:  # a full disk may have rolled it back already
                        self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
            except sqlite3.DatabaseError as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise Unavailable(f"journal: {error}") from error

    def admit(
        self,
        request_id: str,
        fingerprint: str,
        step: Event,
        deadline: datetime,
        latest: Event | None = None,
        *,
        not_before: datetime | None = None,
    ) -> Admission:
        """Take a request in, once."""
        with self.transaction() as db:
            known = db.execute(
                "SELECT fingerprint FROM requests WHERE request_id = ?", (request_id,)
            ).fetchone()
            if known is not None:
                same = known["fingerprint"] in (fingerprint, SPENT)
                return Admission.DUPLICATE if same else Admission.CONFLICT
            db.execute(
                "INSERT INTO requests (request_id, subject_id, fingerprint, deadline, state, step,"
                " entry, not_before, latest, updated_at)"
                " VALUES (?, ?, ?, ?, 'ready', ?, ?, ?, ?, ?)",
                (
                    request_id,
                    subject_id_of(request_id, step.type),
                    fingerprint,
                    utc_text(deadline),
                    _dump(step),
                    step.type in ENTRIES,
                    "" if not_before is None else utc_text(not_before),
                    None if latest is None else _dump(latest),
                    _now(),
                ),
            )
            return Admission.NEW

    def cancel(self, request_id: str, cancellation: Cancellation) -> bool:
        """Have a request stopped; a second time only changes who answers."""
        with self.transaction() as db:
            row = db.execute(
                "SELECT cancelled, state = 'done' OR answered AS ended FROM requests"
                " WHERE request_id = ?",
                (request_id,),
            ).fetchone()
            if cancellation.answered:
                if _withdraw_outcome(db, request_id):
                    _take_back(db, request_id, cancellation)
                if row is None:
                    _spend(db, request_id)
            if row is None or (row["ended"] and row["cancelled"] is None):
                return False
            first = _cancellation(row["cancelled"])
            if first is not None:
                answered = first.answered or cancellation.answered
                cancellation = Cancellation(first.reason, answered)
            if not row["ended"]:
                db.execute(
                    "UPDATE requests SET cancelled = ?, not_before = '' WHERE request_id = ?",
                    (json.dumps(asdict(cancellation)), request_id),
                )
            return True

    def holding(self, engine_id: str) -> Sequence[str]:
        """Return the requests that have a container in hand."""
        with self.transaction() as db:
            rows = db.execute(
                "SELECT request_id FROM requests WHERE container = ? AND state != 'done'"
                " AND NOT answered ORDER BY seq",
                (engine_id,),
            ).fetchall()
        return [row["request_id"] for row in rows]

    def reject(
        self, key: str, reason: str, message: Mapping[str, Any], answer: Event | None
    ) -> bool:
        """Keep a dead letter and answer it, once."""
        text = canonical(message).decode("ascii")
        if len(text) > DEAD_LETTER_BYTES or not text.startswith("{"):
            text = json.dumps({"truncated": text[:DEAD_LETTER_BYTES], "bytes": len(text)})
        with self.transaction() as db:
            done = db.execute(
                "INSERT OR IGNORE INTO dead_letters (key, received_at, reason, message)"
                " VALUES (?, ?, ?, ?)",
                (key, _now(), _storable(reason[:REASON_LENGTH]), text),
            )
            if done.rowcount and answer is not None:
                enqueue(db, answer)
            db.execute(
                "DELETE FROM dead_letters WHERE id <= (SELECT max(id) FROM dead_letters) - ?",
                (DEAD_LETTERS,),
            )
            return bool(done.rowcount)

    def claim(self, now: datetime, places: int | None = None) -> Work | None:
        """Hand out the oldest runnable step; one that cannot be read comes as `unreadable`."""
        bounds = {"now": utc_text(now), "places": places}
        with self.transaction() as db:
            row = db.execute(CLAIM, bounds).fetchone()
            if row is None:
                return None
            attempt = row["attempt"] + 1
            db.execute(
                "UPDATE requests SET state = 'running', attempt = ?, place = place OR entry"
                " WHERE request_id = ?",
                (attempt, row["request_id"]),
            )
        try:
            step = _load(row["step"], attempt)
        except (KeyError, TypeError, ValueError):
            about = {"text": row["step"], "subject_id": row["subject_id"]}
            step = Event(UNREADABLE, about, _requester(row["latest"]), attempt=attempt)
        deadline = datetime.fromisoformat(row["deadline"])
        return Work(row["request_id"], step, deadline, _cancellation(row["cancelled"]))

    def next_due(self) -> datetime | None:
        """Return when the next postponed step is due."""
        with self.transaction() as db:
            row = db.execute(
                "SELECT min(not_before) AS due FROM requests"
                " WHERE state = 'ready' AND not_before > ?",
                (_now(),),
            ).fetchone()
        return None if row["due"] is None else datetime.fromisoformat(row["due"])

    def record(
        self,
        work: Work,
        events: Sequence[Event],
        step: Event | None,
        *,
        undo: Event | None = None,
    ) -> None:
        """Record events and the next step together."""
        good = any(event.type in ENDS for event in events)
        kept = None if undo is None else _dump(undo)
        with self.transaction() as db:
            row = db.execute(
                "SELECT cancelled, undo FROM requests WHERE request_id = ?", (work.request_id,)
            ).fetchone()
            cancelled = _cancellation(row["cancelled"]) if row else None
            silent = cancelled is not None and cancelled.answered
            if silent and good and undo is not None:
                events, step, kept = [], undo, None
            elif silent and row["undo"] is not None:
                # Taken back while this step ran, the last ones of a request that had its end.
                events, step, kept = [], _load(row["undo"]), None
            elif not good:
                kept = row and row["undo"]
            for event in events:
                if not (silent and event.type in OUTCOMES):
                    enqueue(db, event)
            about = [event for event in events if _tells_how_it_stands(event.type)]
            latest = _dump(about[-1]) if about else None
            answered = any(event.type in OUTCOMES for event in events)
            container = None if step is None or answered else step.payload.get(LOCK_FIELD)
            db.execute(
                "UPDATE requests SET state = ?, step = ?, entry = ?, attempt = ?,"
                " not_before = '', place = place AND NOT ?, answered = answered OR ?,"
                " container = ?, undo = ?, latest = coalesce(?, latest), updated_at = ?"
                " WHERE request_id = ?",
                (
                    "done" if step is None else "ready",
                    None if step is None else _dump(step),
                    step is not None and step.type in ENTRIES,
                    0 if step is None else step.attempt - 1,
                    answered,
                    answered,
                    container,
                    kept,
                    latest,
                    _now(),
                    work.request_id,
                ),
            )

    def postpone(self, work: Work, until: datetime, step: Event | None = None) -> None:
        """Give a step back until then; one that was cancelled meanwhile does not wait."""
        changed = None if step is None else _dump(step)
        then = utc_text(until) if work.step.type in CLEANUP else None
        with self.transaction() as db:
            db.execute(
                "UPDATE requests SET state = 'ready', step = coalesce(?, step), not_before ="
                " coalesce(?, CASE WHEN cancelled IS NULL THEN ? ELSE '' END)"
                " WHERE request_id = ?",
                (changed, then, utc_text(until), work.request_id),
            )

    def recover(self) -> int:
        """Make the steps of a dead process runnable."""
        with self.transaction() as db:
            return db.execute(
                "UPDATE requests SET state = 'ready' WHERE state = 'running'"
            ).rowcount

    def note(self, event: Event) -> None:
        """Remember a progress event as the latest."""
        with self.transaction() as db:
            db.execute(
                "UPDATE requests SET latest = ? WHERE request_id = ? AND NOT answered",
                (_dump(event), event.payload["request_id"]),
            )

    def latest(self, ident: str) -> Event | None:
        """Return the latest event of a request, snapshot or restore."""
        with self.transaction() as db:
            row = db.execute(
                "SELECT latest FROM requests WHERE request_id = ?1 OR subject_id = ?1", (ident,)
            ).fetchone()
        return None if row is None or row["latest"] is None else _load(row["latest"])

    def snapshots(self) -> Sequence[Event]:
        """Return the latest event of every request for a snapshot."""
        with self.transaction() as db:
            return snapshots_in(db)

    def live(self) -> frozenset[str]:
        """Return the ids of requests that are not done."""
        with self.transaction() as db:
            rows = db.execute(LIVE).fetchall()
        return frozenset(row["request_id"] for row in rows)

    def dead_letters(self) -> Sequence[DeadLetter]:
        """Return all dead letters."""
        with self.transaction() as db:
            rows = db.execute(LETTERS).fetchall()
        return [letter_of(row) for row in rows]

    def prune(self, before: datetime) -> int:
        """Forget what ended before then; unconfirmed events stay."""
        then = utc_text(before)
        with self.transaction() as db:
            gone = db.execute("DELETE FROM dead_letters WHERE received_at < ?", (then,)).rowcount
            gone += db.execute(
                "DELETE FROM requests WHERE state = 'done' AND updated_at < ?", (then,)
            ).rowcount
            db.execute("DELETE FROM outbox WHERE confirmed_at < ?", (then,))
            db.execute(
                "DELETE FROM outbox WHERE confirmed_at < ? AND (event_type = ?"
                " OR event_type LIKE 'container.%' AND event_type NOT LIKE 'container.commit.%'"
                " AND event_type NOT LIKE 'container.restore.%')",
                (utc_text(datetime.now(UTC) - CONTAINER_EVENTS_KEPT), SNAPSHOT_EXISTS),
            )
        return gone

    def pending(self, limit: int) -> Sequence[OutboxRow]:
        """Return unconfirmed events, oldest first."""
        with self.transaction() as db:
            rows = db.execute(
                "SELECT * FROM outbox WHERE confirmed_at IS NULL ORDER BY id LIMIT ?", (limit,)
            ).fetchall()
        return [OutboxRow(row["id"], _load(row["event"]), row["created_at"]) for row in rows]

    def confirm(self, rows: Sequence[OutboxRow]) -> None:
        """Mark events as taken by the broker."""
        with self.transaction() as db:
            db.executemany(
                "UPDATE outbox SET confirmed_at = ? WHERE id = ?",
                [(_now(), row.id) for row in rows],
            )

    def confirmed_at(self, event_id: str) -> datetime | None:
        """Return when the broker took an event."""
        with self.transaction() as db:
            row = db.execute(
                "SELECT confirmed_at FROM outbox WHERE event_id = ?", (event_id,)
            ).fetchone()
        return row and row["confirmed_at"] and datetime.fromisoformat(row["confirmed_at"])

    def close(self) -> None:
        """Close the file and let the next process have it."""
        with self._lock:
            self._db.close()
            self._release()

    def _release(self) -> None:
        if self._guard is not None:
            os.close(self._guard)
            self._guard = None


def _make_private(path: Path | str) -> None:
    """Make the file, unless it is there, for its owner only: what requests say may be secret.

    SQLite gives the files that it puts beside it the same mode.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _connect(path: Path | str) -> sqlite3.Connection:
    """Open the database and bring it into shape; what fails leaves nothing open."""
    db = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
    try:
        db.row_factory = sqlite3.Row
        if db.execute("SELECT 1 FROM sqlite_master").fetchone() is None:
            # First of all: a file that a kill leaves half made is known as ours.
            db.execute(f"PRAGMA user_version = {VERSION}")
        require_our_version(db, path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(SCHEMA)
        db.execute(
            "INSERT INTO meta SELECT ? WHERE NOT EXISTS (SELECT 1 FROM meta)",
            (uuid.uuid4().hex[:12],),
        )
    except BaseException:
        db.close()
        raise
    return db


def require_our_version(db: sqlite3.Connection, path: Path | str) -> None:
    """Raise OSError for a file of another version."""
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found != VERSION:
        raise OSError(
            f"{path} was written by another version of tintype (its format is {found}, ours"
            f" {VERSION}): let that version finish its work, then move the file away"
        )


def _exclusive(path: Path) -> int:
    """Lock the journal for this process; the system lifts the lock when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    guard = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(guard)
        raise JournalInUse(f"{path} is in use by another tintype process") from error
    return guard


def snapshots_in(db: sqlite3.Connection) -> list[Event]:
    """Return the latest event of every request for a snapshot, oldest request first."""
    rows = db.execute("SELECT latest FROM requests WHERE latest IS NOT NULL ORDER BY seq")
    events = [_load(row["latest"]) for row in rows]
    return [event for event in events if is_about_snapshot(event.type)]


def enqueue(db: sqlite3.Connection, event: Event) -> None:
    """Put an event into the outbox; its derived id makes a second time harmless."""
    db.execute(
        "INSERT OR IGNORE INTO outbox (event_id, event_type, event, created_at)"
        " VALUES (?, ?, ?, ?)",
        (event.id, event.type, _dump(event), _now()),
    )


def _withdraw_outcome(db: sqlite3.Connection, request_id: str) -> bool:
    """Take what was not yet told of a request's outcome out of the outbox; tell if it was good."""
    withdrawn = [
        outcome
        for outcome in OUTCOMES
        if db.execute(
            "DELETE FROM outbox WHERE event_id = ? AND confirmed_at IS NULL",
            (derived_id(request_id, outcome),),
        ).rowcount
    ]
    return not ENDS.isdisjoint(withdrawn)


def _take_back(db: sqlite3.Connection, request_id: str, cancellation: Cancellation) -> None:
    """Undo what a request has made, whose good outcome nobody was told of, nor ever will be."""
    db.execute(
        "UPDATE requests SET cancelled = ? WHERE request_id = ? AND undo IS NOT NULL",
        (json.dumps(asdict(cancellation)), request_id),
    )
    # A step that runs at this moment ends first; what is recorded of it gives way to the undoing.
    db.execute(
        "UPDATE requests SET state = 'ready', step = undo, undo = NULL, entry = 0, attempt = 0,"
        " not_before = '' WHERE request_id = ? AND undo IS NOT NULL AND state != 'running'",
        (request_id,),
    )


def _tells_how_it_stands(event_type: str) -> bool:
    return is_about_snapshot(event_type) or is_about_restore(event_type)


def _spend(db: sqlite3.Connection, request_id: str) -> None:
    """Remember a request that is not known as one that is done."""
    db.execute(
        "INSERT INTO requests (request_id, subject_id, fingerprint, deadline, state,"
        " not_before, answered, updated_at) VALUES (?, ?, ?, ?, 'done', '', 1, ?)",
        (request_id, derived_id(request_id, "spent"), SPENT, _now(), _now()),
    )


def _requester(latest: str | None) -> Requester:
    """Return on whose behalf a request is, as far as its latest event tells."""
    try:
        return _load(latest or "").requester
    except (KeyError, TypeError, ValueError):
        return Requester()


def _cancellation(text: str | None) -> Cancellation | None:
    return None if text is None else Cancellation(**json.loads(text))


def letter_of(row: sqlite3.Row) -> DeadLetter:
    """Return the dead letter in a row."""
    return DeadLetter(row["id"], row["received_at"], row["reason"], _load_message(row["message"]))


def _load_message(text: str) -> dict[str, Any]:
    """Read a dead letter; how deep it may be nested depends on how deep the stack is now."""
    try:
        message: dict[str, Any] = json.loads(text)
    except RecursionError:
        return {"unread": text}
    return message


def _dump(event: Event) -> str:
    """Return what `_load` reads. Unlike `canonical` it fails where it would have to cut."""
    data = {
        "type": event.type,
        "payload": event.payload,
        "requester": asdict(event.requester),
        "id": event.id,
    }
    return json.dumps(data, separators=(",", ":"), default=repr)


def _load(text: str, attempt: int = 1) -> Event:
    data = json.loads(text)
    return Event(data["type"], data["payload"], Requester(**data["requester"]), data["id"], attempt)


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _now() -> str:
    return utc_text(datetime.now(UTC))
