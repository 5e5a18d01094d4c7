"""`tintype dead-letter`: what was kept is listed, shown, and checked before it is sent again."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.command_line import Ended, Run, run_here
from tintype.adapters.journal_reader import read_dead_letters
from tintype.adapters.sql_database import Database
from tintype.adapters.sql_dispatches import SqlDispatches
from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.core.errors import Invalid, Refused
from tintype.core.events import (
    COMMIT_CANCEL,
    COMMIT_REQUEST,
    CONTAINER_STOP,
    RESTORE_CANCEL,
    RESTORE_REQUEST,
    Event,
    Message,
    Requester,
    derived_id,
    is_uuid,
)
from tintype.core.intake import kept
from tintype.core.ports import DeadLetter
from tintype.dead_letters import event_of

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
OTHER = "0b7c3c1e-7d2f-4b13-9a52-0f1d7a3f6a10"
GOOD = {"container": "web", "image_name": "snap", "request_id": UUID}
BAD = {**GOOD, "image_name": "Snap"}
ALICE = Requester("alpha", "alice")
NOW = datetime(2026, 11, 25, tzinfo=UTC)
GARBAGE = {"queue": "container-requests.info", "body": "{", "body_bytes": 1}
"""What is kept of a delivery in which there was no message."""

LISTED = ["id", "role", "received_at", "reason", "event_type", "container", "request_id"]


def message(payload: Any, event_type: Any = COMMIT_REQUEST, **fields: Any) -> dict[str, Any]:
    """Return a message as it is kept."""
    return kept(Message(event_type, payload, **{"message_id": OTHER, **fields}))


def letter(message: dict[str, Any]) -> DeadLetter:
    return DeadLetter(1, "2026-11-24T00:00:00+00:00", "why", message)


@dataclass
class Machine:
    """A machine with the files of both roles, both of them at work."""

    folder: Path
    run: Run
    journal: SqliteJournal
    dispatches: SqlDispatches

    def of_agent(self, message: dict[str, Any], reason: str = "wrong") -> None:
        """Have the agent keep a message."""
        assert self.journal.reject(repr(message), reason, message, None)

    def of_router(self, message: dict[str, Any], reason: str = "wrong") -> None:
        """Have a router keep a message."""
        self.dispatches.reject(repr(message), reason, message)

    def __call__(self, action: str, *arguments: object) -> Ended:
        """Run `tintype dead-letter`."""
        return self.run("dead-letter", action, "--state-dir", self.folder, *arguments)

    def listed(self, *arguments: object) -> list[dict[str, Any]]:
        """Return the list as scripts get it."""
        found: list[dict[str, Any]] = json.loads(self("list", "-f", "json", *arguments).worked())
        return found


@pytest.fixture
def tintype(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in os.environ:
        if name.startswith(("OS_AGENT__", "OS_BUS__", "OS_ROUTER__")):
            monkeypatch.delenv(name)
    return lambda *arguments: run_here(capsys, *arguments)


@pytest.fixture
def machine(tintype: Run, tmp_path: Path) -> Iterator[Machine]:
    database = Database(f"sqlite:///{tmp_path}/index.sqlite")
    database.upgrade()
    with (
        closing(SqliteJournal(tmp_path / "journal.sqlite")) as journal,
        closing(SqlDispatches(database)) as dispatches,
    ):
        yield Machine(tmp_path, tintype, journal, dispatches)


# List


def test_those_of_both_roles_are_listed_the_newest_first(machine: Machine) -> None:
    machine.of_agent(message(BAD), "first")
    machine.of_router(message({"request_id": UUID}, COMMIT_CANCEL), "second")
    machine.of_agent(GARBAGE, "third")
    found = machine.listed()
    assert [one["reason"] for one in found] == ["third", "second", "first"]
    assert all(list(one) == LISTED for one in found)
    assert found[2] == {
        "id": 1,
        "role": "agent",
        "received_at": found[2]["received_at"],
        "reason": "first",
        "event_type": COMMIT_REQUEST,
        "container": "web",
        "request_id": UUID,
    }
    assert (found[1]["role"], found[1]["event_type"]) == ("router", COMMIT_CANCEL)
    assert [found[0][name] for name in LISTED[4:]] == [None, None, None]
    assert datetime.fromisoformat(found[0]["received_at"]).tzinfo is not None


@pytest.mark.parametrize("role", ["agent", "router"])
def test_a_role_is_listed_alone(machine: Machine, role: str) -> None:
    machine.of_agent(message(BAD))
    machine.of_router(message(BAD))
    assert [one["role"] for one in machine.listed("--role", role)] == [role]


def test_where_one_role_is_here_its_own_are_listed(machine: Machine) -> None:
    machine.of_agent(message(BAD))
    for path in machine.folder.glob("index.sqlite*"):
        path.unlink()
    assert [one["role"] for one in machine.listed()] == ["agent"]
    machine("list", "--role", "router").failed("there is no database", "index.sqlite")
    assert not list(machine.folder.glob("index.sqlite*")), "looking made a database"


def test_none_is_an_empty_list(machine: Machine) -> None:
    assert machine.listed() == []
    assert machine("list", "-f", "value").worked() == ""


def test_a_reason_is_shortened_in_tables_alone(machine: Machine) -> None:
    reason = "/image_name: " + "x" * 2000
    machine.of_agent(message(BAD), reason)
    table = machine("list").worked()
    assert "/image_name: xxx" in table
    assert "…" in table
    assert max(map(len, table.splitlines())) < 300
    assert machine.listed()[0]["reason"] == reason
    (row,) = csv.DictReader(io.StringIO(machine("list", "-f", "csv").worked()))
    assert row["reason"] == reason
    assert machine("list", "-f", "value", "-c", "reason").worked() == f"{reason}\n"
    assert yaml.safe_load(machine("list", "-f", "yaml").worked())[0]["reason"] == reason


@pytest.mark.parametrize("form", ["table", "value", "csv", "json", "yaml"])
def test_whatever_was_sent_does_nothing_to_a_terminal(machine: Machine, form: str) -> None:
    hostile = "\x1b[2J\ud800\n" + "y" * 9000
    machine.of_agent(message({"container": hostile, "request_id": [hostile]}, hostile), hostile)
    machine.of_agent(message([hostile], {"a": hostile}))
    machine.of_agent(message(None, 5))
    out = machine("list", "-f", form).worked()
    assert "\x1b" not in out
    assert "\ud800" not in out
    for number in (1, 2, 3):
        shown = ["shell" if form == "csv" else form, "--role", "agent", number]
        assert "\x1b" not in machine("show", "-f", *shown).worked()


def test_a_machine_without_dead_letters_of_any_role_is_told_so(
    tintype: Run, tmp_path: Path
) -> None:
    for action in (("list",), ("show", 1), ("replay", 1)):
        tintype("dead-letter", *action, "--state-dir", tmp_path / "none").failed(
            f"there is no journal {tmp_path}/none/journal.sqlite",
            f"no database {tmp_path}/none/index.sqlite",
            "--state-dir",
        )
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense://alice:hunter2@x/y", "[router] index_url: not a database"),
        ("nonsense", "[router] index_url: not a database URL"),
    ],
)
def test_a_wrong_index_url_is_named(tintype: Run, tmp_path: Path, url: str, words: str) -> None:
    conf = tmp_path / "conf"
    conf.write_text(f"[router]\nindex_url = {url}\n")
    failed = tintype("dead-letter", "list", "--config-file", conf, "--state-dir", tmp_path)
    assert "hunter2" not in failed.failed(words)


def test_a_database_that_does_not_answer_is_named(tintype: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    conf = tmp_path / "conf"
    conf.write_text(f"[router]\nindex_url = postgresql://alice:hunter2@127.0.0.1:{port}/x\n")
    with closing(SqliteJournal(tmp_path / "journal.sqlite")) as journal:
        assert journal.reject("key", "why", message(BAD), None)
        where = ("dead-letter", "list", "--config-file", conf, "--state-dir", tmp_path)
        assert "hunter2" not in tintype(*where).failed("[router] index_url: database")
        assert "why" in tintype(*where, "--role", "agent").worked()


def test_a_database_without_tables_is_named(tintype: Run, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as database:
        database.execute("CREATE TABLE other (x)")
    tintype("dead-letter", "list", "--state-dir", tmp_path).failed("[router] index_url", "no such")


# The journal, read beside its agent


def test_reading_a_journal_waits_for_nobody_and_keeps_nobody_waiting(machine: Machine) -> None:
    machine.of_agent(message(BAD), "first")
    machine.of_agent(message(BAD, timestamp="later"), "second")
    path = machine.folder / "journal.sqlite"
    with machine.journal.transaction() as db:
        db.execute("UPDATE dead_letters SET reason = 'not yet'")
        assert [one.reason for one in read_dead_letters(path)] == ["first", "second"]
    reading = read_dead_letters(path)
    assert next(reading).reason == "not yet"
    machine.of_agent(GARBAGE, "meanwhile")
    assert [one.reason for one in reading] == ["not yet"]
    assert [one.reason for one in read_dead_letters(path)][-1] == "meanwhile"


def test_reading_a_journal_changes_nothing_in_it(tintype: Run, tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with closing(SqliteJournal(path)) as journal:
        assert journal.reject("key", "why", message(BAD), None)
    before = path.read_bytes()
    for action in (("list",), ("show", 1)):
        assert "why" in tintype("dead-letter", *action, "--state-dir", tmp_path).worked()
    assert path.read_bytes() == before


def test_a_journal_whose_agent_was_killed_can_be_read(tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    code = (
        "import os, sys; from tintype.adapters.sqlite_journal import SqliteJournal;"
        " SqliteJournal(sys.argv[1]).reject('key', 'why', {}, None); os.kill(os.getpid(), 9)"
    )
    path = killed / "journal.sqlite"
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd="/", check=False)
    assert done.returncode == -9
    assert (killed / "journal.sqlite-wal").stat().st_size
    assert [one.reason for one in read_dead_letters(path)] == ["why"]
    with closing(SqliteJournal(path)) as journal:
        assert len(journal.dead_letters()) == 1


def test_a_journal_of_another_version_is_named(tintype: Run, tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    SqliteJournal(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    tintype("dead-letter", "list", "--state-dir", tmp_path).failed(str(path), "99", "version")
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"no database at all" * 1000])
def test_a_file_that_is_no_journal_is_named(tintype: Run, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(content)
    tintype("dead-letter", "list", "--state-dir", tmp_path).failed(str(path))
    assert path.read_bytes() == content


def test_a_folder_with_any_name_is_read(tintype: Run, tmp_path: Path) -> None:
    folder = tmp_path / "a?mode=rw#%41 é"
    with closing(SqliteJournal(folder / "journal.sqlite")) as journal:
        assert journal.reject("key", "why", message(BAD), None)
        found = tintype("dead-letter", "list", "--state-dir", folder, "-f", "value", "-c", "reason")
        assert found.worked() == "why\n"


# Show


def test_a_dead_letter_is_shown_whole(machine: Machine) -> None:
    machine.of_agent(message(BAD, publisher_id="zun"), "because " + "x" * 200)
    for form, read in (("json", json.loads), ("yaml", yaml.safe_load)):
        shown = read(machine("show", "1", "-f", form).worked())
        assert list(shown) == ["id", "role", "received_at", "reason", "message"]
        assert (shown["id"], shown["role"]) == (1, "agent")
        assert shown["reason"] == "because " + "x" * 200
        assert shown["message"] == message(BAD, publisher_id="zun")
    text = machine("show", "1", "-f", "value", "-c", "message").worked()
    assert json.loads(text) == message(BAD, publisher_id="zun")
    assert f"because {'x' * 200}" in machine("show", "1").worked()
    assert 'reason="because' in machine("show", "1", "-f", "shell").worked()


@pytest.mark.parametrize("form", ["table", "value", "json", "yaml", "shell"])
def test_a_deeply_nested_message_is_shown(machine: Machine, form: str) -> None:
    deep: Any = "bottom"
    for _ in range(400):
        deep = [deep]
    machine.of_agent(message(deep))
    machine("list", "-f", "json").worked()
    assert "bottom" in machine("show", "1", "-f", form).worked()


def test_two_of_one_number_are_told_apart_by_role(machine: Machine) -> None:
    machine.of_agent(message(BAD), "the agent's")
    machine.of_router(message(BAD), "the router's")
    machine("show", "1").failed("agent and router", "--role")
    machine("replay", "1").failed("agent and router", "--role")
    for role in ("agent", "router"):
        shown = machine("show", "1", "--role", role, "-f", "value", "-c", "reason").worked()
        assert shown == f"the {role}'s\n"


def test_one_that_is_not_there_is_told_so(machine: Machine) -> None:
    machine.of_agent(message(BAD))
    machine("show", "2").failed("there is no dead letter 2")
    machine("show", "1", "--role", "router").failed("there is no dead letter 1 of the router")
    machine("replay", "2").failed("there is no dead letter 2")


# Replay


def test_what_is_published_is_the_message_again() -> None:
    event = event_of(letter(message(GOOD)), None, ALICE, NOW)
    assert event == Event(COMMIT_REQUEST, GOOD, ALICE)


def test_another_payload_takes_the_place_of_the_first() -> None:
    event = event_of(letter(message(BAD)), GOOD, ALICE, NOW)
    assert event == Event(COMMIT_REQUEST, GOOD, ALICE)


@pytest.mark.parametrize("kind", [COMMIT_CANCEL, RESTORE_CANCEL])
def test_a_cancellation_is_published_again(kind: str) -> None:
    event = event_of(letter(message({"request_id": UUID}, kind)), None, ALICE, NOW)
    assert event == Event(kind, {"request_id": UUID}, ALICE)


def test_a_restore_is_published_again() -> None:
    asked = {"request_id": UUID, "image": "web:v1", "host": "h"}
    event = event_of(letter(message(asked, RESTORE_REQUEST)), None, ALICE, NOW)
    assert event == Event(RESTORE_REQUEST, asked, ALICE)


@pytest.mark.parametrize("message_id", [OTHER, "no uuid", None])
def test_a_request_without_an_id_gets_the_same_each_time(message_id: str | None) -> None:
    sent = {name: value for name, value in GOOD.items() if name != "request_id"}
    old = letter(message(sent, message_id=message_id))
    first, second = (event_of(old, None, ALICE, NOW).payload for _ in range(2))
    assert first == second
    assert is_uuid(first["request_id"])
    assert (first["request_id"] == OTHER) == (message_id == OTHER)


def test_what_a_router_had_sent_on_becomes_a_request_of_its_own() -> None:
    """Routers refuse `accept_by`, and the same id with what they have added to the request."""
    old = letter(message({**GOOD, "accept_by": "2026-11-24T00:00:00Z"}))
    event = event_of(old, None, ALICE, NOW)
    assert event.payload == {**GOOD, "request_id": derived_id(UUID, "replay")}


def test_a_deadline_to_come_is_kept() -> None:
    sent = {**GOOD, "deadline": "2026-11-26T00:00:00Z"}
    assert event_of(letter(message(sent)), None, ALICE, NOW).payload == sent


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (message(BAD), "/image_name: expected a lowercase Docker repository name"),
        (message({**GOOD, "x": 1}), "/x: expected one of the known fields"),
        (message(None), "expected object"),
        (message([]), "expected object"),
        (message({**GOOD, "deadline": "2026-11-25T00:00:00Z"}), "/deadline: expected a moment to"),
        (message({}, COMMIT_CANCEL), "/request_id: expected a value"),
        (message({}, CONTAINER_STOP), f"event_type: expected one of '{COMMIT_REQUEST}'"),
        (message(GOOD, "nonsense"), "got 'nonsense'"),
        (message(GOOD, ["a"]), r"got \['a'\]"),
        (message(GOOD, None), "got None"),
        (GARBAGE, r"it was not even a message \(why\)"),
        ({}, "it was not even a message"),
        ({"step": "x", "payload": {}}, "it was not even a message"),
        ({"unread": "[[["}, "it was not even a message"),
        ({"truncated": '{"event_type":', "bytes": 99999}, "only its beginning is kept"),
    ],
    ids=ascii,
)
def test_what_would_only_come_back_is_refused(sent: dict[str, Any], words: str) -> None:
    with pytest.raises((Invalid, Refused), match=words):
        event_of(letter(sent), None, ALICE, NOW)


def test_a_wrong_payload_given_is_refused() -> None:
    with pytest.raises(Invalid, match="/image_name"):
        event_of(letter(message(GOOD)), BAD, ALICE, NOW)


def test_a_refusal_is_one_line_that_says_what_is_wrong_and_what_to_do(machine: Machine) -> None:
    machine.of_agent(message(BAD))
    machine("replay", "1").failed("dead letter 1 of the agent: /image_name", "'Snap'", "--payload")
    machine.of_agent(GARBAGE, "the body cannot be read as JSON")
    line = machine("replay", "2").failed("not even a message", "cannot be read as JSON")
    assert "--payload" not in line, "that would not help"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps(BAD), "/image_name"),
        (json.dumps({"payload": BAD}), "/image_name"),
        (json.dumps({"payload": None}), "/payload: expected an object"),
        ("[]", "expected an object"),
        ("{", "file.json"),
        (None, "No such file"),
    ],
)
def test_a_wrong_payload_file_is_refused(machine: Machine, text: str | None, words: str) -> None:
    machine.of_agent(message(GOOD))
    path = machine.folder / "file.json"
    if text is not None:
        path.write_text(text)
    machine("replay", "1", "--payload", path).failed(words)


def test_without_a_broker_nothing_is_said_to_be_published(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    conf = machine.folder / "conf"
    conf.write_text(f"[bus]\nurl = rabbit://alice:hunter2@127.0.0.1:{port}/\n")
    machine.of_agent(message(GOOD))
    failed = machine("replay", "1", "--config-file", conf)
    assert "hunter2" not in failed.failed("message bus", "refused")
    conf.write_text("[bus]\nurl = nonsense\n")
    machine("replay", "1", "--config-file", conf).failed("bus url is malformed")


# Usage


@pytest.mark.parametrize(
    "arguments",
    [
        ("show",),
        ("show", "one"),
        ("show", "0"),
        ("show", "1", "2"),
        ("list", "--role", "nobody"),
        ("list", "1"),
        ("list", "-f", "x"),
        ("replay",),
        ("replay", "-1"),
        ("replay", "1", "--project-id", ""),
        ("replay", "1", "--project-id", "a\x00b"),
        ("replay", "1", "--user-id", "x" * 256),
        ("replay", "1", "--payload"),
    ],
    ids=ascii,
)
def test_a_wrong_call_is_2(machine: Machine, arguments: tuple[str, ...]) -> None:
    machine.of_agent(message(GOOD))
    ended = machine(*arguments)
    assert ended.code == 2
    assert ended.out + ended.err


@pytest.mark.parametrize(
    ("action", "options"),
    [
        ("list", ["--role", "--config-file", "--state-dir"]),
        ("show", ["--role", "--config-file", "--state-dir"]),
        ("replay", ["--role", "--payload", "--project-id", "--user-id", "--admin"]),
    ],
)
def test_help_tells_the_options(tintype: Run, action: str, options: list[str]) -> None:
    said = tintype("dead-letter", action, "--help").worked()
    assert all(option in said for option in options)


def test_commands_do_not_load_what_only_few_of_them_need() -> None:
    code = "import sys, tintype.cli; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    late = {"tintype.agent", "tintype.dead_letters", "tintype.embedded"}
    assert {"tintype.dead_letter_commands", "tintype.local"} <= loaded
    assert not loaded & {*late, "alembic", "oslo_messaging", "sqlalchemy"}
