"""A small Keystone client: just enough to put the test users in place, again and again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from devstack.layout import StackError
from devstack.wsgi import call


class Identity:
    """Keystone's API as its administrator; every `ensure` may be repeated."""

    def __init__(self, port: int, password: str) -> None:
        """Log in as `admin` on project `admin`."""
        self._port, self._token = port, ""
        domain = {"name": "Default"}
        user = {"name": "admin", "password": password, "domain": domain}
        scope = {"project": {"name": "admin", "domain": domain}}
        by_password = {"methods": ["password"], "password": {"user": user}}
        request = {"auth": {"identity": by_password, "scope": scope}}
        headers, _ = self._call("POST", "/auth/tokens", request)
        self._token = headers["X-Subject-Token"]

    def find(self, kind: str, **match: str) -> str | None:
        """Return the id of the first `kind` (as `project`) with these attributes."""
        query = "&".join(f"{key}={value}" for key, value in match.items())
        _, answer = self._call("GET", f"/{kind}s?{query}")
        return next((str(item["id"]) for item in answer[f"{kind}s"]), None)

    def ensure(self, kind: str, match: dict[str, str], **attributes: str) -> str:
        """Make or change the `kind` with these attributes, and return its id."""
        known = self.find(kind, **match)
        method, path = ("PATCH", f"/{kind}s/{known}") if known else ("POST", f"/{kind}s")
        _, answer = self._call(method, path, {kind: {**match, **attributes}})
        return str(answer[kind]["id"])

    def set_roles(self, user: str, where: str, roles: Iterable[str]) -> None:
        """Let a user, by id, have these roles, by name, and no others.

        `where` is `system` or `projects/<id>`.
        """
        path = f"/{where}/users/{user}/roles"
        # Keystone's own roles are immutable: an `ensure` that changes nothing is refused too.
        wanted = {
            self.find("role", name=name) or self.ensure("role", {"name": name}) for name in roles
        }
        _, answer = self._call("GET", path)
        held = {str(role["id"]) for role in answer["roles"]}
        for role in wanted - held:
            self._call("PUT", f"{path}/{role}")
        for role in held - wanted:
            self._call("DELETE", f"{path}/{role}")

    def limit(self, service: str, region: str, resource: str, quota: int) -> None:
        """Set the default quota of what a service, by id, offers in a region."""
        about = {"service_id": service, "region_id": region, "resource_name": resource}
        known = self.find("registered_limit", **about)
        if known:
            body = {"registered_limit": {"default_limit": quota}}
            self._call("PATCH", f"/registered_limits/{known}", body)
        else:  # this one call takes a list
            limits = {"registered_limits": [{**about, "default_limit": quota}]}
            self._call("POST", "/registered_limits", limits)

    def _call(self, method: str, path: str, body: object = None) -> tuple[Any, Any]:
        status, headers, answer = call(self._port, method, f"/v3{path}", body, self._token)
        if status >= 400:
            raise StackError(f"keystone: {method} {path}: {status} {answer[:300]!r}")
        return headers, json.loads(answer) if answer else None
