"""The oslo.messaging notification envelope 2.0: events into it, messages out of it.

    {"oslo.version": "2.0", "oslo.message": "<JSON string>"}

The inner JSON holds what `Notifier` writes: message_id, publisher_id, event_type, priority,
payload, timestamp, `_unique_id`, and each key of the context as `_context_<key>`. Written from the
source of oslo.messaging 18.3 (`notify/notifier.py`, `_drivers/amqp.py`, `_drivers/common.py`). No
broker is needed here and nothing but the standard library, so what a stranger can put on the bus is
met in one small place.
"""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

from tintype.core.errors import Invalid
from tintype.core.events import Event, Message, Requester
from tintype.core.ownership import IDENT_LENGTH

ENVELOPE_VERSION = "2.0"
"""There has been no other since 2013."""

CONTENT_TYPE = "application/json"

_CONTEXT = "_context_"


def priority_of(event_type: str) -> str:
    """Return the priority an event is published with: ERROR for `*.error`, else INFO."""
    return "ERROR" if event_type.endswith(".error") else "INFO"


def seal(
    event: Event,
    publisher_id: str,
    *,
    message_id: str | None = None,
    now: datetime | None = None,
) -> bytes:
    """Return the body of the AMQP message for `event`, as oslo.messaging's Notifier sends it.

    `message_id` defaults to the event's own id, the same at every attempt, so that consumers can
    drop the second. `_unique_id` on the other hand is new each time: oslo.messaging's listener
    neither runs nor acknowledges a message whose `_unique_id` it has just seen (FACTS 2).
    """
    sent_at = (now or datetime.now(UTC)).astimezone(UTC).replace(tzinfo=None)
    notification = {
        "message_id": message_id or event.id or str(uuid.uuid4()),
        "publisher_id": publisher_id,
        "event_type": event.type,
        "priority": priority_of(event.type),
        "payload": event.payload,
        "timestamp": str(sent_at),
        "_unique_id": uuid.uuid4().hex,
    }
    notification.update((_CONTEXT + key, value) for key, value in context_of(event).items())
    envelope = {
        "oslo.version": ENVELOPE_VERSION,
        "oslo.message": json.dumps(notification, default=dict),
    }
    return json.dumps(envelope).encode("ascii")


def context_of(event: Event) -> dict[str, Any]:
    """Return the event's requester as the dict form of an oslo.context RequestContext.

    `to_dict()` has `user` and `project_id`; Mistral's default mapping wants `user_id`, older
    consumers `tenant`, so all are there. Never a token. (Written out by hand: making a
    RequestContext would also store it as the thread's current one.)
    """
    who = event.requester
    request_id = event.payload.get("request_id") or event.id
    return {
        "user": who.user_id,
        "user_id": who.user_id,
        "project_id": who.project_id,
        "project": who.project_id,
        "tenant": who.project_id,
        "system_scope": None,
        "domain": None,
        "user_domain": None,
        "project_domain": None,
        "is_admin": who.is_admin,
        "is_admin_project": True,
        "read_only": False,
        "show_deleted": False,
        "auth_token": None,
        "request_id": f"req-{request_id}",
        "global_request_id": None,
        "resource_uuid": None,
        "roles": [],
        "user_identity": f"{who.user_id or '-'} {who.project_id or '-'} - - -",
    }


def unseal(body: bytes) -> Message:
    """Return what is in the body of an AMQP message. Raises Invalid, and nothing else.

    A JSON object that is not an envelope is taken for a notification of format 1.0, as
    oslo.messaging does. No field of the result has been checked.
    """
    document = _object(body, "")
    if "oslo.version" in document and "oslo.message" in document:
        if document["oslo.version"] != ENVELOPE_VERSION:
            raise _invalid("/oslo.version", ENVELOPE_VERSION, document["oslo.version"])
        inner = document["oslo.message"]
        if not isinstance(inner, str):
            raise _invalid("/oslo.message", "a string of JSON", inner)
        document = _object(inner, "/oslo.message")
    return Message(
        event_type=document.get("event_type"),
        payload=document.get("payload"),
        context={
            key.removeprefix(_CONTEXT): value
            for key, value in document.items()
            if key.startswith(_CONTEXT)
        },
        message_id=document.get("message_id"),
        publisher_id=document.get("publisher_id"),
        timestamp=document.get("timestamp"),
    )


def requester_of(context: object) -> Requester:
    """Return who a message's context says sent it; what has the wrong type is as if not there."""
    if not isinstance(context, dict):
        return Requester()
    roles = context.get("roles")
    return Requester(
        project_id=_ident(context, "project_id", "tenant", "project"),
        user_id=_ident(context, "user_id", "user"),
        is_admin=context.get("is_admin") is True or (isinstance(roles, list) and "admin" in roles),
    )


def _ident(context: dict[Any, Any], *keys: str) -> str | None:
    for key in keys:
        value = context.get(key)
        # isprintable() is False for NUL and lone surrogates, which no database would store.
        if isinstance(value, str) and 0 < len(value) <= IDENT_LENGTH and value.isprintable():
            return value
    return None


def _object(text: bytes | str, pointer: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        # ValueError: not JSON, not UTF-8, or an integer of more than 4,300 digits.
        raise Invalid(f"{pointer or 'the body'} cannot be read as JSON: {error}") from error
    if not isinstance(document, dict):
        raise _invalid(pointer, "an object", document)
    return document


def _invalid(pointer: str, expected: str, got: object) -> Invalid:
    shown = got[:40] if isinstance(got, str) else type(got).__name__
    return Invalid.at(pointer, expected, ascii(shown))
