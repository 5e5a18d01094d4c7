"""Images as Glance's API v2 describes them in JSON, and what they mean to Tintype."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from tintype.core.archive import ArchiveSummary
from tintype.core.errors import CorruptUpload, Invalid, NotFound
from tintype.core.events import is_uuid
from tintype.core.images import ImageSpec, ImageStatus, StoredImage

_LOG = logging.getLogger(__name__)

FORMATS = {"container_format": "docker", "disk_format": "raw"}
"""What our data is, in Glance's words."""

DEACTIVATED = "deactivated"
"""Glance's status of an image that an administrator has put out of use; its data is kept."""

_STATUS = {
    "queued": ImageStatus.QUEUED,
    "saving": ImageStatus.SAVING,
    "uploading": ImageStatus.SAVING,
    "importing": ImageStatus.SAVING,
    "active": ImageStatus.ACTIVE,
    DEACTIVATED: ImageStatus.ACTIVE,
}
"""Glance's statuses; in any other (killed, deleted, pending_delete) the image is gone for good."""

_GLANCES_OWN = frozenset(
    {
        "checksum",
        "container_format",
        "created_at",
        "direct_url",
        "disk_format",
        "file",
        "id",
        "locations",
        "min_disk",
        "min_ram",
        "name",
        "os_hash_algo",
        "os_hash_value",
        "os_hidden",
        "owner",
        "protected",
        "schema",
        "self",
        "size",
        "status",
        "stores",
        "tags",
        "updated_at",
        "virtual_size",
        "visibility",
    }
)
"""Fields of every image (`is_base` in `GET /v2/schemas/image`); all others are its properties."""

_IMPORT_PREFIX = "os_glance_"
"""Properties that Glance keeps for itself, on how an import goes."""


def checked(image_id: str) -> str:
    """Return the id, which becomes part of a URL, if it is one. Raises Invalid."""
    if not is_uuid(image_id):
        raise Invalid("an image id must be a UUID")
    return image_id


def to_document(image: ImageSpec) -> dict[str, Any]:
    """Return what to create the image with."""
    document: dict[str, Any] = {
        **image.properties,
        "id": checked(image.id),
        "name": image.name,
        "tags": [image.tag],
        "visibility": image.visibility,
        **FORMATS,
    }
    return document if image.owner is None else {**document, "owner": image.owner}


def to_image(document: Mapping[str, Any]) -> StoredImage:
    """Return the image that Glance describes. Raises NotFound for one that is gone for good.

    Glance keeps no order of tags: the first is that of the alphabet. Whoever made the image need
    not have given it a name, a tag or a format.
    """
    image_id, status = document["id"], document["status"]
    if status not in _STATUS:
        raise NotFound(f"image {image_id} is {status}")
    return StoredImage(
        id=image_id,
        status=_STATUS[status],
        location=f"glance://{image_id}",
        size_bytes=document.get("size"),
        sha512=document.get("os_hash_value") if document.get("os_hash_algo") == "sha512" else None,
        owner=document.get("owner"),
        created_at=document.get("created_at"),
        name=document.get("name"),
        tag=min(document.get("tags", ()), default=None),
        visibility=document.get("visibility", "private"),
        properties=_properties(document),
    )


def _properties(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the image's properties, and its container format, which says what its data is."""
    return {
        key: value
        for key, value in document.items()
        if isinstance(value, str)
        and (key == "container_format" or key not in _GLANCES_OWN)
        and not key.startswith(_IMPORT_PREFIX)
    }


def glance_statuses(statuses: Collection[ImageStatus]) -> list[str]:
    """Return Glance's words for statuses; an image that is deactivated is none that is found."""
    return [word for word, status in _STATUS.items() if status in statuses and word != DEACTIVATED]


def compare(document: Mapping[str, Any], sent: ArchiveSummary) -> None:
    """Raise CorruptUpload unless Glance holds what was sent, as far as it says what it holds."""
    image_id, size = document["id"], document.get("size")
    if size != sent.size_bytes:
        raise CorruptUpload(f"image {image_id} has {size} bytes, {sent.size_bytes} were sent")
    known = {"sha512": sent.sha512, "sha256": sent.sha256}
    expected = known.get(document.get("os_hash_algo") or "")
    if expected is None:
        _LOG.warning("image %s: Glance has no hash that can be compared, only a size", image_id)
    elif document.get("os_hash_value") != expected:
        raise CorruptUpload(f"image {image_id} holds other bytes than were sent")


def missing(
    document: Mapping[str, Any], properties: Mapping[str, str], tag: str | None
) -> list[dict[str, Any]]:
    """Return the changes, as of RFC 6902, that give the image properties and tag that it lacks."""
    wanted: dict[str, object] = {**properties}
    tags: list[str] = document.get("tags", [])
    if tag is not None and tag not in tags:
        wanted["tags"] = [*tags, tag]
    return [
        {"op": "add", "path": f"/{_pointer(key)}", "value": value}
        for key, value in wanted.items()
        if document.get(key) != value
    ]


def missing_formats(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the changes that give ours to an image that was reserved without formats."""
    return [
        {"op": "replace", "path": f"/{name}", "value": value}
        for name, value in FORMATS.items()
        if document.get(name, value) is None
    ]


def _pointer(key: str) -> str:
    """Escape a property's name for a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")
