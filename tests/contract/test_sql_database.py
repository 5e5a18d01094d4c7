"""What the routers' database does, whichever it is: migrations, transactions, errors."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, delete, func, insert, inspect, make_url, select, text

from tests.support.databases import Server
from tests.support.rabbit import until
from tintype.adapters.sql_database import MIGRATIONS, VERSION_TABLE, Database
from tintype.adapters.sql_index import SqlIndex
from tintype.adapters.sql_tables import letter_table, metadata, snapshot_table
from tintype.core.errors import Unavailable
from tintype.core.index import CONTAINER_FIELDS, SNAPSHOT_FIELDS, Query, Sighting, SnapshotRecord

SECRET = "hunter2-and-more"
ROUTERS = 4
UPGRADE = """
import sys
from tintype.adapters.sql_database import Database
database = Database(sys.argv[1])
database.upgrade()
database.close()
"""


def row(key: str) -> dict[str, Any]:
    return {"request_id": key, "ended": False, "at": "", "record": {}}


def migrate(
    database: Database, revision: str, step: Callable[[Config, str], None] = command.upgrade
) -> None:
    """Bring the tables into the shape of a version, up or down."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    database._make_folder()
    with database.transaction() as connection:
        config.attributes["connection"] = connection
        step(config, revision)


def count(database: Database) -> int | None:
    return database.read(lambda db: db.scalar(select(func.count()).select_from(snapshot_table)))


# Migrations


def test_the_migrated_schema_is_that_of_the_metadata(database: Database) -> None:
    with database.transaction() as connection:
        options = {"compare_type": True, "version_table": VERSION_TABLE}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []


def test_texts_are_compared_by_code_point(database: Database) -> None:
    keys = ["a", "B", "b", "A", "é", "e", "Z", "_", "0", "😀", "zz"]
    with database.transaction() as connection:
        connection.execute(insert(snapshot_table), [row(key) for key in keys])
        query = select(snapshot_table.c.request_id).order_by(snapshot_table.c.request_id)
        assert connection.scalars(query).all() == sorted(keys)


def test_there_is_one_head_and_each_migration_is_numbered() -> None:
    script = ScriptDirectory(str(MIGRATIONS))
    numbers = [revision.revision for revision in script.walk_revisions()]
    assert numbers == [f"{number:04}" for number in range(len(numbers), 0, -1)]


