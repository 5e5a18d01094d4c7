"""Whatever dies, and whenever: one image, one end, nothing left behind, the container runs."""

from __future__ import annotations

import random
import time
import uuid
from typing import Any

import pytest
from docker import DockerClient

from tests.support.agent import AgentProcess, left_on
from tests.support.docker import Containers, fill, state_of
from tests.support.kill_points import points
from tests.support.openstack import Cloud
from tests.support.rabbit import until
from tintype.adapters.docker_engine import DockerEngine
from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.core.engine import CaptureOptions
from tintype.core.events import OUTCOMES, SNAPSHOT_END, SNAPSHOT_START

WRITES = 30
"""Points at which a snapshot into one store can be killed: before and after each journal write.
`test_the_last_point_is_past_the_end` says whether this still covers them all."""


def assert_done_once(
    agent: AgentProcess, request_id: str, client: DockerClient, cloud: Cloud, container: Any
) -> None:
    """See that a request ended well, once, and left nothing behind."""
    end = agent.witness.outcome(request_id)
    assert end["fault"] is None, end["fault"]
    glance = cloud.connection(cloud.service).image
    found = glance.get(f"/images?snapshot_request_id={request_id}").json()["images"]
    assert [(image["id"], image["status"]) for image in found] == [(end["image_id"], "active")]
    until(lambda: left_on(client, request_id) == [], "the engine to be clean")
    assert state_of(container) == "running"
    until(lambda: agent.witness.of(request_id, SNAPSHOT_START), "the start event")
    assert len(agent.witness.of(request_id, SNAPSHOT_START)) == 1
    assert len(agent.witness.of(request_id, *OUTCOMES)) == 1
    glance.delete_image(end["image_id"])


@pytest.mark.parametrize("write", points(range(1, WRITES + 1)))
def test_a_listener_killed_at_any_write_finishes_after_its_restart(
    agent: AgentProcess,
    container: Containers,
    docker_client: DockerClient,
    cloud: Cloud,
    write: int,
) -> None:
    web = container()
    request_id = agent.request(web.id)
    agent.start(kill_at=write)
    until(lambda: agent.died() or agent.witness.of(request_id, SNAPSHOT_END), "the kill or the end")
    if not agent.died():
        # The confirms of the last events may be written in one order or the other.
        agent.kill()
    agent.start()
    assert_done_once(agent, request_id, docker_client, cloud, web)
    assert agent.stop() == 0


def test_the_last_point_is_past_the_end(agent: AgentProcess, container: Containers) -> None:
    request_id = agent.request(container().id, stores=["directory"])
    agent.start(kill_at=WRITES + 1)
    agent.witness.outcome(request_id)
    assert not agent.died()
    assert agent.stop() == 0


def test_a_listener_killed_again_and_again_finishes(
    agent: AgentProcess, container: Containers, docker_client: DockerClient, cloud: Cloud
) -> None:
    big = container()
    fill(big, 200)
    seed = uuid.uuid4().int
    print(f"seed {seed}")
    chance = random.Random(seed)
    request_id = agent.request(big.id)
    for _ in range(8):
        agent.start()
        time.sleep(chance.uniform(0.8, 3.0))  # the very point: a kill at no particular moment
        agent.kill()
    agent.start()
    assert_done_once(agent, request_id, docker_client, cloud, big)
    assert agent.stop() == 0


def test_a_container_left_frozen_by_a_kill_runs_after_the_restart(
    agent: AgentProcess, container: Containers, docker_client: DockerClient, cloud: Cloud
) -> None:
    web = container()
    fill(web, 400)
    request_id = agent.request(web.id)
    agent.start()
    until(lambda: state_of(web) == "paused", "the freeze")
    agent.kill()
    assert state_of(web) == "paused", "the kill came after the commit"
    agent.start()
    until(lambda: state_of(web) == "running", "the thaw")
    assert_done_once(agent, request_id, docker_client, cloud, web)


def test_a_broker_away_for_20_seconds_in_the_middle_costs_nothing(
    agent: AgentProcess, container: Containers, docker_client: DockerClient, cloud: Cloud
) -> None:
    web = container()
    fill(web, 300)
    request_id = agent.request(web.id)
    agent.start()
    until(lambda: agent.witness.of(request_id, SNAPSHOT_START), "the start")
    agent.broker.stop()
    assert not agent.witness.of(request_id, *OUTCOMES), "the snapshot was over before the outage"
    time.sleep(20)
    agent.broker.start()
    assert_done_once(agent, request_id, docker_client, cloud, web)
    again = agent.request(web.id, tag="again")
    assert_done_once(agent, again, docker_client, cloud, web)
    assert agent.stop() == 0


def test_a_capture_that_nobody_waits_for_is_removed_at_the_start(
    agent: AgentProcess, container: Containers, docker_client: DockerClient, engine_url: str
) -> None:
    """An engine goes on with a commit whose client was killed, after all else was cleaned up."""
    web = container()
    journal = SqliteJournal(agent.folder / "journal.sqlite")
    engine = DockerEngine(engine_url, instance=journal.instance)
    forgotten = str(uuid.uuid4())
    engine.capture(engine.inspect(str(web.id)), forgotten, CaptureOptions(pause=False))
    engine.close()
    journal.close()
    assert left_on(docker_client, forgotten)
    agent.start()
    until(lambda: not left_on(docker_client, forgotten), "the housekeeper")
    assert agent.stop() == 0


def test_sigterm_in_the_middle_leaves_the_rest_to_the_next_start(
    agent: AgentProcess, container: Containers, docker_client: DockerClient, cloud: Cloud
) -> None:
    agent.options["agent"]["graceful_timeout"] = 0
    web = container()
    fill(web, 300)
    request_id = agent.request(web.id)
    agent.start()
    until(
        lambda: any(event["bytes_done"] for event in agent.witness.of(request_id)),
        "an upload in progress",
    )
    assert agent.stop() == 0
    assert not agent.witness.of(request_id, *OUTCOMES)
    assert state_of(web) == "running"
    agent.start()
    assert_done_once(agent, request_id, docker_client, cloud, web)


def test_fifty_requests_at_once_get_fifty_answers(
    agent: AgentProcess, container: Containers, docker_client: DockerClient
) -> None:
    names = [container().name for _ in range(5)]
    missing = [f"missing-{number}" for number in range(5)]
    good = [agent.request(name, stores=["directory"]) for name in names * 4 for _ in range(1)]
    absent = [agent.request(name, stores=["directory"]) for name in missing * 4]
    malformed = [agent.request(name, image_name="Bad Name") for name in (names + missing)]
    assert len(good + absent + malformed) == 50
    agent.start()
    expected = dict.fromkeys(good, 0) | dict.fromkeys(absent, 404) | dict.fromkeys(malformed, 400)
    for request_id, code in expected.items():
        outcome = agent.witness.outcome(request_id)
        assert (outcome["fault"] or {"code": 0})["code"] == code, outcome
    for request_id in expected:
        assert len(agent.witness.of(request_id, *OUTCOMES)) == 1
    until(lambda: left_on(docker_client, *good) == [], "the engine to be clean")
    assert len(list((agent.folder / "images").iterdir())) == len(good)
