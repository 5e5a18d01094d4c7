"""`tintype dead-letter replay` on the real bus: what is published, and what becomes of it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import AgentProcess, bus_options, send_request
from tests.support.command_line import Ended, ended, run_here, start
from tests.support.docker import Containers
from tests.support.rabbit import Inbox, Line, until
from tintype.adapters import envelope
from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.core.events import COMMIT_REQUEST, SNAPSHOT_END, SNAPSHOT_ERROR, Message, Requester
from tintype.core.intake import kept

GOOD = {"container": "web", "image_name": "snap", "request_id": str(uuid.uuid4())}


def replay(*arguments: object) -> Ended:
    """Run the command as an operator does, in a process of its own."""
    return ended(start("dead-letter", "replay", "-f", "json", *arguments))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    """The journal of an agent at work, with a request that was valid and one that was not."""
    with closing(SqliteJournal(tmp_path / "journal.sqlite")) as journal:
        for payload in (GOOD, {**GOOD, "image_name": "Snap"}):
            message = kept(Message(COMMIT_REQUEST, payload, message_id="m-1"))
            assert journal.reject(repr(payload), "why", message, None)
        yield journal


@pytest.fixture
def conf(line: Line, tmp_path: Path) -> Path:
    """A configuration with the journal, this test's topic of requests, and somebody by default."""
    path = tmp_path / "tintype.conf"
    groups = {
        "agent": {
            "state_dir": tmp_path,
            "default_project_id": "alpha",
            "default_user_id": "alice",
        },
        "bus": bus_options(line.broker, line.exchange, line.topic),
    }
    path.write_text(
        "\n".join(
            f"[{group}]\n" + "\n".join(f"{name} = {value}" for name, value in options.items())
            for group, options in groups.items()
        )
    )
    return path


@pytest.mark.usefixtures("journal")
@pytest.mark.parametrize(
    ("arguments", "who"),
    [
        ((), Requester("alpha", "alice")),
        (("--project-id", "beta"), Requester("beta")),
        (("--project-id", "beta", "--user-id", "bob"), Requester("beta", "bob")),
        (("--user-id", "bob"), Requester("alpha", "bob")),
        (("--admin",), Requester("alpha", "alice", is_admin=True)),
    ],
    ids=str,
)
def test_the_message_goes_to_the_topic_of_requests_on_behalf_of_whoever_is_named(
    line: Line,
    conf: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    who: Requester,
) -> None:
    inbox = Inbox()
    line.listen(inbox)
    done = run_here(
        capsys, "dead-letter", "replay", "1", "--config-file", conf, "-f", "json", *arguments
    )
    said = json.loads(done.worked())
    until(lambda: inbox.messages, "the message")
    (message,) = inbox.messages
    assert (message.event_type, message.payload) == (COMMIT_REQUEST, GOOD)
    assert envelope.requester_of(message.context) == who
    assert message.publisher_id.startswith("tintype-operator:")
    assert said == {
        "request_id": GOOD["request_id"],
        "event_type": COMMIT_REQUEST,
        "topic": line.topic,
        "project_id": who.project_id,
        "user_id": who.user_id,
        "is_admin": who.is_admin,
    }


@pytest.mark.usefixtures("journal")
def test_a_refused_one_is_not_sent_and_a_corrected_one_is(line: Line, conf: Path) -> None:
    inbox = Inbox()
    line.listen(inbox)
    replay("2", "--config-file", conf).failed("/image_name", "--payload")
    corrected = conf.with_name("corrected.json")
    corrected.write_text(json.dumps({"payload": {**GOOD, "tag": "v2"}}))
    replay("2", "--config-file", conf, "--payload", corrected).worked()
    until(lambda: inbox.messages, "the message")
    assert [message.payload for message in inbox.messages] == [{**GOOD, "tag": "v2"}]


@pytest.mark.parametrize("keeper", ["agent", "router"])
def test_a_message_that_failed_is_corrected_and_becomes_an_image(
    agent: AgentProcess, container: Containers, tmp_path: Path, keeper: str
) -> None:
    web = container()
    agent.options["listener"]["roles"] = "agent,router"
    agent.start()
    agent.await_up()
    topic = agent.requests if keeper == "router" else f"{agent.requests}.{agent.host}"
    until(lambda: f"{topic}.info" in agent.broker.queues("messages"), "the topic's queue")
    payload: dict[str, Any] = {"container": web.id, "image_name": "A/b", "stores": ["directory"]}
    request_id = send_request(agent.broker, agent.exchange, topic, payload, Requester())
    assert agent.witness.outcome(request_id)["fault"]["code"] == 400

    where = ("--config-file", agent.config)
    (found,) = json.loads(ended(start("dead-letter", "list", "-f", "json", *where)).worked())
    assert (found["role"], found["request_id"]) == (keeper, request_id)
    shown = ended(start("dead-letter", "show", found["id"], "-f", "json", *where)).worked()
    sent = json.loads(shown)["message"]["payload"]
    corrected = tmp_path / "corrected.json"
    corrected.write_text(json.dumps({**sent, "image_name": "a/b"}))
    said = json.loads(replay(found["id"], *where, "--payload", corrected, "--admin").worked())
    assert said["request_id"] == request_id
    until(lambda: len(agent.witness.of(request_id, SNAPSHOT_ERROR, SNAPSHOT_END)) == 2)
    (end,) = agent.witness.of(request_id, SNAPSHOT_END)
    assert end["fault"] is None
    assert Path(end["stores"][0]["location"].removeprefix("file://")).is_file()
    assert agent.stop() == 0
