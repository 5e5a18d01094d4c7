"""Who Tintype is to a registry: challenges, tokens, passwords, Docker's configuration."""

from __future__ import annotations

import json
import logging
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from tests.support.fake_registry import Call, FakeRegistry, running
from tests.support.registry import pieces, small_archive, spec
from tintype.adapters.registry import RegistryStore
from tintype.adapters.registry_access import Place, RegistryAccess
from tintype.adapters.registry_api import RegistryApi
from tintype.adapters.registry_auth import Challenge, parse
from tintype.adapters.registry_credentials import Credentials, credentials_for
from tintype.core.errors import Refused, Unavailable

SECRET = "open-sesame"
USER = "alice"


@dataclass
class TokenService:
    """A registry that wants tokens, and the service that gives them, at one address."""

    registry: FakeRegistry
    life: int | None = 300
    asked: list[dict[str, list[str]]] = field(default_factory=list)
    """What the service was asked, one after another."""
    given: set[str] = field(default_factory=set)
    identity: str | None = None
    """A refresh token that it takes instead of a password."""

    def __post_init__(self) -> None:
        self.registry.lets_in = self.lets_in
        self.registry.answers["(GET|POST) /token"] = self.give

    def lets_in(self, call: Call) -> bool:
        """Ask for a token unless there is a good one."""
        header = call.headers.get("Authorization") or ""
        if header.removeprefix("Bearer ") in self.given:
            return True
        realm = f'realm="http://{self.registry.domain}/token"'
        call.error(
            401,
            "UNAUTHORIZED",
            WWW_Authenticate=f'Bearer {realm},service="the registry",scope="repository:x:pull"',
        )
        return False

    def give(self, call: Call) -> None:
        """Give a token to who is right."""
        form = call.body.decode() if call.command == "POST" else urlsplit(call.path).query
        asked = parse_qs(form)
        self.asked.append(asked)
        header = call.headers.get("Authorization") or ""
        right = f"Basic {b64encode(f'{USER}:{SECRET}'.encode()).decode()}"
        by_token = self.identity is not None and asked.get("refresh_token") == [self.identity]
        if header != right and not by_token:
            return call.error(401, "UNAUTHORIZED", "incorrect username or password")
        token = f"token-{len(self.asked)}"
        self.given.add(token)
        document: dict[str, Any] = {"token": token}
        if self.life is not None:
            document["expires_in"] = self.life
        return call.answer(200, json.dumps(document).encode())


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry in this process."""
    with running() as registry:
        yield registry


@pytest.fixture
def service(registry: FakeRegistry) -> TokenService:
    """A registry that wants tokens."""
    return TokenService(registry)


def known(registry: FakeRegistry, **changes: Any) -> RegistryAccess:
    """Return access with the right password."""
    return replace(registry.access, username=USER, password=SECRET, **changes)


def go_through(access: RegistryAccess) -> None:
    """Make an image, and delete it."""
    data, sent = small_archive(b"x" * 100_000)
    with closing(RegistryStore(access)) as whole:
        store = whole.at(whole.repository_for("web", None))
        image = store.reserve(spec())
        store.upload(image.id, pieces(data))
        store.complete(image.id, sent, {})
        with store.download(image.id) as chunks:
            assert b"".join(chunks) == data
        store.discard(image.id)


def test_a_token_is_fetched_for_each_right_and_then_used(
    registry: FakeRegistry, service: TokenService
) -> None:
    go_through(known(registry))
    scopes = [tuple(asked["scope"]) for asked in service.asked]
    path = "repository:snaps/web"
    assert scopes == [
        (f"{path}:pull", "repository:x:pull"),
        (f"{path}:pull,push", "repository:x:pull"),
        (f"{path}:delete,pull,push", "repository:x:pull"),
    ]
    assert all(asked["service"] == ["the registry"] for asked in service.asked)
    assert not registry.uploads


def test_only_the_token_service_sees_the_password(
    registry: FakeRegistry, service: TokenService
) -> None:
    go_through(known(registry))
    assert service.asked
    for seen in registry.seen:
        told = seen.authorization or ""
        assert told.startswith("Basic") == seen.path.startswith("/token")


@pytest.mark.parametrize("life", [1, None], ids=["short", "unsaid"])
def test_a_token_about_to_expire_is_replaced_before_it_is_used(
    registry: FakeRegistry, service: TokenService, life: int | None
) -> None:
    service.life = life
    go_through(known(registry))
    refused = [one for one in registry.seen if one.authorization is None and "/v2/" in one.path]
    asked_first = len({asked["scope"][0] for asked in service.asked})
    # Unasked only once for each right: from then on the token is renewed before it is refused.
    assert len([one for one in refused if one.path != "/v2/"]) == asked_first
    assert (len(service.asked) > 10) == (life == 1)


def test_a_stream_that_is_refused_is_not_sent_again(
    registry: FakeRegistry, service: TokenService
) -> None:
    def refuse(call: Call) -> None:
        service.given.clear()
        call.as_specified()

    registry.answers["PATCH .*"] = refuse
    data, _ = small_archive(b"x" * 100_000)
    with closing(RegistryStore(known(registry))) as whole:
        store = whole.at(whole.repository_for("web", None))
        image = store.reserve(spec())
        with pytest.raises(Unavailable, match="no longer accepts the token"):
            store.upload(image.id, pieces(data))
        assert len(registry.calls("PATCH .*")) == 1
        del registry.answers["PATCH .*"]
        store.upload(image.id, pieces(data))


def test_credentials_that_are_wrong_are_refused_and_never_shown(
    registry: FakeRegistry, service: TokenService, caplog: pytest.LogCaptureFixture
) -> None:
    del service
    caplog.set_level(logging.DEBUG)
    with pytest.raises(Refused, match=r"asking for a token.*credentials") as raised:
        go_through(replace(registry.access, username=USER, password="wrong-secret"))
    assert "wrong-secret" not in str(raised.value) + caplog.text
    assert "wrong-secret" not in repr(replace(registry.access, password="wrong-secret"))
    assert SECRET not in repr(Credentials(USER, SECRET, SECRET))


def test_an_identity_token_goes_to_the_token_service(
    registry: FakeRegistry, service: TokenService, tmp_path: Path
) -> None:
    service.identity = "refresh-me"
    auths = {registry.domain: {"identitytoken": "refresh-me"}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
    go_through(replace(registry.access, docker_config=str(tmp_path)))
    assert service.asked[0]["grant_type"] == ["refresh_token"]
    assert service.asked[0]["scope"] == ["repository:snaps/web:pull repository:x:pull"]


def test_a_token_service_without_tls_is_not_trusted_by_a_registry_with_it() -> None:
    api = RegistryApi("registry.example.org", RegistryAccess())
    response = requests.Response()
    response.headers["WWW-Authenticate"] = 'Bearer realm="http://token.example.org/"'
    with pytest.raises(Refused, match="no token service that can be trusted"):
        api._auth.answer(response, "", secure=True)
    api.close()


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (200, b"{}", Unavailable, "gave no token"),
        (200, b'{"token": "a\\nb"}', Unavailable, "gave no token"),
        (200, b"[]", Unavailable, "no JSON object"),
        (200, b"<html>", Unavailable, "not JSON"),
        (200, b" " * (1 << 20) + b"{}", Unavailable, "more than"),
        (503, b"", Unavailable, "HTTP 503"),
        (302, b"", Refused, "HTTP 302"),
        (400, b"", Refused, "HTTP 400"),
    ],
)
def test_a_token_service_that_makes_no_sense(
    registry: FakeRegistry,
    service: TokenService,
    status: int,
    body: bytes,
    error: type[Exception],
    words: str,
) -> None:
    del service
    registry.answers["(GET|POST) /token"] = lambda call: call.answer(status, body)
    with pytest.raises(error, match=words):
        go_through(known(registry))


def test_a_registry_that_asks_for_a_password_gets_it(registry: FakeRegistry) -> None:
    def lets_in(call: Call) -> bool:
        pair = b64decode((call.headers.get("Authorization") or "").removeprefix("Basic ") or b"")
        if pair == f"{USER}:{SECRET}".encode():
            return True
        call.error(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="tintype"')
        return False

    registry.lets_in = lets_in
    go_through(known(registry))
    assert (
        len([one for one in registry.seen if one.authorization is None]) == 2
    )  # at first, and the probe
    with pytest.raises(Refused, match=r"\[registry\] username and docker_config"):
        go_through(registry.access)
    with pytest.raises(Refused, match="does not accept Tintype's credentials"):
        go_through(replace(registry.access, username=USER, password="wrong"))


def test_a_registry_that_asks_in_an_unknown_way_is_refused(registry: FakeRegistry) -> None:
    registry.answers[".* /v2/.+"] = lambda call: call.error(
        401, "UNAUTHORIZED", WWW_Authenticate="Negotiate"
    )
    with pytest.raises(Refused, match="in no way that is known"):
        go_through(known(registry))


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ('Basic realm="a, b"', [("basic", {"realm": "a, b"})]),
        (
            'Bearer realm="https://t/?a=b",service="s",scope="repository:x:pull,push"',
            [("bearer", {"realm": "https://t/?a=b", "service": "s",
                         "scope": "repository:x:pull,push"})],
        ),
        ('Negotiate, Basic realm="r"', [("negotiate", {}), ("basic", {"realm": "r"})]),
        ('bearer Realm=plain , SERVICE="s"', [("bearer", {"realm": "plain", "service": "s"})]),
        ("", []),
    ],
)  # fmt: skip
def test_challenges_are_read(header: str, challenges: list[tuple[str, Mapping[str, str]]]) -> None:
    assert parse(header) == [Challenge(*challenge) for challenge in challenges]


# Docker's configuration


def config(folder: Path, **document: Any) -> RegistryAccess:
    """Write a config.json and return access with it."""
    (folder / "config.json").write_text(json.dumps(document))
    return RegistryAccess(docker_config=str(folder))


def basic(user: str, password: str) -> dict[str, str]:
    """Return an entry of `auths`."""
    return {"auth": b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize(
    ("key", "domain"),
    [
        ("example.org:5000", "example.org:5000"),
        ("https://example.org:5000/v2/", "example.org:5000"),
        ("https://index.docker.io/v1/", "docker.io"),
    ],
)
def test_a_login_is_found(tmp_path: Path, key: str, domain: str) -> None:
    access = config(tmp_path, auths={key: basic("me", "a:b")})
    assert credentials_for(domain, access) == Credentials("me", "a:b")
    assert credentials_for("elsewhere.example.org", access) is None
    file = replace(access, docker_config=str(tmp_path / "config.json"))
    assert credentials_for(domain, file) == Credentials("me", "a:b")


def test_the_operators_word_is_for_his_registry_alone(tmp_path: Path) -> None:
    access = replace(
        config(tmp_path, auths={"a.example.org": basic("docker", "1")}),
        home=Place("a.example.org", "snaps"),
        username="operator",
        password="2",
    )
    assert credentials_for("a.example.org", access) == Credentials("operator", "2")
    assert credentials_for("b.example.org", access) is None


def helper(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a credential helper called `test` on the path."""
    program = folder / "docker-credential-test"
    program.write_text(f"#!/bin/sh\nread host\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.parametrize(
    "how", [{"credsStore": "test"}, {"credHelpers": {"a.example.org": "test"}}], ids=str
)
def test_a_credential_helper_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    helper(
        tmp_path, monkeypatch, """echo "{\\"Username\\": \\"me\\", \\"Secret\\": \\"$host\\"}" """
    )
    access = config(tmp_path, **how)
    assert credentials_for("a.example.org", access) == Credentials("me", "a.example.org")


