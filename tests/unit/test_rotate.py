"""Rotation: a new image of a series, and what becomes of the old ones; and never of others."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.twins import ALICE, HOST, MALLORY, Trouble, checked
from tintype.adapters.clock import ManualClock
from tintype.adapters.memory_engine import MemoryEngine
from tintype.adapters.memory_store import MemoryStore
from tintype.core.errors import Forbidden, Unavailable
from tintype.core.events import COMMIT_REQUEST, SNAPSHOT_END, Event, Requester, derived_id
from tintype.core.images import ImageSpec
from tintype.core.ports import Services
from tintype.core.snapshot import FINISH, ROTATE, Snapshot
from tintype.handlers import BUILT_IN
from tintype.schemas import validate

NOW = datetime(2026, 11, 24, tzinfo=UTC)
REQUEST_ID = derived_id("test", "rotation")


@dataclass
class Host:
    """A host with twins, and a container `web` that may have been backed up before."""

    trouble: Trouble = field(default_factory=Trouble)
    services: Services = field(init=False)
    stores: dict[str, MemoryStore] = field(init=False)
    container_uuid: str = field(init=False)
    rotating: list[Event] = field(default_factory=list)
    """What is still to be done after the end."""

    def __post_init__(self) -> None:
        engine = MemoryEngine(fail=self.trouble.hook("engine"))
        self.container_uuid = engine.add("web", files={"/a": b"b"}).uuid
        self.stores = {
            name: MemoryStore(name, fail=self.trouble.hook(name)) for name in ("glance", "disk")
        }
        self.services = Services(
            engine=engine,
            stores=self.stores,
            clock=ManualClock(NOW),
            host=HOST,
            default_stores=("glance",),
        )

    def old(
        self,
        days: float,
        *,
        store: str = "glance",
        owner: str | None = "project-a",
        data: bytes = b"x",
        **other: str | None,
    ) -> str:
        """Put an older image there, of the series `nightly` unless otherwise said."""
        series = {"container_uuid": self.container_uuid, "backup_type": "nightly", **other}
        image_id = str(uuid.uuid4())
        properties = {name: value for name, value in series.items() if value is not None}
        self.stores[store].reserve(ImageSpec(image_id, "old", "v1", owner, properties=properties))
        if data:
            self.stores[store].upload(image_id, [data])
        made = (NOW - timedelta(days=days)).isoformat()
        self.stores[store].images[image_id].created_at = made
        return image_id

    def finishing(self, who: Requester = ALICE, **fields: Any) -> Event:
        """Bring a request to its last step."""
        asked = {"container": "web", "image_name": "snap", "request_id": REQUEST_ID, **fields}
        assert validate(COMMIT_REQUEST, asked) == []
        event = Event(COMMIT_REQUEST, asked, who)
        while event.type != FINISH:
            (event,) = [each for each in self.run(event) if each.type in BUILT_IN]
        return event

    def run(self, event: Event) -> list[Event]:
        """Run one step, from what the journal would have kept of it."""
        kept = replace(event, payload=json.loads(json.dumps(event.payload)))
        return list(BUILT_IN[kept.type](kept, self.services))

    def end(self, event: Event) -> Event:
        """Run the last step that leads to the end; return that, with nothing deleted yet."""
        before = self.images() | self.images("disk")
        end, *more = self.run(event)
        assert end.type == SNAPSHOT_END
        assert [step.type for step in more] == [ROTATE] * bool(end.payload["rotated_images"])
        assert self.images() | self.images("disk") == before
        self.rotating = more
        return checked(end)

    def rotate(self) -> None:
        """Run what follows the end."""
        for step in self.rotating:
            assert self.run(step) == []

    def ended(self, who: Requester = ALICE, **fields: Any) -> Sequence[str]:
        """Make a snapshot; return the ids of the images that were rotated out."""
        end = self.end(self.finishing(who, **{"backup_type": "nightly", **fields}))
        self.rotate()
        rotated = [image["image_id"] for image in end.payload["rotated_images"]]
        own = {image["image_id"] for image in end.payload["stores"]}
        assert own.isdisjoint(rotated)
        for store in end.payload["stores"]:
            assert store["image_id"] in self.images(store["name"])
        return [image_id for image_id in rotated if self.is_gone(image_id)]

    def is_gone(self, image_id: str) -> bool:
        """Tell whether no store has an image any more."""
        return image_id not in self.images() | self.images("disk")

    def images(self, store: str = "glance") -> set[str]:
        """Return the ids of a store's images."""
        return set(self.stores[store].images)


