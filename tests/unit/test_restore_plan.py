"""What container a restore makes: what the snapshot recorded, and what the request wants."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.twins import ADMIN, ALICE, HOST, Bench
from tintype.core.engine import NewContainer, container_uuid
from tintype.core.errors import Forbidden, Invalid, NameTaken, Unavailable
from tintype.core.events import RESTORE_REQUEST, Event, Requester, derived_id
from tintype.core.ownership import Ownership
from tintype.core.policy import Policy
from tintype.core.ports import Services
from tintype.core.restore import Restore, Source
from tintype.handlers.restore_image import split_reference
from tintype.handlers.restore_plan import (
    ITEMS_READ,
    Plan,
    check_allowed,
    check_name,
    default_name,
    plan,
)
from tintype.schemas import validate

REQUEST_ID = derived_id("test", "restore")
NOBODY = Requester()
OURS = {"tintype.project_id": "project-a"}


@pytest.fixture
def bench() -> Bench:
    return Bench()


def services(bench: Bench, *folders: str, ownership: Ownership | None = None) -> Services:
    return replace(
        bench.services,
        policy=Policy(bind_folders=folders),
        ownership=ownership or Ownership(),
    )


def planned(
    request: dict[str, Any] | None = None, who: Requester = ALICE, /, **properties: Any
) -> Plan:
    """Return the plan for a request; properties are given as they are, or to be made JSON of."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in properties.items()
    }
    payload = {"request_id": REQUEST_ID, "image": "snap", **(request or {})}
    assert validate(RESTORE_REQUEST, payload) == []
    asked = Restore.begin(Event(RESTORE_REQUEST, payload, who), host=HOST, created_at="")
    return plan(asked, Source("glance", "id", name="a/snap", properties=texts), plain_services())


@functools.cache
def plain_services() -> Services:
    return Bench().services


def wanted(request: dict[str, Any] | None = None, /, **properties: Any) -> NewContainer:
    return planned(request, **properties).wanted


# What is recorded, and what is asked for instead


def test_what_the_image_has_itself_is_left_to_the_image() -> None:
    made = wanted(container_command=["old"], container_entrypoint=["old"], container_user="old")
    assert made.command is made.entrypoint is made.working_dir is made.user is None
    assert made.env == {}


def test_what_no_image_has_comes_from_the_record() -> None:
    made = wanted(
        container_published_ports={"80/tcp": "8080", "53/udp": "", "1/sctp": "[::1]:2"},
        container_restart_policy={"name": "always", "maximum_retry_count": 0},
    )
    assert made.ports == {"80/tcp": "8080", "53/udp": "", "1/sctp": "[::1]:2"}
    assert made.restart_policy == "always"


def test_what_is_asked_for_goes_before_the_record() -> None:
    asked = {
        "command": ["sleep", "1"],
        "entrypoint": [],
        "env": {"A": "b"},
        "working_dir": "/srv",
        "user": "1:1",
        "ports": {"81/tcp": "127.0.0.1:81"},
        "restart_policy": "on-failure:3",
        "network": "none",
    }
    made = wanted(
        asked,
        container_published_ports={"80/tcp": "8080"},
        container_restart_policy={"name": "always", "maximum_retry_count": 0},
    )
    assert {name: getattr(made, name) for name in asked} == asked


def test_recorded_ports_can_be_left_unpublished() -> None:
    assert wanted({"ports": {}}, container_published_ports={"80/tcp": "8080"}).ports == {}


