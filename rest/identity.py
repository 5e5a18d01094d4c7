"""Who calls: read from what keystonemiddleware has found out about the token, or everybody's admin.

keystonemiddleware removes its own headers from every request and sets those that it has verified.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import falcon

from tintype.core.errors import Forbidden, Unauthorized
from tintype.core.events import Requester
from tintype.core.images import ImageStore
from tintype.core.promises import Caller
from tintype.rest.policy import Policy

Identify = Callable[[falcon.Request], Caller]
"""Says who sends a request. Raises Unauthorized, Forbidden."""


class TokenIdentity:
    """An `Identify` that believes Keystone's tokens."""

    def __init__(self, policy: Policy, images_of: Callable[[str], ImageStore | None]) -> None:
        """`images_of` returns the image service with a token."""
        self._policy = policy
        self._images_of = images_of

    def __call__(self, request: falcon.Request) -> Caller:
        """Return who the request's token stands for."""
        if request.get_header("X-Identity-Status") != "Confirmed":
            raise Unauthorized("the token was not checked")
        project_id = request.get_header("X-Project-Id")
        if not project_id:
            raise Forbidden("the token is for no project: get one that is scoped to a project")
        user_id = request.get_header("X-User-Id")
        roles = (request.get_header("X-Roles") or "").split(",")
        credentials = {"project_id": project_id, "user_id": user_id, "roles": roles}
        is_admin = self._policy.is_admin(credentials)
        return Caller(
            Requester(project_id, user_id, is_admin),
            lambda action, owner: self._policy.may(credentials, action, owner),
            self._images_of(request.get_header("X-Auth-Token") or ""),
        )


class LoopbackIdentity:
    """An `Identify` for a service that only this machine's users reach: each may do everything.

    Web pages are kept out: a page in a browser on this machine can send requests to loopback;
    browsers then name the page's origin, and a page that rebinds its own name sends that name as
    the host.
    """

    def __init__(self, project_id: str | None, user_id: str | None) -> None:
        """Name on whose behalf everything is done."""
        self._caller = Caller(Requester(project_id, user_id, is_admin=True), lambda *_: True)

    def __call__(self, request: falcon.Request) -> Caller:
        """Return the one caller there is."""
        if request.get_header("Origin") is not None or not _is_loopback(request.host):
            raise Forbidden("this service is for this machine's own users")
        return self._caller


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
