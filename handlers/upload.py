"""From a capture to active images: reserve ids, stream, verify, one store after another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace

from tintype.core.archive import ArchiveStream, ArchiveSummary
from tintype.core.errors import (
    Cancelled,
    CorruptUpload,
    ImageIdSpent,
    NotFound,
    Refused,
    Unavailable,
    WrongState,
)
from tintype.core.events import SNAPSHOT_PROGRESS, SNAPSHOT_START, Event
from tintype.core.images import ImageSpec, ImageStatus, ImageStore, StoredImage
from tintype.core.ports import Services
from tintype.core.snapshot import CAPTURE, FINISH, RESERVE, UPLOAD, Copy, Snapshot
from tintype.handlers.commit import check_in_time

GENERATIONS_ALLOWED = 4
"""How many image ids one store may use up before the snapshot fails."""

SAVING_ATTEMPTS = 5
"""How many attempts find an image in `saving` before its upload counts as dead. A client that dies
puts the image back to `queued` at once; only a store that dies leaves it in `saving`."""


def reserve(event: Event, services: Services) -> Iterator[Event]:
    """Create the image in each store, so that it can be polled from now on."""
    services.checkpoint()
    snapshot = Snapshot.load(event)
    check_in_time(snapshot, services)
    for copy in snapshot.copies:
        store = services.stores[copy.name]
        for image_id in copy.spent:
            store.discard(image_id)
        if copy.reserved:
            continue
        try:
            image = store.reserve(_spec(snapshot, copy))
        except ImageIdSpent as error:
            if event.attempt > 1 or copy.image_id == snapshot.request.get("image_id"):
                # It was reserved, by us or for us, and is no more.
                raise _deleted(copy) from error
            yield from _give_up_id(snapshot, copy)
            return
        _check_ours(snapshot, copy, image)
        snapshot = snapshot.with_copy(replace(copy, reserved=True, spent=()))
    yield snapshot.event(SNAPSHOT_START, status="queued")
    yield snapshot.step(UPLOAD if snapshot.capture_ref else CAPTURE)


def upload(event: Event, services: Services) -> Iterator[Event]:
    """Stream the capture to the next store that lacks it, and make sure it arrived."""
    snapshot = Snapshot.load(event)
    missing = [copy for copy in snapshot.copies if copy.status != ImageStatus.ACTIVE]
    if not missing:
        yield snapshot.step(FINISH, phase="cleanup")
        return
    copy = missing[0]
    store = services.stores[copy.name]
    capture = services.engine.reopen(str(snapshot.capture_ref), paused_ms=snapshot.paused_ms or 0)
    if capture is None:
        yield snapshot.step(CAPTURE, capture_ref=None, phase="accepted")
        return
    try:
        status = _describe(store, copy).status
        if status is ImageStatus.SAVING:
            raise _still_saving(copy, event.attempt)
        with capture.read() as chunks:
            archive = ArchiveStream(chunks, f"{snapshot.image_name}:{snapshot.tag}")
            passing = _watched(archive, snapshot, copy, services)
            if status is ImageStatus.ACTIVE:
                # A killed run sent it whole: hash what would be sent, to see that it is the same.
                for _ in passing:
                    pass
            else:
                _send(store, copy, passing)
        summary = archive.summary
        verifying = replace(snapshot, phase="verifying")
        services.progress(verifying.event(SNAPSHOT_PROGRESS, status="saving", key=copy.name))
        stored = _complete(store, snapshot, copy, summary)
    except (ImageIdSpent, CorruptUpload):
        yield from _give_up_id(snapshot, copy)
        return
    done = replace(
        copy,
        status=stored.status.value,
        location=stored.location,
        digest=f"sha256:{summary.sha256}",
        size_bytes=summary.size_bytes,
    )
    yield snapshot.with_copy(done).step(
        UPLOAD,
        size_bytes=snapshot.size_bytes or summary.size_bytes,
        sha256=snapshot.sha256 or summary.sha256,
        layers=summary.layers,
    )


def _send(store: ImageStore, copy: Copy, body: Iterable[bytes]) -> None:
    """Upload, telling an image deleted meanwhile from other refusals."""
    try:
        store.upload(copy.image_id, body)
    except Refused:
        _describe(store, copy)
        raise


def _complete(
    store: ImageStore, snapshot: Snapshot, copy: Copy, sent: ArchiveSummary
) -> StoredImage:
    """Have the data verified and the image described; one that was reserved for us is not yet."""
    spec = _spec(snapshot, copy)
    facts = {"snapshot_sha256": sent.sha256, "engine_image_id": sent.config_digest}
    try:
        return store.complete(copy.image_id, sent, {**spec.properties, **facts}, tag=spec.tag)
    except NotFound as error:
        raise _deleted(copy) from error


def _describe(store: ImageStore, copy: Copy) -> StoredImage:
    try:
        return store.describe(copy.image_id)
    except NotFound as error:
        raise _deleted(copy) from error


def _deleted(copy: Copy) -> Cancelled:
    return Cancelled(f"image {copy.image_id} was deleted from {copy.name!r}")


def _still_saving(copy: Copy, attempt: int) -> Unavailable:
    if attempt <= SAVING_ATTEMPTS:
        return Unavailable(f"{copy.name}: image {copy.image_id} is still taking an older upload")
    return ImageIdSpent(f"{copy.name}: image {copy.image_id} is stuck in an upload")


def _give_up_id(snapshot: Snapshot, copy: Copy) -> Iterator[Event]:
    """Go on with a new image id. It is journaled before anything is created under it."""
    if copy.generation + 1 >= GENERATIONS_ALLOWED:
        raise Refused(f"{copy.name}: {GENERATIONS_ALLOWED} image ids were used up in vain")
    fresh = copy.next_generation(snapshot.request_id)
    yield snapshot.with_copy(fresh).step(RESERVE)


def _check_ours(snapshot: Snapshot, copy: Copy, image: StoredImage) -> None:
    """Refuse an `image_id` that names somebody's image, so that it is neither used nor deleted."""
    project = snapshot.requester.project_id
    given = copy.image_id == snapshot.request.get("image_id")
    # Without a project the image that we make ourselves is the service's own.
    foreign = image.owner not in (None, project) and (given or project is not None)
    if image.status is not ImageStatus.QUEUED or foreign:
        raise WrongState(
            f"image_id: {copy.image_id} names an image in {copy.name!r} that is not waiting for "
            "data of this project; leave image_id out or reserve a new one"
        )


