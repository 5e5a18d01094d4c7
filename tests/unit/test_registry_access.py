"""Where images may go, and how a registry is reached."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from tests.support.fake_registry import Call, running
from tintype.adapters.registry import RegistryStore
from tintype.adapters.registry_access import Place, RegistryAccess, address_of, authorities
from tintype.adapters.registry_api import RegistryApi, _origin
from tintype.adapters.registry_blobs import Blobs
from tintype.config import ConfigError, RegistrySettings, Settings
from tintype.core.errors import Invalid, Refused, Unavailable
from tintype.core.reference import Reference
from tintype.stores import make_registry, make_router_stores


def access(home: str | None, *allowed: str) -> RegistryAccess:
    """Return the operator's word."""
    return RegistryAccess(
        home=Place.parse(home) if home else None, allowed=tuple(map(Place.parse, allowed))
    )


@pytest.mark.parametrize(
    ("home", "name", "repository"),
    [
        ("example.org/snaps", "web", "example.org/snaps/web"),
        ("example.org", "web", "example.org/web"),
        ("localhost:5000/a/b", "team/web", "localhost:5000/a/b/team/web"),
        ("[::1]:5000", "web", "[::1]:5000/web"),
        ("docker.io/me", "web", "docker.io/me/web"),
        ("index.docker.io/me", "web", "docker.io/me/web"),
        ("me/snaps", "web", "docker.io/me/snaps/web"),
    ],
)
def test_an_image_goes_to_the_repository_of_its_name(home: str, name: str, repository: str) -> None:
    assert access(home).repository_for(name, None).repository == repository


@pytest.mark.parametrize(
    ("wanted", "repository"),
    [
        ("example.org/snaps/other", "example.org/snaps/other"),
        ("example.org/snaps", "example.org/snaps"),
        ("me/web", "docker.io/me/web"),
        ("index.docker.io/me/web", "docker.io/me/web"),
        ("b.example.org:5000/any/thing", "b.example.org:5000/any/thing"),
    ],
)
def test_a_repository_that_is_allowed_is_written_in_full(wanted: str, repository: str) -> None:
    allowed = access("example.org/x", "example.org/snaps", "docker.io/me", "b.example.org:5000")
    assert allowed.repository_for("ignored", wanted).repository == repository


@pytest.mark.parametrize(
    "wanted",
    [
        "example.org/snapsafe",
        "example.org/other",
        "example.org:5000/snaps/web",
        "evil.example.org/snaps",
        "snaps/web",
        "web",
    ],
)
def test_a_repository_elsewhere_is_refused_with_what_is_allowed(wanted: str) -> None:
    with pytest.raises(Invalid, match=r"/repository: .*allowed here \(example\.org/snaps\)"):
        access("example.org/snaps").repository_for("web", wanted)


@pytest.mark.parametrize("wanted", ["example.org/snaps:v1", "example.org/Snaps", "", "a b"])
def test_what_is_no_repository_is_refused(wanted: str) -> None:
    with pytest.raises(Invalid, match=r"/repository: expected \[HOST"):
        access("example.org").repository_for("web", wanted)


def test_a_name_that_can_be_no_repository_is_refused() -> None:
    with pytest.raises(Invalid, match=r"/image_name: .*lowercase"):
        access("example.org/snaps").repository_for("Web", None)


def test_without_any_repository_it_is_said_what_to_configure() -> None:
    with pytest.raises(Invalid, match=r"/repository: .*\[registry\] repository"):
        access(None, "example.org").repository_for("web", None)
    with pytest.raises(Invalid, match=r"\[registry\] allowed"):
        access(None).repository_for("web", "example.org/web")


