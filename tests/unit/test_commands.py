"""The commands that speak to the service: what they ask, what they show, and how they end."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import pytest
import yaml
from keystoneauth1.noauth import NoAuth
from keystoneauth1.session import Session
from rich.console import Console

from tests.support.command_line import (
    Ended,
    Run,
    bound,
    ended,
    environment,
    names_a_cloud,
    run_here,
    start,
)
from tests.support.rabbit import until
from tests.support.rest_double import (
    TOKEN,
    Refusal,
    RestDouble,
    become,
    container,
    fault,
    preflight,
    rest_double,
    restore,
    snapshot,
)
from tintype.cli import COMMANDS
from tintype.commands.client import Client
from tintype.commands.live import LINGER_SECONDS, LiveView
from tintype.commands.waiting import wait
from tintype.commands.words import one_line, outcome, size_text
from tintype.core.events import (
    RESTORE_END,
    RESTORE_ERROR,
    RESTORE_PROGRESS,
    RESTORE_START,
    SNAPSHOT_EXISTS,
)
from tintype.schemas import validate

pytestmark = pytest.mark.filterwarnings(
    # The SDK warns of what nobody here has configured.
    "ignore:Support for InfluxDB:PendingDeprecationWarning"
)

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
NOBODY = str(snapshot(99)["snapshot_id"])


@pytest.fixture(autouse=True)
def _nobody_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in filter(names_a_cloud, list(os.environ)):
        monkeypatch.delenv(name)


@pytest.fixture
def service() -> Iterator[RestDouble]:
    with rest_double() as double:
        yield double


@pytest.fixture
def anyone(capsys: pytest.CaptureFixture[str]) -> Run:
    """`tintype` as it is called."""
    return lambda *arguments: run_here(capsys, *arguments)


@pytest.fixture
def tintype(anyone: Run, service: RestDouble) -> Run:
    """`tintype` with the service's address."""
    return lambda *arguments: anyone("--endpoint", service.endpoint, *arguments)


def free_endpoint() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def refuse(status: int, detail: str = "") -> Callable[[RestDouble], None]:
    def before(_: RestDouble) -> None:
        raise Refusal(status, detail)

    return before


def test_what_the_double_shows_is_what_the_schema_allows() -> None:
    for status in ("queued", "saving", "waiting", "active", "error", "preflight"):
        assert validate(SNAPSHOT_EXISTS, snapshot(1, status)) == []
    for status, event_type in [
        ("queued", RESTORE_PROGRESS),
        ("loading", RESTORE_START),
        ("waiting", RESTORE_PROGRESS),
        ("active", RESTORE_END),
        ("error", RESTORE_ERROR),
    ]:
        assert validate(event_type, restore(1, status)) == []


@pytest.mark.parametrize(
    ("command", "wrong", "fault"),
    [
        ("container list", {"containers": [container(colour="red")]}, "'colour'"),
        ("snapshot list", {"snapshots": [snapshot(1, "ready")]}, "ready"),
        (f"snapshot show {snapshot()['request_id']}", {"snapshots": [snapshot(tag=1)]}, "1 is"),
        ("container list", {"plan": [refuse(418)]}, "GET /v1/containers never answers 418"),
    ],
)
def test_a_double_that_is_not_like_the_service_fails_its_test(
    anyone: Run, command: str, wrong: dict[str, Any], fault: str
) -> None:
    with pytest.raises(AssertionError, match=re.escape(fault)), rest_double(**wrong) as double:
        anyone("--endpoint", double.endpoint, *command.split())


# All commands


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(anyone: Run, name: str) -> None:
    said = anyone(*name.split(), "--help").worked()
    assert said.startswith(f"usage: {anyone('--version').worked().split()[0]} {name} [-h]")
    summary = (COMMANDS[name].__doc__ or "").splitlines()[0]
    assert summary in " ".join(said.split())
    assert summary.rstrip(".") in anyone("--help").worked()


def test_bash_can_complete_all_commands(anyone: Run) -> None:
    script = anyone("complete").worked()
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    for name in COMMANDS:
        assert f"cmds_{name.replace(' ', '_').replace('-', '_')}=" in script
    assert "--idempotency-key" in script


@pytest.mark.parametrize(
    "arguments",
    [
        ("container",),
        ("container", "show"),
        ("container", "list", "--limit", "0"),
        ("container", "list", "--limit", "-1"),
        ("container", "list", "--limit", "many"),
        ("container", "list", "--sort", "name:up"),
        ("container", "list", "--sort", ":asc"),
        ("container", "list", "-f", "x"),
        ("snapshot", "list", "web"),
        ("snapshot", "show"),
        ("snapshot", "cancel"),
        ("snapshot", "watch", "--interval", "0"),
        ("snapshot", "watch", "--interval", "nan"),
        ("snapshot", "watch", "--interval", "soon"),
        ("commit", "web", "snap", "--rotation", "0"),
        ("commit", "web", "snap", "--rotation", "x"),
        ("commit", "web", "snap", "--max-pause-ms", "0"),
        ("restore",),
        ("restores", "list", "web"),
        ("restores", "show"),
        ("restores", "cancel"),
        ("commit", "web", "snap", "--visibility", "public"),
    ],
    ids=str,
)
def test_a_wrong_call_is_2_and_asks_nothing(
    tintype: Run, service: RestDouble, arguments: tuple[str, ...]
) -> None:
    wrong = tintype(*arguments)
    assert wrong.code == 2
    assert wrong.out + wrong.err
    assert service.seen == []


