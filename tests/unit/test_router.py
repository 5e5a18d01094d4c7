"""The router on twins: requests find their host, or an answer, whatever dies or comes late."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.support.twins import ADMIN, ALICE, MALLORY, Trouble, checked
from tintype.adapters.clock import ManualClock
from tintype.adapters.memory_courier import MemoryCourier
from tintype.adapters.memory_engine import MemoryEngine
from tintype.adapters.memory_store import MemoryStore
from tintype.adapters.sql_database import Database
from tintype.adapters.sql_dispatches import SqlDispatches
from tintype.adapters.sql_index import SqlIndex
from tintype.core.dispatch import DispatchState
from tintype.core.dispatcher import LEASE, Dispatcher, Patience
from tintype.core.engine import ContainerState
from tintype.core.errors import Unavailable
from tintype.core.events import (
    COMMIT_ACCEPTED,
    COMMIT_CANCEL,
    COMMIT_REQUEST,
    CONTAINER_DELETE,
    CONTAINER_DELETE_START,
    CONTAINER_EXISTS,
    EXISTS_REQUEST,
    SNAPSHOT_END,
    SNAPSHOT_ERROR,
    SNAPSHOT_EXISTS,
    SNAPSHOT_PROGRESS,
    SNAPSHOT_START,
    Event,
    Message,
    Requester,
)
from tintype.core.images import ImageSpec
from tintype.core.index import SnapshotRecord
from tintype.core.ports import Services
from tintype.core.router import Router
from tintype.core.snapshot import Copy, Snapshot, image_id_for
from tintype.handlers import cleanup
from tintype.router import Ears as ServiceEars
from tintype.schemas import validate

PATIENCE = Patience(
    host=timedelta(seconds=60),
    unknown=timedelta(seconds=5),
    grace=timedelta(seconds=10),
    deadline=timedelta(hours=1),
)


class Ears:
    """What the router knows of its hearing, as a test says."""

    def __init__(self) -> None:
        self.up_to_date = True
        self.undisturbed = True

    def caught_up(self) -> bool:
        return self.up_to_date

    def complete(self) -> bool:
        return self.up_to_date and self.undisturbed


@dataclass
class House:
    """Routers that share one index, and the bus around them."""

    database: Database = field(default_factory=lambda: Database("sqlite://"))
    trouble: Trouble = field(default_factory=Trouble)
    clock: ManualClock = field(default_factory=ManualClock)
    ears: Ears = field(default_factory=Ears)
    courier: MemoryCourier = field(init=False)
    store: MemoryStore = field(init=False)
    router: Router = field(init=False)

    def __post_init__(self) -> None:
        self.database.upgrade()
        self.courier = MemoryCourier(fail=self.trouble.hook("courier"))
        self.courier.hosts = {"host-a": [], "host-b": []}
        self.store = MemoryStore("glance", fail=self.trouble.hook("glance"))
        self.router = self.another_router()

    def another_router(self) -> Router:
        dispatcher = Dispatcher(
            index=SqlIndex(self.database),
            dispatches=SqlDispatches(self.database),
            courier=self.courier,
            services=Services(
                engine=MemoryEngine(),
                stores={"glance": self.store},
                clock=self.clock,
                host="router-1",
                default_stores=("glance",),
            ),
            abort=cleanup.abort,
            patience=PATIENCE,
            hearing=self.ears,
        )
        return Router(
            dispatcher,
            validate,
            lambda context: context if isinstance(context, Requester) else Requester(),
        )

    def container(
        self,
        name: str = "web",
        host: str = "host-a",
        *,
        state: str = "Running",
        project_id: str | None = "project-a",
        uuid_: str | None = None,
    ) -> str:
        """Let the index hear of a container, and return its uuid."""
        ident = uuid_ or uuid.uuid4().hex * 2
        payload = {
            "container_uuid": ident,
            "engine_container_id": ident,
            "container_name": name,
            "host": host,
            "state": state,
            "project_id": project_id,
        }
        self.hear(CONTAINER_EXISTS, payload)
        return ident

    def hear(self, event_type: str, payload: dict[str, Any], who: Requester = ALICE) -> None:
        """Let the router hear a notification."""
        stamp = self.clock.now().isoformat()
        self.router.on_event(Message(event_type, payload, who, str(uuid.uuid4()), "test", stamp))

    def say(self, event: Event) -> None:
        """Let the router hear one of our own events."""
        self.hear(event.type, dict(checked(event).payload), event.requester)

    def ask(self, container: str = "web", *, who: Requester = ALICE, **fields: Any) -> str:
        """Send a commit request on the shared topic, and return its id."""
        request_id = fields.pop("request_id", None) or str(uuid.uuid4())
        payload = {
            "container": container,
            "image_name": "snap",
            "request_id": request_id,
            **fields,
        }
        self.send(COMMIT_REQUEST, payload, who)
        return str(request_id)

    def cancel(self, request_id: str, who: Requester = ALICE, **fields: Any) -> None:
        self.send(COMMIT_CANCEL, {"request_id": request_id, **fields}, who)

    def send(self, event_type: str, payload: Any, who: Requester) -> None:
        self.router.on_request(
            Message(event_type, payload, who, str(uuid.uuid4()), "test", "2026-01-01 00:00:00")
        )

    def wait(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass, and the router look after its dispatches meanwhile."""
        for _ in range(int(seconds / step)):
            self.clock.advance(step)
            self.router.dispatcher.sweep()

    def sent(self, host: str = "host-a", event_type: str = COMMIT_REQUEST) -> list[Event]:
        """Return what a host was sent, checked against its schema."""
        found = [each for each in self.courier.hosts[host] if each.type == event_type]
        assert all(validate(each.type, each.payload) == [] for each in found)
        return found

    def answers(self, request_id: str) -> list[dict[str, Any]]:
        """Return the payloads of the errors told about a request, each event id once."""
        found = {
            event.id: dict(checked(event).payload)
            for event in self.courier.told
            if event.payload["request_id"] == request_id
        }
        return list(found.values())

    def fault(self, request_id: str) -> dict[str, Any]:
        """Return the fault of the one answer to a request."""
        (answer,) = self.answers(request_id)
        fault: dict[str, Any] = answer["fault"]
        return fault

    def state(self, request_id: str) -> DispatchState:
        dispatch = self.router.dispatcher.dispatches.get(request_id)
        assert dispatch is not None
        return dispatch.state

    def snapshot(self, sent: Event, host: str = "host-a", **changes: Any) -> Snapshot:
        """Return the snapshot that a host makes of a request it was sent."""
        made = Snapshot.begin(sent, host=host, created_at=self.clock.now().isoformat())
        return replace(made, container_uuid=sent.payload["container"], **changes)

    def finished(self, sent: Event) -> Snapshot:
        """Return the snapshot that a host has made of a request it was sent."""
        return self.snapshot(
            sent,
            copies=(Copy("glance", str(uuid.uuid4()), status="active", digest="sha256:0"),),
            engine_container_id="0" * 64,
            container_name="web",
            size_bytes=1,
            sha256="0" * 64,
            paused_ms=1,
            phase="cleanup",
            finished_at=self.clock.now().isoformat(),
        )

    def reserved(self, image_id: str, owner: str = "project-a") -> None:
        """Put an image into the store that waits for data."""
        self.store.reserve(ImageSpec(image_id, "snap", "latest", owner))

    def made(self, who: Requester = ALICE, host: str = "host-a") -> tuple[str, str]:
        """Let a host tell of a snapshot that no router sent it; return its request and image."""
        request_id, image_id = str(uuid.uuid4()), str(uuid.uuid4())
        payload = {"container": "c" * 64, "image_name": "snap", "request_id": request_id}
        self.reserved(image_id)
        self.store.upload(image_id, [b"data"])
        copy = Copy("glance", image_id, status="active", digest="sha256:0")
        made = replace(
            self.finished(Event(COMMIT_REQUEST, payload, who)), copies=(copy,), host=host
        )
        self.say(made.event(SNAPSHOT_END, status="active", duration_ms=1))
        return request_id, image_id


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.database.close()


