"""Which image a restore means, and whether its sender may have it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tintype.core.errors import (
    CorruptDownload,
    Invalid,
    NotFound,
    NotRestorable,
    Refused,
    TintypeError,
    Unavailable,
    WrongState,
)
from tintype.core.events import Requester, is_uuid
from tintype.core.images import ImageStatus, ImageStore, StoredImage
from tintype.core.ports import Services
from tintype.core.restore import Restore, Source
from tintype.core.snapshot import snapshot_id_for

OPEN = frozenset({"public", "community"})
"""Visibilities of images that every project may use, in Glance's words. Of a `shared` one only
Glance knows with whom it is shared, so that stays its owner's here."""

IDS_TOLD = 10
"""How many images are listed that a name may stand for."""

SNAPSHOT_ID, REQUEST_ID = "snapshot_id", "snapshot_request_id"
"""Properties by which the image of a snapshot is found."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_REFERENCE = re.compile(r"(?P<name>.+?)(?::(?P<tag>[^/:@]*))?(?:@(?P<digest>[^/@:]+:[^/@:]+))?")
_HOST = re.compile(r"(?:localhost|[^/]*[.:][^/]*)/.+")


def find(restore: Restore, services: Services) -> Source:
    """Return the image that the request names: the requester's own, else one that he may use.

    All stores are asked for his own before another's is taken from any: nobody slips an image
    under a name or an id that another project uses.

    Raises Invalid, NotFound (also for what the requester may not use: that it exists is not told),
    Refused (several have the name, or it has no data yet), NotRestorable, Unavailable.
    """
    request, requester = restore.request, restore.requester
    names = _stores(request, services)
    troubles: list[TintypeError] = []
    others: list[tuple[str, Sequence[StoredImage]]] = []
    for name in names:
        try:
            found = _look(services.stores[name], request, requester)
        except NotFound:
            continue
        except (Invalid, Refused, Unavailable) as error:
            if "image" in request and not isinstance(error, Invalid):
                raise  # by that name the next store may have something else
            troubles.append(error)
            continue
        if own := _own(found, requester):
            return _source(_only(own, _named(request)), name, request)
        others.append((name, [each for each in found if _may_use(each, request, requester)]))
    for name, usable in others:
        if usable and not _undecided(troubles):
            return _source(_only(usable, _named(request)), name, request)
    raise _why_not(troubles, names, request)


def _undecided(troubles: Iterable[TintypeError]) -> bool:
    """Tell whether a store could not say that it has no image of the requester's own."""
    return any(isinstance(error, Refused | Unavailable) for error in troubles)


def _why_not(
    troubles: Sequence[TintypeError], names: Sequence[str], request: Mapping[str, Any]
) -> TintypeError:
    """Return why no image was found: that a store could not be asked goes before all else."""
    for kind in (Unavailable, Refused):
        for error in troubles:
            if isinstance(error, kind):
                return error
    if len(troubles) == len(names):
        return troubles[0]
    where = ", ".join(names)
    return NotFound(
        f"{_named(request)} is no image that this project may restore, in the store(s) {where}"
    )


def _named(request: Mapping[str, Any]) -> str:
    """Return in words how the request names the image."""
    field = next(name for name in ("snapshot_id", "image_id", "image") if name in request)
    return f"/{field}: {request[field]!r}"


def _stores(request: Mapping[str, Any], services: Services) -> list[str]:
    """Return the names of the stores to look in. Raises Invalid."""
    wanted = request.get("store")
    if wanted is None:
        return list(services.stores)
    if wanted not in services.stores:
        known = ", ".join(sorted(services.stores))
        raise Invalid.at("/store", f"a store configured here ({known})", repr(wanted))
    return [wanted]


def _repository(store: ImageStore, request: Mapping[str, Any]) -> str | None:
    """Return where in the store to look; None: there are no repositories, or it is any of them.

    A name that begins with a registry's host names its repository in full. Raises Invalid.
    """
    wanted = request.get("repository")
    if "image" not in request:
        return None if wanted is None else store.repository_for("image", wanted)
    name = split_reference(request["image"])[0]
    if wanted is None and _HOST.fullmatch(name) and _has_repositories(store):
        wanted = name
    return store.repository_for(name, wanted)


def _has_repositories(store: ImageStore) -> bool:
    try:
        return store.repository_for("image", None) is not None
    except Invalid:
        return True  # it has no default, and wants to be told


def _look(
    store: ImageStore, request: Mapping[str, Any], requester: Requester
) -> Sequence[StoredImage]:
    """Return what may be meant in one store. Raises Invalid, NotFound, Refused, Unavailable."""
    repository = _repository(store, request)
    place = store.at(repository)
    if "snapshot_id" in request:
        return _of_snapshot(place, request["snapshot_id"].lower(), requester)
    if "image_id" in request:
        return _with_id(place, repository, request["image_id"].lower(), requester)
    name, tag, digest = split_reference(request["image"])
    if repository is not None:
        return [place.describe(digest or tag or "latest")]  # of one tag there is one image
    if digest is not None:
        raise Invalid.at("/image", f"no digest: the store {store.name!r} has none", digest)
    found = place.find(None, {}, name=name)
    return [each for each in found if (tag or "latest") == (each.tag or "latest")]