@pytest.mark.parametrize(
    "command",
    [
        "container list",
        "container show web",
        "snapshot list",
        f"snapshot show {NOBODY}",
        f"snapshot cancel {NOBODY}",
        f"snapshot watch {NOBODY}",
        "snapshot watch",
        "commit web snap",
    ],
)
def test_a_service_that_cannot_be_used_is_told_in_one_line(
    anyone: Run, service: RestDouble, command: str
) -> None:
    def run(endpoint: str) -> Ended:
        return anyone("--endpoint", endpoint, *command.split())

    nowhere = free_endpoint()
    run(nowhere).failed(nowhere, "tintype serve", "--endpoint")
    service.plan = [refuse(503, "the broker is away\nand\x1b[2J with it")]
    assert (
        run(service.endpoint).failed()
        == "the broker is away and\N{REPLACEMENT CHARACTER}[2J with it"
    )
    service.plan = [refuse(401, "no token")]
    run(service.endpoint).failed("no token", "--os-cloud")
    run(service.endpoint + "/elsewhere").failed("there is nothing at /elsewhere/v1/")
    run("127.0.0.1:9519").failed("--endpoint: expected http://HOST:PORT")
    run("http://[").failed("http://[")


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b'{"errors": 5}', b"null"], ids=repr)
@pytest.mark.parametrize("status", [200, 500])
def test_something_else_that_answers_is_named(
    anyone: Run, monkeypatch: pytest.MonkeyPatch, body: bytes, status: int
) -> None:
    reply = b"HTTP/1.0 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(reply)

        threading.Thread(target=answer).start()
        endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("TINTYPE_ENDPOINT", endpoint)
        anyone("snapshot", "list").failed(endpoint)


def test_the_endpoint_comes_from_the_environment_and_may_end_in_its_version(
    anyone: Run, service: RestDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINTYPE_ENDPOINT", f"{service.endpoint}/v1/")
    assert anyone("container", "list", "-f", "json").shown()[0]["name"] == "web"


def test_output_into_a_closed_pipe_ends_quietly(service: RestDouble) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start("--endpoint", service.endpoint, "container", "list", out=writing)
    os.close(writing)
    quiet = ended(process)
    assert (quiet.code, quiet.err) == (141, "")


# Commit


def test_commit_asks_for_a_snapshot_and_shows_its_ids(tintype: Run, service: RestDouble) -> None:
    answer = tintype("commit", "web", "snap:v1", "-f", "json").shown()
    assert answer == {
        "container_uuid": container()["uuid"],
        "snapshot_id": service.snapshots[0]["snapshot_id"],
        "request_id": service.snapshots[0]["request_id"],
        "image_id": service.snapshots[0]["image_id"],
    }
    (seen,) = service.asked("POST", "/v1/containers/web/commit")
    assert seen.body == {"image_name": "snap", "tag": "v1"}
    assert "Idempotency-Key" not in seen.headers


def test_every_option_of_commit_is_in_the_request(tintype: Run, service: RestDouble) -> None:
    words = (
        "--tag v2 --store glance --store directory --no-pause --message m --author a --label l=1=2"
        " --metadata k= --visibility shared --host host-1 --backup-type daily --rotation 7"
        " --keep-days 30 --deadline 2999-01-01T00:00:00Z"
    )
    more = ["--image-id", UUID, "--request-id", UUID, "--idempotency-key", "a key"]
    tintype("commit", "web", "snap", *words.split(), *more).worked()
    (seen,) = service.asked("POST", "/v1/containers/web/commit")
    assert seen.body == {
        "image_name": "snap",
        "tag": "v2",
        "stores": ["glance", "directory"],
        "pause": False,
        "message": "m",
        "author": "a",
        "labels": {"l": "1=2"},
        "metadata": {"k": ""},
        "visibility": "shared",
        "host": "host-1",
        "backup_type": "daily",
        "rotation": 7,
        "keep_days": 30,
        "deadline": "2999-01-01T00:00:00Z",
        "image_id": UUID,
        "request_id": UUID,
    }
    assert seen.headers["Idempotency-Key"] == "a key"


def test_every_way_to_make_another_image_is_in_the_request(
    tintype: Run, service: RestDouble
) -> None:
    words = (
        "--repository registry:5000/team/web --max-pause-ms 500 --unset-env TOKEN --unset-env KEY"
        " --squash --expires-at 2999-01-01T00:00:00Z"
    )
    changes = ["--change", "CMD nginx", "--change", 'ENV A="b c"']
    tintype("commit", "web", "snap", *words.split(), *changes).worked()
    (seen,) = service.asked("POST", "/v1/containers/web/commit")
    assert seen.body == {
        "image_name": "snap",
        "repository": "registry:5000/team/web",
        "max_pause_ms": 500,
        "unset_env": ["TOKEN", "KEY"],
        "squash": True,
        "changes": ["CMD nginx", 'ENV A="b c"'],
        "expires_at": "2999-01-01T00:00:00Z",
    }


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("90s", 90), ("5m", 300), ("12h", 43_200), ("7d", 604_800), ("4w", 2_419_200)],
)
def test_an_image_may_expire_some_time_from_now(
    tintype: Run, service: RestDouble, given: str, seconds: int
) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    tintype("commit", "web", "snap", "--expires-in", given).worked()
    (seen,) = service.asked("POST", "/v1/containers/web/commit")
    expires_at = datetime.fromisoformat(seen.body["expires_at"]) - timedelta(seconds=seconds)
    assert before <= expires_at <= datetime.now(UTC)


def test_a_dry_run_shows_what_it_would_take(tintype: Run, service: RestDouble) -> None:
    service.plan = [lambda _: None, become(1, "preflight")]
    done = tintype("commit", "web", "snap", "--dry-run", "-f", "json")
    assert done.shown() == preflight()
    assert next(iter(done.shown())) == "problems"
    (seen,) = service.asked("POST", "/v1/containers/web/commit")
    assert seen.body == {"image_name": "snap", "dry_run": True}


def test_a_dry_run_that_finds_problems_shows_all_and_fails(
    tintype: Run, service: RestDouble
) -> None:
    found = preflight("glance has room for 5 MB only", free_bytes=7)
    service.plan = [lambda _: None, become(1, "preflight", preflight=found)]
    done = tintype("commit", "web", "snap", "--dry-run", "-f", "json")
    assert done.code == 1
    assert json.loads(done.out) == found
    assert done.err == ""


def test_a_dry_run_that_could_not_be_made_is_an_error(tintype: Run, service: RestDouble) -> None:
    service.plan = [lambda _: None, become(1, "error", fault=fault("no such container"))]
    tintype("commit", "web", "snap", "--dry-run").failed("the snapshot failed: no such container")