# The way to the host


def test_a_request_by_name_uuid_and_id_lands_on_its_host(house: House) -> None:
    zuns = str(uuid.uuid4())
    house.container("other", "host-b")
    web = house.container("web", "host-a")
    house.container(f"zun-{zuns}", "host-b", uuid_=zuns)
    for ident, host, container in [
        ("web", "host-a", web),
        (web, "host-a", web),
        (web[:12], "host-a", web),
        (zuns, "host-b", zuns),
        (zuns.upper(), "host-b", zuns),
        (f"zun-{zuns}", "host-b", zuns),
    ]:
        request_id = house.ask(ident)
        sent = house.sent(host)[-1]
        assert sent.payload["request_id"] == request_id
        assert sent.payload["container"] == container
        assert sent.payload["host"] == host
        assert sent.requester == ALICE
        assert house.state(request_id) is DispatchState.SENT
    assert house.courier.told == []


def test_what_the_host_gets_is_the_request_and_its_limits(house: House) -> None:
    house.container()
    house.ask(tag="v1", metadata={"a": "b"}, stores=["glance"])
    (sent,) = house.sent()
    now = house.clock.now()
    assert sent.payload["tag"] == "v1"
    assert sent.payload["metadata"] == {"a": "b"}
    assert sent.payload["accept_by"] == (now + PATIENCE.host).isoformat()
    assert sent.payload["deadline"] == (now + PATIENCE.deadline).isoformat()


