"""The REST service's application over the twins; every answer is held against its description."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from falcon.testing import Result, TestClient
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.support.twins import ADMIN, ALICE, MALLORY, Office
from tintype.config import load_for_oslo
from tintype.core.events import Requester
from tintype.core.restores import Restores
from tintype.rest.app import App, create_app
from tintype.rest.identity import Identify, LoopbackIdentity, TokenIdentity
from tintype.rest.openapi import document
from tintype.rest.policy import Policy
from tintype.schemas import validate

COMMIT = "/v1/containers/web/commit"
MOST_BYTES = 4096
ROLES = {ALICE: "member,reader", MALLORY: "member,reader", ADMIN: "admin,member,reader"}
BY_MIDDLEWARE = {"X-Openstack-Request-Id", "WWW-Authenticate"}
"""Headers that are set by what stands in front of the application."""


class Description:
    """The service's OpenAPI document, to hold answers against."""

    def __init__(self, api: dict[str, Any]) -> None:
        self.api = api
        resource = Resource.from_contents(api, default_specification=DRAFT202012)
        self._registry: Registry[Any] = Registry().with_resource("urn:api", resource)

    def check(self, method: str, path: str, result: Result) -> None:
        """Fail unless the document tells of an answer like this one."""
        if method == "OPTIONS" and result.status_code == 200:
            assert result.text == ""
            return
        operation = self._operation(method, path)
        if operation is None or result.status_code in {405, 500}:
            assert result.status_code in {403, 404, 405, 406, 500}, result.text
            self._matches("#/components/schemas/Errors", result.json)
            return
        where, described = operation
        answer = described["responses"][str(result.status_code)]
        for name, header in answer["headers"].items():
            required = header.get("required") and name not in BY_MIDDLEWARE
            assert name in result.headers or not required, name
        assert result.headers["Content-Type"].startswith("application/json")
        code = result.status_code
        place = f"{where}/responses/{code}/content/application~1json/schema"
        self._matches(place, result.json)

    def _operation(self, method: str, path: str) -> tuple[str, dict[str, Any]] | None:
        for template, item in self.api["paths"].items():
            pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
            if re.fullmatch(pattern, path.rstrip("/") or "/") and method.lower() in item:
                escaped = template.replace("~", "~0").replace("/", "~1")
                place = f"#/paths/{quote(escaped, safe='~')}/{method.lower()}"
                return place, item[method.lower()]
        return None

    def _matches(self, place: str, value: Any) -> None:
        schema = {"$ref": f"urn:api{place}"}
        errors = Draft202012Validator(schema, registry=self._registry).iter_errors(value)
        assert [error.message for error in errors] == []


DESCRIPTION = Description(document())


def restores_in(office: Office, **more: Any) -> Restores:
    """Return what takes restores in an office; its ports are tapped as those for commits are."""
    return Restores(
        index=office.tapped(office.index, "index"),
        reservations=office.tapped(office.reservations, "reservations"),
        publisher=office.tapped(office.bus, "bus"),
        clock=office.clock,
        validate=validate,
        **{"patience": 0.0, **more},
    )


def app_in_front(office: Office, identify: Identify, most_body_bytes: int = MOST_BYTES) -> App:
    """Return the application in front of an office."""
    return create_app(identify, office.commits(), restores_in(office), most_body_bytes)


@dataclass
class Door:
    """The application in front of an office; calls are made by whoever a test says."""

    by_token: bool = True
    office: Office = field(default_factory=Office)
    client: TestClient = field(init=False)

    def __post_init__(self) -> None:
        images = self.office.tapped(self.office.images, "images")
        identify: Any = LoopbackIdentity("project-a", "alice")
        if self.by_token:
            identify = TokenIdentity(Policy(load_for_oslo()), lambda token: images)
        self.client = TestClient(app_in_front(self.office, identify, MOST_BYTES))

    def call(
        self,
        method: str,
        path: str,
        *,
        who: Requester | None = ALICE,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> Result:
        """Make a call, and hold the answer against the description."""
        options.setdefault("host", "127.0.0.1")
        sent = {**headers_of(who), **(headers or {})}
        path, _, query = path.partition("?")
        options.setdefault("query_string", query)
        result = self.client.simulate_request(method, path, headers=sent, **options)
        if method != "HEAD" and path != "/metrics":
            DESCRIPTION.check(method, unquote(path), result)
        return result

    def get(self, path: str, **options: Any) -> Any:
        """Return what is there, as JSON."""
        result = self.call("GET", path, **options)
        assert result.status_code == 200, result.text
        return result.json

    def commit(self, body: Any = None, path: str = COMMIT, **options: Any) -> Result:
        """Ask for a snapshot."""
        headers = dict(options.pop("headers", {}))
        if body is not None:
            options["body"] = body if isinstance(body, (str, bytes)) else json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        return self.call("POST", path, headers=headers, **options)

    def pages(self, path: str, kind: str, **options: Any) -> list[list[dict[str, Any]]]:
        """Follow the links from page to page."""
        found = []
        while path:
            page = self.get(path, **options)
            found.append(page[kind])
            links = page.get("links", [])
            assert [link["rel"] for link in links] == ["next"] * len(links)
            path = links[0]["href"].removeprefix("http://127.0.0.1") if links else ""
            assert path.startswith("/v1/") or not path
        return found


def headers_of(who: Requester | None) -> dict[str, str]:
    """Return the headers that keystonemiddleware sets for somebody's token."""
    if who is None:
        return {"X-Identity-Status": "Invalid"}
    return {
        "X-Auth-Token": f"token of {who.user_id}",
        "X-Identity-Status": "Confirmed",
        "X-Project-Id": str(who.project_id),
        "X-User-Id": str(who.user_id),
        "X-Roles": ROLES.get(who, "reader"),
    }


def errors_of(result: Result, status: int) -> list[dict[str, Any]]:
    """Return the errors of an answer in OpenStack's form."""
    assert result.status_code == status, result.text
    errors: list[dict[str, Any]] = result.json["errors"]
    for error in errors:
        assert error["status"] == status
        assert error["title"] == error["detail"]  # all that Zun's clients show
    return errors


def refused(result: Result, status: int, detail: str = "") -> dict[str, Any]:
    """Return the one error of an answer."""
    (error,) = errors_of(result, status)
    assert re.search(detail, error["detail"]), error["detail"]
    return error


def pointers(result: Result) -> set[str]:
    """Return where the faults of a refused request are."""
    return {error["pointer"] for error in errors_of(result, 400)}