def test_a_store_that_was_given_up_is_told_with_its_reason(
    tintype: Run, service: RestDouble
) -> None:
    told = {"image_id": UUID, "repository": None, "digest": None, "size_bytes": None}
    stores = [
        {**told, "name": "glance", "location": "glance:1", "status": "active", "fault": None},
        {**told, "name": "registry", "location": None, "status": "error", "fault": fault("full")},
    ]
    service.plan = [lambda _: None, become(1, "active", stores=stores, warnings=["a", "b"])]
    done = tintype("commit", "web", "snap", "--wait", "-f", "value", "-c", "stores").worked()
    assert done.splitlines() == ["glance: glance:1", "registry: failed: full"]


def test_the_same_key_again_answers_the_same(tintype: Run, service: RestDouble) -> None:
    command = ("commit", "web", "snap", "--idempotency-key", "k", "-f", "json")
    assert tintype(*command).worked() == tintype(*command).worked()
    assert len(service.snapshots) == 1
    tintype("commit", "web", "other", "--idempotency-key", "k").failed("k was used before")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("web", "Snap"), ["/image_name: expected a lowercase"]),
        (("web", ""), ["/image_name: expected"]),
        (("web", ":v1"), ["/image_name: expected"]),
        (("web", "snap", "--tag=-x"), ["/tag: expected a tag"]),
        (("web", "host:5000/snap"), ["/tag"]),
        (("../x", "snap"), ["/container: expected"]),
        (("", "snap"), ["/container: expected"]),
        (("web", "snap", "--label", "x"), ["--label: expected KEY=VALUE, got 'x'"]),
        (("web", "snap", "--metadata", "x"), ["--metadata: expected KEY=VALUE, got 'x'"]),
        (("web", "snap", "--metadata", "=x"), ["/metadata"]),
        (("web", "snap", "--label", "a=1", "--label", "a=2"), ["--label: 'a' is given twice"]),
        (("web", "snap", "--expires-in", "soon"), ["--expires-in: expected a time such as"]),
        (("web", "snap", "--expires-in", "0d"), ["--expires-in: expected"]),
        (
            ("web", "snap", "--expires-in", "7d", "--expires-at", "2999-01-01T00:00:00Z"),
            ["--expires-in: expected nothing beside --expires-at"],
        ),
        (("web", "snap", "--expires-at", "soon"), ["/expires_at: expected"]),
        (("web", "snap", "--change", "RUN make"), ["/changes/0: expected one of"]),
        (("web", "snap", "--unset-env", "A=B"), ["/unset_env"]),
        (("web", "snap", "--request-id", "x"), ["/request_id: expected"]),
        (("web", "snap", "--image-id", "x"), ["/image_id: expected"]),
        (("web", "snap", "--deadline", "soon"), ["/deadline: expected"]),
        (("web", "snap", "--message", "a\x00b"), ["/message: expected"]),
        (("web", "snap", "--rotation", "7"), ["/backup_type: expected"]),
        (("web", "snap", "--rotation", "9999", "--backup-type", "d"), ["/rotation: expected"]),
        (("web", "snap", "--store", "a", "--store", "a"), ["/stores"]),
        (("web", "snap", "--idempotency-key", ""), ["--idempotency-key: expected"]),
        (("web", "snap", "--idempotency-key", "a\nb"), ["--idempotency-key: expected"]),
        (("web", "snap", "--idempotency-key", " a"), ["--idempotency-key: expected"]),
        (("web", "snap", "--idempotency-key", "\u00e4"), ["--idempotency-key: expected"]),
        (("web", "snap", "--idempotency-key", "k" * 256), ["--idempotency-key: expected"]),
    ],
    ids=ascii,
)
def test_commit_fails_with_one_line_and_asks_nothing(
    tintype: Run, service: RestDouble, arguments: tuple[str, ...], words: list[str]
) -> None:
    tintype("commit", *arguments).failed(*words)
    assert service.seen == []


def test_what_the_service_refuses_is_told(tintype: Run) -> None:
    tintype("commit", "nobody", "snap").failed("no container 'nobody' is known")


@pytest.mark.parametrize("name", ["snap:v1", "snap", "snap:"])
def test_a_tag_may_be_given_twice_if_it_is_the_same(
    tintype: Run, service: RestDouble, name: str
) -> None:
    tintype("commit", "web", name, "--tag", "v1").worked()
    assert service.seen[0].body == {"image_name": "snap", "tag": "v1"}
    tintype("commit", "web", "snap:v1", "--tag", "v2").failed("--tag:", "another", "'v1'")
    assert len(service.seen) == 1


def test_an_image_name_that_ends_in_a_colon_has_the_default_tag(
    tintype: Run, service: RestDouble
) -> None:
    tintype("commit", "web", "snap:").worked()
    assert service.seen[0].body == {"image_name": "snap"}


def test_waiting_ends_with_the_image(tintype: Run, service: RestDouble) -> None:
    service.plan = [
        lambda _: None,
        become(1, "saving"),
        become(1, "saving", bytes_done=500_000),
        become(1, "waiting", fault=fault("glance [/is] away")),
        become(1, "active"),
    ]
    done = tintype("commit", "web", "snap:v1", "--wait", "-f", "json")
    assert done.shown()["status"] == "active"
    assert done.shown()["size_bytes"] == 1_000_000
    assert done.err.splitlines() == [
        "uploading",
        "uploading, waiting to try again: glance [/is] away",
    ]


def test_waiting_for_a_snapshot_that_fails_fails(tintype: Run, service: RestDouble) -> None:
    service.plan = [lambda _: None, become(1, "error", fault=fault("quota\nexceeded"))]
    tintype("commit", "web", "snap", "--wait").failed("the snapshot failed: quota exceeded")


def test_waiting_survives_a_service_that_cannot_for_now(tintype: Run, service: RestDouble) -> None:
    service.plan = [lambda _: None, refuse(503, "away"), refuse(502), become(1, "active")]
    tintype("commit", "web", "snap", "--wait").worked()