def test_a_deadline_is_the_last_moment_to_take_a_request(house: House) -> None:
    house.container()
    soon = (house.clock.now() + timedelta(seconds=7)).isoformat()
    house.ask(deadline=soon)
    assert house.sent()[0].payload["accept_by"] == soon


def test_a_request_that_comes_twice_is_sent_once_and_another_body_a_conflict(house: House) -> None:
    house.container()
    request_id = house.ask()
    house.ask(request_id=request_id)
    assert len(house.sent()) == 1
    assert house.answers(request_id) == []

    house.ask(request_id=request_id, tag="other")
    house.ask(request_id=request_id, who=MALLORY)
    assert {each["fault"]["code"] for each in house.answers(request_id)} == {409}
    assert len(house.sent()) == 1
    assert len(house.router.dispatcher.dispatches.dead_letters()) == 2


# Who may, and which


def test_an_ambiguous_name_is_refused_with_the_candidates(house: House) -> None:
    one, two = house.container(host="host-a"), house.container(host="host-b")
    request_id = house.ask()
    fault = house.fault(request_id)
    assert fault["code"] == 409
    assert f"{one} on host-a" in fault["message"]
    assert f"{two} on host-b" in fault["message"]
    assert house.sent("host-a") == house.sent("host-b") == []

    house.ask(host="host-b")
    assert [each.payload["container"] for each in house.sent("host-b")] == [two]


def test_a_name_means_the_requesters_own_container(house: House) -> None:
    house.container(host="host-a", project_id="project-m")
    mine = house.container(host="host-b", project_id="project-a")
    house.ask()
    assert [each.payload["container"] for each in house.sent("host-b")] == [mine]


@pytest.mark.parametrize(
    ("owner", "who", "allowed"),
    [
        ("project-a", ALICE, True),
        ("project-a", ADMIN, True),
        ("project-a", MALLORY, False),
        ("project-a", Requester(), False),
        (None, MALLORY, True),
    ],
)
def test_only_the_owner_and_admins_may(
    house: House, owner: str | None, who: Requester, *, allowed: bool
) -> None:
    house.container(project_id=owner)
    request_id = house.ask(who=who)
    if allowed:
        assert len(house.sent()) == 1
    else:
        assert house.fault(request_id)["code"] == 403
        assert house.answers(request_id)[0]["project_id"] == who.project_id


def test_a_container_nobody_has_is_404_after_the_agents_were_asked(house: House) -> None:
    request_id = house.ask("nothing")
    assert [each.payload for each in house.courier.asked] == [{"container": "nothing"}]
    house.wait(3)
    assert house.answers(request_id) == []
    house.wait(4)
    assert house.fault(request_id)["code"] == 404
    assert house.state(request_id) is DispatchState.ENDED
    house.wait(100)
    assert len(house.courier.told) == 1
    assert len(house.courier.asked) == 1


def test_nothing_is_404_while_there_is_something_to_be_heard(house: House) -> None:
    house.ears.up_to_date = False
    request_id = house.ask("web")
    house.wait(60)
    assert house.answers(request_id) == []
    house.container("web")
    house.wait(1)
    assert len(house.sent()) == 1


def test_a_container_told_of_in_time_is_served(house: House) -> None:
    request_id = house.ask("web")
    web = house.container("web")
    house.wait(2)
    assert [each.payload["container"] for each in house.sent()] == [web]
    house.wait(10)
    assert house.answers(request_id) == []


@pytest.mark.parametrize("state", ["Other", "Creating", None])
def test_a_state_that_cannot_be_snapshotted_is_409_unless_it_changes_soon(
    house: House, state: str
) -> None:
    ident = house.container(state=state)
    late = house.ask()
    house.wait(7)
    assert house.fault(late)["code"] == 409

    in_time = house.ask()
    house.container(uuid_=ident, state="Running")
    house.wait(2)
    assert [each.payload["request_id"] for each in house.sent()] == [in_time]


@pytest.mark.parametrize("state", [ContainerState.STOPPED, ContainerState.PAUSED])
def test_stopped_and_paused_containers_are_sent_on(house: House, state: str) -> None:
    house.container(state=state)
    house.ask()
    assert len(house.sent()) == 1


def test_a_deleted_container_is_nobodys(house: House) -> None:
    ident = house.container()
    house.hear(CONTAINER_DELETE, {"uuid": ident})
    request_id = house.ask()
    house.wait(7)
    assert house.fault(request_id)["code"] == 404


