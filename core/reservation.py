"""Reservations: what the REST service has promised, and to whom it has given which answer.

An image is reserved before its request is published, and the two are different services. So that no
image is left behind when a process dies between them, and that the same request sent again gets the
first answer, each request over REST has a row here, which all REST services and routers share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol, Self

from tintype.core.events import derived_id
from tintype.core.snapshot import image_id_for, snapshot_id_for

LEASE = timedelta(seconds=15)
"""How long an attempt has a request to itself; the same request sent again goes on with it then."""


class ReservationState(StrEnum):
    """How far a request over REST has come."""

    OPEN = "open"
    """Somebody is about to reserve its image and to publish it."""
    KEPT = "kept"
    """It was published: the answer stands."""
    WITHDRAWN = "withdrawn"
    """It was not: its image is to be deleted, and the same request may try anew."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """One request over REST."""

    key: str
    """Idempotency key, a uuid: the caller's `request_id`, or made of his `Idempotency-Key`."""
    fingerprint: str
    """What was asked, and by whom: another body under the same key is a conflict."""
    container_uuid: str
    image_id: str | None
    """Image of the caller's own, reserved beforehand; None: one is made."""
    holder: str
    """Drawn anew by each attempt: only it goes on with the row, until its lease is over."""
    lease: datetime
    """Until when the holder has the row to himself."""
    attempt: int = 1
    """Counts the attempts that were not taken back; each has ids of its own."""
    state: ReservationState = ReservationState.OPEN
    reserves: bool = False
    """Whether an image is made under `promised_image_id`, which is ours to delete."""
    leftovers: Sequence[str] = ()
    """Images of attempts that were withdrawn, still to be deleted."""

    @property
    def request_id(self) -> str:
        """Id of this attempt's request on the bus: the key, unless an earlier one was withdrawn.

        A request that was withdrawn may be on the bus all the same, where its id is used up.
        """
        return self.key if self.attempt == 1 else derived_id(self.key, "attempt", str(self.attempt))

    @property
    def promised_image_id(self) -> str:
        """Id of the image to be."""
        return self.image_id or image_id_for(self.request_id)

    @property
    def answer(self) -> Mapping[str, Any]:
        """What the caller is told; `uuid` is the image, as in Zun's answer."""
        return {
            "uuid": self.promised_image_id,
            "image_id": self.promised_image_id,
            "snapshot_id": snapshot_id_for(self.request_id),
            "request_id": self.request_id,
            "container_uuid": self.container_uuid,
        }

    def withdrawn(self) -> Self:
        """Return this attempt taken back, with the images that are to be deleted then."""
        made = (self.promised_image_id,) if self.reserves else ()
        leftovers = (*self.leftovers, *made)
        return replace(self, state=ReservationState.WITHDRAWN, leftovers=leftovers)


class Reservations(Protocol):
    """Where reservations are kept. Every method is one transaction. Raises Unavailable only."""

    def get(self, key: str) -> Reservation | None:
        """Return a reservation."""

    def open(self, wanted: Reservation, now: datetime) -> Reservation:
        """Insert a reservation, or take over the one with its key; return what is stored then.

        The caller has it if the `holder` is his. A row is taken over (holder, lease, container,
        image and `reserves` become the wanted ones) when its fingerprint is the same and it is
        WITHDRAWN, which begins the next attempt, or OPEN with its lease over, which goes on with
        the present one. Any other row stays as it is.
        """

    def replace(self, changed: Reservation) -> bool:
        """Store a changed reservation; False, and nothing stored, unless OPEN and of its holder.

        WITHDRAWN rows are replaced by anybody: only `leftovers` change there.
        """

    def claim(self, before: datetime, now: datetime, lease: datetime) -> Sequence[Reservation]:
        """Return up to 100 rows with something left to do, leased until `lease` by this.

        These are the OPEN ones whose lease was over at `before`, and the WITHDRAWN ones with
        leftovers whose lease was over at `now`. One that cannot be read is leased and passed over.
        """

    def prune(self, before: datetime) -> int:
        """Forget rows last changed before then that have nothing left to do; return how many."""