@pytest.fixture
def host() -> Host:
    return Host()


def test_the_newest_of_the_series_are_kept_the_new_one_included(host: Host) -> None:
    old = [host.old(days) for days in (1, 4, 2, 3)]
    assert host.ended(rotation=3) == [old[3], old[1]]
    assert {old[0], old[2]} < host.images()
    assert len(host.images()) == 3


def test_the_image_says_what_series_it_is_of(host: Host) -> None:
    assert host.ended() == []
    (image,) = host.stores["glance"].images.values()
    assert image.properties["backup_type"] == "nightly"


def test_without_rotation_nothing_is_looked_for(host: Host) -> None:
    old = host.old(5000)
    assert host.ended() == []
    assert old in host.images()
    assert "glance.find" not in host.trouble.calls


def test_one_is_none_but_the_new_one(host: Host) -> None:
    old = [host.old(1), host.old(2)]
    assert host.ended(rotation=1.0) == old, "an integer, to JSON"
    assert len(host.images()) == 1


def test_a_series_not_yet_full_loses_nothing(host: Host) -> None:
    host.old(1)
    assert host.ended(rotation=2) == []


def test_what_is_too_old_goes(host: Host) -> None:
    young, old = host.old(6.9), host.old(7.1)
    assert host.ended(keep_days=7) == [old]
    assert young in host.images()


def test_number_and_age_count_both(host: Host) -> None:
    old = [host.old(days) for days in (1, 8, 9)]
    assert set(host.ended(rotation=3, keep_days=7)) == {old[1], old[2]}
    assert old[0] in host.images()


def test_what_is_not_known_to_be_old_is_not_too_old(host: Host) -> None:
    image_id = host.old(1)
    host.stores["glance"].images[image_id].created_at = ""
    assert host.ended(keep_days=1) == []


@pytest.mark.parametrize(
    "other",
    [
        {"backup_type": None},
        {"backup_type": "weekly"},
        {"container_uuid": "another"},
        {"owner": "project-b"},
        {"owner": None},
        {"data": b""},
    ],
    ids=str,
)
def test_an_image_that_is_not_of_the_series_is_never_touched(
    host: Host, other: dict[str, Any]
) -> None:
    image_id = host.old(5000, **other)
    assert host.ended(rotation=1, keep_days=1) == []
    assert image_id in host.images()


def test_without_a_project_nobody_elses_image_goes(host: Host) -> None:
    theirs, ours = host.old(9, owner="project-b"), host.old(9, owner=None)
    assert host.ended(Requester(), rotation=1) == [ours]
    assert theirs in host.images()


def test_another_project_has_a_series_of_its_own(host: Host) -> None:
    host.old(9)
    assert host.ended(MALLORY, rotation=1) == []


def test_every_store_has_its_own_rotation(host: Host) -> None:
    one, two = host.old(1), host.old(1, store="disk")
    elsewhere = host.old(2, store="disk")
    step = host.finishing(backup_type="nightly", rotation=2, stores=["glance", "disk"])
    end = host.end(step)
    host.rotate()
    assert end.payload["rotated_images"] == [{"store": "disk", "image_id": elsewhere}]
    assert host.is_gone(elsewhere)
    assert one in host.images()
    assert two in host.images("disk")


def test_a_store_that_the_snapshot_is_not_in_is_left_alone(host: Host) -> None:
    host.old(9, store="disk")
    assert host.ended(rotation=1) == []


def test_the_new_image_is_never_deleted_even_when_it_is_not_the_newest(host: Host) -> None:
    later = host.old(-1)
    assert host.ended(rotation=1) == [later]


