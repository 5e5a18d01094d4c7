"""The envelope, checked against oslo.messaging's own writer and reader."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from oslo_context.context import RequestContext
from oslo_messaging._drivers import amqp as oslo_amqp
from oslo_messaging._drivers import common as oslo_common

from tintype.adapters import envelope
from tintype.core.errors import Invalid
from tintype.core.events import Event, Requester

ALICE = Requester("project-a", "alice")
EVENT = Event("image.snapshot.end", {"request_id": "1234", "size_bytes": 5}, ALICE, "event-1")


def opened(body: bytes) -> dict[str, Any]:
    """Return what oslo.messaging reads from a body."""
    message = oslo_common.deserialize_msg(json.loads(body))
    assert isinstance(message, dict)
    return message


def enveloped(**notification: Any) -> bytes:
    """Return the body oslo.messaging writes."""
    return json.dumps(oslo_common.serialize_msg(notification)).encode()


def test_oslo_reads_what_is_sealed() -> None:
    now = datetime(2026, 2, 3, 4, 5, 6, 789, UTC)
    message = opened(envelope.seal(EVENT, "tintype-agent:host-1", now=now))
    context = oslo_amqp.unpack_context(message).to_dict()
    assert message.pop("_unique_id")
    assert message == {
        "message_id": "event-1",
        "publisher_id": "tintype-agent:host-1",
        "event_type": "image.snapshot.end",
        "priority": "INFO",
        "payload": {"request_id": "1234", "size_bytes": 5},
        "timestamp": "2026-02-03 04:05:06.000789",
    }
    assert (context["user"], context["user_id"]) == ("alice", "alice")
    assert (context["project_id"], context["tenant"]) == ("project-a", "project-a")
    assert context["auth_token"] is None
    assert context["request_id"] == "req-1234"


def test_context_is_a_request_context_and_a_little_more() -> None:
    theirs = RequestContext(
        user_id="alice", project_id="project-a", request_id="req-1234", overwrite=False
    ).to_dict()
    ours = envelope.context_of(EVENT)
    assert {key: ours[key] for key in theirs} == theirs
    assert ours.keys() - theirs.keys() == {"user_id", "tenant"}


def test_unique_id_is_new_at_each_attempt_and_message_id_is_not() -> None:
    first, second = (opened(envelope.seal(EVENT, "p")) for _ in range(2))
    assert first["message_id"] == second["message_id"]
    assert first["_unique_id"] != second["_unique_id"]


def test_message_id_may_be_given_and_is_never_missing() -> None:
    assert opened(envelope.seal(EVENT, "p", message_id="mine"))["message_id"] == "mine"
    assert opened(envelope.seal(Event("x", {}), "p"))["message_id"]


@pytest.mark.parametrize(
    ("event_type", "priority"),
    [("image.snapshot.error", "ERROR"), ("image.snapshot.end", "INFO"), ("terror", "INFO")],
)
def test_errors_have_priority_error(event_type: str, priority: str) -> None:
    assert opened(envelope.seal(Event(event_type, {}), "p"))["priority"] == priority


def test_what_is_sealed_comes_back() -> None:
    message = envelope.unseal(envelope.seal(EVENT, "publisher"))
    assert message.event_type == EVENT.type
    assert message.payload == EVENT.payload
    assert message.message_id == EVENT.id
    assert message.publisher_id == "publisher"
    assert envelope.requester_of(message.context) == ALICE


def test_strange_text_survives() -> None:
    payload = {"name": "caf\u00e9 \U0001f600 \0 \ud800"}
    assert envelope.unseal(envelope.seal(Event("x", payload), "p")).payload == payload


def test_notification_of_oslo_is_read() -> None:
    context = RequestContext(user_id="bob", project_id="project-b", overwrite=False).to_dict()
    fields = {f"_context_{key}": value for key, value in context.items()}
    message = envelope.unseal(enveloped(event_type="x", payload=[1], **fields))
    assert (message.event_type, message.payload) == ("x", [1])
    assert message.context == context
    assert envelope.requester_of(message.context) == Requester("project-b", "bob")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe\xfd",
        b"7",
        b"[]",
        b'[["event_type", "x"]]',
        b"[" * 100_000,
        b'{"payload": ' + b"9" * 5000 + b"}",
        b'{"oslo.version": "3.0", "oslo.message": "{}"}',
        b'{"oslo.version": null, "oslo.message": "{}"}',
        b'{"oslo.version": "2.0", "oslo.message": {}}',
        b'{"oslo.version": "2.0", "oslo.message": "[]"}',
        b'{"oslo.version": "2.0", "oslo.message": "{"}',
    ],
)
def test_what_is_no_message_is_invalid(body: bytes) -> None:
    with pytest.raises(Invalid):
        envelope.unseal(body)


def test_reason_is_short_and_printable() -> None:
    with pytest.raises(Invalid) as caught:
        envelope.unseal(json.dumps({"oslo.version": "\ud800" * 999, "oslo.message": ""}).encode())
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("context", "requester"),
    [
        (None, Requester()),
        ([], Requester()),
        ({}, Requester()),
        ({"project_id": "p", "user_id": "u"}, Requester("p", "u")),
        ({"tenant": "p", "user": "u"}, Requester("p", "u")),
        ({"project": "p"}, Requester("p")),
        ({"project_id": None, "tenant": "p"}, Requester("p")),
        ({"project_id": "p", "tenant": "other"}, Requester("p")),
        ({"project_id": "", "user_id": 5}, Requester()),
        ({"project_id": {"id": "p"}, "user_id": ["u"]}, Requester()),
        ({"project_id": "\ud800", "user_id": "a\0b"}, Requester()),
        ({"project_id": "p" * 256}, Requester()),
        ({"is_admin": True}, Requester(is_admin=True)),
        ({"is_admin": "true"}, Requester()),
        ({"is_admin": 1}, Requester()),
        ({"roles": ["member", "admin"]}, Requester(is_admin=True)),
        ({"roles": "admin"}, Requester()),
        ({"roles": {"admin": 1}}, Requester()),
        ({"roles": [["admin"], None]}, Requester()),
    ],
)
def test_requester_is_read_with_suspicion(context: Any, requester: Requester) -> None:
    assert envelope.requester_of(context) == requester
