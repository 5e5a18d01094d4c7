"""The image store that is Glance, through openstacksdk's authenticated session.

The images API is spoken in plain JSON, not by the SDK's `Image`: that class maps attribute names,
so Nova's property `owner_id`, which our images carry, would set the image's *owner*.

Everything about uploads follows from what was measured on Glance 33: a body that ends early
becomes an image that is active and short, and a body that is sent again, after a 401 or a 503, is
what is left of the iterator. So the data is sent once at most, and its end only when all has come.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import requests
from keystoneauth1.adapter import Adapter
from keystoneauth1.identity.base import BaseIdentityPlugin
from keystoneauth1.plugin import BaseAuthPlugin
from keystoneauth1.session import Session
from openstack.connection import Connection
from openstack.exceptions import EndpointNotFound, raise_from_response

from tintype.adapters.callers_token import CallersToken
from tintype.adapters.openstack_access import GlanceSettings, Patience, connect
from tintype.adapters.openstack_errors import BY_STATUS, BY_STATUS_FOR_CALLER, translated
from tintype.adapters.send_once import SendOnce, SourceFailed
from tintype.core.archive import ArchiveSummary
from tintype.core.errors import (
    CorruptUpload,
    ImageIdSpent,
    Invalid,
    NotFound,
    Refused,
    Unauthorized,
    Unavailable,
)
from tintype.core.events import is_uuid
from tintype.core.images import ImageSpec, ImageStatus, StoredImage

CHUNK_BYTES = 512 * 1024
"""Size of the pieces a download comes in."""

PAGE_IMAGES = 100
"""How many images Glance is asked for at once; it may give fewer, and says where to go on."""

TOKEN_MARGIN_SECONDS = 300
"""A token that lives no longer than this is renewed before an upload."""

_STATUS = {
    "queued": ImageStatus.QUEUED,
    "saving": ImageStatus.SAVING,
    "uploading": ImageStatus.SAVING,
    "importing": ImageStatus.SAVING,
    "active": ImageStatus.ACTIVE,
    "deactivated": ImageStatus.ACTIVE,
}
"""Glance's statuses; in any other (killed, deleted, pending_delete) the image is gone for good."""

_FORMATS = {"container_format": "docker", "disk_format": "raw"}
"""What our data is, in Glance's words."""

_LOOK_AGAIN = {requests.codes.not_found, requests.codes.conflict, requests.codes.gone}
"""Answers to an upload that say less than they seem to: of two uploads at once the loser is told
that there is a conflict (409), but by a Glance with a busy database also that the image was deleted
in the meantime (410), which it was not."""

_PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
_LOG = logging.getLogger(__name__)


