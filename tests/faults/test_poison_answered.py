"""Poison between good requests, through the whole listener: each good one is answered, once."""

from __future__ import annotations

import re
import sqlite3
import time
from pathlib import Path

import pytest

from tests.faults.test_poison import POISON
from tests.support.agent import AgentProcess, send_request
from tests.support.docker import Containers
from tests.support.rabbit import Line, until
from tintype.core.events import OUTCOMES, Requester

GROWTH_KB = 100 * 1024
"""What the listener may grow by: the largest poison expands to hundreds of MiB."""


def peak_kb(pid: int) -> int:
    """Return a process's peak resident size."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


def dead_letters(file: Path) -> list[str]:
    """Return the reasons of all dead letters in a database."""
    with sqlite3.connect(file) as database:
        return [reason for (reason,) in database.execute("SELECT reason FROM dead_letters")]


@pytest.mark.parametrize(
    ("roles", "keeper"), [("agent", "journal.sqlite"), ("agent,router", "index.sqlite")]
)
def test_every_good_request_between_poison_is_answered_once(
    agent: AgentProcess, container: Containers, roles: str, keeper: str
) -> None:
    web = container()
    agent.options["listener"]["roles"] = roles
    # The agent takes its host's own topic, a router the shared one.
    topic = agent.requests if "router" in roles else f"{agent.requests}.{agent.host}"

    def ask() -> str:
        payload = {"container": str(web.id), "image_name": "a/b", "stores": ["directory"]}
        return send_request(agent.broker, agent.exchange, topic, payload, Requester())

    agent.start()
    good = [ask()]
    agent.witness.outcome(good[0])
    assert agent.process is not None
    before = peak_kb(agent.process.pid)
    line = Line(agent.broker, agent.exchange, topic)
    for number, poison in enumerate(POISON.values()):
        poison.send(line)
        if number % 5 == 0:
            good.append(ask())
    good.append(ask())
    for request_id in good:
        assert agent.witness.outcome(request_id)["fault"] is None
    until(
        lambda: all(
            counts == ["0", "0"]
            for queue, counts in agent.broker.queues(
                "messages_ready", "messages_unacknowledged"
            ).items()
            if queue.startswith(agent.requests)
        ),
        "empty queues",
    )
    reasons = "\n".join(dead_letters(agent.folder / keeper))
    for name, poison in POISON.items():
        assert (poison.garbage or "event_type: expected") in reasons, name
    assert peak_kb(agent.process.pid) - before < GROWTH_KB
    time.sleep(2)  # a second outcome would come within the relay's rhythm
    for request_id in good:
        assert len(agent.witness.of(request_id, *OUTCOMES)) == 1
    assert not agent.died()
    assert agent.stop() == 0