def test_nothing_goes_when_the_new_image_is_gone_already(host: Host) -> None:
    old = host.old(9)
    step = host.finishing(backup_type="nightly", rotation=1)
    host.stores["glance"].discard(str(Snapshot.load(step).image_id))
    assert host.end(step).payload["rotated_images"] == []
    assert host.images() == {old}


def test_nothing_goes_when_the_new_image_is_deleted_after_the_end(host: Host) -> None:
    old = host.old(9)
    end = host.end(host.finishing(backup_type="nightly", rotation=1))
    assert [image["image_id"] for image in end.payload["rotated_images"]] == [old]
    host.stores["glance"].discard(end.payload["image_id"])
    host.rotate()
    assert host.images() == {old}


def test_an_image_that_is_taken_out_of_the_series_after_the_end_stays(host: Host) -> None:
    kept, old = host.old(8), host.old(9)
    host.end(host.finishing(backup_type="nightly", rotation=1))
    host.stores["glance"].images[kept].properties.pop("backup_type")
    host.rotate()
    assert kept in host.images()
    assert host.is_gone(old)


def test_only_what_was_told_goes(host: Host) -> None:
    old = host.old(9)
    host.end(host.finishing(backup_type="nightly", rotation=1))
    later = host.old(8)
    host.rotate()
    assert host.is_gone(old)
    assert later in host.images()


def test_a_run_after_a_crash_deletes_the_rest(host: Host) -> None:
    old = [host.old(days) for days in (1, 2, 3)]
    step = host.finishing(backup_type="nightly", rotation=1)
    end = host.end(step)
    assert [image["image_id"] for image in end.payload["rotated_images"]] == old
    assert host.end(step) == end, "killed before it was recorded"
    host.stores["glance"].discard(old[1])  # killed in the midst of it
    host.rotate()
    assert all(map(host.is_gone, old))
    host.rotate()
    assert host.images() == {end.payload["image_id"]}


@pytest.mark.parametrize("call", ["glance.find", "glance.discard"])
def test_a_store_that_is_away_is_tried_again(host: Host, call: str) -> None:
    old = [host.old(1), host.old(2), host.old(1, store="disk")]
    host.end(host.finishing(backup_type="nightly", rotation=1, stores=["glance", "disk"]))
    host.trouble.plan(call, Unavailable("glance is away"))
    with pytest.raises(Unavailable, match="glance is away"):
        host.rotate()
    assert host.is_gone(old[2]), "the others are not held up"
    assert not all(map(host.is_gone, old))
    host.rotate()
    assert all(map(host.is_gone, old))


