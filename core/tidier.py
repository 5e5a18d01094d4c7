"""The tidier: goes on with what REST services have left behind when they died or failed."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import timedelta

from tintype.core.dispatch import Dispatches
from tintype.core.dispatcher import Hearing
from tintype.core.errors import NotFound, Refused, Unavailable
from tintype.core.images import ImageStatus, ImageStore
from tintype.core.index import Index
from tintype.core.ports import Clock
from tintype.core.reservation import LEASE, Reservation, Reservations, ReservationState
from tintype.core.routes import ROUTES

LOG = logging.getLogger(__name__)

ABANDONED = timedelta(minutes=10)
"""How long after its lease an attempt counts as dead: its request, if it was published, has come to
a router by then."""


@dataclass(frozen=True, slots=True)
class Tidier:
    """Settles what nobody goes on with; each router has one."""

    reservations: Reservations
    dispatches: Dispatches
    index: Index
    images: ImageStore | None
    """The image service; None: what is left there stays until somebody has one."""
    clock: Clock
    requests: Hearing
    """Of the queue of requests: what waits there may be what looks abandoned here."""

    def sweep(self) -> int:
        """Settle what was abandoned and delete its images; return how many. Raises Unavailable."""
        now = self.clock.now()
        rows = self.reservations.claim(now - ABANDONED, now, now + LEASE)
        for row in rows:
            try:
                self._tidy(row)
            except (Unavailable, Refused) as error:
                LOG.warning("request %s: still to be tidied up: %s", row.key, error)
            except Exception:
                # The edge of one row: its defect must not keep the others waiting.
                LOG.exception("request %s: tidying up broke", row.key)
        return len(rows)

    def _tidy(self, row: Reservation) -> None:
        """Go on with one row. What fails is tried again once its lease is over."""
        settled = self._settled(row) if row.state is ReservationState.OPEN else row
        if settled.leftovers and self.images is not None:
            for image_id in settled.leftovers:
                self._discard(self.images, image_id)
            self.reservations.replace(replace(settled, leftovers=()))

    def _discard(self, images: ImageStore, image_id: str) -> None:
        """Delete an image, unless it has become one: its request ran all the same, and told so."""
        try:
            if images.describe(image_id).status is not ImageStatus.ACTIVE:
                images.discard(image_id)
        except NotFound:
            return

    def _settled(self, row: Reservation) -> Reservation:
        """Return what has become of an attempt whose holder died: published, or never."""
        record = ROUTES[row.request_type].known(self.index, row.request_id)
        told = record is not None and record.told
        if told or self.dispatches.get(row.request_id) is not None:
            # Nothing is published before the leftovers of earlier attempts are gone.
            settled = replace(row, state=ReservationState.KEPT, leftovers=())
        elif not self.requests.complete():
            return replace(row, leftovers=())  # to be looked at again once its lease is over
        else:
            settled = row.withdrawn(made=row.reserves)
            LOG.warning("request %s was promised to nobody: taken back", row.key)
        return settled if self.reservations.replace(settled) else replace(row, leftovers=())
