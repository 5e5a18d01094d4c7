"""One repository of a registry, in the words of the OCI distribution specification."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from tintype.adapters.registry_api import RegistryApi
from tintype.adapters.registry_blobs import Blobs, digest_of
from tintype.adapters.registry_errors import LOST_BLOB, body_of, document_of
from tintype.core.errors import (
    CorruptDownload,
    CorruptUpload,
    NotFound,
    Refused,
    TooLarge,
    Unavailable,
)
from tintype.core.reference import Reference, is_digest

MANIFEST_BYTES = 4 << 20
"""Longest manifest (distribution's limit)."""
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
"""What is asked for: images and lists of images, in OCI's words and Docker's."""

_LIST_BYTES = 64 << 20
PAGE = 1000
"""Names asked for at once; a registry may give fewer."""

_DELETION = (
    "; deletion may have to be switched on there (distribution: storage.delete.enabled: true)"
)


@dataclass(frozen=True, slots=True)
class RawManifest:
    """A manifest as it stands in the registry."""

    digest: str
    media_type: str
    body: bytes


class Repository:
    """The calls that images are made of."""

    def __init__(self, api: RegistryApi, reference: Reference) -> None:
        """Take the registry and the repository's name."""
        self._api = api
        self.reference = reference
        self.blobs = Blobs(api, reference)
        self._path = f"/v2/{reference.path}"
        self._pull = f"repository:{reference.path}:pull"
        self._push = f"repository:{reference.path}:pull,push"
        self._delete = f"repository:{reference.path}:delete,pull,push"

    @property
    def domain(self) -> str:
        """The registry's name."""
        return self._api.domain

    def manifest(self, name: str) -> RawManifest:
        """Return the manifest with this tag or digest. Raises NotFound, CorruptDownload."""
        response = self._api.call(
            "GET",
            f"{self._path}/manifests/{name}",
            scope=self._pull,
            wanted=f"reading {self._named(name)}",
            good={200},
            headers={"Accept": ", ".join(MANIFEST_TYPES)},
        )
        told = response.headers.get("Docker-Content-Digest")
        body = body_of(response, MANIFEST_BYTES, self.domain)
        wanted = name if is_digest(name) else told
        digest = digest_of(body) if wanted is None else _digest_as(wanted, body)
        if wanted is not None and digest != wanted:
            raise CorruptDownload(f"{self._named(name)} is damaged: its digest is {digest}")
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        return RawManifest(digest, media_type, body)

    def digest(self, name: str) -> str | None:
        """Return the digest of the manifest with this tag or digest; None: there is none."""
        told = self._api.head(
            f"{self._path}/manifests/{name}",
            scope=self._pull,
            wanted=f"looking for {self._named(name)}",
            headers={"Accept": ", ".join(MANIFEST_TYPES)},
        )
        if told is None:
            return None
        # Not every registry tells it; what it holds does.
        return told.get("Docker-Content-Digest") or self.manifest(name).digest

    def put_manifest(self, name: str, media_type: str, body: bytes) -> str:
        """Store a manifest under a tag and return its digest, as the registry confirms it.

        Where the tag leads afterwards is not asked: somebody may have moved it already. Raises
        TooLarge for a manifest that no registry takes, Unavailable where a blob of it is missing.
        """
        if len(body) > MANIFEST_BYTES:
            raise TooLarge(
                f"writing {self._named(name)}: what is known of the image takes {len(body)} bytes,"
                f" a manifest has {MANIFEST_BYTES} at most: fewer or shorter labels and metadata"
            )
        try:
            response = self._api.do(
                "PUT",
                f"{self._path}/manifests/{name}",
                scope=self._push,
                wanted=f"writing {self._named(name)}",
                good={201},
                headers={"Content-Type": media_type},
                data=body,
            )
        except Refused as refused:
            if LOST_BLOB in str(refused):
                raise Unavailable(str(refused)) from refused
            raise
        ours = digest_of(body)
        theirs = response.headers.get("Docker-Content-Digest", ours)
        if theirs != ours:
            raise CorruptUpload(f"{self._named(name)} has the digest {theirs}, {ours} was sent")
        if self.digest(ours) is None:
            raise CorruptUpload(f"{self._named(name)} was taken and is not there")
        return ours

    def delete_manifest(self, digest: str) -> None:
        """Delete a manifest and all its tags; none there is fine. Raises Refused."""
        try:
            self._api.do(
                "DELETE",
                f"{self._path}/manifests/{digest}",
                scope=self._delete,
                wanted=f"deleting {self._named(digest)}",
                good={202, 200, 204, 404},
            )
        except Refused as refused:
            raise Refused(f"{refused}{_DELETION}") from refused

    def tags(self) -> Iterator[str]:
        """Yield all tags; none where there is no such repository."""
        try:
            yield from listed(self._api, f"{self._path}/tags/list?n={PAGE}", "tags", self._pull)
        except NotFound:
            return

    def _named(self, name: str) -> str:
        return f"{self.reference.repository}{'@' if is_digest(name) else ':'}{name}"


def listed(api: RegistryApi, path: str, key: str, scope: str) -> Iterator[str]:
    """Yield what a list of the registry has, page after page. Raises NotFound, Refused."""
    seen: set[str] = set()
    page: str | None = path
    while page is not None and page not in seen:
        seen.add(page)
        response = api.call("GET", page, scope=scope, wanted=f"listing {key}", good={200})
        document = document_of(response, _LIST_BYTES, api.domain)
        names = document.get(key) or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise Unavailable(f"registry {api.domain} gave a list of {key} that makes no sense")
        yield from names
        page = api.next_page(response)


def _digest_as(wanted: str, data: bytes) -> str:
    """Return the digest of the same kind as another."""
    algorithm = wanted.partition(":")[0] if is_digest(wanted) else "sha256"
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