def test_a_credential_helper_may_give_an_identity_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, monkeypatch, """echo '{"Username": "<token>", "Secret": "t"}'""")
    access = config(tmp_path, credsStore="test")
    assert credentials_for("a.example.org", access) == Credentials(identity_token="t")


@pytest.mark.parametrize(
    "script", ["echo my-secret; exit 1", "echo my-secret", "echo '{}'"], ids=["1", "text", "{}"]
)
def test_a_credential_helper_that_fails_is_named_and_not_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    helper(tmp_path, monkeypatch, script)
    with pytest.raises(Refused, match=r"a\.example\.org.*docker_config") as raised:
        credentials_for("a.example.org", config(tmp_path, credsStore="test"))
    assert "my-secret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_credential_helper_that_knows_nothing_leaves_the_logins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, monkeypatch, "echo credentials not found in native keychain; exit 1")
    access = config(tmp_path, credsStore="test", auths={"a.example.org": basic("me", "1")})
    assert credentials_for("a.example.org", access) == Credentials("me", "1")
    assert credentials_for("b.example.org", access) is None


def test_a_credential_helper_that_hangs_is_ended_with_what_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    helper(tmp_path, monkeypatch, f"sleep 777 & echo $! > {pid}.part; mv {pid}.part {pid}; wait")
    with pytest.raises(Unavailable, match=r"docker-credential-test .*a\.example\.org within 2 s"):
        credentials_for("a.example.org", config(tmp_path, credsStore="test"), helper_seconds=2)
    assert "sleep" not in command_of(int(pid.read_text()))


def command_of(pid: int) -> str:
    """Return the command line of a process; nothing of one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return ""


def test_a_credential_helper_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="docker_config"):
        credentials_for("a.example.org", config(tmp_path, credsStore="of-nobody"))


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": {"a.example.org": {"auth": "?"}}}'])
def test_a_configuration_that_is_damaged_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(Refused, match="docker_config"):
        credentials_for("a.example.org", RegistryAccess(docker_config=str(tmp_path)))


def test_dockers_own_place_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config(tmp_path, auths={"a.example.org": basic("me", "1")})
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert credentials_for("a.example.org", RegistryAccess()) == Credentials("me", "1")
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    assert credentials_for("a.example.org", RegistryAccess()) is None
