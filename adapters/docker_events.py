"""What the Docker Engine tells of its containers while it happens, as `core.engine.EngineEvent`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests

from tintype.adapters.docker_client import LazyClient, open_stream
from tintype.adapters.docker_container import OWN_ATTRIBUTES
from tintype.adapters.docker_errors import translated
from tintype.core.engine import EngineAction, EngineEvent
from tintype.core.errors import Unavailable

EARLY = 1.0
"""Seconds by which a stream may end too soon: the engine's clock is not quite ours."""

_ACTIONS = frozenset(EngineAction)
_FILTERS = json.dumps({"type": ["container"], "event": sorted(_ACTIONS)})
_READ_SIZE = 1 << 16
_SECOND = 10**9


@contextmanager
def event_stream(
    lazy_client: LazyClient, since: int, seconds: float, patience: float
) -> Iterator[Iterator[EngineEvent]]:
    """Stream the events from `since` (nanoseconds, inclusive) on, for `seconds`.

    The engine ends the stream. One that says nothing for `patience` seconds longer is Unavailable,
    and so is a stream that ends before its time or is no sequence of JSON lines. Leaving the
    context closes the connection.
    """
    ends = time.monotonic() + seconds
    until = time.time_ns() + round(seconds * _SECOND)
    params = {
        # A clock that was set back must not make us ask for what the engine refuses.
        "since": _timestamp(min(since, until)),
        "until": _timestamp(until),
        "filters": _FILTERS,
    }
    with open_stream(lazy_client, "/events", seconds + patience, params) as response:
        yield _events(response, ends)


def _timestamp(nanoseconds: int) -> str:
    return "{}.{:09}".format(*divmod(nanoseconds, _SECOND))


def _events(response: requests.Response, ends: float) -> Iterator[EngineEvent]:
    for line in _lines(response):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise Unavailable(f"container engine: no event: {line[:80]!r}") from error
        event = event_of(entry)
        if event is not None:
            yield event
    early = ends - time.monotonic()
    if early > EARLY:
        raise Unavailable(f"container engine: its events ended {early:.0f} s before their time")


def _lines(response: requests.Response) -> Iterator[bytes]:
    """Yield each line as soon as it is there. What is left without an end is no line."""
    rest = b""
    while True:
        with translated():
            data: bytes = response.raw.read1(_READ_SIZE)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
    if rest:
        raise Unavailable(f"container engine: half an event: {rest[:80]!r}")


def event_of(entry: Any) -> EngineEvent | None:
    """Return the event of an entry of the engine's log, or None for what is not one of ours.

    A label `exitCode` hides the exit code, as the engine writes labels over its own attributes; its
    name and image it writes over the labels.
    """
    match entry:
        case {
            "Type": "container",
            "Action": str(action),
            "Actor": {"ID": str(engine_id), "Attributes": dict(attributes)},
            "timeNano": int(at),
        } if action in _ACTIONS and all(isinstance(each, str) for each in attributes.values()):
            died = action == EngineAction.DIE
            return EngineEvent(
                action=EngineAction(action),
                engine_id=engine_id,
                at=at,
                name=attributes.get("name", ""),
                image=attributes.get("image", ""),
                labels={k: v for k, v in attributes.items() if k not in OWN_ATTRIBUTES},
                exit_code=_number(attributes.get("exitCode", "")) if died else None,
            )
    return None


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