def test_ctrl_c_while_waiting_says_that_the_snapshot_goes_on(service: RestDouble) -> None:
    processes: list[subprocess.Popen[str]] = []
    service.plan = [lambda _: None, lambda _: processes[0].send_signal(signal.SIGINT)]
    processes.append(start("--endpoint", service.endpoint, "commit", "web", "snap", "--wait"))
    interrupted = ended(processes[0])
    assert (interrupted.code, interrupted.out) == (130, "")
    ident = service.snapshots[0]["snapshot_id"]
    assert interrupted.err.splitlines()[-1] == f"not waiting; snapshot {ident} goes on"
    assert service.asked("DELETE", f"/v1/snapshots/{ident}") == []


def test_on_a_terminal_a_bar_shows_how_far_it_is(service: RestDouble) -> None:
    service.plan = [lambda _: None, become(1, "saving"), lambda _: None, become(1, "active")]
    with Terminal("--endpoint", service.endpoint, "commit", "web", "snap", "--wait") as terminal:
        terminal.until("uploading", "250.0 kB of 1.0 MB", "paused 35 ms", "active")
        assert terminal.end() == 0


@pytest.mark.parametrize(
    ("width", "figures"),
    [
        (40, "25%"),
        (60, "25%  250.0 kB of 1.0 MB"),
        (80, "25%  250.0 kB of 1.0 MB  paused 35 ms"),
        (120, "25%  250.0 kB of 1.0 MB  paused 35 ms"),
    ],
)
def test_a_bar_tells_as_much_as_there_is_room_for(
    service: RestDouble, width: int, figures: str
) -> None:
    reason = "glance is away, and so is all else that one would need to finish it"
    service.snapshots = [snapshot()]
    service.plan = [
        become(1, "saving"),
        become(1, "waiting", fault=fault(reason)),
        become(1, "active"),
    ]
    client = Client(Session(NoAuth(service.endpoint)), service.endpoint)
    drawn = io.StringIO()
    console = Console(file=drawn, width=width, force_terminal=True)
    ident = snapshot()["snapshot_id"]
    assert wait(lambda: client.snapshot(ident), outcome, console)["status"] == "active"
    lines = [line.rstrip() for line in re.split("[\r\n]+", CONTROL.sub("", drawn.getvalue()))]
    bars = [line for line in lines if line.startswith(("uploading ", "waiting "))]
    assert {line.split()[0] for line in bars} == {"uploading", "waiting"}
    for line in bars:
        assert len(line) <= width
        assert line.endswith(f" {figures}")
    assert f"uploading, waiting to try again: {reason}" in lines  # once, and not cut


# Lists


@pytest.mark.parametrize(
    ("command", "query"),
    [
        ("container list --name web", {"name": "web"}),
        ("container list --host h --state Running", {"host": "h", "state": "Running"}),
        ("container list --sort name", {"sort_key": "name", "sort_dir": "asc"}),
        ("container list --sort name:desc", {"sort_key": "name", "sort_dir": "desc"}),
        ("container list --limit 5", {"limit": "5"}),
        ("container list --limit 5000", {"limit": "1000"}),
        ("container list --all-projects", {"all_projects": "true"}),
        ("snapshot list", {}),
        ("snapshot list --container web", {"container_name": "web"}),
        (f"snapshot list --container {UUID.upper()}", {"container_uuid": UUID}),
        (f"snapshot list --container {'f' * 64}", {"container_uuid": "f" * 64}),
        ("snapshot list --container ffffffffffff", {"container_name": "ffffffffffff"}),
        ("snapshot list --status error --host h", {"status": "error", "host": "h"}),
        (f"snapshot list --image-id {UUID}", {"image_id": UUID}),
        ("snapshot list --image-name a/b&c=d", {"image_name": "a/b&c=d"}),
    ],
)
def test_a_list_asks_in_the_services_words(
    tintype: Run, service: RestDouble, command: str, query: Mapping[str, str]
) -> None:
    tintype(*command.split()).worked()
    (seen,) = service.seen
    assert seen.path == f"/v1/{command.split(maxsplit=1)[0]}s"
    assert seen.query == query


def test_a_list_goes_through_all_pages(tintype: Run, service: RestDouble) -> None:
    service.page = 2
    service.snapshots = [snapshot(number) for number in range(1, 6)]
    ids = [record["snapshot_id"] for record in reversed(service.snapshots)]
    columns = ("-f", "value", "-c", "snapshot_id")
    listed = ("snapshot", "list", "--container", "web", *columns)
    assert tintype(*listed).worked().split() == ids
    assert [seen.query.get("marker") for seen in service.seen] == [None, ids[1], ids[3]]
    assert {seen.query["container_name"] for seen in service.seen} == {"web"}
    assert tintype(*listed, "--marker", ids[2]).worked().split() == ids[3:]
    assert tintype(*listed, "--limit", "3").worked().split() == ids[:3]
    assert tintype(*listed, "--marker", UUID).failed(UUID)


def test_a_limit_above_a_page_is_kept(tintype: Run, service: RestDouble) -> None:
    service.snapshots = [snapshot(number) for number in range(1, 1203)]
    ids = tintype("snapshot", "list", "--limit", "1001", "-f", "value", "-c", "snapshot_id")
    assert len(set(ids.worked().split())) == 1001
    assert [seen.query["limit"] for seen in service.seen] == ["1000", "1"]


def test_a_list_is_sorted_by_the_service_or_here(tintype: Run, service: RestDouble) -> None:
    service.containers = [container(name) for name in "bca"]
    names = ("container", "list", "-f", "value", "-c", "name")
    assert tintype(*names).worked().split() == ["b", "c", "a"]
    assert tintype(*names, "--sort", "name").worked().split() == ["a", "b", "c"]
    assert tintype(*names, "--sort-column", "name", "--sort-descending").worked().split() == [
        "c",
        "b",
        "a",
    ]
    for form in ("csv", "json", "table", "value", "yaml"):
        listed = tintype("container", "list", "-f", form, "--sort", "nonsense")
        listed.failed("?sort_key: expected")  # and nothing before it


