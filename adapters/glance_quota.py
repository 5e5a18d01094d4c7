"""How much a project may still store in Glance, as far as that can be known.

Of Glance's limits to the bytes of images only the unified limit `image_size_total` can be read.
Glance tells it to a project's own members (`GET /v2/info/usage`), and Keystone to a user with the
role `service` or `admin`, for any project; older releases of Keystone than 2024.1 may hide a
project's own limit from `service`, and the default counts then. What stands in Glance's
configuration, `user_storage_quota` and `image_size_cap`, shows only when it is reached (413).

Glance judges by the project of whoever *sends* the data. So what the service uploads counts as its
owner's when it is there, but is never refused for the owner's sake: this figure is for whoever
wants to refuse it beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests
from keystoneauth1.access import AccessInfo
from keystoneauth1.identity.base import BaseIdentityPlugin
from keystoneauth1.plugin import AUTH_INTERFACE

from tintype.adapters.glance_api import GlanceApi
from tintype.adapters.openstack_errors import translated

MIB = 1024 * 1024
"""Unit of Glance's unified limits to sizes, bytes."""

_RESOURCE = "image_size_total"
_SEE_ALL_LIMITS = frozenset({"admin", "service"})
"""Roles to which Keystone shows other projects' limits."""

_KEYSTONE = {
    "service_type": "identity",
    "interface": AUTH_INTERFACE,
    "min_version": (3, 0),
    "max_version": (3, "latest"),
}
"""Where the token comes from, with or without `/v3` in its address."""


def room(api: GlanceApi, owner: str | None) -> int | None:
    """Return how many bytes a project may still store; None: no limit is known.

    Owner None: the project of whoever asks. Another project's room is seen with the service's
    credentials, even by a caller. Raises Unavailable.
    """
    if owner is not None and api.for_caller:
        return room(api.acting_with(None), owner)
    usage = _own_usage(api)
    if usage is None:
        return None
    access = _access(api)
    if owner is None or (access is not None and owner == access.project_id):
        return _left(usage["limit"], usage["usage"] * MIB)
    limit = None if access is None else _limit(api, access, owner)
    return None if limit is None else _left(limit, _stored_bytes(api, owner))


def _left(limit_mib: int, used_bytes: int) -> int | None:
    """Return what is left of a limit, -1 being none."""
    return None if limit_mib < 0 else max(0, limit_mib * MIB - used_bytes)


def _own_usage(api: GlanceApi) -> dict[str, int] | None:
    """Return limit and usage, MiB, of the asking project; None: there are no unified limits here.

    A Glance without `use_keystone_limits` names none; one before 2.13 of the API has no such call.
    """
    response = api.send("GET", "/info/usage")
    if response.status_code == requests.codes.not_found:
        return None
    found: dict[str, int] | None = api.document(response)["usage"].get(_RESOURCE)
    return found


def _access(api: GlanceApi) -> AccessInfo | None:
    """Return what Keystone said at the login; None: nobody has logged in there."""
    if not isinstance(api.auth, BaseIdentityPlugin):
        return None
    with translated():
        return api.auth.get_access(api.connection.session)


def _limit(api: GlanceApi, access: AccessInfo, project_id: str) -> int | None:
    """Return a project's limit, MiB: its own, or what is registered for all that have none."""
    if _SEE_ALL_LIMITS.isdisjoint(access.role_names):
        return None
    config = api.connection.config
    places = access.service_catalog.get_endpoint_data_list(
        service_type="image",
        interface=config.get_interface("image"),
        region_name=config.get_region_name("image"),
    )
    for place in places[:1]:
        about = {
            "service_id": place.service_id,
            "region_id": place.region_name,
            "resource_name": _RESOURCE,
        }
        for own in _keystone(api, "limits", {**about, "project_id": project_id}):
            return int(own["resource_limit"])
        for default in _keystone(api, "registered_limits", about):
            return int(default["default_limit"])
    return None


def _keystone(api: GlanceApi, kind: str, about: Mapping[str, str]) -> list[dict[str, Any]]:
    with translated():
        response = api.connection.session.get(
            f"/{kind}", params=about, auth=api.auth, endpoint_filter=_KEYSTONE
        )
        found: list[dict[str, Any]] = response.json()[kind]
    return found


def _stored_bytes(api: GlanceApi, owner: str) -> int:
    """Return what a project's images take, hidden ones too, a copy in each of Glance's stores."""
    filters = {"owner": owner, "visibility": "all"}
    return sum(
        document["size"] * len(document.get("stores", "").split(","))
        for hidden in ("false", "true")
        for document in api.images({**filters, "os_hidden": hidden})
        if document.get("size")
    )
