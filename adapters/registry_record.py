"""What is known of an image of ours, as annotations of its manifest, and the tag it is found by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tintype.core.events import is_uuid

_TAG = re.compile(r"tintype-([0-9a-f-]{36})")
_FIELD = "tintype."
_PROPERTY = "tintype.property."


@dataclass(frozen=True, slots=True)
class Record:
    """All that is known of an image of ours."""

    id: str
    name: str
    tag: str
    owner: str | None
    visibility: str
    created_at: str
    properties: Mapping[str, str] = field(default_factory=dict)
    size_bytes: int | None = None
    sha512: str | None = None

    def annotations(self) -> dict[str, str]:
        """Write it down."""
        known = {
            "id": self.id,
            "name": self.name,
            "tag": self.tag,
            "owner": self.owner,
            "visibility": self.visibility,
            "created_at": self.created_at,
            "size_bytes": None if self.size_bytes is None else str(self.size_bytes),
            "sha512": self.sha512,
        }
        return {
            "org.opencontainers.image.created": self.created_at,
            **{_FIELD + name: value for name, value in known.items() if value is not None},
            **{_PROPERTY + name: value for name, value in self.properties.items()},
        }

    @classmethod
    def read(cls, annotations: Mapping[str, str]) -> Record | None:
        """Read it; None: this is no image of ours, or not a whole one."""
        known = {
            name: annotations.get(_FIELD + name)
            for name in ("id", "name", "tag", "visibility", "created_at")
        }
        image_id, name, tag, visibility, created_at = known.values()
        if not (image_id and name and tag and visibility and created_at):
            return None
        size = annotations.get(_FIELD + "size_bytes", "")
        return cls(
            id=image_id,
            name=name,
            tag=tag,
            owner=annotations.get(_FIELD + "owner"),
            visibility=visibility,
            created_at=created_at,
            properties={
                key.removeprefix(_PROPERTY): value
                for key, value in annotations.items()
                if key.startswith(_PROPERTY)
            },
            size_bytes=int(size) if size.isdecimal() else None,
            sha512=annotations.get(_FIELD + "sha512"),
        )


def tag_of(image_id: str) -> str:
    """Return the tag under which an image of ours is found."""
    return f"tintype-{image_id.lower()}"


def id_of(tag: str) -> str | None:
    """Return the id of the image whose own tag this is; None: it is nobody's."""
    match = _TAG.fullmatch(tag)
    return match[1] if match and is_uuid(match[1]) else None
