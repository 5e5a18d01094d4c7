"""Exceptions of openstacksdk, keystoneauth and requests, turned into Tintype's own.

One table, read from the top: the first line that fits decides. Two kinds of answers are told apart:

- What *Glance* answers is judged by its status: it is about the image (not found, no quota).
- What *Keystone* answers is about Tintype's own credentials or their configuration, whatever its
  status. That is the operator's to mend and no fault of the request, so it waits: `Unavailable`.

So is a 401 of Glance, unless the call was made with a caller's token: then it is about that.

Messages are written here. Of foreign texts only Glance's answer is passed on: the others quote
URLs, which can hold a password. What was foreign stays reachable as `__cause__`, for the log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import keystoneauth1.exceptions as keystone
import openstack.exceptions as sdk
import requests.exceptions as http
import urllib3.exceptions

from tintype.core.errors import (
    Forbidden,
    Internal,
    NotFound,
    Refused,
    TintypeError,
    TooLarge,
    Unauthorized,
    Unavailable,
)

_DETAIL_CHARS = 300
_CREDENTIALS = "the image service user's credentials are refused: check Tintype's configuration"
_CONFIGURED = "the way to the image service is not configured right"
_UNREACHABLE = "the image service or Keystone cannot be reached"
_DEFECT = "Tintype made a call to the image service that cannot be made"
_ANSWER = "the image service or Keystone gave an answer that makes no sense"
_REFUSED = "the image service refuses"


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of one class of foreign exceptions, and of those below it."""

    foreign: type[Exception]
    outcome: type[TintypeError]
    sentence: str
    catch_all: bool = False
    """The base of a whole library: for what has no line of its own. All that is known of such an
    exception is that the call failed, and to try again until the deadline loses nothing."""


RULES = (
    # openstacksdk; the statuses of BY_STATUS come before these
    Rule(sdk.NotFoundException, NotFound, "the image service knows no such image"),
    Rule(sdk.ForbiddenException, Forbidden, _REFUSED),
    Rule(sdk.BadRequestException, Refused, _REFUSED),
    Rule(sdk.ConflictException, Refused, _REFUSED),
    Rule(sdk.PreconditionFailedException, Refused, _REFUSED),
    Rule(sdk.HttpException, Unavailable, "the image service failed"),
    Rule(sdk.EndpointNotFound, Unavailable, _CONFIGURED),
    Rule(sdk.ConfigException, Unavailable, _CONFIGURED),
    Rule(sdk.NotSupported, Unavailable, _CONFIGURED),
    Rule(sdk.ServiceDiscoveryException, Unavailable, _UNREACHABLE),
    Rule(sdk.ResourceTimeout, Unavailable, _UNREACHABLE),
    Rule(sdk.InvalidResponse, Unavailable, _ANSWER),
    Rule(sdk.ResourceFailure, Refused, _REFUSED),
    Rule(sdk.DuplicateResource, Refused, _REFUSED),
    Rule(sdk.InvalidRequest, Internal, _DEFECT),
    Rule(sdk.InvalidResourceQuery, Internal, _DEFECT),
    Rule(sdk.MethodNotSupported, Internal, _DEFECT),
    Rule(sdk.ValidationException, Internal, _DEFECT),
    Rule(sdk.SDKException, Unavailable, "the image service failed", catch_all=True),
    # keystoneauth: with raise_exc=False it raises HttpError for Keystone's own answers only
    Rule(keystone.Unauthorized, Unavailable, _CREDENTIALS),
    Rule(keystone.Forbidden, Unavailable, _CREDENTIALS),
    Rule(keystone.HttpError, Unavailable, "Keystone refuses or failed"),
    Rule(keystone.AuthorizationFailure, Unavailable, _CREDENTIALS),
    Rule(keystone.MissingAuthMethods, Unavailable, _CREDENTIALS),
    Rule(keystone.AuthPluginException, Unavailable, _CREDENTIALS),
    Rule(keystone.CatalogException, Unavailable, _CONFIGURED),
    Rule(keystone.ServiceProviderNotFound, Unavailable, _CONFIGURED),
    Rule(keystone.SSLError, Unavailable, "no trusted TLS connection to the image service"),
    Rule(keystone.ConnectionError, Unavailable, _UNREACHABLE),
    Rule(keystone.DiscoveryFailure, Unavailable, _UNREACHABLE),
    Rule(keystone.InvalidResponse, Unavailable, _ANSWER),
    Rule(keystone.ClientException, Unavailable, "Keystone failed", catch_all=True),
    # requests: keystoneauth wraps most; the body of a streamed answer is read without it
    Rule(http.SSLError, Unavailable, "no trusted TLS connection to the image service"),
    Rule(http.ConnectionError, Unavailable, _UNREACHABLE),
    Rule(http.Timeout, Unavailable, "the image service does not answer in time"),
    Rule(http.ChunkedEncodingError, Unavailable, "the image service broke off"),
    Rule(http.ContentDecodingError, Unavailable, _ANSWER),
    Rule(http.JSONDecodeError, Unavailable, _ANSWER),
    Rule(http.TooManyRedirects, Unavailable, _CONFIGURED),
    Rule(http.MissingSchema, Unavailable, _CONFIGURED),
    Rule(http.InvalidSchema, Unavailable, _CONFIGURED),
    Rule(http.InvalidURL, Unavailable, _CONFIGURED),
    Rule(http.RetryError, Unavailable, _UNREACHABLE),
    Rule(http.UnrewindableBodyError, Unavailable, "the image service wants the data again"),
    Rule(http.HTTPError, Unavailable, "the image service failed"),
    Rule(http.InvalidJSONError, Internal, _DEFECT),
    Rule(http.InvalidHeader, Internal, _DEFECT),
    Rule(http.StreamConsumedError, Internal, _DEFECT),
    Rule(http.URLRequired, Internal, _DEFECT),
    Rule(http.RequestException, Unavailable, "the image service failed", catch_all=True),
    # Below requests: it lets some of urllib3's through, and a missing CA file is a bare OSError.
    Rule(urllib3.exceptions.HTTPError, Unavailable, _UNREACHABLE, catch_all=True),
    Rule(OSError, Unavailable, _CONFIGURED, catch_all=True),
)
"""Every foreign exception class and what it means, most specific first within each library."""