def test_a_store_that_refuses_to_look_again_is_left_alone(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    old = host.old(1)
    host.end(host.finishing(backup_type="nightly", rotation=1))
    host.trouble.plan("glance.find", Forbidden("not you"))
    with caplog.at_level(logging.WARNING):
        host.rotate()
    assert old in host.images()
    assert "not rotated in glance: not you" in caplog.text


def test_rotating_sweeps_what_could_not_be_cleaned(host: Host) -> None:
    old = host.old(1)
    step = host.finishing(backup_type="nightly", rotation=1)
    host.trouble.plan("engine.discard", Unavailable("engine is away"), times=2)
    host.end(step)
    with pytest.raises(Unavailable, match="engine is away"):
        host.rotate()
    assert host.is_gone(old)
    assert host.services.engine.owners() == {REQUEST_ID}
    host.rotate()
    assert host.services.engine.owners() == frozenset()


@pytest.mark.parametrize(
    ("told", "gone"), [(-1, True), (0, False), (1, False)], ids=["in time", "as it ends", "late"]
)
def test_of_a_routed_request_nothing_goes_unless_its_end_was_told_in_time(
    host: Host, told: float, *, gone: bool
) -> None:
    """Its router answers in its stead else, and deletes the new image."""
    clock = ManualClock(NOW)
    deadline = NOW + timedelta(hours=1)
    accepted = replace(host.services, clock=clock, confirmed_at=lambda _: NOW)
    host.services = accepted
    old = host.old(1)
    host.end(
        host.finishing(
            backup_type="nightly",
            rotation=1,
            accept_by=(NOW + timedelta(seconds=30)).isoformat(),
            deadline=deadline.isoformat(),
        )
    )
    host.services = replace(accepted, confirmed_at=lambda _: None)
    with pytest.raises(Unavailable, match="not taken the word"):
        host.rotate()
    assert old in host.images()
    asked: list[str] = []
    told_at = deadline + timedelta(seconds=told)
    host.services = replace(accepted, confirmed_at=lambda ident: asked.append(ident) or told_at)
    host.rotate()
    assert asked == [derived_id(REQUEST_ID, SNAPSHOT_END)]
    assert host.is_gone(old) == gone


def test_of_a_routed_request_whose_end_was_never_told_nothing_goes(host: Host) -> None:
    clock = ManualClock(NOW)
    host.services = replace(host.services, clock=clock, confirmed_at=lambda _: NOW)
    old = host.old(1)
    soon = (NOW + timedelta(seconds=30)).isoformat()
    host.end(host.finishing(backup_type="nightly", rotation=1, accept_by=soon, deadline=soon))
    host.services = replace(host.services, confirmed_at=lambda _: None)
    clock.advance(30)
    host.rotate()
    assert old in host.images()


def test_a_store_that_cannot_say_does_not_spoil_the_snapshot(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    old = host.old(1, store="disk")
    host.old(1)
    host.trouble.plan("glance.find", Unavailable("glance is away"))
    with caplog.at_level(logging.WARNING):
        end = host.end(host.finishing(backup_type="nightly", rotation=1, stores=["glance", "disk"]))
    assert end.payload["rotated_images"] == [{"store": "disk", "image_id": old}]
    host.rotate()
    assert host.is_gone(old)
    assert "not rotated in glance: glance is away" in caplog.text


def test_an_image_that_cannot_be_deleted_stays_for_the_next_rotation(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    protected, old = host.old(1), host.old(2)
    host.trouble.plan("glance.discard", Forbidden("it is protected"))
    with caplog.at_level(logging.WARNING):
        assert host.ended(rotation=1) == [old]
    assert f"{protected} stays: it is protected" in caplog.text


def test_a_store_that_is_configured_no_more_does_not_spoil_the_snapshot(host: Host) -> None:
    old = host.old(1)
    step = host.finishing(backup_type="nightly", rotation=1)
    host.end(step)
    host.services = replace(host.services, stores={})
    host.rotate()
    assert old in host.images()
    assert host.end(step).payload["rotated_images"] == []


def test_a_step_of_an_older_release_is_read(host: Host) -> None:
    step = host.finishing()
    payload = json.loads(json.dumps(step.payload))
    for name in ("rotating", "unset_env", "hooks", "hook_open", "warnings", "squashed"):
        del payload[name]
    for copy in payload["copies"]:
        del copy["repository"], copy["fault"]
    assert Snapshot.load(replace(step, payload=payload)) == Snapshot.load(step)


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"rotation": 3}, "/backup_type"),
        ({"keep_days": 3}, "/backup_type"),
        ({"backup_type": "a b"}, "/backup_type"),
        ({"backup_type": ""}, "/backup_type"),
        ({"backup_type": "a" * 65}, "/backup_type"),
        ({"backup_type": "a", "rotation": 0}, "/rotation"),
        ({"backup_type": "a", "rotation": 1001}, "/rotation"),
        ({"backup_type": "a", "rotation": "3"}, "/rotation"),
        ({"backup_type": "a", "rotation": True}, "/rotation"),
        ({"backup_type": "a", "keep_days": 3651}, "/keep_days"),
    ],
    ids=str,
)
def test_a_bad_wish_is_refused_at_the_right_place(fields: dict[str, Any], pointer: str) -> None:
    request = {"container": "web", "image_name": "snap", **fields}
    assert {fault.pointer for fault in validate(COMMIT_REQUEST, request)} == {pointer}


def test_a_rotation_without_a_series_is_told_what_it_lacks() -> None:
    request = {"container": "web", "image_name": "snap", "rotation": 3}
    assert [str(fault) for fault in validate(COMMIT_REQUEST, request)] == [
        "/backup_type: expected a value, got nothing"
    ]