# Messages that are wrong


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"container": "web"}, "/image_name"),
        ({"container": "web", "image_name": "a", "colour": 1}, "/colour"),
        (
            {
                "container": "web",
                "image_name": "a",
                "accept_by": "2030-01-01T00:00:00Z",
                "deadline": "2030-01-01T00:00:00Z",
            },
            "/accept_by",
        ),
        (5, "(document)"),
    ],
)
def test_an_invalid_request_is_answered_and_kept(house: House, payload: Any, words: str) -> None:
    house.send(COMMIT_REQUEST, payload, ALICE)
    (answer,) = house.courier.told
    assert checked(answer).payload["fault"]["code"] == 400
    assert words in answer.payload["fault"]["message"]
    assert [words in each.reason for each in house.router.dispatcher.dispatches.dead_letters()] == [
        True
    ]


def test_a_message_of_another_type_is_kept_without_an_answer(house: House) -> None:
    for event_type in ("instance.create", None, 5, ["a"], "\ud800"):
        house.send(event_type, {}, ALICE)  # type: ignore[arg-type]
    house.router.on_garbage("not JSON", {"body": "\ud800\x00"})
    assert house.courier.told == []
    assert len(house.router.dispatcher.dispatches.dead_letters()) == 6


def test_an_answer_that_cannot_be_told_is_the_buss_again(house: House) -> None:
    house.trouble.plan("courier.tell", Unavailable("away"))
    message = Message(COMMIT_REQUEST, {}, ALICE, str(uuid.uuid4()), None, "2026-01-01")
    with pytest.raises(Unavailable):
        house.router.on_request(message)
    house.router.on_request(message)
    assert len(house.courier.told) == 1
    assert len(house.router.dispatcher.dispatches.dead_letters()) == 1


# Hosts that are silent


def test_a_silent_host_is_504_and_its_request_withdrawn(house: House) -> None:
    house.container()
    image_id = str(uuid.uuid4())
    house.reserved(image_id)
    request_id = house.ask(image_id=image_id)
    house.wait(60 + 10)
    assert house.answers(request_id) == []
    house.wait(12)

    fault = house.fault(request_id)
    assert fault["code"] == 504
    assert "host-a" in fault["message"]
    assert fault["image_deleted"] is True
    assert house.store.images == {}
    (withdrawn,) = house.sent(event_type=COMMIT_CANCEL)
    assert withdrawn.payload["request_id"] == request_id
    assert withdrawn.payload["answered"] is True
    assert withdrawn.requester.is_admin
    house.wait(200)
    assert len(house.courier.told) == 1


def test_a_silent_host_is_asked_once_before_it_is_given_up(house: House) -> None:
    ident = house.container()
    request_id = house.ask()
    house.wait(60 + 11)
    (question,) = house.sent(event_type=EXISTS_REQUEST)
    assert question.payload == {"container": ident}
    # Its word had got lost: what it says now counts.
    end = house.finished(house.sent()[0]).event(SNAPSHOT_END, status="active")
    house.hear(SNAPSHOT_EXISTS, dict(end.payload))
    house.wait(100)
    assert house.answers(request_id) == []
    assert house.state(request_id) is DispatchState.ENDED


def test_the_other_host_is_not_disturbed(house: House) -> None:
    house.container("a", "host-a")
    house.container("b", "host-b")
    dead = house.ask("a")
    house.wait(30)
    alive = house.ask("b")
    house.say(house.snapshot(house.sent("host-b")[0], "host-b").accepted())
    house.wait(100)
    assert house.fault(dead)["code"] == 504
    assert house.answers(alive) == []
    assert house.state(alive) is DispatchState.ACCEPTED


def test_a_host_that_took_the_request_has_until_the_deadline(house: House) -> None:
    house.container()
    request_id = house.ask()
    house.say(house.snapshot(house.sent()[0]).accepted())
    assert house.state(request_id) is DispatchState.ACCEPTED
    house.wait(3600, step=10)
    assert house.answers(request_id) == []
    house.wait(60)
    assert house.fault(request_id)["code"] == 504


def test_what_a_host_had_reserved_is_deleted_when_it_is_given_up(house: House) -> None:
    house.container()
    request_id = house.ask()
    image_id = image_id_for(request_id)
    house.reserved(image_id)
    begun = house.snapshot(house.sent()[0], copies=(Copy("glance", image_id),))
    house.say(begun.accepted())
    house.say(begun.event(SNAPSHOT_START, status="queued"))
    house.wait(3600 + 60, step=10)
    assert house.fault(request_id)["image_deleted"] is True
    assert house.store.images == {}


def test_an_image_in_a_hosts_own_store_is_not_said_to_be_deleted(house: House) -> None:
    house.container()
    request_id = house.ask()
    begun = house.snapshot(house.sent()[0], copies=(Copy("directory", str(uuid.uuid4())),))
    house.say(begun.event(SNAPSHOT_START, status="queued"))
    house.wait(3600 + 60, step=10)
    assert house.fault(request_id)["image_deleted"] is False


