"""More than one host: requests find theirs, and nothing that dies costs a request."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest

from tests.support.agent import left_on
from tests.support.docker import fill, state_of
from tests.support.fleet import Fleet
from tests.support.openstack import Cloud
from tests.support.rabbit import until
from tintype.core.errors import NotFound
from tintype.core.events import (
    CONTAINER_DELETE_START,
    OUTCOMES,
    SNAPSHOT_END,
    SNAPSHOT_ERROR,
    SNAPSHOT_START,
    Requester,
)
from tintype.core.snapshot import image_id_for

RESTORED = {"label": "tintype.restore.request_id"}
"""What a container has that was made by a restore."""

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


def assert_ended_once(fleet: Fleet, request_id: str) -> dict[str, Any]:
    """See that a request ended well, and once, and left nothing on any engine."""
    end = fleet.outcome(request_id)
    assert end["fault"] is None, end["fault"]
    assert len(fleet.witness.of(request_id, *OUTCOMES)) == 1
    for host in fleet.hosts.values():
        until(lambda host=host: not left_on(host.machine.client, request_id), "a clean engine")
    return end


def test_requests_by_name_uuid_and_id_land_on_the_right_host(fleet: Fleet) -> None:
    east, west = fleet.hosts["east"], fleet.hosts["west"]
    zuns = str(uuid.uuid4())
    web = east.containers(name=f"web-{uuid.uuid4().hex[:6]}")
    db = west.containers(name=f"db-{uuid.uuid4().hex[:6]}")
    theirs = west.containers(name=f"zun-{zuns}")
    twins = f"twin-{uuid.uuid4().hex[:6]}"
    both = [host.containers(name=twins) for host in (east, west)]
    fleet.start()
    cases = {
        fleet.ask(str(web.name)): east,
        fleet.ask(str(web.id)): east,
        fleet.ask(str(db.id)[:20]): west,
        fleet.ask(zuns): west,
        fleet.ask(str(theirs.name)): west,
        fleet.ask(twins, host=east.host): east,
    }
    for request_id, host in cases.items():
        assert assert_ended_once(fleet, request_id)["host"] == host.host

    fault = fleet.outcome(fleet.ask(twins))["fault"]
    assert fault["code"] == 409
    assert all(str(each.id) in fault["message"] for each in both)
    assert fleet.outcome(fleet.ask("no-such-container"))["fault"]["code"] == 404
    assert [router.stop() for router in fleet.routers] == [0, 0]


def test_only_the_owner_may_ask_wherever_the_container_is(fleet: Fleet) -> None:
    theirs = fleet.hosts["west"].containers(labels={"tintype.project_id": "beta"})
    fleet.start()
    mine = fleet.ask(str(theirs.name), Requester("beta", "bob"))
    assert fleet.outcome(fleet.ask(str(theirs.name)))["fault"]["code"] == 403
    assert fleet.outcome(mine)["project_id"] == "beta"
    assert_ended_once(fleet, mine)


def test_a_snapshot_is_restored_where_it_was_made_or_where_it_is_wanted(fleet: Fleet) -> None:
    east, west = fleet.hosts["east"], fleet.hosts["west"]
    web = east.containers(name=f"web-{uuid.uuid4().hex[:6]}", files={"/srv/file": b"content"})
    fleet.start()
    made = {store: fleet.ask(str(web.name), stores=[store]) for store in ("glance", "directory")}
    for request_id in made.values():
        assert_ended_once(fleet, request_id)
    try:
        for about, host in (
            ({"snapshot_id": made["directory"]}, east),
            ({"snapshot_id": made["glance"]}, east),
            ({"snapshot_id": made["glance"], "host": west.host}, west),
            ({"image_id": image_id_for(made["glance"]), "host": west.host}, west),
        ):
            end = fleet.outcome(fleet.restore(network="none", **about))
            assert (end["fault"], end["host"]) == (None, host.host)
            restored = host.machine.client.containers.get(end["engine_container_id"])
            assert state_of(restored) == "running"
            content = restored.exec_run(["/bin/busybox", "cat", "/srv/file"])
            assert content.output == b"content"
        # What only the other host's disk holds is not there.
        fault = fleet.outcome(fleet.restore(snapshot_id=made["directory"], host=west.host))["fault"]
        assert fault["code"] == 404
        fault = fleet.outcome(fleet.restore(Requester("x", "y"), snapshot_id=made["glance"]))
        assert fault["fault"]["code"] == 404
        fault = fleet.outcome(fleet.restore(image_id=str(uuid.uuid4())))["fault"]
        assert (fault["code"], fault["message"][:6]) == (400, "/host:")
        fault = fleet.outcome(fleet.restore(snapshot_id=made["glance"], host="nowhere"))["fault"]
        assert fault["code"] == 404
    finally:
        for host in (east, west):
            for restored in host.machine.client.containers.list(all=True, filters=RESTORED):
                restored.remove(force=True, v=True)


def test_killing_a_router_an_agent_and_the_broker_in_turn_loses_nothing(fleet: Fleet) -> None:
    east, west = fleet.hosts["east"], fleet.hosts["west"]
    targets = [str(host.containers().name) for host in (east, west) for _ in range(3)]
    for router in fleet.routers:
        router.options["router"]["host_timeout"] = 120  # nobody is to be given up here
    fleet.start()
    asked = []

    asked += [fleet.ask(name) for name in targets]
    fleet.routers[0].kill()
    asked += [fleet.ask(name) for name in targets]
    fleet.routers[0].start()
    fleet.routers[0].await_up()

    asked += [fleet.ask(name) for name in targets]
    west.kill()
    asked += [fleet.ask(name) for name in targets]
    time.sleep(2)  # the very point: a host that is down for a while, less than its time
    west.start()

    asked += [fleet.ask(name) for name in targets]
    fleet.broker.stop()
    time.sleep(2)  # likewise
    fleet.broker.start()
    asked += [fleet.ask(name) for name in targets]

    for request_id in asked:
        assert_ended_once(fleet, request_id)


def test_a_host_that_stays_down_gives_504_and_the_other_is_not_disturbed(
    fleet: Fleet, cloud: Cloud
) -> None:
    east, west = fleet.hosts["east"], fleet.hosts["west"]
    web, db = east.containers(), west.containers()
    fleet.start()
    west.kill()
    project = str(cloud.connection(cloud.alice).current_project_id)
    store = cloud.store()
    reserved = store.reserve(cloud.spec(owner=project))
    lost = [
        fleet.ask(str(db.name), Requester(project, "u"), stores=["glance"], image_id=reserved.id),
        fleet.ask(str(db.name)),
    ]
    assert_ended_once(fleet, fleet.ask(str(web.name)))
    for request_id in lost:
        error = fleet.outcome(request_id)
        assert error["fault"]["code"] == 504
        assert west.host in error["fault"]["message"]
        assert error["fault"]["image_deleted"] is True
    with pytest.raises(NotFound):
        store.describe(reserved.id)
    assert_ended_once(fleet, fleet.ask(str(web.name)))

    # A late agent brings nothing back, and says nothing more.
    told = len(fleet.witness.events)
    west.start()
    west.await_up()
    assert_ended_once(fleet, fleet.ask(str(db.name)))
    time.sleep(3)  # longer than anything that is left could be put off
    since = [event["payload"].get("request_id") for event in fleet.witness.events[told:]]
    assert not set(since) & set(lost)
    assert not (west.folder / "images" / image_id_for(lost[1])).exists()
    assert left_on(west.machine.client, *lost) == []


def test_an_agent_killed_with_the_request_in_its_journal_does_not_come_back_with_it(
    fleet: Fleet,
) -> None:
    west = fleet.hosts["west"]
    db = west.containers()
    fleet.start()
    west.stop()
    west.start(kill_at=2)  # right after the request is in its journal
    request_id = fleet.ask(str(db.name))
    until(west.died, "the kill")
    assert fleet.outcome(request_id)["fault"]["code"] == 504
    west.start()
    west.await_up()
    assert_ended_once(fleet, fleet.ask(str(db.name)))
    assert {each["fault"]["code"] for each in fleet.witness.of(request_id, *OUTCOMES)} == {504}
    assert fleet.witness.of(request_id, SNAPSHOT_START, SNAPSHOT_END) == []
    assert not (west.folder / "images" / image_id_for(request_id)).exists()


def test_an_index_that_was_deleted_comes_back_the_same(fleet: Fleet) -> None:
    made = [host.containers() for host in fleet.hosts.values() for _ in range(3)]
    fleet.start()
    for each in made[:4]:
        assert_ended_once(fleet, fleet.ask(str(each.name)))
    made[0].stop(timeout=0)
    made[1].pause()
    made[2].rename(f"renamed-{uuid.uuid4().hex[:6]}")
    made[5].remove(force=True)
    states = {str(made[0].id): "Stopped", str(made[1].id): "Paused"}

    def settled() -> bool:
        known = {str(each.facts["engine_id"]): each for each in fleet.indexed()}
        return (
            str(made[5].id) not in known
            and all(known[ident].state == state for ident, state in states.items())
            and str(known[str(made[2].id)].name).startswith("renamed")
        )

    until(settled, "the index to know what has happened")
    before = {each.uuid: each.facts for each in fleet.indexed()}
    snapshots = {each.request_id: each.payload for each in fleet.snapshots()}
    assert len(snapshots) == 4

    assert [router.stop() for router in fleet.routers] == [0, 0]
    fleet.delete_index()
    assert fleet.indexed() == []
    for router in fleet.routers:
        router.start()
    until(
        lambda: {each.uuid: each.facts for each in fleet.indexed()} == before,
        "the same containers",
    )
    until(
        lambda: {each.request_id: each.payload for each in fleet.snapshots()} == snapshots,
        "the same snapshots",
    )


def test_a_cancel_and_a_deletion_end_what_is_in_hand(fleet: Fleet) -> None:
    east, west = fleet.hosts["east"], fleet.hosts["west"]
    big, doomed, announced = east.containers(), west.containers(), west.containers()
    for each in (big, doomed, announced):
        fill(each, 300)
    fleet.start()
    asked = {
        each: fleet.ask(str(each.name), stores=["glance"]) for each in (big, doomed, announced)
    }
    for request_id in asked.values():
        until(lambda request_id=request_id: fleet.witness.of(request_id, SNAPSHOT_START), "a start")
    fleet.cancel(asked[big])
    fleet.notify(CONTAINER_DELETE_START, {"uuid": str(announced.id)})
    doomed.remove(force=True)
    for each, request_id in asked.items():
        error = fleet.outcome(request_id)
        # One that is removed before its commit began cannot be committed either.
        assert error["fault"]["code"] in ((499, 409, 404) if each is doomed else (499,))
        assert error["fault"]["image_deleted"] is True
        assert len(fleet.witness.of(request_id, *OUTCOMES)) == 1
        if each is not doomed:
            assert state_of(each) == "running"
    assert not left_on(east.machine.client, *asked.values())
    assert not left_on(west.machine.client, *asked.values())


def test_labels_ask_for_snapshots(fleet: Fleet) -> None:
    east, west = fleet.hosts["east"], fleet.hosts["west"]
    labels = {
        "tintype.project_id": "alpha",
        "tintype.snapshot.image": "backup/{container_name}",
        "tintype.snapshot.keep-last": "2",
        "tintype.snapshot.stores": "directory",
    }
    stopping = east.containers(labels={**labels, "tintype.snapshot.on": "stop"})
    leaving = west.containers(labels={**labels, "tintype.snapshot.on": "before-delete"})
    wrong = west.containers(labels={"tintype.snapshot.on": "full-moon"})
    fleet.start()

    def ends(container: Any) -> list[dict[str, Any]]:
        found = [
            event["payload"]
            for event in list(fleet.witness.events)
            if event["event_type"] == SNAPSHOT_END
            and event["payload"]["engine_container_id"] == container.id
        ]
        return list({each["event_id"]: each for each in found}.values())

    for number in range(1, 4):
        stopping.stop(timeout=0)
        until(lambda number=number: len(ends(stopping)) == number, "a snapshot of the stopped")
        stopping.start()
    first, _, third = ends(stopping)
    assert third["image_name"] == f"backup/{stopping.name}"
    assert third["project_id"] == "alpha"
    assert [each["image_id"] for each in third["rotated_images"]] == [first["image_id"]]
    assert len(list((east.folder / "images").iterdir())) == 2

    fleet.notify(CONTAINER_DELETE_START, {"uuid": str(leaving.id), "host": west.host})
    until(lambda: ends(leaving), "a snapshot before the deletion")

    def complaints() -> list[str]:
        return [
            event["payload"]["fault"]["message"]
            for event in list(fleet.witness.events)
            if event["event_type"] == SNAPSHOT_ERROR
            and event["payload"]["container_name"] in (wrong.name, wrong.id)
        ]

    until(complaints, "a word about the wrong label")
    assert "tintype.snapshot.on" in complaints()[0]
