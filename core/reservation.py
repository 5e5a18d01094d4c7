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

from tintype.core.events import COMMIT_REQUEST, RESTORE_REQUEST, derived_id
from tintype.core.restore import restore_id_for
from tintype.core.snapshot import image_id_for, snapshot_id_for

LEASE = timedelta(seconds=15)
"""How long an attempt has a request to itself; the same request sent again goes on with it then."""


KEY_LENGTH = 255
"""Characters of an Idempotency-Key."""


def is_idempotency_key(text: str) -> bool:
    """Tell whether a text can be an Idempotency-Key: printable ASCII, no blank at either end."""
    plain = text.isascii() and text.isprintable() and text == text.strip()
    return plain and 0 < len(text) <= KEY_LENGTH


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
    """The caller's `request_id`, or made of his `Idempotency-Key`; of these no other can be."""
    first_id: str
    """Id on the bus of the first attempt's request: the caller's `request_id`, or drawn."""
    fingerprint: str
    """What was asked, and by whom: another body under the same key is a conflict."""
    holder: str
    """Drawn anew by each attempt: only it goes on with the row, until its lease is over."""
    lease: datetime
    """Until when the holder has the row to himself."""
    request_type: str = COMMIT_REQUEST
    """Type of the request."""
    container_uuid: str | None = None
    """Container to be snapshotted."""
    image_id: str | None = None
    """Image of the caller's own, reserved beforehand; None: one is made."""
    dry_run: bool = False
    """Whether no image is made at all."""
    snapshot_id: str | None = None
    """Snapshot to be restored; None: an image that is named otherwise."""
    attempt: int = 1
    """One more for each that was withdrawn with its image: the next has ids of its own."""
    state: ReservationState = ReservationState.OPEN
    reserves: bool = False
    """Whether an image is made under `promised_image_id`, which is ours to delete."""
    leftovers: Sequence[str] = ()
    """Images of attempts that were withdrawn, still to be deleted."""

    @property
    def request_id(self) -> str:
        """Id of this attempt's request on the bus.

        A request that was withdrawn may be on the bus all the same; without its image it comes to
        nothing, and its id is used up.
        """
        if self.attempt == 1:
            return self.first_id
        return derived_id(self.first_id, "attempt", str(self.attempt))

    @property
    def promised_image_id(self) -> str:
        """Id of the image to be."""
        return self.image_id or image_id_for(self.request_id)

    @property
    def told_image_id(self) -> str | None:
        """Id of the image to be, as the caller is told; None for a dry run, which makes none."""
        return None if self.dry_run else self.promised_image_id

    @property
    def answer(self) -> Mapping[str, Any]:
        """What the caller is told; `uuid` is the image, as in Zun's answer."""
        if self.request_type == RESTORE_REQUEST:
            return {
                "restore_id": restore_id_for(self.request_id),
                "request_id": self.request_id,
                "snapshot_id": self.snapshot_id,
            }
        return {
            "uuid": self.told_image_id,
            "image_id": self.told_image_id,
            "snapshot_id": snapshot_id_for(self.request_id),
            "request_id": self.request_id,
            "container_uuid": self.container_uuid,
        }

    def withdrawn(self, *, made: bool) -> Self:
        """Return this attempt taken back; `made`: its image may be there, and is to be deleted."""
        leftovers = (*self.leftovers, self.promised_image_id) if made else self.leftovers
        return replace(self, state=ReservationState.WITHDRAWN, leftovers=leftovers)


class Reservations(Protocol):
    """Where reservations are kept. Every method is one transaction. Raises Unavailable only."""

    def get(self, key: str) -> Reservation | None:
        """Return a reservation."""

    def open(self, wanted: Reservation, now: datetime) -> Reservation:
        """Insert a reservation, or take over the one with its key; return what is stored then.

        The caller has it if the `holder` is his. A row is taken over (all but its ids, attempt and
        leftovers becomes the wanted one's) when its fingerprint is the same and it is
        WITHDRAWN or OPEN with its lease over. The first begins the next attempt if the last one
        reserved an image; otherwise the present one is gone on with: a request that is repeated
        under its id is the same one to everybody. Any other row stays as it is.
        """

    def replace(self, changed: Reservation) -> bool:
        """Store a changed reservation; False, and nothing stored, unless OPEN and of its holder.

        It becomes KEPT by anybody who has published the present attempt.
        WITHDRAWN rows are replaced by anybody: only `leftovers` change there.
        """

    def claim(self, before: datetime, now: datetime, lease: datetime) -> Sequence[Reservation]:
        """Return up to 100 rows with something left to do, leased until `lease` by this.

        These are the OPEN ones whose lease was over at `before`, and the WITHDRAWN ones with
        leftovers whose lease was over at `now`. One that cannot be read is leased and passed over.
        """

    def prune(self, before: datetime) -> int:
        """Forget rows last changed before then that have nothing left to do; return how many."""