def _of_snapshot(place: ImageStore, ident: str, requester: Requester) -> Sequence[StoredImage]:
    """Return the images of a snapshot; `ident` is its own id or its request's.

    Anybody can write either down, so that another's image does not keep the own one from being
    found under the other.
    """
    found = place.find(None, {SNAPSHOT_ID: ident})
    if _own(found, requester):
        return found
    return [*found, *place.find(None, {REQUEST_ID: ident})]


def _with_id(
    place: ImageStore, repository: str | None, image_id: str, requester: Requester
) -> Sequence[StoredImage]:
    """Return the images with an id: one, but for a store whose repositories may each have one.

    Such a store has the first of them by the id alone, whosesoever that is.
    """
    several = repository is None and _has_repositories(place)
    try:
        first = place.describe(image_id)
    except (NotRestorable, CorruptDownload):
        if not several or not (found := _all_with_id(place, image_id)):
            raise
        return found
    if not several or _is_own(first, requester):
        return [first]
    return _all_with_id(place, image_id) or [first]


def _all_with_id(place: ImageStore, image_id: str) -> Sequence[StoredImage]:
    every = place.find(None, {}, statuses=tuple(ImageStatus))
    return [each for each in every if each.id.lower() == image_id]


def split_reference(text: str) -> tuple[str, str | None, str | None]:
    """Return name, tag and digest of `name[:tag][@digest]`; a host's port is part of the name."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        return text, None, None
    return match["name"], match["tag"] or None, match["digest"]


def _own(found: Iterable[StoredImage], requester: Requester) -> list[StoredImage]:
    return [image for image in found if _is_own(image, requester)]


def _may_use(image: StoredImage, request: Mapping[str, Any], requester: Requester) -> bool:
    """Tell whether the requester may use another's image.

    A snapshot's is its project's: which snapshot an image is of is but its owner's word.
    """
    if requester.is_admin:
        return True
    return image.visibility in OPEN and "snapshot_id" not in request


def _is_own(image: StoredImage, requester: Requester) -> bool:
    """Tell whether an image is of the requester's project, or was made for nobody's.

    A snapshot that no project asked for belongs, where a store knows projects, to the service's.
    """
    if requester.project_id is not None:
        return image.owner == requester.project_id
    ours = REQUEST_ID in image.properties and "owner_id" not in image.properties
    return image.owner is None or ours


def _only(found: Sequence[StoredImage], named: str) -> StoredImage:
    """Return the one image that is meant; the same bytes under several ids are one."""
    if len({image.sha512 or image.digest or image.id for image in found}) > 1:
        listed = ", ".join(_told(image) for image in found[:IDS_TOLD])
        more = f" and {len(found) - IDS_TOLD} more" if len(found) > IDS_TOLD else ""
        raise Refused(
            f"{named} stands for {len(found)} images: {listed}{more}; give an image_id or"
            " snapshot_id, and the repository if there are several"
        )
    return found[0]


def _told(image: StoredImage) -> str:
    return image.id if image.repository is None else f"{image.id} in {image.repository}"


def _source(image: StoredImage, store: str, request: Mapping[str, Any]) -> Source:
    """Return the image as a source. Raises WrongState, NotRestorable."""
    if image.status is not ImageStatus.ACTIVE:
        raise WrongState(f"image {image.id} is {image.status}: wait until it is active")
    container_format = image.properties.get("container_format", "docker")
    # One that was reserved beforehand keeps the format it was given, whatever a snapshot fills in.
    if container_format != "docker" and REQUEST_ID not in image.properties:
        raise NotRestorable(
            f"image {image.id} holds no container: its container_format is {container_format!r},"
            " not 'docker'"
        )
    return Source(
        store=store,
        # A tag may move while the image is loaded.
        image_id=image.id if is_uuid(image.id) else image.digest or image.id,
        repository=image.repository,
        name=image.name,
        tag=image.tag,
        snapshot_id=_snapshot_id(image.properties, request),
        size_bytes=image.size_bytes,
        sha256=_sent_sha256(image),
        sha512=image.sha512,
        properties=dict(image.properties),
    )


def _sent_sha256(image: StoredImage) -> str | None:
    """Return the hash of the archive that was sent; None where other bytes may come back.

    A store with digests of its own has taken the archive apart. It has the hash of all of it only
    if it can put the same together again; what it is made of has been verified then in any case.
    """
    sent = image.properties.get("snapshot_sha256", "")
    taken_apart = image.digest is not None and image.sha512 is None
    return sent if _SHA256.fullmatch(sent) and not taken_apart else None


def _snapshot_id(properties: Mapping[str, str], request: Mapping[str, Any]) -> str | None:
    """Return the id of the snapshot that the image is of; None: it is of none."""
    if is_uuid(properties.get(SNAPSHOT_ID)):
        return properties[SNAPSHOT_ID]
    if is_uuid(properties.get(REQUEST_ID)):
        return snapshot_id_for(properties[REQUEST_ID])
    wanted: str | None = request.get("snapshot_id")
    return wanted
