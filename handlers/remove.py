"""The removal of an image that has expired, or that nobody waits for any more."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from tintype.core.errors import Invalid, NotFound, Refused, Unavailable
from tintype.core.events import Event
from tintype.core.images import ImageStatus, StoredImage
from tintype.core.janitor import counts, is_expired
from tintype.core.ports import Services
from tintype.core.removal import Candidate, Reason, Removal

LOG = logging.getLogger(__name__)


def remove(event: Event, services: Services) -> Iterator[Event]:
    """Delete the image and tell of it. One that is gone already was somebody else's doing.

    Unless an earlier attempt was killed: that may have deleted it, and has told nobody. What is
    refused, and a store that is away for too long, are left to the janitor's later plans.
    """
    removal = Removal.load(event)
    candidate = removal.candidate
    try:
        store = services.store(candidate.store, candidate.repository)
        if _still_due(candidate, store.describe(candidate.image_id), services):
            store.discard(candidate.image_id)
        else:
            return
    except NotFound:
        if event.attempt == 1:
            return
    except (Invalid, Refused) as error:
        LOG.error("image %s in %s stays: %s", candidate.image_id, candidate.store, error)
        return
    except Unavailable as error:
        if not removal.is_overdue(services.clock.now()):
            raise
        LOG.error("image %s in %s is given up: %s", candidate.image_id, candidate.store, error)
        return
    yield removal.removed()


def _still_due(candidate: Candidate, image: StoredImage, services: Services) -> bool:
    """Tell whether the image is still what it was found to be: its owner may have changed it."""
    if candidate.reason == Reason.ORPHANED:
        return image.status is not ImageStatus.ACTIVE
    if candidate.reason == Reason.EXPIRED:
        return is_expired(image, services.clock.now())
    return counts(image) and _newer_are_there(candidate, services)


def _newer_are_there(candidate: Candidate, services: Services) -> bool:
    """Tell whether all the images still count that made this one superfluous."""
    now = services.clock.now()
    for repository, image_id in candidate.newer:
        try:
            image = services.store(candidate.store, repository).describe(str(image_id))
        except NotFound:
            return False
        if not counts(image) or is_expired(image, now):
            return False
    return bool(candidate.newer)
