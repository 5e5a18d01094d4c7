"""Dispatches: requests that a router has taken, until their outcome is known.

They are the routers' only memory, and all routers of one index share it: whichever looks first goes
on with what another left. So a router that is killed loses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from tintype.core.events import Event
from tintype.core.jobs import Fault
from tintype.core.ports import Admission, DeadLetter


class DispatchState(StrEnum):
    """How far a request has come, as its router sees it. Only ever moves down this list."""

    PARKED = "parked"
    """Not sent anywhere yet: its container is not known, or cannot be reached."""
    SENT = "sent"
    """In the queue of its host, of which nothing has been heard since."""
    ACCEPTED = "accepted"
    """The host has taken it."""
    ENDED = "ended"
    """Its outcome was told by the host, or is to be told by the router (`fault`)."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One request on its way."""

    request_id: str
    fingerprint: str
    request: Event
    """The request as it came, with its `request_id`."""
    received_at: datetime
    deadline: datetime
    due: datetime
    """When a router is to look at it again."""
    state: DispatchState = DispatchState.PARKED
    host: str | None = None
    container_uuid: str | None = None
    accept_by: datetime | None = None
    """Until when the host may take it; set once, when the request is first sent."""
    fault: Fault | None = None
    """Why it failed, as long as that is still to be told."""
    attempts: int = 0
    """How often telling the fault was begun."""
    asked: bool = False
    """Its silent host was asked once more."""


class Dispatches(Protocol):
    """Where dispatches are kept. Every method is one transaction. Raises Unavailable only."""

    def admit(self, dispatch: Dispatch) -> Admission:
        """Take a request in; the same again is a DUPLICATE, its id with another body a CONFLICT."""

    def get(self, request_id: str) -> Dispatch | None:
        """Return a dispatch."""

    def replace(self, dispatch: Dispatch, expected: DispatchState) -> bool:
        """Store a changed dispatch; False, and nothing stored, unless its state is `expected`."""

    def heard(self, request_id: str, state: DispatchState, due: datetime) -> None:
        """Note that a host has accepted or ended a request; one that is unknown or further stays.

        One whose fault is still to be told has ended already, and stays too. A host that has
        accepted it counts as not `asked`.
        """

    def claim(self, now: datetime, lease: timedelta, limit: int = 100) -> Sequence[Dispatch]:
        """Return due dispatches that are open or have a fault to tell, the longest due first.

        They are due again at `now + lease`, so that no other router takes them meanwhile. One that
        cannot be read is leased, logged and passed over.
        """

    def of_container(self, uuid: str) -> Sequence[Dispatch]:
        """Return the dispatches of a container that have not ended, but those unreadable."""

    def reject(self, key: str, reason: str, message: Mapping[str, Any]) -> None:
        """Keep a message that could not be used, once for each `key`."""

    def dead_letters(self) -> Sequence[DeadLetter]:
        """Return all messages kept, oldest first."""

    def prune(self, before: datetime) -> int:
        """Forget dispatches ended, and messages kept, before then; return how many."""

    def close(self) -> None:
        """Release connections."""
