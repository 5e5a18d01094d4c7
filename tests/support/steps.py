"""One step of a request after another, on the twins: what each handler makes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.twins import ALICE, HOST, Bench, checked
from tintype.core.errors import TintypeError
from tintype.core.events import COMMIT_REQUEST, Event, Requester, derived_id
from tintype.core.jobs import Fault
from tintype.core.snapshot import ABORT, Snapshot
from tintype.handlers import BUILT_IN, table

REQUEST_ID = derived_id("test", "request")


def request(who: Requester = ALICE, **fields: Any) -> Event:
    """Return a commit request for the container `web`."""
    payload = {"container": "web", "image_name": "snap", "request_id": REQUEST_ID, **fields}
    return Event(COMMIT_REQUEST, payload, who)


def run(bench: Bench, event: Event, **services: Any) -> list[Event]:
    """Run an event's handler; events for the bus are checked against their schemas."""
    events = list(table()[event.type](event, replace(bench.services, **services)))
    for made in events:
        if made.type not in BUILT_IN:
            checked(made)
    return events


def only(bench: Bench, event: Event, **services: Any) -> Event:
    """Run an event's handler, which returns one event."""
    (made,) = run(bench, event, **services)
    return made


def advance(bench: Bench, event: Event, step_type: str) -> Event:
    """Go from an event to the request's next step of a type."""
    while event.type != step_type:
        (event,) = [made for made in run(bench, event) if made.type in BUILT_IN]
    return event


def at(bench: Bench, step_type: str, who: Requester = ALICE, **fields: Any) -> Event:
    """Return the first step of a type that a request comes to."""
    return advance(bench, request(who, **fields), step_type)


def again(step: Event, attempt: int = 2) -> Event:
    """Return a step as it is run once more."""
    return replace(step, attempt=attempt)


def refused(bench: Bench, event: Event, error: type[TintypeError], match: str) -> TintypeError:
    """Return the error that an event's handler raises."""
    with pytest.raises(error, match=match) as caught:
        run(bench, event)
    return caught.value


def turned_down(bench: Bench, event: Event) -> dict[str, Any]:
    """Return the fault of a request that was not accepted; the answer says of which container."""
    (container,) = bench.engine.containers()
    step = only(bench, event)
    assert step.type == ABORT
    payload = only(bench, step).payload
    assert payload["container_uuid"] == container.uuid
    assert payload["container_name"] == container.name
    assert payload["engine_container_id"] == container.engine_id
    assert payload["fault"]["phase"] == "accepted"
    fault: dict[str, Any] = payload["fault"]
    return fault


def aborted(bench: Bench, step: Event, error: TintypeError) -> list[Event]:
    """Do what the runner does about an error in a step, and return what abort returns."""
    snapshot = (
        Snapshot.begin(step, host=HOST, created_at=bench.clock.now().isoformat())
        if step.type == COMMIT_REQUEST
        else Snapshot.load(step)
    )
    return run(bench, snapshot.step(ABORT, fault=Fault.of(error, snapshot.phase)))
