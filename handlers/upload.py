"""From a capture to active images: reserve, stream, verify, publish, one store after another."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace

from tintype.core.archive import ArchiveStream, ArchiveSummary
from tintype.core.engine import Capture
from tintype.core.errors import (
    Cancelled,
    CorruptUpload,
    ImageIdSpent,
    NotFound,
    Refused,
    TintypeError,
    Unavailable,
    WrongState,
)
from tintype.core.events import SNAPSHOT_PROGRESS, SNAPSHOT_START, Event
from tintype.core.images import ImageSpec, ImageStatus, ImageStore, StoredImage
from tintype.core.moments import moment
from tintype.core.ports import Services
from tintype.core.snapshot import ABORT, FINISH, PUBLISH, RESERVE, UPLOAD, Copy, Snapshot
from tintype.handlers import hooks
from tintype.handlers.routed import check_in_time

GENERATIONS_ALLOWED = 4
"""How many image ids one store may use up before the snapshot fails."""

SAVING_ATTEMPTS = 5
"""How many attempts find an image in `saving` before its upload counts as dead. A client that dies
puts the image back to `queued` at once; only a store that dies leaves it in `saving`."""

_TEXTS = frozenset({"command", "entrypoint", "labels", "user", "working_dir"})
"""What is known of a container that may repeat the value of an environment variable."""


def reserve(event: Event, services: Services) -> Iterator[Event]:
    """Create the image in the next store, so that it can be polled from now on.

    One store for each step: one that refuses is given up while others take the image.
    """
    services.checkpoint()
    snapshot = Snapshot.load(event)
    check_in_time(snapshot, services)
    copy = snapshot.in_hand(RESERVE)
    if copy is not None:
        store = services.store(copy.name, copy.repository)
        for image_id in copy.spent:
            store.discard(image_id)
        try:
            image = store.reserve(_spec(snapshot, copy))
        except ImageIdSpent as error:
            if event.attempt > 1 or copy.image_id == snapshot.request.get("image_id"):
                # It was reserved, by us or for us, and is no more.
                raise _deleted(copy) from error
            yield _give_up_id(snapshot, copy)
            return
        _check_ours(snapshot, copy, image)
        snapshot = snapshot.with_copy(replace(copy, reserved=True, spent=()))
    if snapshot.in_hand(RESERVE) is not None:
        yield snapshot.step(RESERVE)
        return
    yield snapshot.event(SNAPSHOT_START, status="queued")
    yield snapshot.step(UPLOAD) if snapshot.capture_ref else hooks.entry(snapshot, services)


def upload(event: Event, services: Services) -> Iterator[Event]:
    """Stream the capture to the next store that lacks it, and make sure it arrived."""
    snapshot = Snapshot.load(event)
    copy = snapshot.in_hand(UPLOAD)
    if copy is None:
        yield _with_all_data(snapshot)
        return
    store = services.store(copy.name, copy.repository)
    capture = services.engine.reopen(str(snapshot.capture_ref), paused_ms=snapshot.paused_ms or 0)
    if capture is None:
        yield hooks.entry(snapshot, services)
        return
    failures: list[TintypeError] = []
    try:
        status = _describe(store, copy).status
        if status is ImageStatus.SAVING:
            raise _still_saving(copy, event.attempt)
        with closing(_chunks(capture)) as chunks:
            name = f"{snapshot.image_name}:{snapshot.tag}"
            archive = ArchiveStream(chunks, name, snapshot.unset_env)
            passing = _watched(_noted(archive, failures), snapshot, copy, store, services)
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
        yield _give_up_id(snapshot, copy)
        return
    except Refused as error:
        if error not in failures:
            raise
        yield snapshot.failed(UPLOAD, error).step(ABORT)
        return
    done = replace(
        copy,
        status=stored.status.value,
        location=stored.location,
        digest=stored.digest or f"sha256:{summary.sha256}",
        size_bytes=summary.size_bytes,
    )
    yield snapshot.with_copy(done).step(
        UPLOAD,
        size_bytes=snapshot.size_bytes or summary.size_bytes,
        sha256=snapshot.sha256 or summary.sha256,
        layers=summary.layers,
        scrubbed_env=summary.scrubbed_env,
    )


def publish(event: Event, services: Services) -> Iterator[Event]:
    """Give the image its own tag in the next store that has repositories.

    Only now: a snapshot that fails earlier takes a tag from no older image.
    """
    services.checkpoint()
    snapshot = Snapshot.load(event)
    copy = snapshot.in_hand(PUBLISH)
    if copy is not None:
        try:
            services.store(copy.name, copy.repository).publish(copy.image_id)
        except NotFound as error:
            raise _deleted(copy) from error
        snapshot = snapshot.with_copy(replace(copy, published=True))
    yield _with_all_data(snapshot)


def _with_all_data(snapshot: Snapshot) -> Event:
    """Return what follows when every store has the image's data."""
    if snapshot.in_hand(PUBLISH) is not None:
        return snapshot.step(PUBLISH)
    return snapshot.step(FINISH, phase="cleanup")


def _chunks(capture: Capture) -> Generator[bytes, None, None]:
    """Open the capture when its first chunk is wanted, so that its failure is the stream's too."""
    with capture.read() as chunks:
        yield from chunks


def _noted(archive: Iterable[bytes], failures: list[TintypeError]) -> Iterator[bytes]:
    """Pass an archive on, noting what it refuses: that is no store's doing.

    Raises Unavailable for a capture that is gone meanwhile: the next attempt makes a new one.
    """
    try:
        yield from archive
    except NotFound as error:
        raise Unavailable(f"the capture is no more: {error}") from error
    except Refused as error:
        failures.append(error)
        raise


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
    facts = {
        "snapshot_sha256": sent.sha256,
        "engine_image_id": sent.config_digest,
        "scrubbed_env": json.dumps(list(sent.scrubbed_env)),
    }
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


def _give_up_id(snapshot: Snapshot, copy: Copy) -> Event:
    """Go on with a new image id. It is journaled before anything is created under it."""
    if copy.generation + 1 >= GENERATIONS_ALLOWED:
        raise Refused(f"{copy.name}: {GENERATIONS_ALLOWED} image ids were used up in vain")
    fresh = copy.next_generation(snapshot.request_id)
    return snapshot.with_copy(fresh).step(RESERVE)


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
    archive: Iterable[bytes], snapshot: Snapshot, copy: Copy, store: ImageStore, services: Services
) -> Iterator[bytes]:
    """Pass chunks on, telling progress, and stop when the request or its image is gone."""
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
    """Describe the image: Nova's property names first, then what a restore needs.

    Where variables are taken out of the image, texts of the container that may repeat a value are
    left out: what they are in the image stands in the image itself.
    """
    kept = {"labels": dict(snapshot.container_labels), **snapshot.container_config}
    if snapshot.unset_env:
        kept = {name: value for name, value in kept.items() if name not in _TEXTS}
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
        "snapshot_id": snapshot.snapshot_id,
        "snapshot_request_id": snapshot.request_id,
        "expires_at": moment(snapshot.request.get("expires_at")),
        "excluded_volumes": json.dumps(list(snapshot.excluded_volumes)),
        "scrubbed_env": json.dumps(list(snapshot.scrubbed_env)),
        **{f"container_{name}": json.dumps(value) for name, value in kept.items()},
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
