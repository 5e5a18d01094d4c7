"""SQLAlchemy engines for the databases that are supported, each with its one driver.

Waiting is bounded everywhere: for a server to answer, a lock, a connection of the pool.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import StaticPool

DRIVERS = {
    "sqlite": "sqlite+pysqlite",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
}
"""Kind of database -> how SQLAlchemy names it with the one driver that is tested."""

WAIT_SECONDS = 10
"""Patience with SQLite's lock and for a connection of the pool."""

CONNECT_SECONDS = 5
"""Patience with a server that is to answer."""

SILENCE_SECONDS = 60
"""After which a server that says nothing more counts as gone."""

LOCK_SECONDS = 30
"""Patience with another's row lock, which a router that was cut off may hold for a while."""

MIGRATION_SECONDS = 60
"""Patience with another router that is migrating."""

READS = "tintype_reads"
"""Execution option of a transaction that writes nothing."""


def parse_url(text: str) -> URL:
    """Read a URL and give it its driver. Raises ValueError, which never quotes it."""
    try:
        url = make_url(text)
        kind = url.get_backend_name()
    except (ArgumentError, ValueError):
        raise ValueError(
            "not a database URL: KIND://USER:PASSWORD@HOST/NAME or sqlite:////PATH is one"
        ) from None
    wanted = DRIVERS.get(kind)
    if wanted is None:
        raise ValueError(f"not a database that is known: {', '.join(sorted(DRIVERS))} are")
    if "+" in url.drivername and url.drivername.partition("+")[2] != wanted.partition("+")[2]:
        raise ValueError(f"not a driver that is known: write {kind}://")
    if kind != "sqlite" and not url.database:
        raise ValueError(f"the URL of a {kind} database ends with its name")
    return url.set(drivername=wanted)


def in_memory(url: URL) -> bool:
    """Tell whether a URL means a database that lives and dies with its one connection."""
    return url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:")


def make_engine(url: URL, pool_size: int) -> Engine:
    """Make an engine that connects when first used; the URL's own options win over ours.

    Raises ValueError when the driver is not installed.
    """
    kind = url.get_backend_name()
    pool: dict[str, Any] = {"poolclass": StaticPool}
    if not in_memory(url):
        pool = {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": WAIT_SECONDS}
    ours = {key: value for key, value in _CONNECT[kind].items() if key not in url.query}
    options: dict[str, Any] = {"connect_args": ours, "pool_pre_ping": True, **pool}
    if kind != "sqlite":
        options |= {"isolation_level": "READ COMMITTED", "pool_recycle": 1800}
    try:
        engine = create_engine(url, hide_parameters=True, **options)
    except ImportError:
        raise ValueError(
            f"the driver for {kind} is not installed: pip install tintype[{kind}]"
        ) from None
    if kind == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    if kind == "postgresql":
        event.listen(engine, "connect", _prepare_postgresql)
    return engine


_CONNECT: dict[str, dict[str, Any]] = {
    "sqlite": {"timeout": WAIT_SECONDS, "check_same_thread": False},
    "postgresql": {
        "connect_timeout": CONNECT_SECONDS,
        "application_name": "tintype",
        "client_encoding": "utf8",
        "keepalives_idle": SILENCE_SECONDS // 2,
        "keepalives_interval": SILENCE_SECONDS // 6,
        "keepalives_count": 3,
        "tcp_user_timeout": SILENCE_SECONDS * 1000,
    },
    "mysql": {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": SILENCE_SECONDS + MIGRATION_SECONDS,
        "write_timeout": SILENCE_SECONDS,
        "charset": "utf8mb4",
        "sql_mode": "TRADITIONAL",  # refuse what does not fit, rather than cut it
        "init_command": f"SET SESSION innodb_lock_wait_timeout = {LOCK_SECONDS}",
    },
}


def _prepare_sqlite(connection: Any, _: object) -> None:
    """Take transactions out of the driver's hands, and let readers and a writer work together."""
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def _prepare_postgresql(connection: Any, _: object) -> None:
    """Bound what may wait for ever; not as an option of the connection, which poolers refuse."""
    connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
    connection.execute(f"SET idle_in_transaction_session_timeout = '{SILENCE_SECONDS}s'")
    connection.commit()


def _begin_sqlite(connection: Connection) -> None:
    """Take the lock at once: a transaction that first reads could not wait for it later."""
    reads = connection.get_execution_options().get(READS, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
