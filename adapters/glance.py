"""The image store that is Glance.

Everything about uploads follows from what was measured on Glance 33: a body that ends early
becomes an image that is active and short, and a body that is sent again, after a 401 or a 503, is
what is left of the iterator. So the data is sent once at most, and its end only when all has come.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import requests
from openstack.connection import Connection

from tintype.adapters import glance_quota
from tintype.adapters.glance_api import GlanceApi
from tintype.adapters.glance_documents import (
    DEACTIVATED,
    checked,
    compare,
    glance_statuses,
    missing,
    missing_formats,
    to_document,
    to_image,
)
from tintype.adapters.openstack_access import GlanceSettings, Patience
from tintype.adapters.openstack_errors import translated
from tintype.adapters.send_once import SendOnce, SourceFailed
from tintype.adapters.store_rules import require_no_repository, select
from tintype.core.archive import ArchiveSummary
from tintype.core.errors import ImageIdSpent, NotFound, Refused, Unauthorized, Unavailable
from tintype.core.images import VISIBILITIES, ImageSpec, ImageStatus, StoredImage

CHUNK_BYTES = 512 * 1024
"""Size of the pieces a download comes in."""

_LOOK_AGAIN = {requests.codes.not_found, requests.codes.conflict, requests.codes.gone}
"""Answers to an upload that say less than they seem to: of two uploads at once the loser is told
that there is a conflict (409), but by a Glance with a busy database also that the image was deleted
in the meantime (410), which it was not."""


class GlanceStore:
    """An `ImageStore` in Glance. Threads may share it."""

    def __init__(
        self,
        access: GlanceSettings | Connection | GlanceApi,
        *,
        patience: Patience | None = None,
        name: str = "glance",
    ) -> None:
        """Take settings, a connection that somebody made, or the API itself; nothing is sent yet.

        The API brings its own patience.
        """
        self._api = (
            access if isinstance(access, GlanceApi) else GlanceApi(access, patience=patience)
        )
        self._name = name

    @property
    def name(self) -> str:
        """The store's name in requests and events."""
        return self._name

    @property
    def visibilities(self) -> frozenset[str]:
        """All that there are; whether the requester may give one is up to Glance's policy."""
        return VISIBILITIES

    def repository_for(self, image_name: str, wanted: str | None) -> None:
        """Return None: there are no repositories here. Raises Invalid if one is wanted."""
        del image_name
        require_no_repository(self, wanted)

    def at(self, repository: str | None) -> GlanceStore:
        """Return this store; it has no repositories."""
        require_no_repository(self, repository)
        return self

    def room(self, owner: str | None) -> int | None:
        """Return what is left of a project's unified limit `image_size_total`, bytes.

        None: there is none, or it is not to be seen (see `glance_quota`); a caller's token sees
        that of its own project (owner None). Raises Unavailable.
        """
        return glance_quota.room(self._api, owner)

    def acting_with(self, token: str) -> GlanceStore:
        """Return this store as somebody else sees it, whose token is sent; cheap.

        It goes to the same Glance, on the same HTTP connections, and need not be closed. Its calls
        raise Unauthorized when Glance does not accept the token, and Forbidden for what its owner
        may not do. Raises Unauthorized for what is no token.
        """
        return GlanceStore(self._api.acting_with(token), name=self._name)

    def reserve(self, image: ImageSpec) -> StoredImage:
        """Create the image without data; one with this id that is there already is returned.

        Raises ImageIdSpent: Glance never takes the id of a deleted image again. Whose the image is
        that was there already stands in its `owner`; to judge that is up to the caller.
        """
        response = self._api.send("POST", "/images", json=to_document(image))
        if response.status_code != requests.codes.conflict:
            return to_image(self._api.document(response))
        try:
            return self.describe(image.id)
        except NotFound as gone:
            raise ImageIdSpent(f"image id {image.id} was used before and deleted") from gone

    def describe(self, image_id: str) -> StoredImage:
        """Return the image. Raises NotFound when it was deleted, or is about to be."""
        return to_image(self._api.image(image_id))

    def upload(self, image_id: str, body: Iterable[bytes]) -> None:
        """Send the data of a queued image in HTTP chunks, one for each that `body` yields.

        Let no chunk be above 512 KiB: Glance under uWSGI's defaults answers 500 to one of 1 MiB, as
        it does to a pause of 4 seconds, so the request is opened only once the first chunk is here.
        An image that somebody reserved without formats, which Glance insists on, gets ours.
        """
        if changes := missing_formats(self._require_queued(image_id)):
            self._api.change(image_id, changes)
        data = SendOnce(body)
        self._api.renew_token()
        try:
            self._put(image_id, data)
        except SourceFailed:
            pass
        except Unavailable:
            self.describe(image_id)  # NotFound says more than a broken connection or a 500
            raise
        if data.failure is not None:
            raise data.failure

    def complete(
        self,
        image_id: str,
        sent: ArchiveSummary,
        properties: Mapping[str, str],
        *,
        tag: str | None = None,
    ) -> StoredImage:
        """Compare what Glance holds with what was sent and add properties and tag that it lacks.

        The hash is compared where Glance makes SHA-512 (its default) or SHA-256. Under any other
        `hashing_algorithm`, and with none, the size alone must do, and a warning is logged.
        """
        document = self._api.image(image_id)
        if to_image(document).status is ImageStatus.SAVING:
            raise Unavailable(f"image {image_id} is still being saved")
        compare(document, sent)
        if changes := missing(document, properties, tag):
            document = self._api.change(image_id, changes)
        return to_image(document)

    def publish(self, image_id: str) -> None:
        """Do nothing: tags are the images' own here, and one takes none from another."""

    def discard(self, image_id: str) -> None:
        """Delete the image whatever its status; none there is fine."""
        response = self._api.send("DELETE", f"/images/{checked(image_id)}")
        if response.status_code in (requests.codes.not_found, requests.codes.gone):
            return
        if response.status_code == requests.codes.bad_request:
            try:
                self.describe(image_id)
            except NotFound:  # it is `deleted` already: somebody's deletion is under way
                return
        self._api.raise_for(response)

    def find(
        self,
        owner: str | None,
        properties: Mapping[str, str],
        *,
        name: str | None = None,
        statuses: Collection[ImageStatus] = (ImageStatus.ACTIVE,),
    ) -> Sequence[StoredImage]:
        """Return the images of a project that have all these properties, newest first.

        Hidden images (`os_hidden`) are left out, as Glance itself does in a list, and so are
        deactivated ones, whatever `statuses` says.
        """
        words = glance_statuses(statuses)
        # All visibilities: without that Glance leaves `community` images out.
        wanted = {"visibility": "all", "sort": "created_at:desc,id:desc"}
        wanted["status"] = f"in:{','.join(words)}"
        if owner is not None:
            wanted["owner"] = owner
        if name is not None:
            wanted["name"] = f"eq:{name}"  # or a name like `in:a` would be taken for a pattern
        documents = self._api.images({**properties, **wanted}) if words else ()
        # Another status: it has changed since Glance looked for it.
        found = (to_image(each) for each in documents if each["status"] in words)
        return select(found, owner, properties, name=name, statuses=statuses)

    @contextmanager
    def download(self, image_id: str) -> Iterator[Iterator[bytes]]:
        """Stream the data of an active image; an answer that breaks off raises Unavailable.

        Raises Refused for an image that was deactivated: whom Glance takes for an administrator,
        as it does the service, could still read it, but nobody is to use it.
        """
        document = self._api.image(image_id)
        if document["status"] == DEACTIVATED:
            raise Refused(
                f"image {image_id} is deactivated: an administrator of the image service must "
                "reactivate it first"
            )
        if to_image(document).status is not ImageStatus.ACTIVE:
            raise NotFound(f"image {image_id} has no data")
        path = f"/images/{checked(image_id)}/file"
        with closing(self._api.send("GET", path, stream=True, log=False)) as response:
            self._api.raise_for(response)
            if response.status_code != requests.codes.ok:  # 204: there is no data after all
                raise NotFound(f"image {image_id} has no data")
            yield _chunks(response)

    def check(self) -> None:
        """Raise Unavailable unless Glance answers and accepts our credentials."""
        try:
            self._api.raise_for(self._api.send("GET", "/images", params={"limit": 1}))
        except Unauthorized:
            raise
        except Refused as refused:
            raise Unavailable(str(refused)) from refused

    def close(self) -> None:
        """Release connections, unless they are another store's."""
        self._api.close()

    def _require_queued(self, image_id: str) -> dict[str, Any]:
        """Wait a little for an image that an upload broke off for; raise unless it takes data.

        An image that stays `saving` has lost its Glance in the upload: only deleting it works.
        """
        patience = self._api.patience
        deadline = time.monotonic() + patience.settle
        document = self._api.image(image_id)
        while to_image(document).status is ImageStatus.SAVING and time.monotonic() < deadline:
            time.sleep(patience.poll)
            document = self._api.image(image_id)
        status = to_image(document).status
        if status is not ImageStatus.QUEUED:
            raise ImageIdSpent(f"image {image_id} is {status} and takes no more data")
        return document

    def _put(self, image_id: str, data: SendOnce) -> None:
        """Send the data; raise unless Glance has taken all of it."""
        response = self._api.put(image_id, data)
        if response.status_code in _LOOK_AGAIN:
            self._require_queued(image_id)
            raise Unavailable(f"image {image_id} was in use by another upload")
        if response.status_code == requests.codes.unauthorized:
            self._api.auth.invalidate()
        self._api.raise_for(response)
        if response.status_code != requests.codes.no_content or not data.exhausted:
            raise Unavailable(
                f"the image service answered {response.status_code} before it had all the data"
            )


def _chunks(response: requests.Response) -> Iterator[bytes]:
    with translated():
        yield from response.iter_content(CHUNK_BYTES)