Outcomes = Mapping[int, tuple[type[TintypeError], str]]
"""What an HTTP status means."""

BY_STATUS: Outcomes = {
    401: (Unavailable, _CREDENTIALS),
    403: (Forbidden, _REFUSED),
    404: (NotFound, "the image service knows no such image"),
    407: (Unavailable, _CONFIGURED),
    408: (Unavailable, "the image service does not answer in time"),
    410: (NotFound, "the image was deleted"),
    413: (TooLarge, "the image service takes no more: a quota or size limit is reached"),
    429: (Unavailable, "the image service is busy"),
}
"""What an HTTP status of Glance means; of the others, 4xx is Refused and 5xx Unavailable."""

BY_STATUS_FOR_CALLER: Outcomes = {
    **BY_STATUS,
    401: (Unauthorized, "the image service does not accept the caller's token"),
}
"""The same for a call that was made with a caller's token."""

FOREIGN = (sdk.SDKException, keystone.ClientException, urllib3.exceptions.HTTPError, OSError)
"""What an `except` must name to catch all of the above; a RequestException is an OSError."""


def translate(exc: Exception, by_status: Outcomes = BY_STATUS) -> TintypeError:
    """Return the Tintype error that stands for a foreign exception."""
    status = getattr(exc, "status_code", None) if isinstance(exc, sdk.HttpException) else None
    outcome, sentence = _by_class(exc) if status is None else _of(status, by_status)
    origin = type(exc).__name__ if status is None else f"HTTP {status}"
    detail = getattr(exc, "details", None) if isinstance(exc, sdk.HttpException) else None
    text = f"{sentence} ({origin})"
    return outcome(f"{text}: {str(detail)[:_DETAIL_CHARS]}" if detail else text)


def _of(status: int, by_status: Outcomes) -> tuple[type[TintypeError], str]:
    if status in by_status:
        return by_status[status]
    if 400 <= status < 500:
        return Refused, _REFUSED
    return Unavailable, "the image service failed"


def _by_class(exc: Exception) -> tuple[type[TintypeError], str]:
    for rule in RULES:
        if isinstance(exc, rule.foreign):
            return rule.outcome, rule.sentence
    raise TypeError(f"{type(exc).__name__} is none of the classes in FOREIGN") from exc


@contextmanager
def translated(by_status: Outcomes = BY_STATUS) -> Iterator[None]:
    """Let foreign exceptions out of the block as Tintype's own."""
    try:
        yield
    except FOREIGN as exc:
        raise translate(exc, by_status) from exc
