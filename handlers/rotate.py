"""Rotation: a new image of a series makes old ones superfluous (Nova's createBackup).

A series is what has one `backup_type`, of one container, in one store, of one project. What is
refused here is logged and left to the next rotation: the new image is good all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

from tintype.core.errors import TintypeError, Unavailable
from tintype.core.images import ImageStore, StoredImage
from tintype.core.moments import moment
from tintype.core.ports import Services
from tintype.core.snapshot import Copy, Snapshot

LOG = logging.getLogger(__name__)


def outdated(snapshot: Snapshot, services: Services) -> tuple[Mapping[str, str], ...]:
    """Return which images the snapshot's own makes superfluous: `store` and `image_id` of each."""
    if not ({"rotation", "keep_days"} & snapshot.request.keys()):
        return ()
    found = []
    for copy in snapshot.copies:
        if copy.fault is not None:
            continue
        try:
            store = services.store(copy.name, copy.repository)
            images = _outdated_in(store, copy, snapshot, services)
        except TintypeError as error:
            LOG.warning("request %s: not rotated in %s: %s", snapshot.request_id, copy.name, error)
            continue
        found += [{"store": copy.name, "image_id": image.id} for image in images]
    return tuple(found)


def delete(snapshot: Snapshot, services: Services) -> list[TintypeError]:
    """Delete the images that were found superfluous, and still are; return what is to be repeated.

    Meanwhile one may have been taken out of the series, or the new image deleted.
    """
    away: list[TintypeError] = []
    for copy in snapshot.copies:
        named = [each["image_id"] for each in snapshot.rotating if each["store"] == copy.name]
        if not named:
            continue
        try:
            store = services.store(copy.name, copy.repository)
            still = {image.id for image in _outdated_in(store, copy, snapshot, services)}
        except Unavailable as error:
            away.append(error)
            continue
        except TintypeError as error:
            LOG.warning("request %s: not rotated in %s: %s", snapshot.request_id, copy.name, error)
            continue
        for image_id in named:
            if image_id not in still:
                continue  # gone, too
            try:
                store.discard(image_id)
            except Unavailable as error:
                away.append(error)
            except TintypeError as error:
                LOG.warning("request %s: %s stays: %s", snapshot.request_id, image_id, error)
    return away


def _outdated_in(
    store: ImageStore, copy: Copy, snapshot: Snapshot, services: Services
) -> Sequence[StoredImage]:
    series = {
        "container_uuid": str(snapshot.container_uuid),
        "backup_type": str(snapshot.request["backup_type"]),
    }
    images = store.find(snapshot.requester.project_id, series)
    own = next((image for image in images if image.id == copy.image_id), None)
    if own is None:
        # Deleted or taken out of the series meanwhile: the older ones may be all that is left.
        LOG.info("request %s: not rotated, its image is not in the series", snapshot.request_id)
        return []
    # Without a project the store looks at everybody's.
    others = [image for image in images if image.id != own.id and image.owner == own.owner]
    # JSON's integers may come as 3.0.
    kept = others[: int(snapshot.request.get("rotation", len(others) + 1)) - 1]
    return [*others[len(kept) :], *_too_old(kept, snapshot, services)]


def _too_old(
    images: Sequence[StoredImage], snapshot: Snapshot, services: Services
) -> Iterator[StoredImage]:
    days = snapshot.request.get("keep_days")
    if days is None:
        return
    limit = moment(services.clock.now() - timedelta(days=days)) or ""
    for image in images:
        made = moment(image.created_at)
        if made is not None and made < limit:
            yield image