@pytest.mark.parametrize(
    ("recorded", "made"),
    [
        ({"name": "no", "maximum_retry_count": 0}, "no"),
        ({"name": "on-failure", "maximum_retry_count": 0}, "on-failure"),
        ({"name": "on-failure", "maximum_retry_count": 5}, "on-failure:5"),
        ({"name": "unless-stopped"}, "unless-stopped"),
    ],
)
def test_a_recorded_restart_policy_is_put_in_dockers_words(recorded: Any, made: str) -> None:
    assert wanted(container_restart_policy=recorded).restart_policy == made


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("container_restart_policy", "{"),
        ("container_restart_policy", '{"name": "often"}'),
        ("container_restart_policy", '{"name": "on-failure", "maximum_retry_count": -1}'),
        ("container_restart_policy", '{"name": ["no"]}'),
        ("container_restart_policy", "[]"),
        ("container_published_ports", "[]"),
        ("container_published_ports", '{"80": "80"}'),
        ("container_published_ports", '{"80/tcp": 80}'),
        ("container_published_ports", '{"80/tcp": "a:b"}'),
        ("container_published_ports", json.dumps(dict.fromkeys(map(str, range(ITEMS_READ + 1))))),
        ("excluded_volumes", '"/data"'),
        ("excluded_volumes", "[1]"),
        ("excluded_volumes", "[" * 100_000),
        ("scrubbed_env", json.dumps(["A"] * (ITEMS_READ + 1))),
        ("scrubbed_env", json.dumps(["A" * 5000])),
    ],
)
def test_a_record_that_cannot_be_read_is_left_out_with_a_word(name: str, text: str) -> None:
    made = planned(**{name: text})
    assert made.warnings == (f"the image's property {name} cannot be read and was left out",)
    assert (made.wanted.ports, made.wanted.restart_policy) == ({}, "no")
    assert made.missing_volumes == ()


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["excluded_volumes", "scrubbed_env"]), st.text()))
def test_no_record_breaks_a_restore(properties: dict[str, str]) -> None:
    assert planned(**properties).wanted.name


def test_a_variable_that_was_taken_out_is_named_unless_it_is_given() -> None:
    made = planned({"env": {"TOKEN": "x"}}, scrubbed_env=["DB_PASSWORD", "TOKEN"])
    assert made.warnings == ("/env: DB_PASSWORD was taken out of the image; give it by env",)


# Names


@pytest.mark.parametrize(
    ("recorded", "base"),
    [
        ("web", "web"),
        ("zun-6ba7b810-9dad-11d1-80b4-00c04fd430c8", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        ("zun-web", "web"),
        ("_x", "x"),
        ("ä b", "b"),
        ("...", "restored"),
        ("", "snap"),
        ("a" * 300, "a" * 200),
    ],
)
def test_the_name_is_made_of_the_old_one(recorded: str, base: str) -> None:
    source = Source("glance", "id", name="a/snap", properties={"container_name": recorded})
    name = default_name(source, REQUEST_ID)
    assert name.removesuffix(f"-{REQUEST_ID[:8]}") == base
    assert validate(RESTORE_REQUEST, {"image": "x", "name": name[-200:]}) == []


@settings(deadline=None)
@given(st.text() | st.from_regex(r"zun-[a-f0-9-]+"))
def test_no_name_is_taken_for_one_of_zuns(recorded: str) -> None:
    source = Source("glance", "id", properties={"container_name": recorded})
    assert container_uuid(default_name(source, REQUEST_ID), "engine id") == "engine id"


def test_a_name_is_the_requests_own() -> None:
    assert wanted({"name": "db"}, container_name="web").name == "db"


def test_a_name_that_is_taken_is_refused(bench: Bench) -> None:
    made = bench.container("web")
    with pytest.raises(NameTaken, match="/name: 'web'"):
        check_name("web", bench.services)
    check_name("wet", bench.services)
    check_name(made.engine_id[:12], bench.services)


def test_an_engine_that_is_away_cannot_say_whether_a_name_is_taken(bench: Bench) -> None:
    bench.trouble.plan("engine.inspect", Unavailable("away"))
    with pytest.raises(Unavailable):
        check_name("web", bench.services)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("snap", ("snap", None, None)),
        ("snap:v1", ("snap", "v1", None)),
        ("snap:", ("snap", None, None)),
        ("host:5000/a/b", ("host:5000/a/b", None, None)),
        ("host:5000/a/b:v1", ("host:5000/a/b", "v1", None)),
        ("a@sha256:ff", ("a", None, "sha256:ff")),
        ("host:5000/a:v1@sha256:ff", ("host:5000/a", "v1", "sha256:ff")),
        ("A name: with a tag", ("A name", " with a tag", None)),
        ("we@ird", ("we@ird", None, None)),
    ],
)
def test_a_reference_is_split_as_docker_does(text: str, parts: tuple[str, ...]) -> None:
    assert split_reference(text) == parts


