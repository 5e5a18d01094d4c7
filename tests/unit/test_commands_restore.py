"""`restore` and `restores`: what they ask the service, what they show, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.command_line import Run, ended, names_a_cloud, run_here, start
from tests.support.rest_double import (
    RestDouble,
    become_restored,
    fault,
    rest_double,
    restore,
    snapshot,
)

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
SNAPSHOT = snapshot(1, "active")
NOBODY = str(restore(99)["restore_id"])


@pytest.fixture(autouse=True)
def _nobody_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in filter(names_a_cloud, list(os.environ)):
        monkeypatch.delenv(name)


@pytest.fixture
def service() -> Iterator[RestDouble]:
    """A service with one snapshot that has ended."""
    with rest_double(snapshots=[snapshot(1, "active")]) as double:
        yield double


@pytest.fixture
def tintype(capsys: pytest.CaptureFixture[str], service: RestDouble) -> Run:
    return lambda *arguments: run_here(capsys, "--endpoint", service.endpoint, *arguments)


def asked(service: RestDouble) -> list[tuple[str, Any]]:
    """Return which restores the service was asked for: their path and body."""
    return [(seen.path, seen.body) for seen in service.seen if seen.method == "POST"]


OF_SNAPSHOT = f"/v1/snapshots/{SNAPSHOT['snapshot_id']}/restore"

# Restore


def test_restore_asks_for_a_container_and_shows_its_ids(tintype: Run, service: RestDouble) -> None:
    answer = tintype("restore", SNAPSHOT["snapshot_id"], "-f", "json").shown()
    made = service.restores[0]
    assert answer == {name: made[name] for name in ("restore_id", "request_id", "snapshot_id")}
    assert asked(service) == [(OF_SNAPSHOT, {})]


def test_every_option_of_restore_is_in_the_request(tintype: Run, service: RestDouble) -> None:
    words = (
        "--name web-2 --store glance --repository team/web --host host-2 --no-start --env A=b=c"
        " --env B= --volume /data=data-2 --volume /etc/web=/srv/web --publish 80=8080"
        " --publish 53/udp=127.0.0.1:5353 --label l=1 --metadata k=v --workdir /srv --user 7:8"
        " --restart on-failure:3 --network front --deadline 2999-01-01T00:00:00Z"
    )
    more = ["--command", "nginx -g 'daemon off;'", "--entrypoint", "", "--request-id", UUID]
    key = ["--idempotency-key", "a key"]
    tintype("restore", SNAPSHOT["snapshot_id"], *words.split(), *more, *key).worked()
    assert asked(service) == [
        (
            OF_SNAPSHOT,
            {
                "name": "web-2",
                "store": "glance",
                "repository": "team/web",
                "host": "host-2",
                "start": False,
                "env": {"A": "b=c", "B": ""},
                "volumes": {"/data": "data-2", "/etc/web": "/srv/web"},
                "ports": {"80/tcp": "8080", "53/udp": "127.0.0.1:5353"},
                "labels": {"l": "1"},
                "metadata": {"k": "v"},
                "working_dir": "/srv",
                "user": "7:8",
                "restart_policy": "on-failure:3",
                "network": "front",
                "deadline": "2999-01-01T00:00:00Z",
                "command": ["nginx", "-g", "daemon off;"],
                "entrypoint": [],
                "request_id": UUID,
            },
        )
    ]
    (seen,) = service.asked("POST", OF_SNAPSHOT)
    assert seen.headers["Idempotency-Key"] == "a key"


@pytest.mark.parametrize(
    "ident",
    [
        SNAPSHOT["snapshot_id"],
        SNAPSHOT["request_id"],
        SNAPSHOT["image_id"],
        SNAPSHOT["image_id"].upper(),
        "snap",
        "snap:v1",
    ],
)
def test_a_snapshot_is_found_by_its_ids_and_its_images_name(
    tintype: Run, service: RestDouble, ident: str
) -> None:
    tintype("restore", ident).worked()
    assert asked(service) == [(OF_SNAPSHOT, {})]


@pytest.mark.parametrize(
    ("ident", "body"),
    [
        (UUID, {"image_id": UUID}),
        ("other", {"image": "other"}),
        ("snap:v2", {"image": "snap:v2"}),
        ("registry:5000/web", {"image": "registry:5000/web"}),
        ("registry:5000/web:v1", {"image": "registry:5000/web:v1"}),
    ],
)
def test_an_image_that_is_no_snapshots_wants_a_host(
    tintype: Run, service: RestDouble, ident: str, body: dict[str, Any]
) -> None:
    tintype("restore", ident).failed("/host: expected")
    tintype("restore", ident, "--host", "host-1").worked()
    assert asked(service)[-1] == ("/v1/restores", {**body, "host": "host-1"})


def test_a_name_of_several_snapshots_is_told_with_their_ids(
    tintype: Run, service: RestDouble
) -> None:
    service.snapshots = [
        snapshot(1, "active"),
        snapshot(2, "active"),
        snapshot(3, "active", tag="v2"),
        snapshot(4, "error"),
    ]
    one, two, three, failed = (each["snapshot_id"] for each in service.snapshots)
    line = tintype("restore", "snap").failed("'snap' stands for 3 snapshots", one, two, three)
    assert failed not in line
    tintype("restore", "snap:v1").failed("'snap:v1' stands for 2 snapshots", one, two)
    assert asked(service) == []
    tintype("restore", "snap:v2").worked()
    assert asked(service) == [(f"/v1/snapshots/{three}/restore", {})]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("snap", "--env", "A"), ["--env: expected KEY=VALUE, got 'A'"]),
        (("snap", "--env", "A=1", "--env", "A=2"), ["--env: 'A' is given twice"]),
        (("snap", "--volume", "/data"), ["--volume: expected MOUNT=SOURCE, got '/data'"]),
        (("snap", "--volume", "data=x1"), ["/volumes"]),
        (("snap", "--volume", "/data=../x"), ["/volumes/~1data: expected a volume's name"]),
        (("snap", "--publish", "80"), ["--publish: expected PORT=HOSTPORT, got '80'"]),
        (("snap", "--publish", "http=80"), ["/ports", "a port and its protocol, like 80/tcp"]),
        (("snap", "--publish", "80=99999"), ["/ports/80~1tcp: expected a port of the host"]),
        (("snap", "--label", "l"), ["--label: expected KEY=VALUE"]),
        (("snap", "--command", "say 'hello"), ["--command: No closing quotation"]),
        (("snap", "--name", "zun-1"), ["/name: expected a container's name"]),
        (("snap", "--restart", "sometimes"), ["/restart_policy: expected no, always"]),
        (("snap", "--workdir", "srv"), ["/working_dir: expected an absolute path"]),
        (("snap", "--deadline", "soon"), ["/deadline: expected"]),
        (("snap", "--request-id", "x"), ["/request_id: expected"]),
        (("snap", "--idempotency-key", ""), ["--idempotency-key: expected"]),
        (("",), ["/image"]),
    ],
    ids=ascii,
)
def test_restore_fails_with_one_line_and_asks_nothing(
    tintype: Run, service: RestDouble, arguments: tuple[str, ...], words: list[str]
) -> None:
    tintype("restore", *arguments).failed(*words)
    assert service.seen == []


def test_the_same_key_again_answers_the_same(tintype: Run, service: RestDouble) -> None:
    command = ("restore", "snap", "--idempotency-key", "k", "-f", "json")
    assert tintype(*command).worked() == tintype(*command).worked()
    assert len(service.restores) == 1
    tintype(*command, "--name", "other").failed("k was used before")


# Waiting


def restoring(*later: Any) -> list[Any]:
    """Return a plan: what comes after the snapshot was looked up and the restore asked for."""
    return [lambda _: None, lambda _: None, *later]


def test_waiting_ends_with_the_container(tintype: Run, service: RestDouble) -> None:
    service.plan = restoring(
        become_restored(1, "queued", phase="accepted", bytes_total=None),
        become_restored(1, "loading"),
        become_restored(1, "waiting", fault=fault("glance is away")),
        become_restored(1, "loading", phase="creating"),
        become_restored(1, "active"),
    )
    done = tintype("restore", SNAPSHOT["snapshot_id"], "--wait", "-f", "json")
    told = done.shown()
    assert (told["status"], told["container_name"], told["started"]) == (
        "active",
        "web-restored",
        True,
    )
    assert told["missing_volumes"] == ["/data"]
    assert done.err.splitlines() == [
        "accepted",
        "downloading",
        "downloading, waiting to try again: glance is away",
        "creating",
    ]


def test_waiting_for_a_restore_that_fails_fails(tintype: Run, service: RestDouble) -> None:
    service.plan = restoring(become_restored(1, "error", fault=fault("the name\nis taken")))
    tintype("restore", SNAPSHOT["snapshot_id"], "--wait").failed(
        "the restore failed: the name is taken"
    )


def test_ctrl_c_while_waiting_says_that_the_restore_goes_on(service: RestDouble) -> None:
    processes: list[subprocess.Popen[str]] = []
    service.plan = restoring(lambda _: processes[0].send_signal(signal.SIGINT))
    where = ("--endpoint", service.endpoint)
    processes.append(start(*where, "restore", SNAPSHOT["snapshot_id"], "--wait"))
    interrupted = ended(processes[0])
    assert (interrupted.code, interrupted.out) == (130, "")
    ident = service.restores[0]["restore_id"]
    assert interrupted.err.splitlines()[-1] == f"not waiting; restore {ident} goes on"
    assert service.asked("DELETE", f"/v1/restores/{ident}") == []


# Lists


@pytest.mark.parametrize(
    ("command", "query"),
    [
        ("restores list", {}),
        (f"restores list --snapshot {UUID}", {"snapshot_id": UUID}),
        ("restores list --container web", {"container_name": "web"}),
        (f"restores list --container {UUID.upper()}", {"container_uuid": UUID}),
        ("restores list --host h --status error", {"host": "h", "status": "error"}),
        (f"restores list --image-id {UUID}", {"image_id": UUID}),
        ("restores list --image-name a/b", {"image_name": "a/b"}),
        ("restores list --all-projects", {"all_projects": "true"}),
        ("restores list --limit 5", {"limit": "5"}),
    ],
)
def test_a_list_asks_in_the_services_words(
    tintype: Run, service: RestDouble, command: str, query: dict[str, str]
) -> None:
    tintype(*command.split()).worked()
    assert service.seen[0].query == query


def test_restores_are_listed_the_newest_first(tintype: Run, service: RestDouble) -> None:
    service.restores = [restore(number, "active") for number in (1, 2, 3)]
    service.page = 2
    rows = tintype("restores", "list", "--long", "-f", "json").shown()
    assert [row["restore_id"] for row in rows] == [
        restore(number)["restore_id"] for number in (3, 2, 1)
    ]
    for row in rows:
        assert row["container_name"] == "web-restored"
        assert row["started"] is True


@pytest.mark.parametrize("field", ["restore_id", "request_id"])
def test_a_restore_is_shown(tintype: Run, service: RestDouble, field: str) -> None:
    service.restores = [restore(1, "error")]
    told = tintype("restores", "show", restore()[field], "-f", "json").shown()
    left_out = {"event_id", "schema_version", "tenant_id"}
    assert told == {n: v for n, v in service.restores[0].items() if n not in left_out}


def test_restores_are_cancelled(tintype: Run, service: RestDouble) -> None:
    service.restores = [restore(1), restore(2, "active"), restore(3)]
    one, two, three = (each["restore_id"] for each in service.restores)
    done = tintype("restores", "cancel", one, two, NOBODY, three)
    assert done.code == 1
    assert done.out.splitlines() == [
        f"restore {one} is being cancelled",
        f"restore {three} is being cancelled",
    ]
    for words in (f"restore {two} has ended", f"no restore '{NOBODY}' is known"):
        assert words in done.err


def test_what_is_not_there_is_told(tintype: Run) -> None:
    tintype("restores", "show", NOBODY).failed(f"no restore '{NOBODY}' is known")
