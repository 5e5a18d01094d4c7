"""Calls to one registry over HTTP: where it is, who we are to it, and what may be sent again."""

from __future__ import annotations

import ssl
from collections.abc import Collection, Mapping
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from tintype.adapters.registry_access import RegistryAccess, address_of, authorities
from tintype.adapters.registry_auth import Authenticator
from tintype.adapters.registry_credentials import credentials_for
from tintype.adapters.registry_errors import FOREIGN, body_of, refusal, translate, translated
from tintype.adapters.send_once import SendOnce
from tintype.core.errors import Refused, Unavailable

ANSWER_BYTES = 64 * 1024
"""Most that is read of an answer in which nothing stands."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_POOL = 8
_LONG_BYTES = 64 * 1024
_PORTS = {"https": 443, "http": 80}


class _Again(urllib3.Retry):
    """What is asked again: nothing that ran out of time, or one time limit would be three."""

    def increment(self, *args: Any, **named: Any) -> Self:
        error = named.get("error")
        if isinstance(error, urllib3.exceptions.ReadTimeoutError):
            raise error
        return super().increment(*args, **named)


class RegistryApi:
    """One registry. Threads may share it.

    Nothing is followed or repeated by `requests` itself: it would take passwords from a netrc, and
    send a token along to wherever the registry points.
    """

    def __init__(self, domain: str, access: RegistryAccess) -> None:
        """Take the registry's name as references have it; nothing is sent yet."""
        self.domain = domain
        self._access = access
        self._auth = Authenticator(domain, self._fetch, lambda: credentials_for(domain, access))
        self._authorities = authorities(access.cafile)
        self._root: str | None = None
        self._session = requests.Session()
        # A connection kept from before may be one that the registry is about to close. What writes
        # is not sent again for that: it may have been done, and our caller looks first.
        again = _Again(
            total=2,
            connect=0,
            status=0,
            redirect=0,
            other=0,
            allowed_methods={"GET", "HEAD", "DELETE"},
            respect_retry_after_header=False,  # how long to wait, our caller decides
        )
        adapter = HTTPAdapter(pool_maxsize=_POOL, max_retries=again)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)

    def call(
        self,
        method: str,
        path: str,
        *,
        scope: str,
        wanted: str,
        good: Collection[int],
        headers: Mapping[str, str] | None = None,
        data: bytes | SendOnce | None = None,
    ) -> requests.Response:
        """Make one call; the answer is not read yet. `path` may be a URL that the registry gave.

        Raises what an answer means whose status is not `good`, with the words of `wanted`.
        """
        url = urljoin(self._address(), path)
        response = self._authorized(method, url, scope, dict(headers or {}), data)
        hops = 0
        while response.status_code in _REDIRECTS and method in ("GET", "HEAD"):
            response.close()
            hops += 1
            if hops > _MOST_REDIRECTS:
                raise Refused(f"{wanted}: registry {self.domain} sends its clients in circles")
            target = self._joined(url, response.headers.get("Location", ""))
            response = self._elsewhere(method, url, target, scope, dict(headers or {}))
            url = target
        if response.status_code not in good:
            raise refusal(response, self.domain, wanted)
        return response

    def do(
        self,
        method: str,
        path: str,
        *,
        scope: str,
        wanted: str,
        good: Collection[int],
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
    ) -> requests.Response:
        """Make a call whose answer says nothing but its status and headers; see `call`."""
        response = self.call(
            method, path, scope=scope, wanted=wanted, good=good, headers=headers, data=data
        )
        body_of(response, ANSWER_BYTES, self.domain)
        return response

    def head(
        self, path: str, *, scope: str, wanted: str, headers: Mapping[str, str] | None = None
    ) -> Mapping[str, str] | None:
        """Return what the headers say of something; None: it is not there (404)."""
        response = self.do(
            "HEAD", path, scope=scope, wanted=wanted, good={200, 404}, headers=headers
        )
        return None if response.status_code == requests.codes.not_found else response.headers

    def resolve(self, response: requests.Response) -> str:
        """Return the address in an answer's `Location`. Raises Unavailable, Refused."""
        location = response.headers.get("Location")
        if not location:
            raise Unavailable(f"registry {self.domain} does not say where the upload goes on")
        return self._joined(response.url, location)

    def next_page(self, response: requests.Response) -> str | None:
        """Return where a list goes on, which may be told relative to where it was read."""
        address = response.links.get("next", {}).get("url")
        return self._joined(response.url, address) if address else None

    def check(self) -> None:
        """Raise Unavailable or Refused unless the registry answers and lets us in."""
        self.do("GET", "/v2/", scope="", wanted="looking for the registry", good={200})

    def close(self) -> None:
        """Release connections."""
        self._session.close()

    def _authorized(
        self,
        method: str,
        url: str,
        scope: str,
        headers: dict[str, str],
        data: bytes | SendOnce | None,
    ) -> requests.Response:
        """Make a call with what the registry wants to know of us, asking again when it does."""
        if not self._is_own(url):
            with translated(self.domain):
                return self._fetch(method, url, headers=headers, data=data)
        secure = url.startswith("https:")
        header = self._auth.header(scope, secure=secure)
        response = self._as(method, url, headers, header, data)
        if response.status_code != requests.codes.unauthorized:
            return response
        body_of(response, ANSWER_BYTES, self.domain)
        if header is not None:
            self._auth.forget(scope)
        if isinstance(data, SendOnce):
            raise Unavailable(f"registry {self.domain} no longer accepts the token it gave")
        header = self._auth.answer(response, scope, secure=secure)
        return self._as(method, url, headers, header, data)

    def _as(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        header: str | None,
        data: bytes | SendOnce | None,
    ) -> requests.Response:
        known = {} if header is None else {"Authorization": header}
        with translated(self.domain):
            return self._fetch(method, url, headers={**headers, **known}, data=data)

    def _elsewhere(
        self, method: str, url: str, target: str, scope: str, headers: dict[str, str]
    ) -> requests.Response:
        """Follow a redirect. Only the registry itself is told who we are."""
        if _origin(url) == _origin(target):
            return self._authorized(method, target, scope, headers, None)
        with translated(self.domain):
            return self._fetch(method, target, headers=headers)

    def _joined(self, url: str, address: str) -> str:
        """Return the URL that an answer from `url` names. Raises Refused for one not to be used."""
        try:
            target = urljoin(url, address)
        except ValueError as error:
            raise Refused(
                f"registry {self.domain} sends its clients to no usable address"
            ) from error
        if url.startswith("https:") and not target.startswith("https:"):
            raise Refused(
                f"registry {self.domain} sends its clients from HTTPS to plain HTTP: let it know"
                " its own address (distribution: http.host, or the proxy's X-Forwarded-Proto)"
            )
        return target

    def _is_own(self, url: str) -> bool:
        return _origin(url) == _origin(self._address())

    def _fetch(self, method: str, url: str, **options: Any) -> requests.Response:
        """Make one HTTP request. What goes wrong comes out as it is."""
        trusting = bool({urlsplit(url).netloc, _origin(url)[1]} & set(self._access.insecure))
        if trusting:  # the operator has said so, and is not to be told again at every call
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        # While a body is sent, urllib3 waits no longer than for a connection; a registry that
        # stores what comes may take longer than that.
        long = _is_long(options.get("data"))
        options |= {
            "auth": _as_it_is,
            "allow_redirects": False,
            "stream": True,
            "verify": False if trusting else self._authorities,
            "timeout": (
                self._access.read_seconds if long else self._access.connect_seconds,
                self._access.read_seconds,
            ),
        }
        try:
            if not isinstance(options.get("data"), SendOnce):
                return self._session.request(method, url, **options)
            # A stream goes on a connection of its own: one kept from before could break, and it
            # cannot be sent again.
            with requests.Session() as session:
                return session.request(method, url, **options)
        except requests.RequestException:
            raise
        except ValueError as error:  # requests looks where an answer leads, though not to go there
            raise requests.exceptions.InvalidURL("an address that makes no sense") from error

    def _address(self) -> str:
        """Return the registry's root URL; a registry that may be plain is tried with TLS first."""
        if self._root is None:  # threads that ask at once find the same, and wait for no other
            self._root = self._find_root()
        return self._root

    def _find_root(self) -> str:
        address = address_of(self.domain)
        if not self._access.may_be_plain(self.domain):
            return f"https://{address}/"
        try:
            self._fetch("GET", f"https://{address}/v2/").close()
        except FOREIGN as error:
            if _is_distrust(error) or not self._is_plain(address):
                raise translate(error, self.domain) from error
            return f"http://{address}/"
        return f"https://{address}/"

    def _is_plain(self, address: str) -> bool:
        try:
            self._fetch("GET", f"http://{address}/v2/").close()
        except FOREIGN:
            return False
        return True


def _origin(url: str) -> tuple[str, str]:
    """Return scheme and HOST[:PORT], without the port that goes without saying."""
    parts = urlsplit(url)
    host = parts.netloc.lower().rpartition("@")[2]
    return parts.scheme, host.removesuffix(f":{_PORTS.get(parts.scheme)}")


def _is_long(data: object) -> bool:
    """Whether sending a body may take its time."""
    return isinstance(data, SendOnce) or (isinstance(data, bytes) and len(data) > _LONG_BYTES)


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Add nothing: without this `requests` looks into a netrc."""
    return request


def _is_distrust(error: BaseException) -> bool:
    """Whether there is TLS, but a certificate that is not believed."""
    seen: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, ssl.SSLCertVerificationError):
            return True
        if isinstance(one, BaseException) and one not in seen:
            seen.append(one)
            waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
    return False