# Labels


def test_labels_are_added_with_the_owners() -> None:
    assert wanted({"labels": {"a": "b"}}).labels == {
        "a": "b",
        "tintype.project_id": "project-a",
        "tintype.user_id": "alice",
    }
    assert planned({}, Requester("p")).wanted.labels == {
        "tintype.project_id": "p",
        "tintype.user_id": "",
    }
    assert planned({"labels": {"a": "b"}}, NOBODY).wanted.labels == {"a": "b"}


def test_labels_that_ask_for_snapshots_and_hooks_are_the_users_own() -> None:
    labels = {"tintype.snapshot.on": "stop", "tintype.hook.pre-commit": "sync"}
    assert wanted({"labels": labels}).labels.items() >= labels.items()


@pytest.mark.parametrize(
    "label",
    [
        "tintype.project_id",
        "tintype.user_id",
        "tintype.restore.request_id",
        "tintype.capture.owner",
        "tintype.capture.instance",
        "tintype.request_id",
        "tintype.instance",
    ],
)
@pytest.mark.parametrize("who", [ALICE, ADMIN, NOBODY])
def test_nobody_can_give_a_container_to_another(label: str, who: Requester) -> None:
    with pytest.raises(Invalid, match=f"/labels/{label}"):
        planned({"labels": {label: "project-m"}}, who)


# Volumes


@pytest.mark.parametrize(
    ("mapped", "missing"),
    [
        ({}, ("/data", "/var/lib/db")),
        ({"/data": "vol"}, ("/var/lib/db",)),
        ({"/data": "vol", "/var/lib": "vol"}, ()),
        ({"/dat": "vol", "/var/lib/db/x": "vol"}, ("/data", "/var/lib/db")),
    ],
    ids=repr,
)
def test_volumes_that_were_not_in_the_image_are_named_unless_mapped(
    mapped: dict[str, str], missing: tuple[str, ...]
) -> None:
    made = planned({"volumes": mapped}, excluded_volumes=["/data", "/var/lib/db"])
    assert made.missing_volumes == missing
    assert made.wanted.volumes == mapped
    assert len(made.warnings) == len(missing)
    assert all(point in words for point, words in zip(missing, made.warnings, strict=True))


def check(bench: Bench, volumes: dict[str, str], *folders: str, who: Requester = ALICE) -> None:
    check_allowed(NewContainer("web", volumes=volumes), who, services(bench, *folders))


@pytest.mark.parametrize("folder", ["/srv/shared", "/srv/shared/", "/srv//shared"])
@pytest.mark.parametrize("who", [ALICE, ADMIN, NOBODY])
def test_a_folder_that_is_allowed_may_be_mounted(bench: Bench, folder: str, who: Requester) -> None:
    check(bench, {"/data": "/srv/shared"}, "/opt", folder, who=who)


@pytest.mark.parametrize("source", ["/srv/shared/a", "/srv/shared/a/b"])
def test_what_is_below_may_be_a_link_that_somebody_has_made_in_a_container(
    bench: Bench, source: str
) -> None:
    for who in (ADMIN, NOBODY):
        check(bench, {"/data": source}, "/srv/shared", who=who)
        check(bench, {"/data": source}, "/", who=who)
    with pytest.raises(Forbidden, match="/volumes/~1data"):
        check(bench, {"/data": source}, "/srv/shared")


