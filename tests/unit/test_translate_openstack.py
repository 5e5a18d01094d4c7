"""Every exception class of openstacksdk, keystoneauth and requests means something on purpose.

The tables below were written by going through the classes one by one. A release that brings a new
one fails here until somebody has thought about it, and has put it into a table.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import keystoneauth1.exceptions as keystone
import openstack.exceptions as sdk
import pytest
import requests
import requests.exceptions as http
import urllib3.exceptions

from tintype.adapters.openstack_errors import (
    BY_STATUS,
    BY_STATUS_FOR_CALLER,
    FOREIGN,
    RULES,
    translate,
    translated,
)
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

REVIEWED: dict[type[Exception], dict[type[TintypeError], str]] = {
    sdk.SDKException: {
        NotFound: "NotFoundException",
        Forbidden: "ForbiddenException",
        Refused: """BadRequestException ConflictException PreconditionFailedException
            DuplicateResource ResourceFailure""",
        Internal: "InvalidRequest InvalidResourceQuery MethodNotSupported ValidationException",
        Unavailable: """SDKException HttpException ConfigException ServiceDisabledException
            EndpointNotFound InvalidResponse NotSupported ResourceTimeout ServiceDiscoveryException
            OpenStackCloudCreateException OpenStackCloudUnavailableExtension
            OpenStackCloudUnavailableFeature""",
    },
    keystone.ClientException: {
        # What Keystone says is about our credentials and their configuration, never the request.
        Unavailable: """ClientException
            AuthorizationFailure MissingAuthMethods AuthPluginException MissingAuthPlugin
            NoMatchingPlugin OptionError MissingRequiredOptions UnsupportedParameters
            InvalidDiscoveryEndpoint InvalidOidcDiscoveryDocument OidcAccessTokenEndpointNotFound
            OidcAuthorizationEndpointNotFound OidcDeviceAuthorizationEndpointNotFound
            OidcDeviceAuthorizationTimeOut OidcInvalidCodeChallengeMethod OidcPluginNotSupported
            CatalogException EmptyCatalog EndpointNotFound ServiceProviderNotFound
            ConnectionError ConnectFailure ConnectTimeout SSLError UnknownConnectionError
            DiscoveryFailure VersionNotAvailable InvalidResponse
            HttpError HTTPClientError HttpServerError BadRequest Unauthorized PaymentRequired
            Forbidden NotFound MethodNotAllowed NotAcceptable ProxyAuthenticationRequired
            RequestTimeout Conflict Gone LengthRequired PreconditionFailed RequestEntityTooLarge
            RequestUriTooLong UnsupportedMediaType RequestedRangeNotSatisfiable ExpectationFailed
            UnprocessableEntity TooManyRequests InternalServerError HttpNotImplemented BadGateway
            ServiceUnavailable GatewayTimeout HttpVersionNotSupported""",
    },
    http.RequestException: {
        Internal: "InvalidHeader InvalidJSONError StreamConsumedError URLRequired",
        Unavailable: """RequestException ConnectionError ProxyError SSLError ConnectTimeout Timeout
            ReadTimeout ChunkedEncodingError ContentDecodingError JSONDecodeError HTTPError
            InvalidSchema InvalidURL InvalidProxyURL MissingSchema RetryError TooManyRedirects
            UnrewindableBodyError""",
    },
}
"""What becomes of every class, by the base of its library."""

LEFT_TO_THE_BASE = {
    "SDKException",
    "ClientException",
    "RequestException",
    # Raised by parts of the SDK that Tintype does not use.
    "OpenStackCloudCreateException",
    "OpenStackCloudUnavailableExtension",
    "OpenStackCloudUnavailableFeature",
}
"""The only classes that the bases' catch-all rules may decide on."""


def classes(base: type[Exception]) -> set[type[Exception]]:
    """Return a library's public exceptions below `base`, after its exception modules are loaded."""
    importlib.import_module("openstack.cloud.exc")
    for module in pkgutil.iter_modules(keystone.__path__, f"{keystone.__name__}."):
        importlib.import_module(module.name)
    library = base.__module__.partition(".")[0]
    return {
        found
        for found in _walk(base)
        if found.__module__.partition(".")[0] == library and not found.__name__.startswith("_")
    }


def _walk(base: type[Exception]) -> Iterator[type[Exception]]:
    yield base
    for below in base.__subclasses__():
        yield from _walk(below)