@pytest.mark.parametrize("outcome", [SNAPSHOT_END, SNAPSHOT_ERROR])
def test_an_outcome_ends_the_matter(house: House, outcome: str) -> None:
    house.container()
    request_id = house.ask()
    made = house.finished(house.sent()[0])
    if outcome == SNAPSHOT_ERROR:
        made = made.failed("snapshot.upload", Unavailable("x"))
        assert made.fault is not None
        made = replace(made, fault=replace(made.fault, image_deleted=True))
    event = made.event(outcome, status="active" if outcome == SNAPSHOT_END else "error")
    house.say(replace(event, payload={**event.payload, "duration_ms": 1}))
    assert house.state(request_id) is DispatchState.ENDED
    house.wait(4000, step=10)
    assert house.answers(request_id) == []
    house.ask(request_id=request_id)
    assert len(house.sent()) == 1


def test_words_out_of_order_change_nothing(house: House) -> None:
    house.container()
    request_id = house.ask()
    made = house.finished(house.sent()[0])
    end = made.event(SNAPSHOT_END, status="active")
    house.say(replace(end, payload={**end.payload, "duration_ms": 1}))
    house.say(made.accepted())
    house.say(made.event(SNAPSHOT_START, status="queued"))
    assert house.state(request_id) is DispatchState.ENDED
    record = house.router.dispatcher.index.snapshot(request_id)
    assert record is not None
    assert record.payload["status"] == "active"


def test_nobody_is_given_up_while_something_may_not_have_been_heard(house: House) -> None:
    house.container()
    request_id = house.ask()
    house.ears.undisturbed = False
    house.wait(300)
    assert house.answers(request_id) == []
    house.say(house.snapshot(house.sent()[0]).accepted())
    house.ears.undisturbed = True
    house.wait(300)
    assert house.answers(request_id) == []


def test_the_answer_to_a_refused_message_is_not_taken_for_the_outcome(house: House) -> None:
    house.container()
    request_id = house.ask()
    house.ask(request_id=request_id, tag="other")
    (conflict,) = house.courier.told
    house.say(conflict)
    assert house.state(request_id) is DispatchState.SENT
    assert house.router.dispatcher.index.snapshot(request_id) is None


def test_a_host_without_a_queue_is_tried_until_its_time_is_over(house: House) -> None:
    house.container(host="host-c")
    request_id = house.ask()
    house.wait(10)
    house.courier.hosts["host-c"] = []
    house.wait(2)
    assert len(house.sent("host-c")) == 1
    assert house.state(request_id) is DispatchState.SENT

    house.container("lost", host="host-d")
    lost = house.ask("lost")
    house.wait(65)
    assert house.fault(lost)["code"] == 504


# The bus, the store and the router itself fail


def test_a_request_waits_while_the_bus_is_away(house: House) -> None:
    house.container()
    house.trouble.plan("courier.to_host", Unavailable("away"), times=5)
    request_id = house.ask()
    assert house.state(request_id) is DispatchState.PARKED
    house.wait(8)
    assert [each.payload["request_id"] for each in house.sent()] == [request_id]


@pytest.mark.parametrize("call", ["courier.tell", "courier.to_host", "glance.discard"])
def test_an_answer_is_told_though_something_fails_at_first(house: House, call: str) -> None:
    house.container()
    image_id = str(uuid.uuid4())
    house.reserved(image_id)
    request_id = house.ask(image_id=image_id)
    house.trouble.plan(call, Unavailable("away"), times=2)
    house.wait(60 + 120)
    assert house.fault(request_id)["code"] == 504
    assert house.store.images == {}
    assert len(house.sent(event_type=COMMIT_CANCEL)) >= 1


def test_a_store_that_stays_away_does_not_keep_the_answer_for_ever(house: House) -> None:
    house.container()
    image_id = str(uuid.uuid4())
    house.reserved(image_id)
    request_id = house.ask(image_id=image_id)
    house.trouble.plan("glance.describe", Unavailable("away"), times=1000)
    house.wait(60 + 200)
    assert house.fault(request_id)["image_deleted"] is False