def test_all_projects_adds_the_project(tintype: Run, service: RestDouble) -> None:
    service.containers = [container("a"), container("b", project_id="beta")]
    everybodys = tintype("container", "list", "--all-projects", "-f", "json").shown()
    assert [record["project_id"] for record in everybodys] == ["alpha", "beta"]
    assert "project_id" not in tintype("container", "list", "-f", "json").shown()[0]
    service.plan = [refuse(403, "all_projects: your roles do not allow it")]
    tintype("snapshot", "list", "--all-projects").failed("all_projects")


def test_an_empty_list_is_fine(tintype: Run) -> None:
    assert tintype("snapshot", "list", "-f", "json").shown() == []
    assert tintype("snapshot", "list", "-f", "value").worked() == ""


def test_long_lists_show_more(tintype: Run, service: RestDouble) -> None:
    service.snapshots = [snapshot()]
    (short,) = tintype("snapshot", "list", "-f", "json").shown()
    (long,) = tintype("snapshot", "list", "--long", "-f", "json").shown()
    assert short.items() < long.items()
    assert long["image_id"] == snapshot()["image_id"]
    (about,) = tintype("container", "list", "--long", "-f", "json").shown()
    assert about["labels"] == {"tier": "front"}


READERS: Mapping[str, Callable[[str], list[dict[str, Any]]]] = {
    "json": json.loads,
    "yaml": yaml.safe_load,
    "csv": lambda text: list(csv.DictReader(io.StringIO(text))),
}


@pytest.mark.parametrize("form", sorted(READERS))
@pytest.mark.parametrize("kind", ["container", "snapshot"])
def test_programs_can_read_a_list(tintype: Run, service: RestDouble, kind: str, form: str) -> None:
    service.snapshots = [snapshot(1, "error")]
    (record,) = READERS[form](tintype(kind, "list", "--long", "-f", form).worked())
    known = (service.containers if kind == "container" else service.snapshots)[0]
    kept = known if form != "csv" else {name: text_of(value) for name, value in known.items()}
    assert record == {name: kept[name] for name in record}


def text_of(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)


def test_a_list_can_be_a_table(tintype: Run) -> None:
    head, row = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in tintype("container", "list").worked().splitlines()
        if line.startswith("|")
    ]
    about = container()
    assert head == ["uuid", "name", "state", "host", "image", "created_at"]
    assert row == [about[name] for name in head]


# Show and cancel


@pytest.mark.parametrize("ident", ["web", container()["uuid"], container()["engine_container_id"]])
def test_a_container_is_shown(tintype: Run, ident: str) -> None:
    assert tintype("container", "show", ident, "-f", "json").shown() == container()


def test_a_containers_host_can_be_told(tintype: Run, service: RestDouble) -> None:
    tintype("container", "show", "web", "--host", "host-1").worked()
    assert service.seen[0].query == {"host": "host-1"}


@pytest.mark.parametrize("field", ["snapshot_id", "request_id"])
def test_a_snapshot_is_shown(tintype: Run, service: RestDouble, field: str) -> None:
    service.snapshots = [snapshot(1, "error")]
    told = tintype("snapshot", "show", snapshot()[field], "-f", "json").shown()
    left_out = {"event_id", "schema_version", "tenant_id"}
    assert told == {n: v for n, v in service.snapshots[0].items() if n not in left_out}


@pytest.mark.parametrize("form", ["table", "value", "shell", "yaml"])
def test_a_snapshot_is_shown_in_each_format(tintype: Run, service: RestDouble, form: str) -> None:
    place = {
        "name": "glance",
        "location": "glance:1",
        "image_id": UUID,
        "repository": None,
        "digest": "0" * 64,
        "size_bytes": 1_000_000,
        "status": "active",
        "fault": None,
    }
    service.snapshots = [snapshot(1, "active", stores=[place])]
    told = tintype("snapshot", "show", snapshot()["snapshot_id"], "-f", form).worked()
    if form == "yaml":
        assert yaml.safe_load(told)["stores"] == [place]
        return
    assert "glance: glance:1" in told
    assert "purpose" in told
    assert "'" not in told  # nothing in Python's own words


@pytest.mark.parametrize("kind", ["container", "snapshot"])
@pytest.mark.parametrize("ident", ["nobody", "a/b", "a?b", "a%2Fb", "%", " ", "\u00e4\x00"])
def test_what_is_not_there_is_told(tintype: Run, kind: str, ident: str) -> None:
    tintype(kind, "show", ident).failed()


@pytest.mark.parametrize("ident", ["", ".", ".."])
@pytest.mark.parametrize("command", ["container show", "snapshot show", "snapshot cancel"])
def test_what_would_be_another_path_is_no_id(
    tintype: Run, service: RestDouble, command: str, ident: str
) -> None:
    tintype(*command.split(), ident).failed(f"'{ident}' is no id")
    assert service.seen == []


def test_snapshots_are_cancelled(tintype: Run, service: RestDouble) -> None:
    service.snapshots = [snapshot(1), snapshot(2, "waiting")]
    ids = [record["snapshot_id"] for record in service.snapshots]
    assert tintype("snapshot", "cancel", ids[0], service.snapshots[1]["request_id"]).worked() == (
        f"snapshot {ids[0]} is being cancelled\nsnapshot {ids[1]} is being cancelled\n"
    )
    assert [seen.method for seen in service.seen] == ["DELETE", "DELETE"]


def test_one_that_cannot_be_cancelled_does_not_keep_the_others(
    tintype: Run, service: RestDouble
) -> None:
    service.snapshots = [snapshot(1, "active"), snapshot(2)]
    ids = [record["snapshot_id"] for record in service.snapshots]
    part = tintype("snapshot", "cancel", ids[0], NOBODY, ids[1])
    assert part.code == 1
    assert part.out == f"snapshot {ids[1]} is being cancelled\n"
    (line,) = part.err.splitlines()
    assert "has ended" in line
    assert NOBODY in line