def blank(foreign: type[Exception]) -> Exception:
    """Return an instance as it would be without an answer: each constructor wants other things."""
    return foreign.__new__(foreign)


@pytest.mark.parametrize("base", REVIEWED, ids=lambda base: base.__module__)
def test_every_class_means_what_was_decided(base: type[Exception]) -> None:
    decided = {name: outcome for outcome, names in REVIEWED[base].items() for name in names.split()}
    found = {found.__name__: type(translate(blank(found))) for found in classes(base)}
    assert found == decided


@pytest.mark.parametrize("base", REVIEWED, ids=lambda base: base.__module__)
def test_a_base_decides_only_what_was_left_to_it(base: type[Exception]) -> None:
    for found in classes(base):
        rule = next(rule for rule in RULES if issubclass(found, rule.foreign))
        assert rule.catch_all == (found.__name__ in LEFT_TO_THE_BASE), found


def test_no_rule_is_hidden_behind_an_earlier_one() -> None:
    for position, rule in enumerate(RULES):
        hiding = [one.foreign for one in RULES[:position] if issubclass(rule.foreign, one.foreign)]
        assert not hiding, rule.foreign


def test_all_that_has_a_rule_is_caught() -> None:
    assert all(issubclass(rule.foreign, FOREIGN) for rule in RULES)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (400, Refused),
        (401, Unavailable),
        (403, Forbidden),
        (404, NotFound),
        (407, Unavailable),
        (408, Unavailable),
        (409, Refused),
        (410, NotFound),
        (411, Refused),
        (413, TooLarge),
        (429, Unavailable),
        (500, Unavailable),
        (501, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
    ],
)
def test_glance_s_answers_are_judged_by_their_status(
    status: int, outcome: type[TintypeError]
) -> None:
    answer = requests.Response()
    answer.status_code = status
    answer.headers["Content-Type"] = "text/html"
    answer._content = b"<h1>Why it is so</h1>"
    with pytest.raises(TintypeError) as raised, translated():
        sdk.raise_from_response(answer)
    assert type(raised.value) is outcome
    assert str(status) in str(raised.value)
    assert "Why it is so" in str(raised.value)


def test_a_401_of_glance_is_about_the_token_that_was_sent() -> None:
    refusal = sdk.HttpException("no", http_status=401)
    assert type(translate(refusal)) is Unavailable
    assert type(translate(refusal, BY_STATUS_FOR_CALLER)) is Unauthorized
    with pytest.raises(Unauthorized, match="401"), translated(BY_STATUS_FOR_CALLER):
        raise refusal


def test_with_a_caller_s_token_all_else_means_what_it_means() -> None:
    differing = {
        status: outcome
        for status, outcome in BY_STATUS_FOR_CALLER.items()
        if outcome != BY_STATUS.get(status)
    }
    assert differing.keys() == {401}
    assert BY_STATUS.keys() == BY_STATUS_FOR_CALLER.keys()
    # What Keystone says is about the service's credentials even then.
    assert type(translate(keystone.Unauthorized("no"), BY_STATUS_FOR_CALLER)) is Unavailable


@pytest.mark.parametrize("base", REVIEWED, ids=lambda base: base.__module__)
def test_without_a_status_a_caller_s_errors_are_the_service_s(base: type[Exception]) -> None:
    for found in classes(base):
        error = blank(found)
        assert type(translate(error, BY_STATUS_FOR_CALLER)) is type(translate(error))


def test_a_long_answer_is_cut() -> None:
    assert len(str(translate(sdk.HttpException("x", details="y" * 10_000)))) < 500


@pytest.mark.parametrize(
    "error",
    [
        keystone.ConnectFailure("Unable to establish connection to http://u:s3cret@host/v3"),
        keystone.Unauthorized("the password s3cret is wrong"),
        http.ConnectionError("http://u:s3cret@host"),
        urllib3.exceptions.LocationParseError("http://u:s3cret@host"),
        OSError("Could not find the CA file /s3cret"),
    ],
)
def test_no_foreign_text_but_glance_s_is_passed_on(error: Exception) -> None:
    translation = translate(error)
    assert type(translation) is Unavailable
    assert "s3cret" not in str(translation)
    assert type(error).__name__ in str(translation)


def test_an_exception_of_nobody_s_is_not_translated() -> None:
    with pytest.raises(TypeError, match="ZeroDivisionError"):
        translate(ZeroDivisionError())
