"""A journal read by another process than the one that works with it; nothing in it is changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from tintype.adapters.sqlite_journal import (
    LETTERS,
    LIVE,
    letter_of,
    require_our_version,
    snapshots_in,
)
from tintype.core.events import Event
from tintype.core.ports import DeadLetter


def read_dead_letters(path: Path) -> Iterator[DeadLetter]:
    """Yield the dead letters of a journal, oldest first.

    Raises OSError when there is no such journal, or none that can be read.
    """
    with _opened(path) as db:
        for row in db.execute(LETTERS):
            yield letter_of(row)


def read_live(path: Path) -> frozenset[str]:
    """Return the ids of all requests that are not done. Raises OSError likewise."""
    with _opened(path) as db:
        return frozenset(row["request_id"] for row in db.execute(LIVE))


def read_snapshots(path: Path) -> Sequence[Event]:
    """Return the latest event of every snapshot (`Journal.snapshots`). Raises OSError likewise."""
    with _opened(path) as db:
        return snapshots_in(db)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.is_file():
        raise OSError(f"there is no journal {path}")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            db.row_factory = sqlite3.Row
            require_our_version(db, path)
            yield db
    except sqlite3.Error as error:
        raise OSError(f"{path}: {error}") from error