# Watch


class Terminal:
    """A command on a terminal of its own; to be used as a context."""

    def __init__(self, *command: object) -> None:
        self._command = command
        self.screen = ""

    def __enter__(self) -> Self:
        self._master, slave = pty.openpty()
        env = environment(TERM="xterm", COLUMNS="160", LINES="40")
        words = [sys.executable, "-m", "tintype", *map(str, self._command)]
        self.process = subprocess.Popen(
            words, env=env, cwd="/", stdin=slave, stdout=slave, stderr=slave
        )
        bound(self.process)
        os.close(slave)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def until(self, *words: str) -> None:
        """Read on until each of the words has come, in this order."""
        for word in words:
            while word not in self.screen:
                self.screen += os.read(self._master, 65536).decode()
            self.screen = self.screen.partition(word)[2]

    def end(self) -> int:
        """Read to the end, and return the exit code."""
        try:
            while data := os.read(self._master, 65536):
                self.screen += data.decode()
        except OSError:  # how Linux tells the end
            pass
        return self.process.wait()


CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""What tells a terminal how to show text, and where."""


def line(number: int, words: str) -> str:
    return f"{snapshot(number)['snapshot_id']} web -> snap:v1: {words}\n"


def test_named_snapshots_are_watched_to_their_end(tintype: Run, service: RestDouble) -> None:
    service.snapshots = [snapshot(1), snapshot(2, "queued", phase="accepted"), snapshot(3)]
    service.plan = [
        become(1, "active"),
        lambda _: None,
        become(2, "saving"),
        become(2, "saving", bytes_done=999_999),
        become(2, "active"),
    ]
    watched = tintype(
        "snapshot",
        "watch",
        "--interval=0.1",
        snapshot(1)["request_id"],
        snapshot(2)["snapshot_id"],
    )
    success = "active: 1.0 MB in 2.5 s, paused 35 ms"
    assert watched.worked() == (
        line(1, success) + line(2, "accepted") + line(2, "uploading") + line(2, success)
    )


def test_a_watched_snapshot_that_fails_makes_the_watch_fail(
    tintype: Run, service: RestDouble
) -> None:
    service.snapshots = [snapshot(1, "active"), snapshot(2)]
    service.plan = [lambda _: None, become(2, "error", fault=fault("quota\nexceeded"))]
    ids = [record["snapshot_id"] for record in service.snapshots]
    watched = tintype("snapshot", "watch", *ids, ids[1])
    assert watched.code == 1
    assert watched.out.endswith(line(2, "failed: quota exceeded"))
    assert watched.out.count("failed") == 1
    assert watched.err == f"snapshot {ids[1]} failed: quota exceeded\n"


def test_a_snapshot_that_nobody_knows_cannot_be_watched(tintype: Run) -> None:
    tintype("snapshot", "watch", NOBODY).failed(NOBODY)


def test_all_in_hand_are_watched_in_a_pipe_until_ctrl_c(service: RestDouble) -> None:
    older = [snapshot(number, "active") for number in range(2, 130)]
    service.snapshots = [snapshot(1), *older]  # longer in hand than the newest page tells
    watch = start("--endpoint", service.endpoint, "snapshot", "watch", "--interval=0.1")
    assert watch.stdout is not None
    assert watch.stdout.readline() == line(1, "uploading")
    with service.lock:
        service.snapshots.append(snapshot(200, "queued", phase="accepted"))
    assert watch.stdout.readline() == line(200, "accepted")
    with service.lock:
        service.change(snapshot(1)["snapshot_id"], "error", fault=fault())
        service.snapshots.append(snapshot(201, "active"))  # between two looks, all of it
    assert watch.stdout.readline() == line(1, "failed: quota exceeded")
    assert watch.stdout.readline() == line(201, "active: 1.0 MB in 2.5 s, paused 35 ms")
    with service.lock:
        service.snapshots.pop(-2)  # forgotten by the service
        service.snapshots.append(snapshot(202))
    assert watch.stdout.readline() == line(202, "uploading")
    watch.send_signal(signal.SIGINT)
    interrupted = ended(watch)
    assert (interrupted.code, interrupted.out, interrupted.err) == (0, "", "")


def test_a_watch_survives_a_restart_with_one_line(service: RestDouble) -> None:
    service.snapshots = [snapshot(1)]
    watch = start("--endpoint", service.endpoint, "snapshot", "watch", "--interval=0.1")
    assert watch.stdout is not None
    assert watch.stderr is not None
    assert watch.stdout.readline() == line(1, "uploading")
    service.stop()
    assert watch.stderr.readline() == "the service does not answer; trying again\n"
    service.plan = [refuse(503, "still starting"), refuse(503), become(1, "active")]
    service.start()
    assert watch.stdout.readline().startswith(line(1, "active")[:-1])
    watch.send_signal(signal.SIGINT)
    interrupted = ended(watch)
    assert (interrupted.code, interrupted.out, interrupted.err) == (0, "", "")


def test_another_error_ends_a_watch(tintype: Run, service: RestDouble) -> None:
    service.snapshots = [snapshot(1)]
    service.plan = [lambda _: None, refuse(403, "your roles do not allow it")]
    refused = tintype("snapshot", "watch", "--interval=0.1", snapshot(1)["snapshot_id"])
    assert refused.code == 1
    assert refused.err == "your roles do not allow it\n"


def test_all_projects_are_watched(service: RestDouble) -> None:
    watch = start("--endpoint", service.endpoint, "snapshot", "watch", "--all-projects")
    until(lambda: service.asked("GET", "/v1/snapshots"), "the watch to ask")
    watch.send_signal(signal.SIGINT)
    assert ended(watch).code == 0
    assert {seen.query["all_projects"] for seen in service.seen} == {"true"}


def test_a_watch_ends_when_nobody_reads_any_more(service: RestDouble) -> None:
    service.snapshots = [snapshot(1)]
    watch = start("--endpoint", service.endpoint, "snapshot", "watch", "--interval=3600")
    assert watch.stdout is not None
    assert watch.stdout.readline() == line(1, "uploading")
    watch.stdout.close()
    assert watch.stderr is not None
    assert watch.stderr.read() == ""
    watch.stderr.close()
    assert watch.wait(60) == 0


def test_a_watch_on_a_terminal_is_live(service: RestDouble) -> None:
    service.snapshots = [snapshot(1)]
    with Terminal(
        "--endpoint", service.endpoint, "snapshot", "watch", "--interval=0.1"
    ) as terminal:
        terminal.until("container", "how it stands", "web", "snap:v1", "uploading", "25%", "35 ms")
        with service.lock:
            service.change(snapshot(1)["snapshot_id"], "saving", bytes_done=750_000)
        terminal.until("75%", "/s")
        with service.lock:
            service.change(snapshot(1)["snapshot_id"], "error", fault=fault("no [red]room"))
        terminal.until("failed: no [red]room")
        service.stop()
        terminal.until("the service does not answer")
        service.start()
        os.kill(terminal.process.pid, signal.SIGINT)
        assert terminal.end() == 0
        assert "Traceback" not in terminal.screen


class Screen:
    """A live view, its clock, and what it would draw."""

    def __init__(self, width: int = 150) -> None:
        self.now = 0.0
        self._width = width
        self.view = LiveView(Console(file=io.StringIO(), width=width), clock=lambda: self.now)

    def show(self, *snapshots: dict[str, Any]) -> str:
        """Show them, and return what is drawn."""
        self.view.show(snapshots)
        console = Console(file=io.StringIO(), width=self._width)
        with console.capture() as captured:
            console.print(self.view.table())
        return captured.get()


def test_the_live_view_keeps_outcomes_for_a_while() -> None:
    screen = Screen()
    assert "no snapshot in hand" in screen.show()
    assert "25%" in screen.show(snapshot(1))
    screen.now = 2.0
    assert "250.0 kB/s" in screen.show(snapshot(1, bytes_done=750_000))
    done = screen.show(snapshot(1, "active"), snapshot(2, container_name="db"))
    assert "active: 1.0 MB" in done
    assert "100%" in done
    screen.now += LINGER_SECONDS - 1
    assert "active" in screen.show(snapshot(2, container_name="db"))
    screen.now += 1
    left = screen.show(snapshot(2, container_name="db"))
    assert "active" not in left
    assert "db" in left


BEGIN = ["container", "image", "how it stands"]


@pytest.mark.parametrize(
    ("width", "figures"),
    [
        (60, ["sent", "age"]),
        (80, ["sent", "paused", "age"]),
        (120, ["sent", "speed", "paused", "age"]),
    ],
)
def test_the_live_view_cuts_nothing_on_a_narrow_terminal(width: int, figures: list[str]) -> None:
    screen = Screen(width)
    names = {"container_name": "a-container-of-some-length", "image_name": "team/some-long-image"}
    screen.show(snapshot(**names))
    screen.now = 2.0
    reason = "quota exceeded: there are too many images in your project, delete some"
    failed = snapshot(2, "error", fault=fault(reason))

    drawn = screen.show(snapshot(**names, bytes_done=750_000), failed)

    lines = drawn.splitlines()
    assert [each for each in lines if len(each) > width or "\N{HORIZONTAL ELLIPSIS}" in each] == []
    head = lines[0]
    assert re.split("  +", head.strip()) == [*BEGIN, *figures]
    row = [each for each in lines[1:] if not each.startswith("web")]
    ends = [head.index(name) for name in BEGIN]
    folded = ["".join(each[a:b].strip() for each in row) for a, b in pairwise(ends)]
    assert folded[0].startswith(names["container_name"])
    assert folded[1].startswith(f"{names['image_name']}:v1")
    assert f"web -> snap:v1: failed: {reason}" in " ".join(drawn.split())
    assert ("250.0 kB/s" in drawn) is ("speed" in figures)


def test_the_live_view_shows_what_it_does_not_know_as_nothing() -> None:
    drawn = Screen().show(
        snapshot(
            1,
            "queued",
            phase="accepted",
            container_name=None,
            bytes_done=None,
            bytes_total=None,
            paused_ms=None,
        )
    )
    assert "accepted" in drawn
    assert "%" not in drawn
    assert "ms" not in drawn


def test_a_speed_is_not_told_when_the_next_store_begins() -> None:
    screen = Screen()
    screen.show(snapshot(1, bytes_done=900_000))
    screen.now = 1.0
    drawn = screen.show(snapshot(1, bytes_done=100_000))
    assert "10%" in drawn
    assert "/s" not in drawn


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (2_500_000, "2.5 MB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_sizes_are_said_as_people_do(size: float | None, text: str) -> None:
    assert size_text(size) == text


def test_one_line_obeys_nobody() -> None:
    assert one_line("a\r\n\tb \x1b[2J\x00 \u00e4") == "a b \ufffd[2J\ufffd \u00e4"


# Credentials


@pytest.fixture
def keystone(service: RestDouble) -> RestDouble:
    """The service when it wants a token."""
    service.token = TOKEN
    return service


def clouds(keystone: RestDouble, **more: Any) -> dict[str, Any]:
    wrong = {"auth": {**keystone.auth, "password": "wrong"}}
    return {"clouds": {"good": {"auth": keystone.auth, **more}, "wrong": wrong}}


Write = Callable[[object], None]


@pytest.fixture
def write_clouds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Write:
    """Write the user's clouds.yaml."""
    path = tmp_path / "clouds.yaml"
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(path))

    def write(document: object) -> None:
        path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))

    return write


