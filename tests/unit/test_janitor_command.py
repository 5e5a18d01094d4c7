"""`tintype janitor`: what would go is listed, and nothing is removed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.command_line import Ended, run_here
from tests.support.twins import HOST
from tintype.adapters.directory import DirectoryStore
from tintype.adapters.journal_reader import read_snapshots
from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.core.events import COMMIT_REQUEST, SNAPSHOT_END, Event, Requester
from tintype.core.images import ImageSpec

NOW = datetime.now(UTC)
PASSED = (NOW - timedelta(hours=1)).isoformat()
RUNNING = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
COLUMNS = ["store", "image_id", "image_name", "tag", "reason", "expires_at", "project_id"]


@dataclass
class Machine:
    """A host with images in a directory."""

    folder: Path
    capsys: pytest.CaptureFixture[str]

    def image(self, request_id: str | None = None) -> str:
        """Put an image of this host there that has expired."""
        image_id = str(uuid.uuid4())
        properties = {
            "image_type": "snapshot",
            "container_host": HOST,
            "snapshot_request_id": request_id or str(uuid.uuid4()),
            "expires_at": PASSED,
        }
        store = DirectoryStore(self.folder / "images")
        store.reserve(ImageSpec(image_id, "snap", "v1", "project-a", properties=properties))
        store.upload(image_id, [b"data"])
        return image_id

    def __call__(self, *arguments: object) -> Ended:
        """Run `tintype janitor`."""
        return run_here(self.capsys, "janitor", "--state-dir", self.folder, *arguments)

    @property
    def files(self) -> set[str]:
        """All files that there are."""
        return {str(path) for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture
def machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Machine:
    for name in os.environ:
        if name.startswith(("OS_AGENT__", "OS_JANITOR__", "OS_DIRECTORY__")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OS_AGENT__HOST", HOST)
    return Machine(tmp_path, capsys)


@pytest.fixture
def journal(machine: Machine) -> Iterator[SqliteJournal]:
    with closing(SqliteJournal(machine.folder / "journal.sqlite")) as journal:
        yield journal


def test_what_goes_next_is_listed_and_stays(machine: Machine) -> None:
    image_id = machine.image()
    before = machine.files
    [found] = machine("-f", "json").shown()
    assert list(found) == COLUMNS
    assert list(found.values()) == [
        "directory", image_id, "snap", "v1", "expired", PASSED, "project-a",
    ]  # fmt: skip
    table = machine().worked()
    assert image_id in table
    assert all(column in table for column in COLUMNS)
    assert machine.files == before


def test_nothing_to_do_is_an_empty_list(machine: Machine) -> None:
    assert machine("-f", "json").shown() == []


def test_the_image_of_a_request_that_runs_is_not_listed(
    machine: Machine, journal: SqliteJournal
) -> None:
    gone = machine.image()
    machine.image(RUNNING)
    journal.admit(RUNNING, "f", Event(COMMIT_REQUEST, {}), NOW + timedelta(days=1))
    assert [found["image_id"] for found in machine("-f", "json").shown()] == [gone]
    assert journal.live() == {RUNNING}, "looking has planned a removal"


def test_a_journal_that_cannot_be_read_is_told(machine: Machine) -> None:
    (machine.folder / "journal.sqlite").write_text("not a journal " * 99)
    machine.image()
    machine("-f", "json").failed("journal.sqlite")


def test_what_another_process_journals_of_snapshots_can_be_read(
    machine: Machine, journal: SqliteJournal
) -> None:
    told = Event(SNAPSHOT_END, {"stores": [{"name": "registry"}]}, Requester("p", "u"), RUNNING)
    journal.admit(RUNNING, "f", Event(COMMIT_REQUEST, {}), NOW + timedelta(days=1), told)
    journal.admit("other", "f", Event(COMMIT_REQUEST, {}), NOW + timedelta(days=1))
    assert read_snapshots(machine.folder / "journal.sqlite") == journal.snapshots() == [told]
