"""The dead letters that are here: messages that could not be used, read and published once more.

An agent keeps its own in its journal, the routers theirs in their database. Both may be at work
meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from tintype.adapters.journal_reader import read_dead_letters
from tintype.adapters.publisher import RabbitPublisher
from tintype.adapters.sql_database import Database
from tintype.adapters.sql_dispatches import SqlDispatches
from tintype.adapters.sql_engine import in_memory, parse_url
from tintype.config import ConfigError, Settings
from tintype.core.errors import Invalid, NotFound, Refused, Unavailable
from tintype.core.events import (
    COMMIT_CANCEL,
    COMMIT_REQUEST,
    RESTORE_CANCEL,
    RESTORE_REQUEST,
    Event,
    Message,
    Requester,
    derived_id,
)
from tintype.core.intake import check, request_id_of
from tintype.core.ports import DeadLetter
from tintype.schemas import validate

Kept = tuple[str, DeadLetter]
"""A dead letter, and before it the role that keeps it."""

REPLAYED = (COMMIT_REQUEST, COMMIT_CANCEL, RESTORE_REQUEST, RESTORE_CANCEL)
"""What routers take off the topic of requests; all else would come straight back."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """Where a role keeps its dead letters."""

    place: str
    is_here: bool
    """Whether the file is there; a server is always asked."""
    read: Callable[[], Iterable[DeadLetter]]


def read(settings: Settings, role: str | None) -> Iterator[Kept]:
    """Yield the dead letters of a role, or of all that keep some here, oldest first in each.

    Raises NotFound where none are kept, ConfigError, OSError, Unavailable.
    """
    keepers = _keepers(settings)
    here = [name for name, keeper in keepers.items() if keeper.is_here]
    chosen = [role] if role else here or list(keepers)
    missing = [keepers[name].place for name in chosen if name not in here]
    if missing:
        raise NotFound(f"there is no {' and no '.join(missing)}: see --config-file, --state-dir")
    for name in chosen:
        for letter in keepers[name].read():
            yield name, letter


def find(settings: Settings, ident: int, role: str | None) -> Kept:
    """Return a dead letter. Raises NotFound, also where two roles have one; else as `read` does."""
    found = [kept for kept in read(settings, role) if kept[1].id == ident]
    if not found:
        raise NotFound(f"there is no dead letter {ident}" + (f" of the {role}" if role else ""))
    if len(found) > 1:
        raise NotFound(f"agent and router have a dead letter {ident} each: say which with --role")
    return found[0]


def summary(kept: Kept) -> dict[str, Any]:
    """Return what a list tells of a dead letter: of what was sent, whatever is there."""
    role, letter = kept
    payload = letter.message.get("payload")
    fields = payload if isinstance(payload, Mapping) else {}
    return {
        "id": letter.id,
        "role": role,
        "received_at": letter.received_at,
        "reason": letter.reason,
        "event_type": letter.message.get("event_type"),
        "container": fields.get("container") or fields.get("container_uuid"),
        "request_id": fields.get("request_id"),
    }


def details(kept: Kept) -> dict[str, Any]:
    """Return all there is of a dead letter; a message nested too deeply for YAML comes as text."""
    role, letter = kept
    return {
        "id": letter.id,
        "role": role,
        "received_at": letter.received_at,
        "reason": letter.reason,
        "message": json.dumps(letter.message) if _is_deep(letter.message) else letter.message,
    }


def _is_deep(value: object, levels: int = 100) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deep(one, levels - 1) for one in inner)


def replay(
    settings: Settings, kept: Kept, payload: Mapping[str, Any] | None, requester: Requester
) -> Event:
    """Publish a dead letter once more, with another payload if one is given; return the event.

    Raises Refused when it was no request, Invalid when it would only come back, Unavailable when
    the broker has not taken it, ValueError when [bus] url is malformed.
    """
    role, letter = kept
    try:
        event = event_of(letter, payload, requester, datetime.now(UTC))
    except (Invalid, Refused) as error:
        raise type(error)(f"dead letter {letter.id} of the {role}: {error}") from error
    bus = settings.bus
    publisher = RabbitPublisher(
        bus.url,
        exchange=bus.exchange,
        topic=bus.request_topic,
        publisher_id=f"tintype-operator:{settings.host}",
        quorum=bus.quorum,
    )
    with closing(publisher):
        publisher.publish(event)
    return event


def event_of(
    letter: DeadLetter, payload: Mapping[str, Any] | None, requester: Requester, now: datetime
) -> Event:
    """Return what is to be published, with its `request_id`. Raises Invalid, Refused."""
    kept = letter.message
    if "truncated" in kept:
        raise Refused("only its beginning is kept, for it is too long: make a new request")
    if not {"event_type", "payload"} <= kept.keys():
        raise Refused(f"it was not even a message ({letter.reason}): make a new request")
    message = Message(
        kept["event_type"],
        _unforwarded(kept["payload"] if payload is None else payload),
        message_id=kept.get("message_id"),
        publisher_id=kept.get("publisher_id"),
        timestamp=kept.get("timestamp"),
    )
    if message.event_type not in REPLAYED:
        raise Refused(
            f"event_type: expected one of {', '.join(map(repr, REPLAYED))}, for no other is a"
            f" request, got {message.event_type!r:.100}"
        )
    check(validate(message.event_type, message.payload))
    deadline = message.payload.get("deadline")
    if deadline is not None and datetime.fromisoformat(deadline) <= now:
        raise Invalid(f"/deadline: expected a moment to come, got {deadline!r}")
    request_id = request_id_of(message)
    return Event(message.event_type, {**message.payload, "request_id": request_id}, requester)


def _unforwarded(payload: Any) -> Any:
    """Return a payload as routers take it, if one of them had sent it on.

    That router knows it by its id, with what it looked like before: now it needs another id.
    """
    if not isinstance(payload, Mapping) or "accept_by" not in payload:
        return payload
    fields = {name: value for name, value in payload.items() if name != "accept_by"}
    return {**fields, "request_id": derived_id(str(payload.get("request_id")), "replay")}


def _keepers(settings: Settings) -> Mapping[str, Keeper]:
    journal = settings.journal_path
    try:
        url = parse_url(settings.index_url)
    except ValueError as error:
        raise ConfigError(f"[router] index_url: {error}") from error
    place, is_here = "database of [router] index_url", not in_memory(url)
    if is_here and url.get_backend_name() == "sqlite":
        place, is_here = f"database {url.database}", Path(str(url.database)).is_file()
    return {
        "agent": Keeper(
            f"journal {journal}", journal.is_file(), partial(read_dead_letters, journal)
        ),
        "router": Keeper(place, is_here, partial(_of_routers, settings.index_url)),
    }


def _of_routers(url: str) -> Iterable[DeadLetter]:
    try:
        with closing(Database(url)) as database:
            return SqlDispatches(database).dead_letters()
    except ValueError as error:
        raise ConfigError(f"[router] index_url: {error}") from error
    except Unavailable as error:
        raise Unavailable(f"[router] index_url: {error}") from error
