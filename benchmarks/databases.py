"""Databases for an index: each new, looked into from outside, and gone with its block."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from lab import Stack
from sqlalchemy import make_url, text

from tintype.adapters.sql_database import Database
from tintype.core.errors import Unavailable

SERVERS = {"postgresql": "TINTYPE_TEST_POSTGRESQL_URL", "mysql": "TINTYPE_TEST_MYSQL_URL"}
"""Kind -> the variable in which the stack says where its server is."""

COUNT = "SELECT count(*) FROM containers WHERE name LIKE '{}%'"

_numbers = itertools.count(1)


def kinds(stack: Stack) -> list[str]:
    """Return the kinds of database that there are: SQLite, and the stack's servers."""
    return ["sqlite", *(kind for kind, name in SERVERS.items() if name in stack.env)]


@contextmanager
def fresh(stack: Stack, kind: str, folder: Path) -> Iterator[str]:
    """Make an empty database and yield its URL; SQLite's is where a listener would put it."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'index.sqlite'}"
        return
    url = make_url(stack.env[SERVERS[kind]])
    name = f"{stack.run}-{next(_numbers)}".replace("-", "_")
    with closing(Database(url.render_as_string(hide_password=False))) as server:
        _execute(server, f"CREATE DATABASE {name}")
        try:
            yield url.set(database=name).render_as_string(hide_password=False)
        finally:
            # PostgreSQL waits for nobody who is still connected.
            _execute(server, f"DROP DATABASE {name}" + " WITH (FORCE)" * (kind == "postgresql"))


def _execute(server: Database, statement: str) -> None:
    with server.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text(statement))


class Rows:
    """Counts the containers in an index whose names begin alike, while others write to it."""

    def __init__(self, url: str, prefix: str) -> None:
        """Connect when first asked; `prefix` has nothing in it that LIKE or SQL would mean."""
        self._url = make_url(url)
        self._query = COUNT.format(prefix)
        self._server = None if self._url.drivername == "sqlite" else Database(url)

    def count(self) -> int:
        """Return how many there are now; 0 while there is no index."""
        try:
            if self._server is None:
                return self._count_in_file()
            return int(self._server.read(lambda db: db.scalar(text(self._query))) or 0)
        except (sqlite3.OperationalError, Unavailable):
            return 0

    def _count_in_file(self) -> int:
        file = f"file:{self._url.database}?mode=ro"
        with closing(sqlite3.connect(file, uri=True)) as database:
            return int(database.execute(self._query).fetchone()[0])

    def close(self) -> None:
        """Disconnect."""
        if self._server is not None:
            self._server.close()