def _watched(
    archive: ArchiveStream, snapshot: Snapshot, copy: Copy, services: Services
) -> Iterator[bytes]:
    """Pass chunks on, telling progress, and stop when the request or its image is gone."""
    store = services.stores[copy.name]
    sent = 0
    looked = services.clock.now()
    for chunk in archive:
        services.checkpoint()
        now = services.clock.now()
        if (now - looked).total_seconds() >= services.poll_seconds:
            looked = now
            _look_for_deletion(store, copy)
        yield chunk
        sent += len(chunk)
        services.progress(
            snapshot.event(
                SNAPSHOT_PROGRESS, status="saving", key=f"{copy.name}/{sent}", bytes_done=sent
            )
        )


def _look_for_deletion(store: ImageStore, copy: Copy) -> None:
    try:
        _describe(store, copy)
    except Unavailable:
        # The upload itself will tell whether the store is gone; a failed look must not stop it.
        return


def _spec(snapshot: Snapshot, copy: Copy) -> ImageSpec:
    """Describe the image: Nova's property names first, then what a restore needs."""
    config = snapshot.container_config
    properties = {
        "image_type": "snapshot",
        "instance_uuid": snapshot.container_uuid,
        "base_image_ref": snapshot.base_image_id,
        "base_image": snapshot.base_image,
        "user_id": snapshot.requester.user_id,
        "owner_id": snapshot.requester.project_id,
        "image_location": "snapshot",
        "image_state": "available",
        "backup_type": snapshot.request.get("backup_type"),
        "container_uuid": snapshot.container_uuid,
        "container_name": snapshot.container_name,
        "container_host": snapshot.host,
        "snapshot_request_id": snapshot.request_id,
        "excluded_volumes": json.dumps(list(snapshot.excluded_volumes)),
        "scrubbed_env": "[]",
        "container_labels": json.dumps(dict(snapshot.container_labels)),
        **{f"container_{name}": json.dumps(value) for name, value in config.items()},
        **{f"meta_{name}": value for name, value in snapshot.request.get("metadata", {}).items()},
    }
    return ImageSpec(
        id=copy.image_id,
        name=snapshot.image_name,
        tag=snapshot.tag,
        owner=snapshot.requester.project_id,
        visibility=snapshot.request.get("visibility", "private"),
        properties={name: str(value) for name, value in properties.items() if value is not None},
    )
