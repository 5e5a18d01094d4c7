"""What SQLAlchemy and the drivers beneath it raise, in our words, and what is worth another try.

A driver's message can quote values (PostgreSQL's DETAIL, MySQL's `near`), and one about connecting
the URL: only the latter is repeated, without its password, and SQLite's, which has neither.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from tintype.core.errors import Unavailable

FOREIGN = (DBAPIError, PoolTimeoutError)
"""What may happen to a right statement. All else of SQLAlchemy's is a defect of ours."""

SECRETS = ("password", "passwd", "sslpassword", "passfile")
"""Options of a URL that are told to nobody."""

LONGEST = 300
"""Characters kept of a driver's message."""

_AGAIN_POSTGRESQL = frozenset({"40001", "40P01"})
"""Serialization failure, deadlock."""

_AGAIN_MYSQL = frozenset({1020, 1205, 1213})
"""Record changed since read (MariaDB), lock wait timeout, deadlock."""

_AGAIN_SQLITE = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


def translate(error: DBAPIError | PoolTimeoutError, url: URL) -> Unavailable:
    """Return what to tell of an error, with neither password nor values in it."""
    if not isinstance(error, DBAPIError):
        return Unavailable("database: all connections are in use")
    cause = error.orig
    parts = [type(cause).__name__]
    if code := _code(cause):
        parts.append(str(code))
    if isinstance(cause, sqlite3.Error) or error.statement is None:
        parts.append(_without_secrets(str(cause), url))
    return Unavailable(f"database: {' '.join(filter(None, parts))}")


def passing(error: Exception) -> bool:
    """Tell whether the same transaction may succeed when it runs again now.

    A row that somebody else has inserted first counts: the next run finds it. A connection that
    broke does not: whether its commit was done is not known.
    """
    if isinstance(error, IntegrityError):
        return True
    if not isinstance(error, DBAPIError) or error.connection_invalidated:
        return False
    code = _code(error.orig)
    if isinstance(error.orig, sqlite3.Error):
        return isinstance(code, int) and code & 0xFF in _AGAIN_SQLITE
    return code in _AGAIN_POSTGRESQL or code in _AGAIN_MYSQL


def _code(cause: Any) -> str | int | None:
    """Return SQLSTATE, MySQL's error number or SQLite's extended code."""
    arguments = getattr(cause, "args", ())
    number = arguments[0] if arguments and isinstance(arguments[0], int) else None
    return getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorcode", None) or number


def _without_secrets(text: str, url: URL) -> str:
    line = " ".join(text.split())
    secrets = [url.password, *(url.query.get(name) for name in SECRETS)]
    for secret in secrets:
        for one in (secret,) if isinstance(secret, str) else secret or ():
            line = line.replace(one, "***") if one else line
    return line[:LONGEST]
