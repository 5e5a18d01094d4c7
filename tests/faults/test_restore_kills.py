"""Whatever dies in a restore, and whenever: one container, one end; or nothing is left of it."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from docker import DockerClient
from docker.models.containers import Container

from tests.support.agent import AgentProcess, left_on, send_request
from tests.support.docker import Containers, fill, state_of
from tests.support.kill_points import points
from tests.support.openstack import Cloud
from tests.support.rabbit import until
from tintype.adapters.directory import DirectoryStore
from tintype.core.events import (
    OUTCOMES,
    RESTORE_CANCEL,
    RESTORE_END,
    RESTORE_ERROR,
    RESTORE_REQUEST,
    RESTORE_START,
    Requester,
)
from tintype.core.images import ImageSpec

WRITES = 24
"""Points at which a restore can be killed: before and after each journal write.
`test_the_last_point_is_past_the_end` says whether this still covers them all."""

LABEL = "tintype.restore.request_id"


@dataclass
class Restores:
    """Asks an agent for restores, and knows what they have made."""

    agent: AgentProcess
    client: DockerClient
    asked: list[str] = field(default_factory=list)

    def ask(self, image_id: str, **fields: Any) -> str:
        """Ask for a container that sleeps, and return the request's id."""
        payload = {"event_type": RESTORE_REQUEST, "image_id": image_id, "network": "none", **fields}
        payload.setdefault("command", ["/bin/busybox", "sleep", "1000"])
        self.asked.append(self.send(payload))
        return self.asked[-1]

    def send(self, payload: dict[str, Any]) -> str:
        """Send a message to the agent's host."""
        agent = self.agent
        topic = f"{agent.requests}.{agent.host}"
        return send_request(agent.broker, agent.exchange, topic, payload, Requester())

    def made(self, request_id: str) -> list[Container]:
        """Return the containers of a request."""
        found = self.client.api.containers(
            all=True, filters={"label": f"{LABEL}={request_id}"}, quiet=True
        )
        return [self.client.containers.get(each["Id"]) for each in found]

    def require_one(self, request_id: str) -> Container:
        """See that a request ended well, once, with one container that runs, of one image."""
        container = self.require_made(request_id)
        assert len(self.agent.witness.of(request_id, *OUTCOMES)) == 1
        return container

    def require_made(self, request_id: str) -> Container:
        """See that a request ended well, whatever else was told of it."""
        until(lambda: self.agent.witness.of(request_id, *OUTCOMES), "the outcome")
        (end,) = self.agent.witness.of(request_id, RESTORE_END)
        (container,) = self.made(request_id)
        assert container.id == end["engine_container_id"]
        assert state_of(container) == "running"
        assert end["started"] is True
        (tag,) = left_on(self.client, request_id)
        assert self.client.api.inspect_image(tag)["Id"] == container.attrs["Image"]
        until(lambda: self.agent.witness.of(request_id, RESTORE_START), "the start event")
        assert len(self.agent.witness.of(request_id, RESTORE_START)) == 1
        return container

    def require_nothing(self, request_id: str) -> None:
        """See that nothing is left of a request."""
        until(lambda: not self.made(request_id), "its container to be gone")
        until(lambda: not left_on(self.client, request_id), "its image to be gone")

    def clean(self) -> None:
        """Remove what was made."""
        self.agent.close()
        for request_id in self.asked:
            for container in self.made(request_id):
                container.remove(force=True, v=True)
            for tag in left_on(self.client, request_id):
                self.client.images.remove(tag, force=True)


@pytest.fixture
def restores(agent: AgentProcess, docker_client: DockerClient) -> Iterator[Restores]:
    """An agent that is asked for restores."""
    restores = Restores(agent, docker_client)
    yield restores
    restores.clean()


@pytest.fixture(scope="session")
def saved(docker_client: DockerClient, busybox: str) -> bytes:
    """What `docker save` makes of a small image."""
    return b"".join(docker_client.api.get_image(busybox))