def test_another_router_goes_on_with_what_one_left(house: House) -> None:
    house.container()
    # This one is killed right after it had taken the request.
    house.trouble.plan("courier.to_host", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        house.ask()
    house.router = house.another_router()
    house.clock.advance(LEASE.total_seconds())
    house.router.dispatcher.sweep()
    assert len(house.sent()) == 1


def test_a_request_that_is_delivered_again_goes_on_at_once(house: House) -> None:
    house.container()
    request_id = str(uuid.uuid4())
    house.trouble.plan("courier.to_host", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        house.ask(request_id=request_id)
    house.ask(request_id=request_id)
    assert len(house.sent()) == 1
    assert house.sent()[0].payload["request_id"] == request_id


def test_both_routers_see_one_dispatch_as_due_to_one_of_them(house: House) -> None:
    house.ask("nothing")
    house.clock.advance(LEASE.total_seconds())
    assert house.router.dispatcher.sweep() + house.another_router().dispatcher.sweep() == 1


# Cancelling


def test_a_cancel_is_forwarded_to_the_host(house: House) -> None:
    house.container()
    request_id = house.ask()
    house.cancel(request_id, reason="changed my mind")
    (cancel,) = house.sent(event_type=COMMIT_CANCEL)
    assert cancel.payload == {"request_id": request_id, "reason": "changed my mind"}
    assert house.courier.told == []


def test_a_parked_request_is_cancelled_at_once(house: House) -> None:
    request_id = house.ask("nothing")
    house.cancel(request_id)
    assert house.fault(request_id)["code"] == 499
    house.container("nothing")
    house.wait(60)
    assert house.sent() == []
    assert len(house.courier.told) == 1


def test_a_snapshot_asked_for_at_its_host_is_cancelled_by_way_of_the_index(house: House) -> None:
    request_id = str(uuid.uuid4())
    sent = Event(
        COMMIT_REQUEST,
        {"container": "web", "image_name": "snap", "request_id": request_id},
        ALICE,
        request_id,
    )
    image_id = str(uuid.uuid4())
    start = house.snapshot(sent, copies=(Copy("glance", image_id),)).event(
        SNAPSHOT_START, status="queued"
    )
    house.say(start)
    house.cancel(request_id)
    assert [each.payload["request_id"] for each in house.sent(event_type=COMMIT_CANCEL)] == [
        request_id
    ]


@pytest.mark.parametrize(
    ("who", "code"), [(ALICE, None), (ADMIN, None), (MALLORY, 403), (Requester(), 403)]
)
def test_only_the_requesters_project_and_admins_cancel(
    house: House, who: Requester, code: int | None
) -> None:
    house.container()
    request_id = house.ask()
    house.cancel(request_id, who=who)
    assert len(house.sent(event_type=COMMIT_CANCEL)) == (code is None)
    assert [each["fault"]["code"] for each in house.answers(request_id)] == [code][: code or 0]


def test_cancelling_what_is_not_there_or_has_ended_is_answered(house: House) -> None:
    unknown = str(uuid.uuid4())
    house.cancel(unknown)
    assert house.fault(unknown)["code"] == 404

    ended = house.ask("nothing")
    house.wait(7)
    house.cancel(ended)
    assert sorted(each["fault"]["code"] for each in house.answers(ended)) == [404, 409]

    house.courier.hosts["host-x"] = []
    house.container("x", "host-x")
    gone = house.ask("x")
    del house.courier.hosts["host-x"]
    house.cancel(gone)
    assert house.fault(gone)["code"] == 409


def promise(house: House) -> str:
    """Let the REST service promise a snapshot whose request has not come yet; return its id."""
    payload = {"container": "web", "image_name": "snap", "request_id": str(uuid.uuid4())}
    request = Event(COMMIT_REQUEST, payload, ALICE)
    begun = Snapshot.begin(request, host="host-a", created_at=house.clock.now().isoformat())
    house.router.dispatcher.index.note([SnapshotRecord.promised(begun.public("queued"))])
    return payload["request_id"]


def test_a_cancellation_waits_a_while_for_the_request_that_it_has_overtaken(house: House) -> None:
    house.container()
    request_id = promise(house)
    with pytest.raises(Unavailable, match="not here yet"):
        house.cancel(request_id)
    assert house.courier.told == []
    house.ask(request_id=request_id)
    house.cancel(request_id)
    (cancel,) = house.sent(event_type=COMMIT_CANCEL)
    assert cancel.payload["request_id"] == request_id


def test_a_cancellation_does_not_wait_for_ever(house: House) -> None:
    request_id = promise(house)
    house.clock.advance(61)
    house.cancel(request_id)
    assert len(house.sent(event_type=COMMIT_CANCEL)) == 1


def test_cancelling_twice_is_cancelling_once(house: House) -> None:
    request_id = house.ask("nothing")
    house.cancel(request_id)
    house.say(house.courier.told[0])
    house.cancel(request_id)
    assert len(house.courier.told) == 1


# Deletions


def test_an_announced_deletion_is_told_to_the_host(house: House) -> None:
    ident = house.container(host="host-b")
    house.hear(CONTAINER_DELETE_START, {"uuid": ident})
    (told,) = house.sent("host-b", CONTAINER_DELETE_START)
    assert told.payload["container_uuid"] == ident
    assert told.payload["event_id"]
    house.hear(CONTAINER_DELETE_START, {"uuid": "unknown"})
    house.hear(CONTAINER_DELETE_START, {"uuid": "unknown", "host": "unknown"})
    assert house.courier.told == []


def test_a_deletion_stops_what_the_container_has_in_hand(house: House) -> None:
    ident = house.container()
    request_id = house.ask()
    house.hear(CONTAINER_DELETE, {"uuid": ident})
    (cancel,) = house.sent(event_type=COMMIT_CANCEL)
    assert cancel.payload["request_id"] == request_id
    assert "deleted" in cancel.payload["reason"]


# Events of all kinds


def test_what_is_of_no_interest_is_passed_over(house: House) -> None:
    for event_type in ("compute.instance.create.end", None, 5, ["x"], "container.weird", "\ud800"):
        house.hear(event_type, {"uuid": "x"})  # type: ignore[arg-type]
    assert house.router.dispatcher.index.containers() == []
    assert house.router.dispatcher.dispatches.dead_letters() == []


@pytest.mark.parametrize(
    "payload",
    [None, 5, [], {}, {"uuid": 5}, {"uuid": ""}, {"uuid": "a\x00"}, {"uuid": "x", "host": 5}],
)
def test_an_event_that_cannot_be_right_is_kept(house: House, payload: Any) -> None:
    house.hear(CONTAINER_EXISTS, payload)
    house.hear(COMMIT_ACCEPTED, payload)
    assert house.router.dispatcher.index.containers() == []
    assert len(house.router.dispatcher.dispatches.dead_letters()) == 2


def test_a_versioned_object_is_unwrapped(house: House) -> None:
    ident = str(uuid.uuid4())
    data = {"uuid": ident, "name": "web", "host": "host-b", "status": "Running"}
    house.hear("container.start.end", {"zun_object.data": data})
    house.ask()
    assert [each.payload["container"] for each in house.sent("host-b")] == [ident]


def test_a_new_index_asks_for_everything(house: House) -> None:
    house.router.dispatcher.ask(None)
    assert [(each.type, dict(each.payload)) for each in house.courier.asked] == [
        (EXISTS_REQUEST, {})
    ]


# What is nobody's to delete, and whose request is whose


@pytest.mark.parametrize("who", [ALICE, MALLORY])
def test_a_good_image_is_not_deleted_for_a_request_under_its_id(
    house: House, who: Requester
) -> None:
    request_id, image_id = house.made()
    house.ask("no-such-container", who=who, request_id=request_id)
    house.ask("no-such-container", who=who, request_id=request_id, tag="another")
    house.wait(20)
    assert image_id in house.store.images
    assert {each["fault"]["code"] for each in house.answers(request_id)} == {409}


def test_a_request_that_a_host_has_already_is_not_sent_again(house: House) -> None:
    house.container()
    request_id, _ = house.made()
    house.ask(request_id=request_id)
    house.wait(100)
    assert house.sent() == []
    assert house.answers(request_id) == []


def test_nobody_cancels_anothers_snapshot_by_taking_its_id(house: House) -> None:
    house.container("mine", project_id="project-m")
    request_id, _ = house.made()
    house.ask("mine", who=MALLORY, request_id=request_id)
    house.cancel(request_id, who=MALLORY)
    assert house.sent(event_type=COMMIT_CANCEL) == []


def test_a_cancel_is_the_requesters_own_word_to_the_host(house: House) -> None:
    house.container()
    request_id = house.ask()
    house.cancel(request_id)
    assert [each.requester for each in house.sent(event_type=COMMIT_CANCEL)] == [ALICE]


def test_an_image_that_is_told_of_before_it_was_reserved_is_not_taken_for_ours(
    house: House,
) -> None:
    theirs = str(uuid.uuid4())
    house.reserved(theirs, owner="project-v")
    house.store.upload(theirs, [b"data"])
    house.container(project_id="project-m")
    request_id = house.ask(who=MALLORY, image_id=theirs)
    begun = house.snapshot(house.sent()[0], copies=(Copy("glance", theirs),))
    house.say(begun.accepted())
    waits = begun.event(SNAPSHOT_PROGRESS, status="waiting", key="snapshot.reserve/1")
    house.hear(SNAPSHOT_EXISTS, dict(waits.payload), MALLORY)
    house.wait(3600 + 100, step=10)
    assert house.fault(request_id)["code"] == 504
    assert theirs in house.store.images


def test_what_a_host_reserved_and_could_not_tell_is_deleted(house: House) -> None:
    house.container()
    request_id = house.ask()
    house.say(house.snapshot(house.sent()[0]).accepted())
    house.reserved(image_id_for(request_id))
    house.wait(3600 + 100, step=10)
    assert house.fault(request_id)["image_deleted"] is True
    assert house.store.images == {}


def test_an_image_out_of_the_routers_reach_is_not_said_to_be_deleted(house: House) -> None:
    bare = replace(house.router.dispatcher.services, stores={}, default_stores=())
    house.router = replace(house.router, dispatcher=replace(house.router.dispatcher, services=bare))
    house.container()
    image_id = str(uuid.uuid4())
    house.reserved(image_id)
    request_id = house.ask(image_id=image_id)
    house.wait(100)
    assert house.fault(request_id)["image_deleted"] is False


def test_another_projects_word_under_the_same_id_is_not_the_hosts_answer(house: House) -> None:
    house.container()
    request_id = house.ask()
    (sent,) = house.sent()
    house.say(house.finished(replace(sent, requester=MALLORY)).accepted())
    assert house.state(request_id) is DispatchState.SENT


# Odd moments


def test_a_host_that_works_on_it_is_not_silent(house: House) -> None:
    house.container()
    request_id = house.ask()
    house.wait(71)
    assert house.sent(event_type=EXISTS_REQUEST)
    begun = house.snapshot(
        house.sent()[0], copies=(Copy("glance", str(uuid.uuid4())),), phase="uploading"
    )
    house.hear(
        SNAPSHOT_EXISTS, dict(begun.event(SNAPSHOT_PROGRESS, status="saving", key="1").payload)
    )
    house.wait(100)
    assert house.answers(request_id) == []
    assert house.state(request_id) is DispatchState.ACCEPTED


def test_a_deadline_at_the_end_of_time_is_a_deadline(house: House) -> None:
    house.container()
    request_id = house.ask(deadline="9999-12-31T23:59:59Z")
    house.say(house.snapshot(house.sent()[0]).accepted())
    assert house.state(request_id) is DispatchState.ACCEPTED


def test_a_request_that_was_on_its_way_keeps_its_container(house: House) -> None:
    first = house.container("web", "host-a")
    house.trouble.plan("courier.to_host", Unavailable("the confirm was lost"))
    house.ask()
    house.hear("container.rename.end", {"container_uuid": first, "container_name": "old"})
    house.container("web", "host-b")
    house.wait(3)
    assert [each.payload["container"] for each in house.sent("host-a")] == [first]
    assert house.sent("host-b") == []


def test_a_bus_that_was_away_costs_a_host_none_of_its_time(house: House) -> None:
    house.container()
    house.trouble.plan("courier.to_host", Unavailable("away"), times=90)
    request_id = house.ask()
    house.wait(100)
    assert house.answers(request_id) == []
    (sent,) = house.sent()
    assert datetime.fromisoformat(sent.payload["accept_by"]) > house.clock.now()


def test_a_dispatch_that_breaks_does_not_hold_up_the_others(house: House) -> None:
    house.container("a", "host-a")
    house.container("b", "host-b")
    queues, house.courier.hosts = house.courier.hosts, {}
    house.ask("a")
    house.ask("b")
    house.courier.hosts = queues
    house.trouble.plan("courier.to_host", ZeroDivisionError("a defect"))
    house.wait(3)
    assert len(house.sent("host-a") + house.sent("host-b")) == 1
    house.wait(LEASE.total_seconds())
    assert len(house.sent("host-a")) == len(house.sent("host-b")) == 1


def test_the_hosts_own_name_counts_for_a_deletion(house: House) -> None:
    ident = house.container(host="host-b")
    house.hear(CONTAINER_DELETE_START, {"uuid": ident, "host": "host-b.example.org"})
    assert len(house.sent("host-b", CONTAINER_DELETE_START)) == 1


# What it knows of its own ears


class Waiting:
    """A listener, as its router sees it."""

    def __init__(self) -> None:
        self.listening, self.messages, self.looks = True, 0, 0

    def backlog(self) -> int:
        self.looks += 1
        if self.messages < 0:
            raise Unavailable("away")
        return self.messages


def ears_of(waiting: Waiting, quiet_seconds: float = 0.0) -> ServiceEars:
    ears = ServiceEars(lambda: waiting.listening, waiting.backlog, quiet_seconds)
    ears.look()
    return ears


def test_all_is_heard_when_nothing_waits_and_nothing_interrupted() -> None:
    assert ears_of(Waiting()).complete()
    assert not ears_of(Waiting(), quiet_seconds=3600.0).complete()
    assert ears_of(Waiting(), quiet_seconds=3600.0).caught_up()


def test_what_waits_or_cannot_be_known_is_not_heard() -> None:
    for messages in (1, -1):
        waiting = Waiting()
        waiting.messages = messages
        ears = ears_of(waiting)
        assert not ears.caught_up()
        assert not ears.complete()


def test_an_interruption_counts_until_it_has_been_quiet_for_long_enough() -> None:
    waiting = Waiting()
    ears = ears_of(waiting)
    ears.interrupted()
    assert ears.caught_up()
    assert not ears.complete()
    ears.look()
    assert ears.complete()
    waiting.listening = False
    ears.look()
    assert not ears.caught_up()
    assert not ears.complete()


def test_the_broker_is_asked_once_for_each_look() -> None:
    waiting = Waiting()
    ears = ears_of(waiting)
    for _ in range(5):
        ears.complete()
    assert waiting.looks == 1