@pytest.mark.parametrize(
    "source", ["/srv", "/srv/share", "/srv/shared2", "/", "/etc", "/srv/sharedx/a"]
)
@pytest.mark.parametrize("who", [ALICE, ADMIN, NOBODY])
def test_any_other_folder_is_forbidden(bench: Bench, source: str, who: Requester) -> None:
    with pytest.raises(Forbidden, match=r"/volumes/~1data: .*bind_folders"):
        check(bench, {"/data": source}, "/srv/shared", who=who)
    with pytest.raises(Forbidden):
        check(bench, {"/data": source}, who=who)


@pytest.mark.parametrize("path", ["/srv/shared/../x", "/srv/shared/.", "//srv/shared", "/srv/./a"])
def test_a_path_that_is_not_plain_is_refused(bench: Bench, path: str) -> None:
    with pytest.raises(Invalid, match="/volumes/~1data: expected a folder"):
        check(bench, {"/data": path}, "/srv/shared")
    with pytest.raises(Invalid, match="expected a mount point"):
        check(bench, {path: "vol"}, who=ADMIN)
    assert validate(RESTORE_REQUEST, {"image": "x", "volumes": {"/data": path}})
    assert validate(RESTORE_REQUEST, {"image": "x", "volumes": {path: "vol"}})


@pytest.mark.parametrize("point", ["/", "data", "", "."])
def test_a_mount_point_is_below_the_root(bench: Bench, point: str) -> None:
    with pytest.raises(Invalid, match="expected a mount point"):
        check(bench, {point: "vol"}, who=ADMIN)
    assert validate(RESTORE_REQUEST, {"image": "x", "volumes": {point: "vol"}})


@pytest.mark.parametrize(
    ("labels", "who", "allowed"),
    [
        (OURS, ALICE, True),
        ({"tintype.project_id": "project-m"}, ALICE, False),
        ({}, ALICE, False),
        (None, ALICE, False),
        ({"tintype.project_id": "project-m"}, ADMIN, True),
        ({}, ADMIN, True),
        (None, ADMIN, True),
        (OURS, NOBODY, False),
        ({}, NOBODY, True),
        (None, NOBODY, True),
    ],
)
def test_a_named_volume_is_whose_project_its_label_names(
    bench: Bench, labels: dict[str, str] | None, who: Requester, *, allowed: bool
) -> None:
    if labels is not None:
        bench.engine.restore.volumes["vol"] = labels
    if allowed:
        check(bench, {"/data": "vol"}, who=who)
    else:
        with pytest.raises(Forbidden, match="/volumes/~1data: volume 'vol'"):
            check(bench, {"/data": "vol"}, who=who)


def test_a_volume_without_a_label_belongs_to_the_default_project(bench: Bench) -> None:
    bench.engine.restore.volumes["vol"] = {}
    owned = services(bench, ownership=Ownership(default_project_id="project-a"))
    check_allowed(NewContainer("web", volumes={"/data": "vol"}), ALICE, owned)


# Networks


@pytest.mark.parametrize(
    ("network", "who", "allowed"),
    [
        (None, ALICE, True),
        ("none", ALICE, True),
        ("bridge", ALICE, True),
        ("host", ALICE, False),
        ("backend", ALICE, False),
        ("host", ADMIN, True),
        ("backend", ADMIN, True),
        ("backend", NOBODY, True),
        ("host", NOBODY, False),
    ],
)
def test_what_networks_a_project_may_join(
    bench: Bench, network: str | None, who: Requester, *, allowed: bool
) -> None:
    made = NewContainer("web", network=network)
    if allowed:
        check_allowed(made, who, bench.services)
    else:
        with pytest.raises(Forbidden, match="/network"):
            check_allowed(made, who, bench.services)


