"""The janitor: what it removes and what never, that each removal is told once, and by whom."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.twins import HOST, Trouble
from tintype.adapters.clock import ManualClock
from tintype.adapters.memory_engine import MemoryEngine
from tintype.adapters.memory_store import MemoryImage, MemoryStore
from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.agent import to_be_removed
from tintype.config import AgentSettings, Settings
from tintype.core.errors import Forbidden, Invalid, Refused, Unavailable
from tintype.core.events import (
    COMMIT_REQUEST,
    SNAPSHOT_END,
    SNAPSHOT_REMOVED,
    Event,
    derived_id,
)
from tintype.core.images import ImageSpec, ImageStatus, StoredImage
from tintype.core.janitor import Janitor, Plan, Retention
from tintype.core.ports import Services, Work
from tintype.core.removal import REMOVAL_TIME, REMOVE, Reason
from tintype.handlers.remove import remove
from tintype.schemas import validate

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
LATER = (NOW + timedelta(hours=1)).isoformat()
EARLIER = (NOW - timedelta(hours=1)).isoformat()
RUNNING = derived_id("test", "a request that runs")


class Repository(MemoryStore):
    """One repository of a `Hub`."""

    def __init__(self, repository: str, fail: Callable[[str], None]) -> None:
        super().__init__("hub", fail=fail)
        self.repository = repository

    def at(self, repository: str | None) -> MemoryStore:
        assert repository == self.repository
        return self

    def _stored(self, image: MemoryImage) -> StoredImage:
        return replace(super()._stored(image), repository=self.repository)


class Hub(MemoryStore):
    """A registry that does not list its repositories."""

    def __init__(self, trouble: Trouble, *repositories: str) -> None:
        super().__init__("hub")
        self.repositories = {
            name: Repository(name, trouble.hook(f"hub/{name}")) for name in repositories
        }

    def at(self, repository: str | None) -> MemoryStore:
        if repository is None:
            return self
        if repository not in self.repositories:
            raise Invalid(f"{repository} is not allowed")
        return self.repositories[repository]

    def find(self, *_: object, **__: object) -> list[StoredImage]:
        raise Refused("this registry lists no repositories")


@dataclass
class House:
    """Two stores, a journal, and the janitor of one host."""

    keep_last: int | None = None
    trouble: Trouble = field(default_factory=Trouble)
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW))
    journal: SqliteJournal = field(default_factory=lambda: SqliteJournal(":memory:"))
    stores: dict[str, MemoryStore] = field(init=False)
    services: Services = field(init=False)
    janitor: Janitor = field(init=False)

    def __post_init__(self) -> None:
        self.stores = {
            name: MemoryStore(name, fail=self.trouble.hook(name)) for name in ("glance", "disk")
        }
        self.services = Services(
            engine=MemoryEngine(),
            stores=self.stores,
            clock=self.clock,
            host=HOST,
            default_stores=("glance",),
        )
        retention = Retention(timedelta(hours=24), self.keep_last)
        self.janitor = Janitor(Plan(self.stores, self.clock, HOST, retention), self.journal)

    def image(
        self,
        store: str = "glance",
        *,
        repository: str | None = None,
        hours: float = 48,
        owner: str = "project-a",
        status: ImageStatus = ImageStatus.ACTIVE,
        **changed: str | None,
    ) -> str:
        """Put an image there, made so many hours ago: a snapshot by this host, unless changed."""
        image_id = str(uuid.uuid4())
        properties = {
            "image_type": "snapshot",
            "container_host": HOST,
            "container_uuid": "c1",
            "snapshot_request_id": derived_id("request of", image_id),
            **changed,
        }
        known = {name: value for name, value in properties.items() if value is not None}
        place = self.stores[store].at(repository)
        place.reserve(ImageSpec(image_id, "snap", "v1", owner, properties=known))
        if status is ImageStatus.ACTIVE:
            place.upload(image_id, [b"data"])
        made = place.images[image_id]
        made.status = status
        made.created_at = (NOW - timedelta(hours=hours)).isoformat()
        return image_id

    def admit(self, request_id: str) -> None:
        """Take a request in that runs from now on."""
        self.journal.admit(request_id, "f", Event(COMMIT_REQUEST, {}), NOW + timedelta(days=9))

    def hub(self, *repositories: str) -> Hub:
        """Set up a registry without lists, to whose repositories this host has sent images."""
        hub = Hub(self.trouble, *repositories)
        self.stores["hub"] = hub
        for repository in repositories:
            stores = [{"name": "hub", "repository": repository}, {"name": "glance"}]
            self.journal.admit(
                derived_id("test", repository),
                "f",
                Event(COMMIT_REQUEST, {}),
                NOW + timedelta(days=9),
                Event(SNAPSHOT_END, {"stores": stores}),
            )
        for work in self.works():
            self.journal.record(work, [], None)
        return hub

    def planned(self) -> dict[str, str]:
        """What is to go: image id -> why."""
        found = self.janitor.plan.candidates(self.journal.live())
        return {candidate.image_id: candidate.reason for candidate in found}

    def works(self) -> Iterator[Work]:
        """Claim what is runnable."""
        while (work := self.journal.claim(self.clock.now(), 1)) is not None:
            yield work

    def clean(self) -> list[Event]:
        """Sweep and do all that follows, as the runner does; return what is told."""
        self.janitor.sweep()
        told = []
        for work in self.works():
            events = list(remove(work.step, self.services))
            self.journal.record(work, events, None)
            told += events
        return told


@pytest.fixture
def house() -> House:
    return House()


def test_an_expired_image_is_removed_and_told(house: House) -> None:
    gone = house.image(expires_at=EARLIER)
    kept = house.image(expires_at=LATER)
    [event] = house.clean()
    assert set(house.stores["glance"].images) == {kept}
    assert event.type == SNAPSHOT_REMOVED
    assert validate(SNAPSHOT_REMOVED, event.payload) == []
    told = event.payload
    assert (told["image_id"], told["reason"], told["store"]) == (gone, Reason.EXPIRED, "glance")
    assert (told["project_id"], told["host"], told["image_name"]) == ("project-a", HOST, "snap")


@pytest.mark.parametrize(
    "changed",
    [
        {"container_host": "another"},
        {"image_type": "image"},
        {"snapshot_request_id": None},
        {"expires_at": None},
        {"expires_at": "soon"},
    ],
)
def test_nothing_else_is_removed(house: House, changed: dict[str, Any]) -> None:
    house.image(**{"expires_at": EARLIER, **changed})
    assert house.planned() == {}


@pytest.mark.parametrize("status", [ImageStatus.QUEUED, ImageStatus.SAVING])
def test_an_unfinished_image_whose_request_has_ended_is_left_behind(
    house: House, status: ImageStatus
) -> None:
    gone = house.image(status=status)
    house.image(status=status, hours=23)
    house.admit(RUNNING)
    house.image(status=status, snapshot_request_id=RUNNING)
    assert house.planned() == {gone: Reason.ORPHANED}


def test_the_newest_of_each_container_are_kept() -> None:
    house = House(keep_last=2)
    old = [house.image(hours=hours) for hours in (9, 8, 7)]
    others = [house.image(hours=9, container_uuid="c2"), house.image(hours=9, owner="project-b")]
    series = [house.image(hours=hours, backup_type="nightly") for hours in (9, 8, 7)]
    assert house.planned() == {old[0]: Reason.ROTATED}
    assert not {*others, *series} & house.planned().keys()


def test_an_expired_image_does_not_count_among_those_kept() -> None:
    house = House(keep_last=2)
    expired = house.image(hours=1, expires_at=EARLIER)
    for hours in (3, 2):
        house.image(hours=hours)
    assert house.planned() == {expired: Reason.EXPIRED}


def test_a_store_that_is_away_does_not_keep_the_others_waiting(house: House) -> None:
    house.image(expires_at=EARLIER)
    gone = house.image("disk", expires_at=EARLIER)
    house.trouble.plan("glance.find", Unavailable("away"))
    assert house.planned() == {gone: Reason.EXPIRED}


def test_a_removal_is_planned_once_a_day(house: House) -> None:
    house.image(expires_at=EARLIER)
    assert house.janitor.sweep() == 1
    assert house.janitor.sweep() == 0
    [work] = house.works()
    house.journal.record(work, [], None)
    assert house.janitor.sweep() == 0
    house.clock.advance(86400)
    assert house.janitor.sweep() == 1


@pytest.mark.parametrize("days", [1, 2])
def test_while_a_removal_waits_there_is_no_other_of_the_image(house: House, days: int) -> None:
    house.image(expires_at=EARLIER)
    house.janitor.sweep()
    house.clock.advance(days * 86400)
    assert house.janitor.sweep() == 0


def test_the_image_of_a_request_that_runs_neither_counts_nor_goes() -> None:
    house = House(keep_last=1)
    house.image(hours=9)
    house.admit(RUNNING)
    house.image(hours=1, snapshot_request_id=RUNNING)
    assert house.planned() == {}
    house.image(hours=0.5)
    house.image("disk", expires_at=EARLIER, snapshot_request_id=RUNNING)
    assert len(house.planned()) == 1


def test_a_request_that_is_taken_in_while_the_stores_are_looked_at_runs_too() -> None:
    house = House(keep_last=1)
    house.image(hours=9)
    house.image(hours=1, snapshot_request_id=RUNNING)

    def taken_in(call: str) -> None:
        if call == "find":
            house.admit(RUNNING)

    glance = house.stores["glance"]
    late = MemoryStore("glance", fail=taken_in)
    late.images = glance.images
    house.stores["glance"] = late
    assert house.janitor.sweep() == 0


@pytest.mark.parametrize("change", ["deleted", "into a series", "expired", "unfinished"])
def test_one_that_is_too_many_stays_when_a_newer_one_counts_no_more(change: str) -> None:
    house = House(keep_last=2)
    old = house.image(hours=9)
    newer = [house.image(hours=hours) for hours in (2, 1)]
    assert house.janitor.sweep() == 1
    glance = house.stores["glance"]
    if change == "deleted":
        glance.discard(newer[0])
    elif change == "into a series":
        glance.images[newer[0]].properties["backup_type"] = "nightly"
    elif change == "expired":
        glance.images[newer[0]].properties["expires_at"] = EARLIER
    else:
        glance.images[newer[0]].status = ImageStatus.SAVING
    [work] = house.works()
    assert list(remove(work.step, house.services)) == []
    assert old in glance.images


def test_one_that_is_too_many_goes_and_is_told() -> None:
    house = House(keep_last=1)
    old, new = house.image(hours=9), house.image(hours=1)
    [event] = house.clean()
    assert validate(SNAPSHOT_REMOVED, event.payload) == []
    assert (event.payload["image_id"], event.payload["reason"]) == (old, Reason.ROTATED)
    assert set(house.stores["glance"].images) == {new}


def test_a_removal_that_names_no_newer_image_removes_none() -> None:
    house = House(keep_last=1)
    old, _ = house.image(hours=9), house.image(hours=1)
    house.janitor.sweep()
    [work] = house.works()
    image = {**work.step.payload["image"], "newer": []}
    step = Event(REMOVE, {**work.step.payload, "image": image}, work.step.requester)
    assert list(remove(step, house.services)) == []
    assert old in house.stores["glance"].images


def test_a_registry_without_lists_is_looked_at_where_the_journal_has_sent_images() -> None:
    house = House(keep_last=1)
    hub = house.hub("h/a", "h/b")
    expired = house.image("hub", repository="h/a", expires_at=EARLIER)
    old = house.image("hub", repository="h/b", hours=9)
    new = house.image("hub", repository="h/b", hours=1)
    told = {each.payload["image_id"]: each.payload["repository"] for each in house.clean()}
    assert told == {expired: "h/a", old: "h/b"}
    assert hub.repositories["h/a"].images == {}
    assert set(hub.repositories["h/b"].images) == {new}
    assert [house.trouble.calls.count(f"hub/h/{name}.find") for name in "ab"] == [1, 1]


def test_what_is_shown_beforehand_is_looked_for_in_the_same_places(tmp_path: Path) -> None:
    house = House(journal=SqliteJournal(tmp_path / "journal.sqlite"))
    house.hub("h/a")
    expired = house.image("hub", repository="h/a", expires_at=EARLIER)
    settings = Settings(agent=AgentSettings(host=HOST, state_dir=str(tmp_path)))
    found = to_be_removed(settings, house.stores)
    assert [(each.image_id, each.repository) for each in found] == [(expired, "h/a")]
    house.journal.close()


def test_a_repository_that_cannot_be_looked_at_keeps_no_other_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    house = House()
    hub = house.hub("h/a", "h/b", "h/c")
    gone = house.image("hub", repository="h/c", expires_at=EARLIER)
    house.image("hub", repository="h/b", expires_at=EARLIER)
    del hub.repositories["h/a"]
    house.trouble.plan("hub/h/b.find", Unavailable("h/b is away"))
    with caplog.at_level(logging.WARNING):
        assert [each.payload["image_id"] for each in house.clean()] == [gone]
    [line] = [record.getMessage() for record in caplog.records]
    assert "lists no repositories" in line
    assert "h/a is not allowed" in line
    assert "h/b is away" in line


def test_an_image_that_its_owner_has_kept_meanwhile_stays(house: House) -> None:
    image_id = house.image(expires_at=EARLIER)
    house.janitor.sweep()
    house.stores["glance"].images[image_id].properties["expires_at"] = LATER
    [work] = house.works()
    assert list(remove(work.step, house.services)) == []
    assert image_id in house.stores["glance"].images


def test_an_orphan_that_has_become_an_image_stays(house: House) -> None:
    image_id = house.image(status=ImageStatus.SAVING)
    house.janitor.sweep()
    house.stores["glance"].images[image_id].status = ImageStatus.ACTIVE
    [work] = house.works()
    assert list(remove(work.step, house.services)) == []
    assert image_id in house.stores["glance"].images


def test_a_removal_that_was_killed_after_the_deletion_is_told_all_the_same(house: House) -> None:
    house.image(expires_at=EARLIER)
    house.janitor.sweep()
    [work] = house.works()
    [first] = remove(work.step, house.services)
    again = Event(REMOVE, work.step.payload, work.step.requester, attempt=2)
    assert list(remove(again, house.services)) == [first]


def test_what_somebody_else_has_removed_is_not_told(house: House) -> None:
    image_id = house.image(expires_at=EARLIER)
    house.janitor.sweep()
    house.stores["glance"].discard(image_id)
    [work] = house.works()
    assert list(remove(work.step, house.services)) == []


def test_a_store_that_is_away_is_asked_again(house: House) -> None:
    house.image(expires_at=EARLIER)
    house.janitor.sweep()
    house.trouble.plan("glance.discard", Unavailable("away"))
    [work] = house.works()
    with pytest.raises(Unavailable):
        list(remove(work.step, house.services))


def test_what_a_store_refuses_stays_and_is_not_told(house: House) -> None:
    image_id = house.image(expires_at=EARLIER)
    house.janitor.sweep()
    house.trouble.plan("glance.discard", Forbidden("protected"))
    [work] = house.works()
    assert list(remove(work.step, house.services)) == []
    assert image_id in house.stores["glance"].images


@pytest.mark.parametrize("error", [Invalid("not allowed any more"), Refused("no")])
def test_what_cannot_be_asked_for_any_more_stays(house: House, error: Exception) -> None:
    house.image(expires_at=EARLIER)
    house.janitor.sweep()
    house.trouble.plan("glance.describe", error)
    [work] = house.works()
    assert list(remove(work.step, house.services)) == []


def test_a_store_that_is_away_for_too_long_is_given_up(house: House) -> None:
    house.image(expires_at=EARLIER)
    house.janitor.sweep()
    house.trouble.plan("glance.discard", Unavailable("away"), times=2)
    [work] = house.works()
    house.clock.advance(REMOVAL_TIME.total_seconds() - 1)
    with pytest.raises(Unavailable):
        list(remove(work.step, house.services))
    house.clock.advance(1)
    assert list(remove(work.step, house.services)) == []
