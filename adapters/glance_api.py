"""Glance's API v2 in plain HTTP, on openstacksdk's authenticated session: one call, one answer.

Not the SDK's own `image` proxy: that sends a request up to five times again after a 503, and its
class `Image` maps attribute names, so that Nova's property `owner_id`, which our images carry,
would set the image's *owner*.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import requests
from keystoneauth1.adapter import Adapter
from keystoneauth1.identity.base import BaseIdentityPlugin
from keystoneauth1.plugin import BaseAuthPlugin
from keystoneauth1.session import Session
from openstack.connection import Connection
from openstack.exceptions import EndpointNotFound, raise_from_response

from tintype.adapters.callers_token import CallersToken
from tintype.adapters.glance_documents import checked
from tintype.adapters.openstack_access import GlanceSettings, Patience, connect
from tintype.adapters.openstack_errors import BY_STATUS, BY_STATUS_FOR_CALLER, translated
from tintype.adapters.send_once import SendOnce

PAGE_IMAGES = 100
"""How many images Glance is asked for at once; it may give fewer, and says where to go on."""

TOKEN_MARGIN_SECONDS = 300
"""A token that lives no longer than this is renewed before an upload."""

_PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}


class GlanceApi:
    """Glance as one person sees it. Threads may share it.

    `send` and `put` return an answer whatever its status; all else raises what the tables of
    `openstack_errors` make of it.
    """

    def __init__(
        self,
        access: GlanceSettings | Connection,
        *,
        patience: Patience | None = None,
        page_images: int = PAGE_IMAGES,
        token: str | None = None,
    ) -> None:
        """Take settings, or a connection that somebody made; nothing is sent yet.

        `token` is sent instead of the connection's own; the connection then stays open at `close`.
        """
        self.patience = patience or Patience()
        self.connection = (
            connect(access, self.patience) if isinstance(access, GlanceSettings) else access
        )
        self._page_images = page_images
        service: BaseAuthPlugin = self.connection.session.auth
        self.auth = service if token is None else CallersToken(token, service)
        self._by_status = BY_STATUS if token is None else BY_STATUS_FOR_CALLER
        config = self.connection.config
        self._adapter = Adapter(
            self.connection.session,
            auth=self.auth,
            service_type="image",
            interface=config.get_interface("image"),
            region_name=config.get_region_name("image"),
            endpoint_override=config.get_endpoint("image"),
            # A connection kept from before may be one that Glance is about to close. Whatever goes
            # through here can be sent again: a create repeated is a 409, a deletion a 404.
            connect_retries=2,
        )

    def acting_with(self, token: str | None) -> GlanceApi:
        """Return the same Glance as the token's owner sees it, or without one, as the service."""
        return GlanceApi(
            self.connection, patience=self.patience, page_images=self._page_images, token=token
        )

    @property
    def for_caller(self) -> bool:
        """Whether it acts with somebody else's token."""
        return isinstance(self.auth, CallersToken)

    def send(self, method: str, path: str, **options: Any) -> requests.Response:
        """Make one call; a status above 399 is returned like any other."""
        options.setdefault("timeout", (self.patience.connect, self.patience.read))
        with translated():
            url = f"{self._endpoint()}{path}"
            response: requests.Response = self._adapter.request(
                url, method, raise_exc=False, **options
            )
        return response

    def put(self, image_id: str, data: SendOnce) -> requests.Response:
        """Send an image's data once at most; a status above 399 is returned like any other."""
        kept = self.connection.session
        with translated():
            # On a connection of its own: one kept from before could break, and this cannot be
            # sent again. The token is the same, it belongs to `auth`.
            own = Session(self.auth, verify=kept.verify, cert=kept.cert, app_name="tintype")
            with closing(own.session):
                response: requests.Response = own.put(
                    f"{self._endpoint()}/images/{image_id}/file",
                    data=data,
                    headers={"Content-Type": "application/octet-stream"},
                    raise_exc=False,
                    # Either would send the data a second time, or rather what is left of it.
                    allow_reauth=False,
                    redirect=False,
                    timeout=(self.patience.connect, self.patience.upload),
                    log=False,
                )
        return response

    def image(self, image_id: str) -> dict[str, Any]:
        """Return what Glance says of an image."""
        return self.document(self.send("GET", f"/images/{checked(image_id)}"))

    def images(self, filters: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield all images that pass Glance's filters, page after page."""
        params = {**filters, "limit": str(self._page_images)}
        while True:
            page = self.document(self.send("GET", "/images", params=params))
            yield from page["images"]
            if not page.get("next") or not page["images"]:
                return
            # Not by the link itself: it lacks what a proxy has before Glance's paths.
            params["marker"] = page["images"][-1]["id"]

    def change(self, image_id: str, changes: list[dict[str, Any]]) -> dict[str, Any]:
        """Make changes in the words of RFC 6902; return what Glance says of the image now."""
        return self.document(
            self.send("PATCH", f"/images/{checked(image_id)}", json=changes, headers=_PATCH)
        )

    def document(self, response: requests.Response) -> dict[str, Any]:
        """Return the JSON of an answer, unless it is a refusal or failure."""
        self.raise_for(response)
        with translated():
            document: dict[str, Any] = response.json()
        return document

    def raise_for(self, response: requests.Response) -> None:
        """Raise what an answer's status means, if that is no success."""
        with translated(self._by_status):
            raise_from_response(response)

    def renew_token(self) -> None:
        """Make sure of a token for an upload, which cannot be renewed once that runs."""
        if isinstance(self.auth, BaseIdentityPlugin):
            with translated():
                access = self.auth.get_access(self.connection.session)
            if access.will_expire_soon(TOKEN_MARGIN_SECONDS):
                self.auth.invalidate()

    def close(self) -> None:
        """Release connections, unless they are another's."""
        if not self.for_caller:
            self.connection.close()

    def _endpoint(self) -> str:
        """Return the address of Glance's API v2, the only one there is.

        Not by version discovery: where that fails in passing, keystoneauth goes on with the plain
        address, and what is not found there would look like an image that was deleted.
        """
        address: str | None = self._adapter.get_endpoint(skip_discovery=True)
        if not address:
            raise EndpointNotFound("Keystone's catalogue has no image service")
        return address.rstrip("/").removesuffix("/v2") + "/v2"
