"""The blobs of one repository: layers and configurations, streamed and verified both ways."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress

import requests

from tintype.adapters.registry_api import RegistryApi
from tintype.adapters.registry_errors import translated
from tintype.adapters.send_once import SendOnce, SourceFailed
from tintype.core.errors import (
    CorruptDownload,
    CorruptUpload,
    Refused,
    TintypeError,
    Unavailable,
)
from tintype.core.reference import Reference

CHUNK_BYTES = 512 * 1024
"""Size of the pieces that blobs come in."""


class Blobs:
    """What a repository keeps under its digest."""

    def __init__(self, api: RegistryApi, reference: Reference) -> None:
        """Take the registry and the repository's name."""
        self._api = api
        self.repository = reference.repository
        self._path = f"/v2/{reference.path}/blobs"
        self._pull = f"repository:{reference.path}:pull"
        self._push = f"repository:{reference.path}:pull,push"

    def has(self, digest: str, size: int) -> bool:
        """Whether the registry has this blob, of this size."""
        told = self._api.head(
            f"{self._path}/{digest}", scope=self._push, wanted=f"looking for blob {digest}"
        )
        return told is not None and told.get("Content-Length", str(size)) == str(size)

    def read(self, digest: str, size: int) -> Iterator[bytes]:
        """Stream a blob. Raises CorruptDownload unless it is as its descriptor says, NotFound."""
        response = self._api.call(
            "GET",
            f"{self._path}/{digest}",
            scope=self._pull,
            wanted=f"reading blob {digest}",
            good={200},
            headers={"Accept-Encoding": "identity"},
        )
        sha = hashlib.new(digest.partition(":")[0])
        received = 0
        with response:
            for chunk in self._chunks(response):
                received += len(chunk)
                if received > size:
                    break
                sha.update(chunk)
                yield chunk
        if received != size or sha.hexdigest() != digest.partition(":")[2]:
            raise CorruptDownload(
                f"registry {self._api.domain}: blob {digest} is damaged: {received} bytes of {size}"
                f" with the digest {sha.hexdigest()}"
            )

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        stream = response.raw.stream(CHUNK_BYTES, decode_content=False)
        while True:
            with translated(self._api.domain):
                chunk: bytes | None = next(stream, None)
            if chunk is None:
                return
            yield chunk

    def put(self, data: bytes) -> str:
        """Store a small blob and return its digest."""
        digest = digest_of(data)
        if not self.has(digest, len(data)):
            place = self._begin()
            with self._given_up_on_failure(place):
                self._finish(place, digest, data)
        return digest

    def put_stream(self, chunks: Iterable[bytes], digest: str | None = None) -> str:
        """Store a blob as its bytes come, and return its digest, which the registry has verified.

        What `chunks` raises comes out as it is. Nothing is stored unless all of it came, and with
        the digest, where that is known beforehand: CorruptUpload.
        """
        sha = hashlib.sha256()
        data = SendOnce(_hashed(chunks, sha))
        place = self._begin()
        with self._given_up_on_failure(place):
            place = self._send(place, data)
        with self._given_up_on_failure(place):
            found = _expected(f"sha256:{sha.hexdigest()}", digest)
            self._finish(place, found, b"")
        return found

    def _begin(self) -> str:
        """Open an upload and return where it goes on."""
        response = self._api.do(
            "POST",
            f"{self._path}/uploads/",
            scope=self._push,
            wanted=f"writing to {self.repository}",
            good={202},
            data=b"",
        )
        return self._api.resolve(response)

    def _send(self, place: str, data: SendOnce) -> str:
        """Send the data in one request and return where the upload goes on."""
        try:
            response = self._api.call(
                "PATCH",
                place,
                scope=self._push,
                wanted=f"writing to {self.repository}",
                good={202, 201, 204},
                headers={"Content-Type": "application/octet-stream"},
                data=data,
            )
        except SourceFailed:
            assert data.failure is not None
            raise data.failure from None
        with closing(response):
            if not data.exhausted:
                raise Unavailable(
                    f"registry {self._api.domain} answered before it had all the data"
                )
            return self._api.resolve(response)

    def _finish(self, place: str, digest: str, data: bytes) -> None:
        """End an upload: from then on the blob is there."""
        separator = "&" if "?" in place else "?"
        try:
            response = self._api.do(
                "PUT",
                f"{place}{separator}digest={digest}",
                scope=self._push,
                wanted=f"writing to {self.repository}",
                good={201},
                headers={"Content-Type": "application/octet-stream"},
                data=data,
            )
        except Refused as refused:
            raise _as_corrupt(refused) from refused
        told = response.headers.get("Docker-Content-Digest", digest)
        if told != digest:
            raise CorruptUpload(
                f"registry {self._api.domain} has stored {told} instead of {digest}"
            )

    @contextmanager
    def _given_up_on_failure(self, place: str) -> Iterator[None]:
        """End an upload that fails; what stays of one that cannot be, the registry purges."""
        try:
            yield
        except BaseException:
            with suppress(TintypeError):
                self._api.do(
                    "DELETE",
                    place,
                    scope=self._push,
                    wanted="ending an upload",
                    good={204, 202, 404},
                )
            raise


def digest_of(data: bytes) -> str:
    """Return the digest of a blob or manifest."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _hashed(chunks: Iterable[bytes], sha: hashlib._Hash) -> Iterator[bytes]:
    for chunk in chunks:
        sha.update(chunk)
        yield chunk


def _expected(found: str, wanted: str | None) -> str:
    if wanted not in (None, found):
        raise CorruptUpload(f"blob {wanted} has the digest {found}")
    return found


def _as_corrupt(refused: Refused) -> TintypeError:
    """Return what a refusal at the end of an upload means: most often damage on the way."""
    return CorruptUpload(str(refused)) if "DIGEST_INVALID" in str(refused) else refused