@pytest.fixture
def image_id(agent: AgentProcess, saved: bytes) -> str:
    """An image in the agent's directory that Tintype has not made."""
    store = DirectoryStore(agent.folder / "images")
    image_id = str(uuid.uuid4())
    store.reserve(ImageSpec(image_id, "theirs", "latest", None))
    store.upload(image_id, [saved])
    return image_id


@pytest.mark.parametrize("write", points(range(1, WRITES + 1)))
def test_a_listener_killed_at_any_write_finishes_after_its_restart(
    agent: AgentProcess, restores: Restores, image_id: str, write: int
) -> None:
    request_id = restores.ask(image_id)
    agent.start(kill_at=write)
    until(lambda: agent.died() or agent.witness.of(request_id, RESTORE_END), "the kill or the end")
    if not agent.died():
        # The confirms of the last events may be written in one order or the other.
        agent.kill()
    agent.start()
    restores.require_one(request_id)
    assert agent.stop() == 0


def test_the_last_point_is_past_the_end(
    agent: AgentProcess, restores: Restores, image_id: str
) -> None:
    request_id = restores.ask(image_id)
    agent.start(kill_at=WRITES + 1)
    agent.witness.outcome(request_id)
    assert not agent.died()
    assert agent.stop() == 0


@pytest.mark.parametrize("write", points([11, 6, 15, 18, 20]))
def test_a_listener_killed_while_it_undoes_leaves_nothing(
    agent: AgentProcess, restores: Restores, image_id: str, write: int
) -> None:
    request_id = restores.ask(image_id, command=["/no/such/program"])
    agent.start(kill_at=write)
    until(
        lambda: agent.died() or agent.witness.of(request_id, RESTORE_ERROR), "the kill or the end"
    )
    agent.kill()
    agent.start()
    outcome = agent.witness.outcome(request_id)
    assert "/no/such/program" in outcome["fault"]["message"]
    restores.require_nothing(request_id)
    assert len(agent.witness.of(request_id, *OUTCOMES)) == 1
    assert agent.stop() == 0


def test_a_restore_from_glance_killed_again_and_again_finishes(
    agent: AgentProcess, restores: Restores, container: Containers, cloud: Cloud
) -> None:
    big = container()
    fill(big, 100)
    snapshot = agent.request(big.id, stores=["glance"])
    agent.start()
    ended = agent.witness.outcome(snapshot)
    assert ended["fault"] is None, ended["fault"]
    agent.kill()
    seed = uuid.uuid4().int
    print(f"seed {seed}")
    chance = random.Random(seed)
    request_id = restores.ask(ended["image_id"])
    for _ in range(8):
        agent.start()
        time.sleep(chance.uniform(0.8, 3.0))  # the very point: a kill at no particular moment
        agent.kill()
    agent.start()
    made = restores.require_one(request_id)
    assert digest(made) == digest(big)
    assert agent.stop() == 0
    cloud.connection(cloud.service).image.delete_image(ended["image_id"])


def digest(container: Container) -> bytes:
    """Return the hash of the file that a container was filled with."""
    code, output = container.exec_run(["/bin/busybox", "sha256sum", "/fill"])
    assert code == 0, output
    return bytes(output)


def test_a_restore_that_is_cancelled_while_its_listener_is_dead_is_undone(
    agent: AgentProcess, restores: Restores, image_id: str
) -> None:
    request_id = restores.ask(image_id)
    agent.start(kill_at=15)
    until(agent.died, "the kill")
    restores.send({"event_type": RESTORE_CANCEL, "request_id": request_id})
    agent.start()
    outcome = agent.witness.outcome(request_id)
    if outcome["fault"] is None or outcome["fault"]["code"] == 409:
        # The cancellation came when it had ended already, and was told so.
        until(lambda: agent.witness.of(request_id, RESTORE_END), "the end")
        restores.require_made(request_id)
    else:
        assert outcome["fault"]["code"] == 499
        restores.require_nothing(request_id)
    assert agent.stop() == 0