class GlanceStore:
    """An `ImageStore` in Glance. Threads may share it."""

    def __init__(
        self,
        access: GlanceSettings | Connection,
        *,
        patience: Patience | None = None,
        name: str = "glance",
        token: str | None = None,
    ) -> None:
        """Take settings, or a connection that somebody made; nothing is sent yet.

        `token` is sent instead of the connection's own; the connection then stays open at `close`.
        """
        self._patience = patience or Patience()
        if isinstance(access, GlanceSettings):
            access = connect(access, self._patience)
        self._connection = access
        service: BaseAuthPlugin = access.session.auth
        self._auth = service if token is None else CallersToken(token, service)
        self._by_status = BY_STATUS if token is None else BY_STATUS_FOR_CALLER
        # Not the SDK's `image` proxy: that sends a request up to five times again after a 503.
        self._api = Adapter(
            access.session,
            auth=self._auth,
            service_type="image",
            interface=access.config.get_interface("image"),
            region_name=access.config.get_region_name("image"),
            endpoint_override=access.config.get_endpoint("image"),
            # A connection kept from before may be one that Glance is about to close. Whatever goes
            # through here can be sent again: a create repeated is a 409, a deletion a 404.
            connect_retries=2,
        )
        self._name = name
        self.page_images = PAGE_IMAGES

    @property
    def name(self) -> str:
        """The store's name in requests and events."""
        return self._name

    def acting_with(self, token: str) -> GlanceStore:
        """Return this store as somebody else sees it, whose token is sent; cheap.

        It goes to the same Glance, on the same HTTP connections, and need not be closed. Its calls
        raise Unauthorized when Glance does not accept the token, and Forbidden for what its owner
        may not do. Raises Unauthorized for what is no token.
        """
        store = GlanceStore(self._connection, patience=self._patience, name=self._name, token=token)
        store.page_images = self.page_images
        return store

    def reserve(self, image: ImageSpec) -> StoredImage:
        """Create the image without data; one with this id that is there already is returned.

        Raises ImageIdSpent: Glance never takes the id of a deleted image again. Whose the image is
        that was there already stands in its `owner`; to judge that is up to the caller.
        """
        document: dict[str, Any] = {
            **image.properties,
            "id": _checked(image.id),
            "name": image.name,
            "tags": [image.tag],
            "visibility": image.visibility,
            **_FORMATS,
        }
        if image.owner is not None:
            document["owner"] = image.owner
        response = self._send("POST", "/images", json=document)
        if response.status_code != requests.codes.conflict:
            return _stored(self._document(response))
        try:
            return self.describe(image.id)
        except NotFound as gone:
            raise ImageIdSpent(f"image id {image.id} was used before and deleted") from gone

    def describe(self, image_id: str) -> StoredImage:
        """Return the image. Raises NotFound when it was deleted, or is about to be."""
        return _stored(self._fetch(image_id))

    def upload(self, image_id: str, body: Iterable[bytes]) -> None:
        """Send the data of a queued image in HTTP chunks, one for each that `body` yields.

        Let no chunk be above 512 KiB: Glance under uWSGI's defaults answers 500 to one of 1 MiB, as
        it does to a pause of 4 seconds, so the request is opened only once the first chunk is here.
        An image that somebody reserved without formats, which Glance insists on, gets ours.
        """
        self._state_formats(self._require_queued(image_id))
        data = SendOnce(body)
        self._renew_token()
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
        document = self._fetch(image_id)
        image = _stored(document)
        if image.status is ImageStatus.SAVING:
            raise Unavailable(f"image {image_id} is still being saved")
        _compare(document, sent)
        wanted: dict[str, object] = {**properties}
        tags: list[str] = document.get("tags", [])
        if tag is not None and tag not in tags:
            wanted["tags"] = [*tags, tag]
        changes = [
            {"op": "add", "path": f"/{_pointer(key)}", "value": value}
            for key, value in wanted.items()
            if document.get(key) != value
        ]
        return self._change(image_id, changes) if changes else image

    def discard(self, image_id: str) -> None:
        """Delete the image whatever its status; none there is fine."""
        response = self._send("DELETE", f"/images/{_checked(image_id)}")
        if response.status_code in (requests.codes.not_found, requests.codes.gone):
            return
        if response.status_code == requests.codes.bad_request:
            try:
                self.describe(image_id)
            except NotFound:  # it is `deleted` already: somebody's deletion is under way
                return
        self._raise_for(response)

    def find(self, owner: str | None, properties: Mapping[str, str]) -> Sequence[StoredImage]:
        """Return the active images of a project that have all these properties, newest first.

        Hidden images (`os_hidden`) are left out, as Glance itself does in a list.
        """
        # All visibilities: without that Glance leaves `community` images out.
        wanted = {"status": "active", "visibility": "all", "sort": "created_at:desc,id:desc"}
        if owner is not None:
            wanted["owner"] = owner
        return [
            _stored(document)
            for document in self._list({**properties, **wanted})
            # Nothing is taken on trust: what is found here may be deleted.
            if document["status"] == "active"
            and owner in (None, document.get("owner"))
            and properties.items() <= document.items()
        ]

    def _list(self, filters: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield all images that pass Glance's filters, page after page."""
        params = {**filters, "limit": str(self.page_images)}
        while True:
            page = self._document(self._send("GET", "/images", params=params))
            yield from page["images"]
            if not page.get("next") or not page["images"]:
                return
            # Not by the link itself: it lacks what a proxy has before Glance's paths.
            params["marker"] = page["images"][-1]["id"]

    @contextmanager
    def download(self, image_id: str) -> Iterator[Iterator[bytes]]:
        """Stream the data of an active image; an answer that breaks off raises Unavailable."""
        path = f"/images/{_checked(image_id)}/file"
        with closing(self._send("GET", path, stream=True, log=False)) as response:
            self._raise_for(response)
            if response.status_code != requests.codes.ok:  # 204: queued, there is no data
                raise NotFound(f"image {image_id} has no data")
            yield _chunks(response)

    def check(self) -> None:
        """Raise Unavailable unless Glance answers and accepts our credentials."""
        try:
            self._raise_for(self._send("GET", "/images", params={"limit": 1}))
        except Unauthorized:
            raise
        except Refused as refused:
            raise Unavailable(str(refused)) from refused

    def close(self) -> None:
        """Release connections, unless they are another store's."""
        if not isinstance(self._auth, CallersToken):
            self._connection.close()

    def _send(self, method: str, path: str, **options: Any) -> requests.Response:
        """Make one call; a status above 399 is returned like any other."""
        options.setdefault("timeout", (self._patience.connect, self._patience.read))
        with translated():
            url = f"{self._endpoint()}{path}"
            response: requests.Response = self._api.request(url, method, raise_exc=False, **options)
        return response

    def _endpoint(self) -> str:
        """Return the address of Glance's API v2, the only one there is.

        Not by version discovery: where that fails in passing, keystoneauth goes on with the plain
        address, and what is not found there would look like an image that was deleted.
        """
        address: str | None = self._api.get_endpoint(skip_discovery=True)
        if not address:
            raise EndpointNotFound("Keystone's catalogue has no image service")
        return address.rstrip("/").removesuffix("/v2") + "/v2"

    def _fetch(self, image_id: str) -> dict[str, Any]:
        return self._document(self._send("GET", f"/images/{_checked(image_id)}"))

    def _document(self, response: requests.Response) -> dict[str, Any]:
        self._raise_for(response)
        with translated():
            document: dict[str, Any] = response.json()
        return document

    def _raise_for(self, response: requests.Response) -> None:
        with translated(self._by_status):
            raise_from_response(response)

    def _change(self, image_id: str, changes: list[dict[str, Any]]) -> StoredImage:
        """Make changes in the words of RFC 6902."""
        response = self._send("PATCH", f"/images/{image_id}", json=changes, headers=_PATCH)
        return _stored(self._document(response))

    def _require_queued(self, image_id: str) -> dict[str, Any]:
        """Wait a little for an image that an upload broke off for; raise unless it takes data.

        An image that stays `saving` has lost its Glance in the upload: only deleting it works.
        """
        deadline = time.monotonic() + self._patience.settle
        document = self._fetch(image_id)
        while _stored(document).status is ImageStatus.SAVING and time.monotonic() < deadline:
            time.sleep(self._patience.poll)
            document = self._fetch(image_id)
        status = _stored(document).status
        if status is not ImageStatus.QUEUED:
            raise ImageIdSpent(f"image {image_id} is {status} and takes no more data")
        return document

    def _state_formats(self, document: Mapping[str, Any]) -> None:
        changes = [
            {"op": "replace", "path": f"/{name}", "value": value}
            for name, value in _FORMATS.items()
            if document.get(name, value) is None
        ]
        if changes:
            self._change(document["id"], changes)

    def _renew_token(self) -> None:
        """Make sure of a token for the upload, which cannot be renewed once it runs."""
        if isinstance(self._auth, BaseIdentityPlugin):
            with translated():
                access = self._auth.get_access(self._connection.session)
            if access.will_expire_soon(TOKEN_MARGIN_SECONDS):
                self._auth.invalidate()

    def _put(self, image_id: str, data: SendOnce) -> None:
        """Send the data; raise unless Glance has taken all of it."""
        kept = self._connection.session
        with translated():
            # On a connection of its own: one kept from before could break, and this cannot be
            # sent again. The token is the same, it belongs to `auth`.
            own = Session(self._auth, verify=kept.verify, cert=kept.cert, app_name="tintype")
            with closing(own.session):
                response = own.put(
                    f"{self._endpoint()}/images/{image_id}/file",
                    data=data,
                    headers={"Content-Type": "application/octet-stream"},
                    raise_exc=False,
                    # Either would send the data a second time, or rather what is left of it.
                    allow_reauth=False,
                    redirect=False,
                    timeout=(self._patience.connect, self._patience.upload),
                    log=False,
                )
        if response.status_code in _LOOK_AGAIN:
            self._require_queued(image_id)
            raise Unavailable(f"image {image_id} was in use by another upload")
        if response.status_code == requests.codes.unauthorized:
            self._auth.invalidate()
        self._raise_for(response)
        if response.status_code != requests.codes.no_content or not data.exhausted:
            raise Unavailable(
                f"the image service answered {response.status_code} before it had all the data"
            )


def _checked(image_id: str) -> str:
    """Return the id, which becomes part of a URL, if it is one."""
    if not is_uuid(image_id):
        raise Invalid("an image id must be a UUID")
    return image_id


def _stored(document: Mapping[str, Any]) -> StoredImage:
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
    )


def _compare(document: Mapping[str, Any], sent: ArchiveSummary) -> None:
    image_id, size = document["id"], document.get("size")
    if size != sent.size_bytes:
        raise CorruptUpload(f"image {image_id} has {size} bytes, {sent.size_bytes} were sent")
    known = {"sha512": sent.sha512, "sha256": sent.sha256}
    expected = known.get(document.get("os_hash_algo") or "")
    if expected is None:
        _LOG.warning("image %s: Glance has no hash that can be compared, only a size", image_id)
    elif document.get("os_hash_value") != expected:
        raise CorruptUpload(f"image {image_id} holds other bytes than were sent")


def _pointer(key: str) -> str:
    """Escape a property's name for a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def _chunks(response: requests.Response) -> Iterator[bytes]:
    with translated():
        yield from response.iter_content(CHUNK_BYTES)
