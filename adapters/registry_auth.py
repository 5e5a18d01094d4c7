"""How a registry lets Tintype in: it asks (401), and is answered with a password or a token.

The two ways of the distribution specification: `Basic`, and `Bearer` with a token that a service
of the registry's choice gives for one repository and some minutes.
"""

from __future__ import annotations

import re
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import parse_http_list

import requests

from tintype.adapters.registry_credentials import Credentials
from tintype.adapters.registry_errors import document_of, refusal, translated
from tintype.core.errors import Refused, Unavailable

MARGIN_SECONDS = 20.0
"""How long a token must still be valid for a request to begin with it."""
DEFAULT_SECONDS = 60
"""Life of a token that does not say (distribution's rule)."""

_ANSWER_BYTES = 1 << 20
_CHALLENGE = re.compile(r"([A-Za-z]+)\s+(\w+)=(.*)", re.DOTALL)
_TOKEN = re.compile(r"[\x21-\x7e]{1,65536}")

Fetch = Callable[..., requests.Response]
"""Makes one call: method, URL, options of requests."""


@dataclass(frozen=True, slots=True)
class _Token:
    header: str
    expires: float

    @property
    def fresh(self) -> bool:
        return time.monotonic() + MARGIN_SECONDS < self.expires


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a registry asks for."""

    scheme: str
    parameters: Mapping[str, str]


class Authenticator:
    """What one registry is to be told. Threads may share it."""

    def __init__(self, domain: str, fetch: Fetch, find: Callable[[], Credentials | None]) -> None:
        """Take the way to the token service, and to credentials, which are read when asked for."""
        self._domain = domain
        self._fetch = fetch
        self._find = find
        self._lock = threading.Lock()
        self._basic: str | None = None
        self._bearer: Challenge | None = None
        self._tokens: dict[str, _Token] = {}

    def header(self, scope: str, *, secure: bool) -> str | None:
        """Return what is sent for a scope unasked; a token about to expire is replaced by another.

        None until the registry has asked.
        """
        with self._lock:
            basic, bearer, token = self._basic, self._bearer, self._tokens.get(scope)
        if token is not None and token.fresh:
            return token.header
        if bearer is not None and token is not None:
            return self._renewed(bearer, scope, secure=secure)
        return basic

    def answer(self, response: requests.Response, scope: str, *, secure: bool) -> str:
        """Return what the registry wants to hear that has answered 401. Raises Refused."""
        challenges = parse(response.headers.get("WWW-Authenticate", ""))
        for challenge in challenges:
            if challenge.scheme == "bearer":
                return self._renewed(challenge, scope, secure=secure)
        if any(challenge.scheme == "basic" for challenge in challenges):
            header = _basic(self._required())
            with self._lock:
                self._basic = header
            return header
        raise Refused(f"registry {self._domain} asks for credentials in no way that is known here")

    def forget(self, scope: str) -> None:
        """Send for a scope no longer what was refused."""
        with self._lock:
            self._tokens.pop(scope, None)
            self._basic = None

    def _required(self) -> Credentials:
        found = self._find()
        if found is None or not found.username:
            raise Refused(
                f"registry {self._domain} asks for a user and password and none is known: see"
                " [registry] username and docker_config"
            )
        return found

    def _renewed(self, challenge: Challenge, scope: str, *, secure: bool) -> str:
        token = self._token(challenge, scope, secure=secure)
        with self._lock:
            self._bearer = challenge
            self._tokens[scope] = token
        return token.header

    def _token(self, challenge: Challenge, scope: str, *, secure: bool) -> _Token:
        realm = challenge.parameters.get("realm", "")
        address = urlsplit(realm)
        if address.scheme not in ("https", "http") or (secure and address.scheme != "https"):
            raise Refused(f"registry {self._domain} names no token service that can be trusted")
        # What the registry says is kept too: behind a proxy a repository may be called otherwise.
        wanted = {scope, challenge.parameters.get("scope", "")} - {""}
        fields: dict[str, Any] = {"scope": sorted(wanted)}
        if "service" in challenge.parameters:
            fields["service"] = challenge.parameters["service"]
        asked = time.monotonic()
        with translated(self._domain):
            response = self._ask(realm, fields)
        document = self._read(response)
        text = document.get("token") or document.get("access_token")
        if not isinstance(text, str) or not _TOKEN.fullmatch(text):
            raise Unavailable(f"registry {self._domain}: its token service gave no token")
        life = document.get("expires_in")
        seconds = life if isinstance(life, int) and life > 0 else DEFAULT_SECONDS
        return _Token(f"Bearer {text}", asked + seconds)

    def _ask(self, realm: str, fields: dict[str, Any]) -> requests.Response:
        found = self._find()
        if found is not None and found.identity_token:
            form = {
                **fields,
                "scope": " ".join(fields["scope"]),
                "grant_type": "refresh_token",
                "refresh_token": found.identity_token,
                "client_id": "tintype",
            }
            return self._fetch("POST", realm, data=form)
        headers = {} if found is None else {"Authorization": _basic(found)}
        return self._fetch("GET", realm, params=fields, headers=headers)

    def _read(self, response: requests.Response) -> dict[str, Any]:
        if response.status_code != requests.codes.ok:
            raise refusal(response, self._domain, "asking for a token")
        return document_of(response, _ANSWER_BYTES, self._domain)


def parse(header: str) -> list[Challenge]:
    """Read a `WWW-Authenticate` header, in which several ways may be offered (RFC 9110)."""
    found: list[tuple[str, dict[str, str]]] = []
    for item in parse_http_list(header):
        match = _CHALLENGE.fullmatch(item)
        if match:
            found.append((match[1].lower(), {}))
            name, value = match[2], match[3]
        else:
            name, equals, value = item.partition("=")
            if not equals:
                found.append((item.strip().lower(), {}))
                continue
        if found:
            found[-1][1][name.strip().lower()] = value.strip().strip('"')
    return [Challenge(scheme, parameters) for scheme, parameters in found]


def _basic(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.password}".encode()
    return f"Basic {b64encode(pair).decode('ascii')}"
