"""docs/publishing.md keeps its word: both ways to ask for a snapshot run as they stand there.

Only what is the reader's own is replaced: the broker's address, ids, and names that would meet
those of other tests.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path
from typing import Any

import kombu
import pytest

from tests.support.rabbit import DEADLINE, Inbox, Line, until
from tintype.adapters import envelope
from tintype.core.events import COMMIT_REQUEST, Requester
from tintype.core.snapshot import snapshot_id_for
from tintype.schemas import validate

PUBLISHING = (Path(__file__).parents[2] / "docs" / "publishing.md").read_text()

TOPIC = "container-requests"
BLOCKS = {
    heading: textwrap.dedent(code)
    for heading, code in re.findall(
        r"^## With ([\w.]+).*\n\n((?:    .*\n|\n)+)", PUBLISHING, re.MULTILINE
    )
}
"""The code under `With …`, by the library's name."""


@pytest.fixture
def requests(line: Line) -> str:
    """Have a listener of ours make the queue of requests, and leave; return its name."""
    listener = line.listen(Inbox(), topics=[TOPIC])
    assert listener.stop(DEADLINE)
    return f"{TOPIC}.info"


def adapted(code: str, replacements: dict[str, str]) -> str:
    """Return code with the reader's own words in it, each of which must be there."""
    for theirs, ours in replacements.items():
        assert theirs in code, theirs
        code = code.replace(theirs, ours)
    return code


def arrived(line: Line, queue: str) -> list[kombu.Message]:
    """Take all messages out of a queue."""
    with line.broker.kombu() as connection:
        bound = kombu.Queue(queue, channel=connection.channel())
        found: list[kombu.Message] = []

        def look() -> bool:
            while (message := bound.get(no_ack=True)) is not None:
                found.append(message)
            return bool(found)

        until(look, "a message")
    return found


@pytest.mark.parametrize("library", ["oslo.messaging", "kombu"])
def test_a_snapshot_is_asked_for_as_publishing_says(
    line: Line, requests: str, library: str
) -> None:
    project_id, user_id, request_id = (str(uuid.uuid4()) for _ in range(3))
    container = f"web-{uuid.uuid4().hex[:8]}"
    replacements = {
        "oslo.messaging": {
            "rabbit://guest:guest@broker:5672/": line.broker.url,
            "7f0c…": request_id,
        },
        "kombu": {
            "amqp://guest:guest@broker:5672/": line.broker.url.replace("rabbit:", "amqp:", 1),
            '"request_id": str(uuid.uuid4())': f'"request_id": "{request_id}"',
        },
    }
    code = adapted(
        BLOCKS[library],
        {
            '"tintype"': f'"{line.exchange}"',
            '"container": "web"': f'"container": "{container}"',
            "3417…": project_id,
            "52da…": user_id,
            **replacements[library],
        },
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=DEADLINE
    )
    assert run.returncode == 0, run.stderr

    (taken,) = arrived(line, requests)
    assert taken.delivery_info["exchange"] == line.exchange
    assert taken.delivery_info["routing_key"] == requests
    outer: dict[str, Any] = json.loads(taken.body)
    assert outer["oslo.version"] == "2.0"
    message = envelope.unseal(taken.body.encode())
    assert message.event_type == COMMIT_REQUEST
    assert message.publisher_id == "my-service:my-host"
    assert message.payload == {
        "container": container,
        "image_name": "alpha/web",
        "request_id": request_id,
    }
    assert validate(COMMIT_REQUEST, message.payload) == []
    assert envelope.requester_of(message.context) == Requester(project_id, user_id)


def test_both_libraries_are_there() -> None:
    assert sorted(BLOCKS) == ["kombu", "oslo.messaging"]


def test_the_snapshots_id_is_what_publishing_says() -> None:
    (expression,) = re.findall(r"`(uuid\.uuid5\(.*?\))`", PUBLISHING)
    request_id = str(uuid.uuid4())
    found = eval(expression, {"uuid": uuid, "request_id": request_id})
    assert str(found) == snapshot_id_for(request_id)
