"""The dead letters that are here: messages that could not be used, read and published once more.

An agent keeps its own in its journal, the routers theirs in their database. Both may be working
meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tintype.adapters.publisher import RabbitPublisher
from tintype.adapters.sql_database import Database
from tintype.adapters.sql_dispatches import SqlDispatches
from tintype.adapters.sqlite_journal import read_dead_letters
from tintype.config import ConfigError, Settings
from tintype.core.errors import Invalid, NotFound, Unavailable
from tintype.core.events import (
    COMMIT_CANCEL,
    COMMIT_REQUEST,
    Event,
    Message,
    Requester,
    derived_id,
)
from tintype.core.intake import check, request_id_of
from tintype.core.ports import DeadLetter
from tintype.schemas import validate

Kept = tuple[str, DeadLetter]
"""A dead letter, after the role that keeps it."""

REPLAYED = (COMMIT_REQUEST, COMMIT_CANCEL)
"""What routers take off the topic of requests."""


def read(settings: Settings, role: str | None) -> Iterator[Kept]:
    """Yield the dead letters of one role, or of those that keep some here, oldest first in each.

    Raises NotFound when nobody does, ConfigError, OSError, Unavailable.
    """
    keepers = _keepers(settings)
    chosen = [role] if role else [name for name, keeper in keepers.items() if keeper.is_here()]
    if not chosen:
        places = " and no ".join(f"{keeper.place} ({role})" for role, keeper in keepers.items())
        raise NotFound(f"there is no {places}: name the right --config-file or --state-dir")
    for name in chosen:
        for letter in keepers[name].read():
            yield name, letter


def find(settings: Settings, ident: int, role: str | None) -> Kept:
    """Return a dead letter. Raises NotFound, also when two roles have one; else as `read` does."""
    found = [kept for kept in read(settings, role) if kept[1].id == ident]
    if not found:
        raise NotFound(f"there is no dead letter {ident}" + (f" of the {role}" if role else ""))
    if len(found) > 1:
        raise NotFound(f"agent and router have a dead letter {ident} each: choose with --role")
    return found[0]


def replay(settings: Settings, kept: Kept, payload: object, requester: Requester) -> Event:
    """Publish a dead letter once more, with another payload if one is given; return the event.

    Raises Invalid when it would only come back, Unavailable when the broker has not taken it.
    """
    role, letter = kept
    try:
        event = event_of(letter, payload, requester, datetime.now(UTC))
    except Invalid as error:
        raise Invalid(f"dead letter {letter.id} of the {role}: {error}") from error