def test_upgrading_again_changes_nothing(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(insert(snapshot_table), [row("kept")])
    database.upgrade()
    assert count(database) == 1


def test_routers_that_start_at_once_on_an_empty_database_all_start(new_url: str) -> None:
    start = [sys.executable, "-c", UPGRADE, new_url]
    routers = [subprocess.Popen(start) for _ in range(ROUTERS)]
    assert [router.wait() for router in routers] == [0] * ROUTERS
    with closing(Database(new_url)) as database:
        assert count(database) == 0


def test_threads_that_upgrade_at_once_all_succeed(new_url: str) -> None:
    def upgrade(_: int) -> None:
        with closing(Database(new_url)) as database:
            database.upgrade()
            assert count(database) == 0

    with ThreadPoolExecutor(ROUTERS) as pool:
        list(pool.map(upgrade, range(ROUTERS)))


WAITING = {
    "postgresql": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    "mysql": "SELECT count(*) FROM information_schema.processlist"
    " WHERE state = 'User lock' AND db = database()",
}


def test_one_router_waits_while_another_migrates(server: Server) -> None:
    url = server.new()
    with closing(Database(url)) as one, closing(Database(url)) as other:
        with ThreadPoolExecutor(1) as pool:
            with one.transaction() as connection, one._alone(connection):
                job = pool.submit(other.upgrade)
                query = text(WAITING[server.kind])
                until(lambda: one.read(lambda db: db.scalar(query)), "a router that waits")
                assert not inspect(connection).has_table("containers")
            job.result()
        assert count(one) == 0


def test_a_migration_that_was_killed_half_way_goes_on(new_url: str) -> None:
    with closing(Database(new_url)) as database:
        database.upgrade()
        with database.transaction() as connection:
            # As MySQL, which commits each statement, is left: some is there, the stamp is not.
            connection.execute(text(f"DELETE FROM {VERSION_TABLE}"))
            connection.execute(text("DROP TABLE dead_letters"))
            connection.execute(text("DROP TABLE reservations"))
            mysql = database.engine.dialect.name == "mysql"
            for table, index in DROPPED.items():
                connection.execute(text(f"DROP INDEX {index}" + f" ON {table}" * mysql))
            connection.execute(text("ALTER TABLE containers DROP COLUMN host"))
        database.upgrade()
        with database.transaction() as connection:
            options = {"compare_type": True, "version_table": VERSION_TABLE}
            context = MigrationContext.configure(connection, opts=options)
            assert compare_metadata(context, metadata) == []


DROPPED = {"dispatches": "dispatches_due", "containers": "containers_host"}
"""Indexes of each migration, one of them over a column that is dropped as well."""

FACTS = {
    "name": "web\t1",
    "engine_id": "e" * 64,
    "host": "host \ud800",
    "state": "Paused",
    "project_id": "project",
    "created_at": "2026-01-02T03:04:05.000000+00:00",
}
PAYLOAD = {
    "request_id": "r",
    "snapshot_id": "s",
    "project_id": "project",
    "container_uuid": "U-1",
    "container_name": "web\0",
    "host": "host \ud800",
    "image_id": "i",
    "image_name": "x" * 300,
    "status": "active",
    "created_at": "2026-01-02T03:04:05Z",
}


def container_record(uuid: str, facts: Mapping[str, Any]) -> str:
    told = {name: ["2026", "e", ""] for name in facts}
    parts = {"uuid": uuid, "facts": facts, "versions": told}
    return json.dumps({**parts, "deleted_at": None, "exists_at": None})


def fill_as_the_first_version(
    database: Database, containers: Mapping[str, str], snapshots: Mapping[str, str]
) -> None:
    """Insert rows, by their keys, as the first version wrote them."""
    container = (
        "INSERT INTO containers (uuid, name, deleted, heard_at, record)"
        " VALUES (:key, 'an older key', :no, '2026', :record)"
    )
    snapshot = "INSERT INTO snapshots VALUES (:key, :no, '2026', :record)"
    with database.transaction() as connection:
        for insertion, rows in ((container, containers), (snapshot, snapshots)):
            values = [{"key": key, "no": False, "record": rows[key]} for key in rows]
            connection.execute(text(insertion), values)


def snapshot_record(payload: Mapping[str, Any]) -> str:
    return json.dumps({"request_id": payload["request_id"], "event_id": "e", "payload": payload})


def test_what_the_first_version_has_stored_is_found_by_the_new_columns(new_url: str) -> None:
    with closing(Database(new_url)) as database:
        migrate(database, "0001")
        containers = {"u-1": FACTS, "u-2": {}, "u-3": {"state": "Error", "project_id": "other"}}
        fill_as_the_first_version(
            database,
            {uuid: container_record(uuid, facts) for uuid, facts in containers.items()},
            {"r": snapshot_record(PAYLOAD), "r-2": snapshot_record({"request_id": "r-2"})},
        )
        database.upgrade()
        index = SqlIndex(database)

        for name in CONTAINER_FIELDS:
            found = index.list_containers(Query(name, 9, filters={name: FACTS[name]}))
            assert [record.uuid for record in found] == ["u-1"], name
        found = index.list_containers(Query("uuid", 9, project_id="project"))
        assert [record.uuid for record in found] == ["u-1"]
        found = index.list_containers(Query("uuid", 9, filters={"state": "Other"}))
        assert [record.uuid for record in found] == ["u-2", "u-3"]
        for ident in (FACTS["name"], FACTS["engine_id"]):
            assert [record.uuid for record in index.find(ident)] == ["u-1"]
        for name in SNAPSHOT_FIELDS:
            told = index.list_snapshots(Query(name, 9, filters={name: PAYLOAD[name]}))
            assert [record.request_id for record in told] == ["r"], name
        told = index.list_snapshots(Query("snapshot_id", 9, project_id="project"))
        assert told == [index.find_snapshot("s")]
        assert len(index.list_snapshots(Query("created_at", 9))) == 2


def columns(database: Database) -> dict[str, dict[str, Any]]:
    """Return all there is of containers and snapshots, by their keys."""
    rows = {}
    with database.transaction(reads=True) as connection:
        for table, key in (("containers", "uuid"), ("snapshots", "request_id")):
            for row in connection.execute(text(f"SELECT * FROM {table}")).mappings():
                rows[f"{table} {row[key]}"] = dict(row)
    return rows


def test_rows_that_are_migrated_are_as_the_index_writes_them(new_url: str) -> None:
    at = "2026-01-02T03:04:05.000000+00:00"
    odd = ("", "a\0b", "\ud800", "x" * 300, "a ", "\t", "A\u00e9", "Running", "Other", at, "2026")
    with closing(Database(new_url)) as database:
        database.upgrade()
        index = SqlIndex(database)
        for number, value in enumerate(odd):
            facts = dict.fromkeys((*FACTS, "image"), value)
            index.sight([Sighting(f"u-{number}", at, "e", facts, exists=True)])
            payload = {**dict.fromkeys(PAYLOAD, value), "request_id": f"r-{number}"}
            index.note([SnapshotRecord(f"r-{number}", (False, at, "e"), payload)])
        index.sight([Sighting("u", at, "e")])
        index.note([SnapshotRecord("r", (True, at, "e"), {"request_id": "r", "image_id": 7})])
        written = columns(database)
        migrate(database, "0001", command.downgrade)
        assert columns(database) != written
        database.upgrade()
        assert columns(database) == written


def test_more_rows_than_a_batch_are_migrated_and_those_that_cannot_be_read_left(
    new_url: str,
) -> None:
    many = 1234
    with closing(Database(new_url)) as database:
        migrate(database, "0001")
        unread = dict(enumerate(("{", "[]", "null", '{"facts": 7}', "[" * 100_000)))
        known = {
            f"r-{number:04}": {**PAYLOAD, "request_id": f"r-{number:04}"} for number in range(many)
        }
        fill_as_the_first_version(
            database,
            {f"u-{number}": record for number, record in unread.items()},
            {key: snapshot_record(payload) for key, payload in known.items()},
        )
        database.upgrade()
        index = SqlIndex(database)
        assert len(index.list_snapshots(Query("host", 2000, filters={"status": "active"}))) == many
        stored = columns(database)
        assert {stored[f"containers u-{number}"]["state"] for number in unread} == {None}


@pytest.mark.parametrize("revision", ["0002", "0001", "base"])
def test_a_migration_can_be_taken_back(new_url: str, revision: str) -> None:
    with closing(Database(new_url)) as database:
        database.upgrade()
        with database.transaction() as connection:
            connection.execute(insert(snapshot_table), [row("a")])
        migrate(database, revision, command.downgrade)
        with database.transaction() as connection:
            assert inspect(connection).has_table("containers") == (revision != "base")
            assert inspect(connection).has_table("reservations") == (revision == "0002")
            assert not inspect(connection).has_table("restores")
        database.upgrade()
        assert count(database) == (0 if revision == "base" else 1)


def test_routers_that_start_at_once_on_an_older_database_all_start(new_url: str) -> None:
    with closing(Database(new_url)) as database:
        migrate(database, "0001")
        fill_as_the_first_version(
            database, {"u": container_record("u", FACTS)}, {"r": snapshot_record(PAYLOAD)}
        )
        start = [sys.executable, "-c", UPGRADE, new_url]
        routers = [subprocess.Popen(start) for _ in range(ROUTERS)]
        assert [router.wait() for router in routers] == [0] * ROUTERS
        found = SqlIndex(database).list_containers(Query("host", 9, project_id="project"))
        assert [record.uuid for record in found] == ["u"]


def test_a_later_version_of_the_tables_is_left_alone(new_url: str) -> None:
    with closing(Database(new_url)) as database:
        database.upgrade()
        with database.transaction() as connection:
            connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
        with pytest.raises(Unavailable, match="another version"):
            database.upgrade()


# Transactions


def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    def fail(connection: Connection) -> None:
        connection.execute(insert(snapshot_table), [row("a")])
        raise KeyError("a defect")

    with pytest.raises(KeyError):
        database.run(fail)
    assert count(database) == 0


def test_a_row_that_another_inserts_first_begins_the_transaction_anew(database: Database) -> None:
    looked: list[str | None] = []

    def take(connection: Connection) -> str:
        query = select(snapshot_table.c.at).where(snapshot_table.c.request_id == "a")
        looked.append(connection.scalar(query))
        if looked == [None]:  # what it is like when somebody else was first
            connection.execute(insert(snapshot_table), [row("a")])
            connection.execute(insert(snapshot_table), [row("a")])
        return "done"

    assert database.run(take) == "done"
    assert looked == [None, None]
    assert count(database) == 0


def test_what_never_succeeds_is_given_up(database: Database) -> None:
    def collide(connection: Connection) -> None:
        connection.execute(insert(snapshot_table), [row("a"), row("a")])

    with pytest.raises(Unavailable, match=r"IntegrityError|UniqueViolation"):
        database.run(collide)


def test_a_transaction_that_first_reads_waits_for_writers(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(insert(snapshot_table), [{**row("a"), "record": 0}])

    def add(_: int) -> None:
        here = snapshot_table.c.request_id == "a"
        query = select(snapshot_table.c.record).where(here).with_for_update()
        with database.transaction() as connection:  # which is not begun anew
            number = connection.scalar(query)
            connection.execute(snapshot_table.update().where(here).values(record=number + 1))

    with ThreadPoolExecutor(ROUTERS) as pool:
        list(pool.map(add, range(40)))
    assert database.read(lambda db: db.scalar(select(snapshot_table.c.record))) == 40


def test_a_deadlock_is_tried_again(server: Server) -> None:
    with closing(Database(server.new())) as database:
        database.upgrade()
        with database.transaction() as connection:
            connection.execute(insert(snapshot_table), [row("a"), row("b")])
        both = threading.Barrier(2)
        tries: list[str] = []

        def lock(first: str, second: str) -> None:
            def work(connection: Connection) -> None:
                tries.append(first)
                change = snapshot_table.update().values(at=first)
                connection.execute(change.where(snapshot_table.c.request_id == first))
                if len(tries) <= 2:
                    both.wait()
                connection.execute(change.where(snapshot_table.c.request_id == second))

            database.run(work)

        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(lock, "a", "b"), pool.submit(lock, "b", "a")]
        assert [job.result() for job in jobs] == [None, None]
        assert len(tries) > 2


# Errors


def test_values_are_not_in_the_message(database: Database) -> None:
    def collide(connection: Connection) -> None:
        connection.execute(insert(snapshot_table), [row(SECRET), row(SECRET)])

    def misspell(connection: Connection) -> None:
        connection.execute(text("SELECT nothing FROM nowhere WHERE a = :a"), {"a": SECRET})

    def overflow(connection: Connection) -> None:
        connection.execute(delete(letter_table).where(text("id = :a")), {"a": SECRET})
        connection.execute(text("SELECT CAST(:a AS DECIMAL) / 0 FROM nowhere"), {"a": SECRET})

    for work in (collide, misspell, overflow):
        with pytest.raises(Unavailable) as caught:
            database.run(work)
        assert SECRET not in str(caught.value)


def test_a_wrong_password_is_not_in_the_message(server: Server) -> None:
    url = make_url(server.new()).set(password=SECRET).render_as_string(hide_password=False)
    with closing(Database(url)) as database, pytest.raises(Unavailable) as caught:
        database.check()
    assert "tintype" in str(caught.value), "the user may be told"
    assert SECRET not in str(caught.value)


def test_connections_that_the_server_ended_are_replaced(server: Server) -> None:
    with closing(Database(server.new())) as database:
        database.check()
        with database.transaction() as connection:
            own = "pg_backend_pid()" if server.kind == "postgresql" else "connection_id()"
            pid = connection.scalar(text(f"SELECT {own}"))
        end = "SELECT pg_terminate_backend({})" if server.kind == "postgresql" else "KILL {}"
        with closing(Database(server.new())) as other, other.transaction() as connection:
            connection.execute(text(end.format(pid)))
        database.check()


def test_a_connection_that_ends_in_a_transaction_is_unavailable(server: Server) -> None:
    def end_itself(connection: Connection) -> None:
        own = "pg_backend_pid()" if server.kind == "postgresql" else "connection_id()"
        pid = connection.scalar(text(f"SELECT {own}"))
        end = (
            f"SELECT pg_terminate_backend({pid})" if server.kind == "postgresql" else f"KILL {pid}"
        )
        connection.execute(text(end))
        connection.execute(text("SELECT 1"))

    with closing(Database(server.new())) as database:
        with pytest.raises(Unavailable):
            database.run(end_itself)
        database.check()


def test_a_pool_that_is_used_up_is_unavailable(server: Server) -> None:
    with closing(Database(server.new(), pool_size=1)) as database:
        database.engine.pool._timeout = 0.1
        with database.transaction(), pytest.raises(Unavailable, match="in use"):
            database.check()