def worked_with_a_token(keystone: RestDouble, done: Ended) -> None:
    assert done.shown()[0]["name"] == "web"
    assert keystone.seen[-1].headers["X-Auth-Token"] == TOKEN


LIST = ("container", "list", "-f", "json")


@pytest.mark.parametrize("service_type", ["container-snapshot", "container"])
@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_a_cloud_is_used_and_its_catalogue_names_the_service(
    anyone: Run, keystone: RestDouble, service_type: str, suffix: str, write_clouds: Write
) -> None:
    write_clouds(clouds(keystone))
    keystone.service_type, keystone.suffix = service_type, suffix
    worked_with_a_token(keystone, anyone("--os-cloud", "good", *LIST))


def test_a_cloud_comes_from_the_environment(
    anyone: Run, keystone: RestDouble, monkeypatch: pytest.MonkeyPatch, write_clouds: Write
) -> None:
    write_clouds(clouds(keystone))
    monkeypatch.setenv("OS_CLOUD", "good")
    worked_with_a_token(keystone, anyone(*LIST))
    anyone("--os-cloud", "wrong", *LIST).failed("Keystone refuses")


def test_a_clouds_yaml_alone_is_not_used(
    anyone: Run, keystone: RestDouble, write_clouds: Write
) -> None:
    write_clouds(clouds(keystone))
    anyone("--endpoint", keystone.endpoint, *LIST).failed("wants a token")


