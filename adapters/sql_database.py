"""The database that all routers of one index share: SQLite, PostgreSQL, MySQL or MariaDB.

`Database("sqlite://")` is the in-memory twin: the same code without file or server.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, text

from tintype.adapters.sql_engine import MIGRATION_SECONDS, READS, in_memory, make_engine, parse_url
from tintype.adapters.sql_errors import FOREIGN, passing, translate
from tintype.core.errors import Unavailable

ATTEMPTS = 12
"""How often a transaction is run that others keep from succeeding."""

RETRY_SECONDS = 10.0
"""After which it is not begun again."""

VERSION_TABLE = "tintype_version"
"""Where the schema's version is kept."""

MIGRATIONS = Path(__file__).parent / "migrations"

_ADVISORY_LOCK = int.from_bytes(b"tintype\0")

_alembic = threading.Lock()
"""Alembic's context is one for the whole process."""

T = TypeVar("T")


class Database:
    """A pool of connections to one database. Thread-safe; connects when first used."""

    def __init__(self, url: str, *, pool_size: int = 8) -> None:
        """Understand the URL (`sqlite:////path`, `postgresql://…`, `mysql://…`); connect nothing.

        Raises ValueError, which never quotes it, for a URL that is none, of another kind, or whose
        driver is not installed.
        """
        self._url = parse_url(url)
        self._kind = self._url.get_backend_name()
        self._engine = make_engine(self._url, pool_size)
        # One connection is all there is of a database in memory: one transaction after another.
        memory = in_memory(self._url)
        self._turn = threading.RLock() if memory else contextlib.nullcontext()

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine, for tests and migrations."""
        return self._engine

    @contextmanager
    def transaction(self, *, reads: bool = False) -> Iterator[Connection]:
        """Commit all or nothing. Raises Unavailable when the database does not.

        `reads`: nothing is written, so that SQLite need not keep writers away.
        """
        try:
            with self._begun(reads=reads) as connection:
                yield connection
        except FOREIGN as error:
            raise translate(error, self._url) from error

    def run(self, work: Callable[[Connection], T], *, reads: bool = False) -> T:
        """Run a transaction that can be run again, until others do not get in its way.

        Deadlocks, serialization failures and rows that another inserted first begin it anew, a
        bounded number of times. Raises Unavailable.
        """
        give_up = time.monotonic() + RETRY_SECONDS
        attempt = 1
        while True:
            try:
                with self._begun(reads=reads) as connection:
                    return work(connection)
            except FOREIGN as error:
                late = attempt >= ATTEMPTS or time.monotonic() > give_up
                if late or not passing(error):
                    raise translate(error, self._url) from error
            time.sleep(random.uniform(0, min(0.5, 0.01 * 2**attempt)))  # noqa: S311 (no secret)
            attempt += 1

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run a transaction that writes nothing. Raises Unavailable."""
        return self.run(work, reads=True)

    def upgrade(self) -> None:
        """Bring the tables into the shape that this version needs; several may do so at once.

        Raises Unavailable, also where a later version has been here already.
        """
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        self._make_folder()

        def migrate(connection: Connection) -> None:
            with self._alone(connection):
                config.attributes["connection"] = connection
                command.upgrade(config, "head")

        with _alembic:
            try:
                self.run(migrate)
            except CommandError as error:
                raise Unavailable("database: its tables are of another version") from error

    def check(self) -> None:
        """Raise Unavailable unless the database answers."""
        self.read(lambda connection: connection.execute(text("SELECT 1")))

    def close(self) -> None:
        """Release connections. What is in memory only is gone then."""
        with self._turn:
            self._engine.dispose()

    @contextmanager
    def _begun(self, *, reads: bool) -> Iterator[Connection]:
        with self._turn, self._engine.connect() as connection:
            connection.execution_options(**{READS: reads})
            with connection.begin():
                yield connection

    @contextmanager
    def _alone(self, connection: Connection) -> Iterator[None]:
        """Keep other migrations of this database away; SQLite's transaction does so by itself."""
        if self._kind == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = '{MIGRATION_SECONDS}s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        if self._kind != "mysql":
            yield
            return
        # Its DDL commits, so that the lock must be one of the connection. It is the server's:
        # named by the database.
        name = {
            "name": f"tintype-{hashlib.sha256(str(self._url.database).encode()).hexdigest()[:32]}"
        }
        taken = connection.scalar(
            text("SELECT GET_LOCK(:name, :seconds)"), {**name, "seconds": MIGRATION_SECONDS}
        )
        if taken != 1:
            raise Unavailable("database: another router is migrating it")
        try:
            yield
        finally:
            if not connection.invalidated:
                connection.execute(text("SELECT RELEASE_LOCK(:name)"), name)

    def _make_folder(self) -> None:
        if self._kind != "sqlite" or in_memory(self._url):
            return
        try:
            Path(str(self._url.database)).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Unavailable(f"database: its folder cannot be made: {error.strerror}") from error
