"""URLs of databases, and what is told of a database that is away; no server is needed."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy.exc
from sqlalchemy import make_url, text

from tintype.adapters.sql_database import Database
from tintype.adapters.sql_errors import FOREIGN, passing, translate
from tintype.core.errors import Unavailable

SECRET = "hunter2-and-more"
URL = make_url(f"postgresql+psycopg://user:{SECRET}@127.0.0.1/name?sslpassword={SECRET}x")

REVIEWED = {
    "DBAPIError",
    "DataError",
    "DatabaseError",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "NotSupportedError",
    "OperationalError",
    "ProgrammingError",  # tables that are not migrated yet
    "TimeoutError",
}
"""Exceptions of SQLAlchemy that mean Unavailable; every other is a defect of ours."""

DEFECTS = frozenset(
    """
    AmbiguousColumnError AmbiguousForeignKeysError ArgumentError AwaitRequired
    CircularDependencyError CompileError ConstraintColumnNotFoundError DisconnectionError
    DontWrapMixin DuplicateColumnError EmulatedDBAPIException HasDescriptionCode IdentifierError
    IllegalStateChangeError InvalidRequestError InvalidatePoolError MissingGreenlet
    MultipleResultsFound NoDBAPILoaded NoForeignKeysError NoInspectionAvailable NoReferenceError
    NoReferencedColumnError NoReferencedTableError NoResultFound NoSuchColumnError
    NoSuchModuleError NoSuchTableError ObjectNotExecutableError PendingRollbackError
    ResourceClosedError SQLAlchemyError StatementError UnboundExecutionError UnevaluatableError
    UnreflectableTableError UnsupportedCompilationError
    """.split()  # noqa: SIM905 (a list of words is read better so)
)


def test_all_exceptions_are_reviewed() -> None:
    found = {
        name: kind
        for name, kind in vars(sqlalchemy.exc).items()
        if isinstance(kind, type) and kind.__module__ == "sqlalchemy.exc"
    }
    errors = {
        name
        for name, kind in found.items()
        if issubclass(kind, Exception) and not issubclass(kind, Warning)
    }
    assert errors - DEFECTS == REVIEWED
    assert {name for name in errors if issubclass(found[name], FOREIGN)} == REVIEWED


@pytest.mark.parametrize(
    "url",
    [
        f"{SECRET}",
        "",
        f"postgresql://user:{SECRET}@host:port/name",
        f"oracle://user:{SECRET}@host/name",
        f"nothing-like-it://user:{SECRET}@host/name",
        f"postgresql+psycopg2://user:{SECRET}@host/name",
        f"mysql+mysqldb://user:{SECRET}@host/name",
        f"mysql://user:{SECRET}@host",
        f"postgresql://user:{SECRET}@host/",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_never_quoted(url: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is what is looked at)
        Database(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("postgresql://u@h/n", "psycopg"),
        ("postgresql+psycopg://u@h/n", "psycopg"),
        ("mysql://u@h/n", "pymysql"),
        ("mysql+pymysql://u@h/n", "pymysql"),
        ("mariadb://u@h/n", "pymysql"),
        ("mariadb+pymysql://u@h/n", "pymysql"),
        ("sqlite://", "pysqlite"),
        ("sqlite:////no/such/folder/file", "pysqlite"),
    ],
)
def test_plain_urls_get_their_driver_and_connect_nothing(url: str, driver: str) -> None:
    with closing(Database(url)) as database:
        assert database.engine.driver == driver


@pytest.mark.parametrize(
    ("module", "url", "extra"),
    [("psycopg", "postgresql://u@h/n", "postgresql"), ("pymysql", "mysql://u@h/n", "mysql")],
)
def test_a_driver_that_is_missing_is_named_by_what_to_install(
    monkeypatch: pytest.MonkeyPatch, module: str, url: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"pip install tintype\[{extra}\]"):
        Database(url)


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_a_server_that_is_away_is_unavailable_and_its_password_untold(kind: str) -> None:
    database = Database(f"{kind}://user:{SECRET}@127.0.0.1:1/name")
    with closing(database), pytest.raises(Unavailable, match="OperationalError") as caught:
        database.upgrade()
    assert SECRET not in str(caught.value)


def test_passwords_are_taken_out_of_whatever_a_driver_says() -> None:
    cause = sqlite3.OperationalError(f"cannot use {SECRET}x\n or {SECRET}")
    error = sqlalchemy.exc.OperationalError(None, None, cause)
    assert str(translate(error, URL)) == "database: OperationalError cannot use ***x or ***"


def test_a_drivers_words_are_not_endless() -> None:
    error = sqlalchemy.exc.OperationalError(None, None, sqlite3.OperationalError("x" * 10**6))
    assert len(str(translate(error, URL))) < 400


def test_only_what_passes_is_tried_again() -> None:
    busy = sqlite3.OperationalError("database is locked")
    busy.sqlite_errorcode = sqlite3.SQLITE_BUSY_SNAPSHOT  # type: ignore[misc]
    assert passing(sqlalchemy.exc.OperationalError("SELECT 1", None, busy))
    assert passing(sqlalchemy.exc.IntegrityError("INSERT", None, sqlite3.IntegrityError()))
    broken = sqlite3.OperationalError("no such table")
    assert not passing(sqlalchemy.exc.OperationalError("SELECT 1", None, broken))
    assert not passing(sqlalchemy.exc.TimeoutError())
    lost = sqlalchemy.exc.OperationalError("COMMIT", None, busy, connection_invalidated=True)
    assert not passing(lost)


# SQLite


def test_a_file_is_made_in_a_folder_of_its_own(tmp_path: Path) -> None:
    with closing(Database(f"sqlite:///{tmp_path}/a/b/index.sqlite")) as database:
        database.upgrade()
        with database.transaction() as connection:
            assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
            assert connection.scalar(text("PRAGMA synchronous")) == 1
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) & 0o077 == 0


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    database = Database(f"sqlite:///{tmp_path}/file/index.sqlite")
    with closing(database), pytest.raises(Unavailable, match="folder"):
        database.upgrade()


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_bytes(os.urandom(10_000))
    database = Database(f"sqlite:///{tmp_path}/index.sqlite")
    with closing(database), pytest.raises(Unavailable, match="not a database"):
        database.upgrade()


def test_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    with closing(Database(f"sqlite:///{tmp_path}/index.sqlite")) as database:
        database.upgrade()
        with database.transaction() as connection:
            connection.execute(text("DELETE FROM snapshots"))
            database.check()


def test_a_database_in_memory_is_gone_when_it_is_closed() -> None:
    with closing(Database("sqlite://")) as database:
        database.upgrade()
        database.close()
        with pytest.raises(Unavailable, match="no such table"):
            database.read(lambda db: db.execute(text("SELECT * FROM containers")))