@pytest.mark.parametrize("text", ["", "snaps", "example.org/a:v1", "example.org/A", "a b", "x/"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Place.parse(text)


def test_docker_hub_is_not_where_its_name_says() -> None:
    assert address_of("docker.io") == "registry-1.docker.io"
    assert address_of("example.org:5000") == "example.org:5000"


@pytest.mark.parametrize(
    ("domain", "plain"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.8.9.10", True),
        ("[::1]:5000", True),
        ("[::1]", True),
        ("example.org:5000", True),
        ("example.org", False),
        ("localhost.example.org", False),
        ("128.0.0.1", False),
        ("[fc00::1]:5000", False),
    ],
)
def test_only_loopback_and_what_is_named_may_be_without_tls(domain: str, plain: bool) -> None:
    insecure = frozenset({"example.org:5000"})
    assert RegistryAccess(insecure=insecure).may_be_plain(domain) == plain


def test_a_registry_with_tls_must_not_send_its_clients_to_plain_http() -> None:
    with closing(RegistryApi("example.org", RegistryAccess())) as api:
        response = requests.Response()
        response.url = "https://example.org/v2/web/blobs/uploads/"
        response.headers["Location"] = "http://example.org/v2/web/blobs/uploads/1"
        with pytest.raises(Refused, match="X-Forwarded-Proto"):
            api.resolve(response)
        response.headers["Location"] = "/v2/web/blobs/uploads/1?a=b"
        assert api.resolve(response) == "https://example.org/v2/web/blobs/uploads/1?a=b"
        del response.headers["Location"]
        with pytest.raises(Unavailable, match="does not say where"):
            api.resolve(response)


def test_a_netrc_is_not_read(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with running() as registry, closing(RegistryStore(registry.access)) as store:
        store.check()
        assert [seen.authorization for seen in registry.seen] == [None, None]


def test_a_redirect_is_followed_without_telling_who_we_are() -> None:
    def lets_in(call: Call) -> bool:
        if call.headers.get("Authorization"):
            return True
        call.error(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="r"')
        return False

    with running() as registry, running() as storage:
        registry.lets_in = lets_in
        digest = storage.put_blob(b"data")
        there = f"http://{storage.domain}/v2/x/blobs/{digest}"

        def redirect(call: Call) -> None:
            if lets_in(call):
                call.answer(307, Location=there)

        registry.answers["GET .*/blobs/.*"] = redirect
        access = replace(registry.access, username="me", password="secret")
        with closing(RegistryApi(registry.domain, access)) as api:
            path = f"/v2/web/blobs/{digest}"
            answer = api.call("GET", path, scope="s", wanted="reading", good={200})
            assert answer.content == b"data"
        assert registry.seen[-1].authorization is not None
        assert [seen.authorization for seen in storage.seen] == [None]


def test_a_registry_that_sends_in_circles_is_refused() -> None:
    with running() as registry, closing(RegistryApi(registry.domain, registry.access)) as api:
        registry.answers["GET /v2/x"] = lambda call: call.answer(302, Location="/v2/x")
        with pytest.raises(Refused, match="in circles"):
            api.call("GET", "/v2/x", scope="", wanted="reading", good={200})
        assert len(registry.calls("GET /v2/x")) == 6


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://r.example", "https://R.example:443/v2/", True),
        ("http://r.example:80/x", "http://r.example/", True),
        ("https://r.example:5000/a", "https://me@r.example:5000/b", True),
        ("https://r.example", "http://r.example", False),
        ("https://r.example", "https://r.example:80", False),
        ("https://r.example", "https://r.example:4430", False),
        ("https://[::1]:443", "https://[::1]", True),
    ],
)
def test_only_the_registry_itself_is_told_who_we_are(one: str, other: str, same: bool) -> None:
    assert (_origin(one) == _origin(other)) == same


def test_an_address_that_makes_no_sense_is_refused() -> None:
    with running() as registry, closing(RegistryApi(registry.domain, registry.access)) as api:
        registry.answers["GET /v2/x"] = lambda call: call.answer(302, Location="http://[x")
        with pytest.raises(Refused, match="no usable address"):
            api.call("GET", "/v2/x", scope="", wanted="reading", good={200})


# What is sent again


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PUT", "POST", "PATCH"])
def test_what_ran_out_of_time_is_sent_once(method: str) -> None:
    over = threading.Event()
    with running() as registry:
        registry.answers[f"{method} /v2/x"] = lambda call: (over.wait(60), call.answer(200))[1]
        access = replace(registry.access, read_seconds=1)
        with closing(RegistryApi(registry.domain, access)) as api:
            try:
                with pytest.raises(Unavailable, match="does not answer in time"):
                    api.call(method, "/v2/x", scope="", wanted="calling", good={200}, data=b"")
            finally:
                over.set()
        assert len(registry.calls(f"{method} /v2/x")) == 1


@pytest.mark.parametrize(
    ("method", "times"),
    [("GET", 2), ("HEAD", 2), ("DELETE", 2), ("PUT", 1), ("POST", 1), ("PATCH", 1)],
)
def test_only_what_changes_nothing_more_is_sent_again_on_a_new_connection(
    method: str, times: int
) -> None:
    def close_once(call: Call) -> None:
        if len(call.server.calls(f"{method} /v2/x")) == 1:
            call.close_connection = True
        else:
            call.answer(200)

    with running() as registry, closing(RegistryApi(registry.domain, registry.access)) as api:
        registry.answers[f"{method} /v2/x"] = close_once
        with suppress(Unavailable):
            api.do(method, "/v2/x", scope="", wanted="calling", good={200})
        assert len(registry.calls(f"{method} /v2/x")) == times


def test_a_registry_that_takes_data_slowly_is_waited_for_as_for_an_answer() -> None:
    def pause(call: Call) -> None:
        if call.command == "PATCH":
            threading.Event().wait(2)

    with running() as registry:
        registry.before_body = pause
        access = replace(registry.access, connect_seconds=1, read_seconds=60)
        with closing(RegistryApi(registry.domain, access)) as api:
            # More than lies in the buffers on the way.
            digest = Blobs(api, Reference(registry.domain, "web")).put_stream([bytes(1 << 20)] * 32)
        assert len(registry.blobs[digest]) == 32 << 20


def test_threads_that_look_for_a_registry_do_not_wait_for_each_other() -> None:
    both = threading.Barrier(2, timeout=20)

    def meet(call: Call) -> None:
        if len(registry.calls("GET /v2/")) <= 2:
            both.wait()
        call.as_specified()

    with running() as registry, closing(RegistryApi(registry.domain, registry.access)) as api:
        registry.answers["GET /v2/"] = meet
        with ThreadPoolExecutor(2) as pool:
            for checked in [pool.submit(api.check) for _ in range(2)]:
                checked.result()


# Certificates


def test_the_systems_authorities_are_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, folder = tmp_path / "bundle.pem", tmp_path / "folder"
    bundle.touch()
    folder.mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setenv("SSL_CERT_DIR", str(folder))
    assert authorities("own.pem") == "own.pem"
    assert authorities(None) == str(bundle)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    assert authorities(None) is True
    (folder / "0123abcd.0").touch()
    assert authorities(None) == str(folder)


def test_nobody_there_is_unavailable() -> None:
    with running() as registry:
        gone = registry.access
    with closing(RegistryStore(gone)) as store, pytest.raises(Unavailable, match="reached"):
        store.check()


def test_a_registry_that_lets_nobody_in_fails_the_check() -> None:
    def refuse(call: Call) -> bool:
        call.error(403, "DENIED")
        return False

    with running() as registry, closing(RegistryStore(registry.access)) as store:
        registry.lets_in = refuse
        with pytest.raises(Unavailable, match="DENIED"):
            store.check()


# Configuration


def settings(**group: object) -> Settings:
    """Return settings with this group `[registry]`."""
    return Settings(registry=RegistrySettings(**group))  # type: ignore[arg-type]


def test_the_store_is_made_of_its_configuration() -> None:
    with closing(
        make_registry(
            settings(
                repository="example.org/snaps/x", allowed=["docker.io/me", "example.org/snaps"]
            )
        )
    ) as store:
        assert store.repository_for("web", None) == "example.org/snaps/x/web"
        assert store.repository_for("web", "me/web") == "docker.io/me/web"
        with pytest.raises(Invalid):
            store.at("example.org/other/web")
        assert store.at(None) is store


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({}, r"\[registry\] repository: needed"),
        ({"repository": "snaps"}, r"\[registry\] repository: expected HOST.*'snaps'"),
        ({"allowed": ["a.b/C"]}, r"\[registry\] allowed: expected"),
        ({"repository": "a.b", "insecure": ["x"]}, r"\[registry\] insecure: expected"),
        ({"repository": "a.b/c", "allowed": ["a.b/cd", "x.y"]}, r"allowed: .*\(a\.b/c\) among"),
        ({"repository": "a.b", "allowed": ["a.b/c"]}, r"allowed: .*\(a\.b\) among"),
    ],
)
def test_a_wrong_option_is_named(group: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_registry(settings(**group))


def test_a_router_deletes_from_the_registry_that_is_configured() -> None:
    stores = make_router_stores(settings(repository="example.org/snaps"))
    assert list(stores) == ["registry"]
    stores["registry"].close()
