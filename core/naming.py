"""The documents of an archive that name its image, made to name it by one name only."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tintype.core.documents import as_list, as_object, as_string
from tintype.core.errors import CorruptArchive
from tintype.core.reference import Reference

MANIFEST, INDEX, REPOSITORIES = "manifest.json", "index.json", "repositories"
NAMING = (MANIFEST, INDEX, REPOSITORIES)
"""Members that name the image."""

IMAGE_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"
"""Annotations of an OCI descriptor that name its image."""

_REFERENCE = re.compile(r"([^\s@]+):([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})")


@dataclass(frozen=True, slots=True)
class ImageName:
    """The one name and tag that the image is to have."""

    name: str
    tag: str

    @classmethod
    def parse(cls, repo_tag: str) -> ImageName:
        """Split `name:tag`. Raises ValueError for what is not that."""
        match = _REFERENCE.fullmatch(repo_tag)
        if match is None:
            raise ValueError(f"not an image name and tag: {repo_tag!r}")
        return cls(match[1], match[2])

    @property
    def repo_tag(self) -> str:
        """Name and tag as `manifest.json` has them."""
        return f"{self.name}:{self.tag}"

    @property
    def canonical(self) -> str:
        """The full reference. Raises ValueError for a name that Docker would not take."""
        return str(Reference.parse(self.repo_tag))


def retagged_repositories(document: object, name: ImageName) -> object:
    """Point the one name to the top layer that the old names pointed to (Docker before 1.10)."""
    tops = {
        as_string(top, REPOSITORIES)
        for tags in as_object(document, REPOSITORIES).values()
        for top in as_object(tags, REPOSITORIES).values()
    }
    if len(tops) > 1:
        raise CorruptArchive(f"{REPOSITORIES} names {len(tops)} images instead of one")
    return {name.name: {name.tag: tops.pop()}} if tops else {}


def retagged_index(
    document: object, name: ImageName, is_of_image: Callable[[dict[str, object]], bool]
) -> object:
    """Name the image's descriptor, once, and take the names off all others.

    Descriptors of other platforms and of attestations stay, with or without their blobs. An
    index without any descriptor (Docker 25.0 saving by image id) stays empty.
    """
    index = as_object(document, INDEX)
    names = {IMAGE_NAME: name.canonical, REF_NAME: name.tag}
    described: dict[object, dict[str, object]] = {}
    named = False
    for item in as_list(index.get("manifests") or [], INDEX):
        descriptor = as_object(item, INDEX)
        digest = as_string(descriptor.get("digest"), f"{INDEX}: digest")
        if digest in described:  # the same image under another tag
            continue
        old = as_object(descriptor.get("annotations") or {}, f"{INDEX}: annotations")
        annotations = {key: value for key, value in old.items() if key not in names}
        if not named and is_of_image(descriptor):
            annotations |= names
            named = True
        described[digest] = {**descriptor, "annotations": annotations}
    if described and not named:
        raise CorruptArchive(f"{INDEX} leads to no manifest of the image in the archive")
    return {**index, "manifests": list(described.values())}