def test_credentials_come_from_variables_and_options(
    anyone: Run, keystone: RestDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = keystone.auth
    for name, value in auth.items():
        monkeypatch.setenv(f"OS_{name.upper()}", value)
    worked_with_a_token(keystone, anyone(*LIST))
    anyone("--os-password", "wrong", *LIST).failed("Keystone refuses")
    for name in auth:
        monkeypatch.delenv(f"OS_{name.upper()}")
    options = [f"--os-{name.replace('_', '-')}={value}" for name, value in auth.items()]
    worked_with_a_token(keystone, anyone(*options, *LIST))


def test_a_token_is_enough(anyone: Run, keystone: RestDouble) -> None:
    where = ("--os-auth-url", keystone.auth_url, "--os-project-name", "alpha")
    more = ("--os-project-domain-name", "Default", "--os-auth-type", "token")
    worked_with_a_token(keystone, anyone(*where, *more, "--os-token", TOKEN, *LIST))


def test_an_endpoint_overrides_the_catalogue(
    anyone: Run, keystone: RestDouble, write_clouds: Write
) -> None:
    keystone.service_type = ""
    write_clouds(clouds(keystone))
    worked_with_a_token(
        keystone, anyone("--os-cloud", "good", "--endpoint", keystone.endpoint, *LIST)
    )
    write_clouds(clouds(keystone, container_snapshot_endpoint_override=keystone.endpoint))
    worked_with_a_token(keystone, anyone("--os-cloud", "good", *LIST))


def test_no_credentials_can_be_asked_for(
    anyone: Run, service: RestDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OS_CLOUD", "of-another-day")
    here = ("--endpoint", service.endpoint)
    anyone(*here, *LIST).failed("of-another-day")
    assert anyone(*here, "--os-auth-type", "none", *LIST).shown()


@pytest.mark.parametrize(
    ("document", "cloud", "words"),
    [
        ({}, "good", ["Cloud good was not found"]),
        ("clouds: [", "good", ["good"]),
        ("clouds: 5", "good", ["credentials"]),
        ("[]", "good", ["credentials"]),
        ("clouds: {good: 5}", "good", ["credentials"]),
        ("clouds: {good: {auth: {}}}", "good", ["auth_url"]),
        ("clouds: {good: {auth_type: nonsense}}", "good", ["nonsense"]),
    ],
    ids=str,
)
def test_bad_clouds_are_told_in_one_line(
    anyone: Run,
    service: RestDouble,
    document: object,
    cloud: str,
    words: list[str],
    write_clouds: Write,
) -> None:
    write_clouds(document)
    anyone("--os-cloud", cloud, *LIST).failed(*words)
    assert service.seen == []


def test_a_wrong_password_is_told(anyone: Run, keystone: RestDouble, write_clouds: Write) -> None:
    write_clouds(clouds(keystone))
    anyone("--os-cloud", "wrong", *LIST).failed("Keystone refuses these credentials", "401")
    assert keystone.seen == []


def test_a_catalogue_without_the_service_is_told(
    anyone: Run, keystone: RestDouble, write_clouds: Write
) -> None:
    write_clouds(clouds(keystone))
    keystone.service_type = "volumev3"
    said = ("no endpoint", "container-snapshot or container", "--endpoint")
    anyone("--os-cloud", "good", *LIST).failed(*said)
    keystone.service_type = "container"
    anyone("--os-cloud", "good", "--os-region-name", "south", *LIST).failed(*said, "south")
    anyone("--os-cloud", "good", "--os-interface", "internal", *LIST).failed(*said, "internal")


def test_a_keystone_that_is_away_is_told(
    anyone: Run, keystone: RestDouble, write_clouds: Write
) -> None:
    write_clouds(clouds(keystone))
    keystone.stop()
    anyone("--os-cloud", "good", *LIST).failed("cannot log in", keystone.auth_url)
    keystone.start()


def test_a_token_that_the_service_refuses_is_told(
    anyone: Run, keystone: RestDouble, write_clouds: Write
) -> None:
    write_clouds(clouds(keystone))
    keystone.token = "another"
    anyone("--os-cloud", "good", *LIST).failed("wants a token")


def test_a_password_is_not_seen_where_something_fails(anyone: Run, keystone: RestDouble) -> None:
    keystone.stop()
    where = ("--os-auth-url", keystone.auth_url, "--os-username", "alice")
    failed = anyone(*where, "--os-password", "hunter2", *LIST)
    keystone.start()
    assert "hunter2" not in failed.failed()


# What is loaded


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("from tintype.cli import main; main(['snapshot', 'list'])", ["openstack", "yaml"]),
        (
            "from tintype.cli import main\ntry: main(['--help'])\nexcept SystemExit: 0",
            ["openstack"],
        ),
        ("import tintype.commands.plugin", ["keystoneauth1", "rich", "requests", "openstack"]),
    ],
)
def test_what_is_slow_to_load_is_loaded_when_it_is_needed(code: str, unwanted: list[str]) -> None:
    look = f"\nimport sys; print([name for name in {unwanted} if name in sys.modules])"
    done = ended(start(sys.executable, "-c", code + look, env=environment()))
    assert done.out.splitlines()[-1] == "[]", done.err
