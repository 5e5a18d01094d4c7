"""The REST service as the commands see it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from keystoneauth1 import exceptions as keystone
from keystoneauth1.adapter import Adapter
from keystoneauth1.session import Session

from tintype import __version__
from tintype.commands.words import one_line
from tintype.core.errors import TintypeError
from tintype.core.index import PAGE_MOST

SERVICE_TYPES = ("container-snapshot", "container")
"""Our names in Keystone's catalogue, the better one first; the other is Zun's, for its clients."""

ANSWER_SECONDS = 60
"""How long to wait for an answer."""

PATIENCE: Mapping[str, Any] = {
    "connect_retries": 6,
    "status_code_retries": 6,
    "retriable_status_codes": (502, 503, 504),
}
"""For half a minute, a service that is being restarted is waited for."""


class CommandError(TintypeError):
    """What went wrong, in one line for the user."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Away(CommandError):
    """The service does not answer, or says that it cannot for now."""


class Missing(CommandError):
    """The service knows no such thing."""


class Client:
    """What the commands ask of the service. Every method raises CommandError."""

    def __init__(
        self,
        session: Session,
        endpoint: str | None = None,
        *,
        option: str = "--endpoint",
        **where: str | None,
    ) -> None:
        """`option` names the service; `where` says where else: `region_name`, `interface`."""
        self._session = session
        self._option = option
        self._endpoint = endpoint
        self._where = {name: value for name, value in where.items() if value}

    def commit(
        self, container: str, body: Mapping[str, Any], key: str | None = None
    ) -> dict[str, Any]:
        """Ask for a snapshot; return its ids. With the same key nothing is done twice."""
        return self._post(f"/v1/containers/{_part(container)}/commit", body, key)

    def container(self, ident: str, host: str | None = None) -> dict[str, Any]:
        """Return a container, by uuid, engine id or name."""
        query = {"host": host} if host else {}
        return self._call("GET", f"/v1/containers/{_part(ident)}", params=query)

    def containers(
        self, query: Mapping[str, Any], limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield containers, page by page; at most `limit`."""
        return self._records("containers", query, limit)

    def snapshot(self, ident: str, *, patient: bool = False) -> dict[str, Any]:
        """Return how a snapshot stands; with patience, a service that is away is waited for."""
        return self._call("GET", f"/v1/snapshots/{_part(ident)}", **(PATIENCE if patient else {}))

    def snapshots(
        self, query: Mapping[str, Any], limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield snapshots, page by page; at most `limit`."""
        return self._records("snapshots", query, limit)

    def cancel(self, ident: str) -> dict[str, Any]:
        """Ask for a snapshot to stop; return how it stands."""
        return self._call("DELETE", f"/v1/snapshots/{_part(ident)}")

    def restore_snapshot(
        self, ident: str, body: Mapping[str, Any], key: str | None = None
    ) -> dict[str, Any]:
        """Ask for a container of a snapshot; return the restore's ids. A key as for `commit`."""
        return self._post(f"/v1/snapshots/{_part(ident)}/restore", body, key)

    def restore_image(self, body: Mapping[str, Any], key: str | None = None) -> dict[str, Any]:
        """Ask for a container of an image, which the body names; return the restore's ids."""
        return self._post("/v1/restores", body, key)

    def restore(self, ident: str, *, patient: bool = False) -> dict[str, Any]:
        """Return how a restore stands; with patience, a service that is away is waited for."""
        return self._call("GET", f"/v1/restores/{_part(ident)}", **(PATIENCE if patient else {}))

    def restores(
        self, query: Mapping[str, Any], limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield restores, page by page; at most `limit`."""
        return self._records("restores", query, limit)

    def cancel_restore(self, ident: str) -> dict[str, Any]:
        """Ask for a restore to stop; return how it stands."""
        return self._call("DELETE", f"/v1/restores/{_part(ident)}")

    def _post(self, path: str, body: Mapping[str, Any], key: str | None) -> dict[str, Any]:
        headers = {"Idempotency-Key": key} if key else {}
        return self._call("POST", path, json=dict(body), headers=headers)

    def _records(
        self, name: str, query: Mapping[str, Any], limit: int | None
    ) -> Iterator[dict[str, Any]]:
        left = limit
        while left is None or left > 0:
            size = {} if left is None else {"limit": min(left, PAGE_MOST)}
            page = self._call("GET", f"/v1/{name}", params={**query, **size})
            found = page.get(name)
            if not isinstance(found, list):
                raise CommandError(f"{self._adapter.endpoint_override} does not list {name}")
            yield from found
            following = _next_query(page)
            if not following or not found:
                return
            query = {**query, **following}
            left = None if left is None else left - len(found)

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        adapter = self._adapter
        endpoint = adapter.endpoint_override
        try:
            response = adapter.request(
                path, method, raise_exc=False, timeout=ANSWER_SECONDS, **options
            )
        except (keystone.ConnectFailure, keystone.UnknownConnectionError) as error:
            raise Away(
                f"no tintype service answers at {endpoint}: start one with `tintype serve`,"
                f" or name another with {self._option}"
            ) from error
        except keystone.ClientException as error:
            raise CommandError(f"{endpoint} cannot be asked: {error}") from error
        try:
            body = response.json()
        except ValueError:
            body = None
        if response.status_code >= 400:
            raise _failure(response.status_code, body, endpoint)
        if not isinstance(body, dict):
            raise CommandError(f"{endpoint} gave no answer of tintype's")
        return body

    @cached_property
    def _adapter(self) -> Adapter:
        """Log in, find the service, and keep both for all calls."""
        try:
            self._session.get_auth_headers()
            endpoint = self._endpoint or self._from_catalogue()
        except keystone.Unauthorized as error:
            raise CommandError(f"Keystone refuses these credentials: {error}") from error
        except keystone.ClientException as error:
            raise CommandError(f"cannot log in: {error}") from error
        if not endpoint.startswith(("http://", "https://")):
            raise CommandError(f"{self._option}: expected http://HOST:PORT, got {endpoint!r}")
        return Adapter(
            self._session,
            endpoint_override=endpoint.rstrip("/").removesuffix("/v1"),
            client_name="tintype",
            client_version=__version__,
        )

    def _from_catalogue(self) -> str:
        for service_type in SERVICE_TYPES:
            with suppress(keystone.CatalogException):
                endpoint = self._session.get_endpoint(service_type=service_type, **self._where)
                if endpoint:
                    return str(endpoint)
        where = "".join(f", {name} {value}" for name, value in self._where.items())
        raise CommandError(
            f"the catalogue has no endpoint of type {' or '.join(SERVICE_TYPES)}{where}:"
            f" name the service with {self._option}"
        )


def _part(ident: str) -> str:
    """Return an id as a part of a path."""
    if not ident.strip("."):
        raise CommandError(f"{ident!r} is no id and no name")
    return quote(ident, safe="")


def _next_query(page: Mapping[str, Any]) -> dict[str, str]:
    """Return the query of the next page, empty when there is none.

    Only the query: a link may lead to a host that only the service's own network knows, and the
    token is not for others.
    """
    links = page.get("links") or []
    hrefs = [str(link["href"]) for link in links if link.get("rel") == "next"]
    return dict(parse_qsl(urlsplit(hrefs[0]).query)) if hrefs else {}


def _failure(status: int, body: Any, endpoint: str) -> CommandError:
    errors = body.get("errors") if isinstance(body, dict) else None
    told = (
        [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
    )
    details = [str(error.get("detail") or error.get("title")) for error in told]
    message = "; ".join(details) or f"{endpoint} answers with status {status}"
    if status == 401:
        message += ": it wants credentials, see --os-cloud"
    kinds = {404: Missing, 502: Away, 503: Away, 504: Away}
    return kinds.get(status, CommandError)(message)
