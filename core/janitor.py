"""The janitor: finds images that have expired, that are too many, or that nobody waits for.

It looks at the images of this host's containers only, so that several hosts with one image service
do not tell of the same removal. What it finds becomes a job of its own each, journaled like every
other: an image is removed once, and its removal is told once, whenever the host dies meanwhile.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from tintype.core.errors import TintypeError
from tintype.core.events import Event
from tintype.core.housekeeping import LiveRequests
from tintype.core.images import ImageStatus, ImageStore, StoredImage
from tintype.core.moments import moment, utc_text
from tintype.core.ports import Admission, Clock, Journal
from tintype.core.removal import REMOVAL_TIME, Candidate, Reason, Removal, removal_id

LOG = logging.getLogger(__name__)

DAYS_LIVE = 3
"""On how many days a removal that is live may have been decided: its time, and its last attempt,
may end after midnight."""

_UNFINISHED = (ImageStatus.QUEUED, ImageStatus.SAVING)


@dataclass(frozen=True, slots=True)
class Retention:
    """Which images are kept."""

    orphan_age: timedelta
    """How old an unfinished image must be whose request has ended, to count as left behind."""
    keep_last: int | None = None
    """How many images of a container a project keeps in one store; None: all."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Decides what is to go."""

    stores: Mapping[str, ImageStore]
    clock: Clock
    host: str
    retention: Retention

    def candidates(
        self, live: Collection[str], known: Mapping[str, Collection[str]] | None = None
    ) -> Iterator[Candidate]:
        """Yield the images to be removed; `live` are the requests that still run (`Journal.live`).

        Their images neither go nor count, for one that is whole here may be taken away with the
        request when another store fails. `known` (`repositories_of`) is where to look in stores
        that do not list their repositories. What cannot be looked at is logged and left out.
        """
        for name, store in self.stores.items():
            images = self._images(name, store, (known or {}).get(name, ()))
            # Asked now: of a request that was taken in since, the image may be whole already.
            running = frozenset(live)
            yield from self._in_store(
                name, [image for image in images if _request_of(image) not in running]
            )

    def _images(
        self, name: str, store: ImageStore, known: Collection[str]
    ) -> Iterable[StoredImage]:
        """Return the snapshots of this host in a store, each once."""
        found: dict[tuple[str | None, str], StoredImage] = {}
        unseen: list[str] = []
        self._look(store, found, unseen)
        for repository in sorted(set(known) - {image.repository for image in found.values()}):
            try:
                self._look(store.at(repository), found, unseen)
            except TintypeError as error:
                unseen.append(f"{repository}: {error}")
        if unseen:
            LOG.warning("janitor: not all of %r is looked at: %s", name, "; ".join(unseen))
        return [image for image in found.values() if _request_of(image)]

    def _look(
        self,
        store: ImageStore,
        found: dict[tuple[str | None, str], StoredImage],
        unseen: list[str],
    ) -> None:
        ours = {"container_host": self.host, "image_type": "snapshot"}
        try:
            images = store.find(None, ours, statuses=tuple(ImageStatus))
        except TintypeError as error:
            unseen.append(str(error))
        else:
            found.update({(image.repository, image.id): image for image in images})

    def _in_store(self, name: str, images: list[StoredImage]) -> Iterator[Candidate]:
        now = self.clock.now()
        kept = []
        for image in images:
            reason = self._reason(image, now)
            if reason is None:
                kept.append(image)
            else:
                yield _candidate(name, image, reason)
        for image, newer in self._too_many(kept):
            yield _candidate(name, image, Reason.ROTATED, newer)

    def _reason(self, image: StoredImage, now: datetime) -> Reason | None:
        if image.status in _UNFINISHED:
            made = moment(image.created_at)
            old = made is not None and made < utc_text(now - self.retention.orphan_age)
            return Reason.ORPHANED if old else None
        return Reason.EXPIRED if is_expired(image, now) else None

    def _too_many(
        self, images: list[StoredImage]
    ) -> Iterator[tuple[StoredImage, list[StoredImage]]]:
        """Yield all but the newest images of each container, each with those newest ones."""
        if self.retention.keep_last is None:
            return
        series = defaultdict[tuple[str | None, str | None], list[StoredImage]](list)
        for image in images:
            if counts(image):
                series[image.owner, image.properties.get("container_uuid")].append(image)
        for found in series.values():
            found.sort(key=lambda image: moment(image.created_at) or "", reverse=True)
            newest = found[: self.retention.keep_last]
            yield from ((image, newest) for image in found[self.retention.keep_last :])


def _request_of(image: StoredImage) -> str | None:
    return image.properties.get("snapshot_request_id")


def counts(image: StoredImage) -> bool:
    """Tell whether an image is one of those of which `keep_last` are kept.

    Those that name a `backup_type` are left to the rotation of that series.
    """
    return image.status is ImageStatus.ACTIVE and "backup_type" not in image.properties


def repositories_of(told: Iterable[Event]) -> Mapping[str, Collection[str]]:
    """Return the repositories, by store, that events about snapshots (`Journal.snapshots`) name."""
    known = defaultdict[str, set[str]](set)
    for event in told:
        for copy in event.payload.get("stores", ()):
            if copy.get("repository"):
                known[copy["name"]].add(copy["repository"])
    return known


def is_expired(image: StoredImage, now: datetime) -> bool:
    """Tell whether the image's own `expires_at` has passed; what is no moment never does."""
    until = moment(image.properties.get("expires_at"))
    return until is not None and until <= utc_text(now)


@dataclass(frozen=True, slots=True)
class Janitor:
    """Has removed what the plan finds."""

    plan: Plan
    journal: Journal

    def sweep(self) -> int:
        """Journal the removal of what is to go; return how many are new. Raises Unavailable."""
        live = self.journal.live()
        known = repositories_of(self.journal.snapshots())
        found = list(self.plan.candidates(LiveRequests(self.journal), known))
        return sum(self._admit(candidate, live) for candidate in found)

    def _admit(self, candidate: Candidate, live: Collection[str]) -> bool:
        """Journal one removal, unless the same is under way since another day."""
        if any(each in live for each in self._ids(candidate)):
            return False
        now = self.plan.clock.now()
        removal = Removal.of(candidate, host=self.plan.host, created_at=now.isoformat())
        admission = self.journal.admit(
            removal.request_id, candidate.reason, removal.begun(), now + REMOVAL_TIME
        )
        new = admission is Admission.NEW
        if new:
            LOG.info(
                "janitor: image %s in %s is %s",
                candidate.image_id,
                candidate.store,
                candidate.reason,
            )
        return new

    def _ids(self, candidate: Candidate) -> Iterator[str]:
        """Yield the ids that a removal of this image may have which is not done."""
        now = self.plan.clock.now()
        for days in range(DAYS_LIVE):
            decided = (now - timedelta(days=days)).isoformat()
            yield removal_id(candidate, self.plan.host, decided)


def _candidate(
    store: str, image: StoredImage, reason: Reason, newer: Iterable[StoredImage] = ()
) -> Candidate:
    properties = image.properties
    return Candidate(
        store=store,
        image_id=image.id,
        reason=reason,
        repository=image.repository,
        image_name=image.name,
        tag=image.tag,
        project_id=image.owner,
        container_uuid=properties.get("container_uuid"),
        image_request_id=properties.get("snapshot_request_id"),
        expires_at=properties.get("expires_at"),
        image_created_at=image.created_at,
        newer=[(each.repository, each.id) for each in newer],
    )
