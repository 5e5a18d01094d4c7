"""A request worked through from its first step to its last, without journal and bus."""

from __future__ import annotations

from dataclasses import replace

from tintype.core.events import Event
from tintype.core.ports import Services
from tintype.handlers import table

MOST_STEPS = 50


def work_through(request: Event, services: Services) -> list[Event]:
    """Run each step's handler, as the runner does; return what is told. Errors come out."""
    handlers = table()
    told: list[Event] = []
    step = request
    for _ in range(MOST_STEPS):
        results = list(handlers[step.type](step, services))
        told += [event for event in results if event.type not in handlers]
        following = [event for event in results if event.type in handlers]
        if not following:
            return told
        step = replace(following[0], attempt=1)
    raise AssertionError(f"{request.type} does not come to an end")
