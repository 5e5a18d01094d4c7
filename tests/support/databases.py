"""Fixtures for the routers' database: in memory, in a file, and on the development stack's servers.

TINTYPE_TEST_POSTGRESQL_URL and TINTYPE_TEST_MYSQL_URL name the servers. A test that needs one fails
where there is none. Every run has a database of its own on each, every test empty tables.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import delete, make_url, text

from tintype.adapters.sql_database import Database
from tintype.adapters.sql_tables import metadata

KINDS = ("memory", "sqlite", "postgresql", "mysql")
SERVERS = ("postgresql", "mysql")
THREADS = 8
T = TypeVar("T")


def empty(database: Database) -> None:
    """Delete all rows."""
    with database.transaction() as connection:
        for table in metadata.sorted_tables:
            connection.execute(delete(table))


def by_threads(work: Callable[[int], T]) -> list[T]:
    """Do something in all threads at once, and return what came of it."""
    start = threading.Barrier(THREADS)

    def begin(number: int) -> T:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(begin, range(THREADS)))


class Server:
    """A database server that a test run makes databases on."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._url = make_url(_variable(f"{kind.upper()}_URL"))
        self._admin = Database(self._text())
        self._made: list[str] = []

    def new(self) -> str:
        """Make an empty database and return its URL."""
        name = f"tintype_test_{uuid.uuid4().hex[:8]}"
        self._execute(f"CREATE DATABASE {name}")
        self._made.append(name)
        return self._text(name)

    def close(self) -> None:
        """Drop what was made."""
        force = " WITH (FORCE)" if self.kind == "postgresql" else ""
        for name in self._made:
            self._execute(f"DROP DATABASE {name}{force}")
        self._admin.close()

    def _execute(self, statement: str) -> None:
        with self._admin.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.execute(text(statement))

    def _text(self, name: str | None = None) -> str:
        url = self._url if name is None else self._url.set(database=name)
        return url.render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, Server]]:
    """The servers that were asked for so far."""
    used: dict[str, Server] = {}
    yield used
    for server in used.values():
        server.close()


@pytest.fixture(scope="session")
def migrated(
    servers: dict[str, Server],  # noqa: ARG001 (closed before they are)
) -> Iterator[dict[str, Database]]:
    """The databases on servers that tests share, by kind."""
    opened: dict[str, Database] = {}
    yield opened
    for database in opened.values():
        database.close()


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    """Each of the servers."""
    return _server(servers, request.param)


@pytest.fixture(params=KINDS)
def database(
    request: pytest.FixtureRequest,
    servers: dict[str, Server],
    migrated: dict[str, Database],
    tmp_path: Path,
) -> Iterator[Database]:
    """A database of each kind, with empty tables."""
    kind = request.param
    if kind in SERVERS:
        if kind not in migrated:
            migrated[kind] = Database(_server(servers, kind).new())
            migrated[kind].upgrade()
        empty(migrated[kind])
        yield migrated[kind]
        return
    url = "sqlite://" if kind == "memory" else f"sqlite:///{tmp_path}/state/index.sqlite"
    with closing(Database(url)) as opened:
        opened.upgrade()
        yield opened


@pytest.fixture(params=["sqlite", *SERVERS])
def new_url(request: pytest.FixtureRequest, servers: dict[str, Server], tmp_path: Path) -> str:
    """The URL of a database of each kind that outlives its connections; it holds nothing yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new/index.sqlite"
    return _server(servers, request.param).new()


def _server(servers: dict[str, Server], kind: str) -> Server:
    if kind not in servers:
        servers[kind] = Server(kind)
    return servers[kind]


def _variable(name: str) -> str:
    value = os.environ.get(f"TINTYPE_TEST_{name}")
    if not value:
        pytest.fail(f"TINTYPE_TEST_{name} is not set: tools/stack.py up; eval its `env`")
    return value