@pytest.mark.parametrize("who", [ALICE, ADMIN, NOBODY])
def test_the_default_network_is_none_in_particular(who: Requester) -> None:
    assert planned({"network": "default"}, who).wanted.network is None
    assert planned({"network": "bridge"}, who).wanted.network == "bridge"


# The request's schema


def test_exactly_one_field_names_the_image() -> None:
    def words(**fields: Any) -> str:
        return "; ".join(map(str, validate(RESTORE_REQUEST, fields)))

    none = words(name="web")
    assert none.startswith("(document): expected exactly one of the fields snapshot_id, image_id")
    both = words(snapshot_id=REQUEST_ID, image="snap")
    assert both == "/image: expected nothing, since snapshot_id names the image, got 'snap'"
    assert "/image_id" in words(snapshot_id=REQUEST_ID, image_id=REQUEST_ID)
    assert "/image:" in words(image_id=REQUEST_ID, image="snap")


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"name": "zun-web"}, "/name"),
        ({"name": "a"}, "/name"),
        ({"name": REQUEST_ID}, "/name"),
        ({"name": "0123456789ab"}, "/name"),
        ({"name": "A" * 64}, "/name"),
        ({"name": "a b"}, "/name"),
        ({"name": "web\n"}, "/name"),
        ({"command": "sleep 1"}, "/command"),
        ({"command": ["a\0b"]}, "/command/0"),
        ({"command": ["x"] * 257}, "/command"),
        ({"entrypoint": ["x" * 4097]}, "/entrypoint/0"),
        ({"env": {"A=B": "c"}}, "/env"),
        ({"env": {"A": 1}}, "/env/A"),
        ({"env": {"A": "\0"}}, "/env/A"),
        ({"working_dir": "srv"}, "/working_dir"),
        ({"ports": {"80": "80"}}, "/ports"),
        ({"ports": {"0/tcp": "80"}}, "/ports"),
        ({"ports": {"65536/tcp": "80"}}, "/ports"),
        ({"ports": {"80/icmp": "80"}}, "/ports"),
        ({"ports": {"80/tcp": "80-90"}}, "/ports/80~1tcp"),
        ({"ports": {"80/tcp": "localhost:80"}}, "/ports/80~1tcp"),
        ({"ports": {"80/tcp": "65536"}}, "/ports/80~1tcp"),
        ({"restart_policy": "sometimes"}, "/restart_policy"),
        ({"restart_policy": "always:3"}, "/restart_policy"),
        ({"volumes": {"/data": "a"}}, "/volumes/~1data"),
        ({"volumes": {"/data": "a b"}}, "/volumes/~1data"),
        ({"volumes": {"/data": ""}}, "/volumes/~1data"),
        ({"volumes": {"/a//b": "vol"}}, "/volumes"),
        ({"network": "container:web"}, "/network"),
        ({"start": "yes"}, "/start"),
        ({"deadline": "tomorrow"}, "/deadline"),
        ({"pause": True}, "/pause"),
    ],
    ids=repr,
)
def test_bad_requests_are_refused_at_the_right_place(fields: dict[str, Any], pointer: str) -> None:
    (violation,) = validate(RESTORE_REQUEST, {"image": "snap", **fields})
    assert violation.pointer == pointer


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "aa"},
        {"name": f"{REQUEST_ID}-12345678"},
        {"ports": {"80/tcp": "", "81/udp": "127.0.0.1:", "82/sctp": "[::1]:82", "65535/tcp": "1"}},
        {"command": ["sh", "-c", "a\nb\tc"], "entrypoint": []},
        {"env": {"A": "", "B": "x=y\n"}},
        {"volumes": {"/data": "vol", "/a b/.c": "/srv/..x/y"}},
        {"restart_policy": "on-failure:3"},
    ],
    ids=repr,
)
def test_good_requests_are_valid(fields: dict[str, Any]) -> None:
    assert validate(RESTORE_REQUEST, {"image": "snap", **fields}) == []
