"""A small Keystone client: just enough to put the test users in place, again and again."""

from __future__ import annotations

import json
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

    def grant(self, user: str, project: str, role: str) -> None:
        """Give a user, by id, a role, by name, on a project, by id."""
        role_id = self.find("role", name=role)
        self._call("PUT", f"/projects/{project}/users/{user}/roles/{role_id}")

    def _call(self, method: str, path: str, body: object = None) -> tuple[Any, Any]:
        status, headers, answer = call(self._port, method, f"/v3{path}", body, self._token)
        if status >= 400:
            raise StackError(f"keystone: {method} {path}: {status} {answer[:300]!r}")
        return headers, json.loads(answer) if answer else None
