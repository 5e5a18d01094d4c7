"""The command: exit codes, one line for an error, and what scripts can read."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Ended, Run, run_here
from tintype import __version__
from tintype.core.events import (
    COMMIT_REQUEST,
    CONTAINER_SCHEDULE,
    CONTAINER_STOP,
    RESTORE_REQUEST,
    Event,
)
from tintype.core.snapshot import RESERVE, Snapshot
from tintype.handlers import TRIGGERS, table

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
GOOD = {"container": "web", "image_name": "snap"}


@pytest.fixture
def tintype(capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *arguments: run_here(capsys, *arguments)


def write(path: Path, document: object) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


# Usage


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("commit",),
        ("commit", "web"),
        ("commit", "web", "snap", "--nonsense"),
        ("validate",),
        ("invoke",),
        ("invoke", "nonsense", "-"),
        ("commit", "web", "snap", "-f", "x"),
        ("--nonsense",),
    ],
    ids=str,
)
def test_a_wrong_call_is_2(tintype: Run, arguments: tuple[str, ...]) -> None:
    ended = tintype(*arguments)
    assert ended.code == 2
    assert ended.out + ended.err


def test_help_and_version_work(tintype: Run) -> None:
    assert "commit" in tintype().worked()
    assert "--endpoint" in tintype("--help").worked()
    assert "--no-pause" in tintype("commit", "--help").worked()
    assert __version__ in tintype("--version").worked()


def test_the_command_runs_as_a_module() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tintype", "validate", "-"],
        input=json.dumps(GOOD),
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    ended = subprocess.run(
        [sys.executable, "-m", "tintype", "validate", "-"],
        input="{}",
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stdout == ""


# Validate


@pytest.mark.parametrize(
    "document",
    [
        GOOD,
        {"payload": GOOD},
        {"event_type": COMMIT_REQUEST, "payload": GOOD},
        {"type": COMMIT_REQUEST, "payload": GOOD},
    ],
    ids=["payload", "wrapped", "notification", "event"],
)
def test_a_valid_event_is_said_to_be_one(
    tintype: Run, tmp_path: Path, document: dict[str, Any]
) -> None:
    path = write(tmp_path / "event.json", document)
    assert tintype("validate", path).worked() == f"{path}: a valid {COMMIT_REQUEST}\n"


@pytest.mark.parametrize(
    ("document", "word"),
    [
        ({"container": "web"}, "/image_name: expected a value, got nothing"),
        ({**GOOD, "x": 1}, "/x: expected one of the known fields"),
        ({"type": "nonsense", "payload": {}}, "'nonsense'"),
        ({"type": ["a"], "payload": {}}, "['a']"),
        ({"payload": None}, "expected object"),
        ([], "expected an object"),
        ("{", "event.json"),
        ("", "event.json"),
        ("[" * 100_000, "event.json"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_an_invalid_event_is_refused_in_one_line(
    tintype: Run, tmp_path: Path, document: object, word: str
) -> None:
    tintype("validate", write(tmp_path / "event.json", document)).failed(word)


def test_the_type_can_be_given(tintype: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "event.json", GOOD)
    tintype("validate", "--type", "image.snapshot.end", path).failed("/event_id: expected a value")


def test_a_file_that_cannot_be_read_is_named(tintype: Run, tmp_path: Path) -> None:
    tintype("validate", tmp_path / "missing.json").failed("missing.json", "No such file")
    tintype("validate", tmp_path).failed(str(tmp_path))
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    tintype("validate", binary).failed("binary")


# Invoke


@pytest.fixture
def invoke(tintype: Run, tmp_path: Path) -> Run:
    """`tintype invoke` on a host without an engine."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    conf = write(tmp_path / "conf", f"[engine]\nurl = tcp://127.0.0.1:{port}\n")

    def run(handler: str, document: object) -> Ended:
        path = write(tmp_path / "event.json", document)
        return tintype(
            "invoke", "--config-file", conf, "--state-dir", tmp_path / "state", handler, path
        )

    return run


@pytest.mark.parametrize(
    ("handler", "document", "words"),
    [
        (COMMIT_REQUEST, {"container": "web"}, ["/image_name: expected a value"]),
        (COMMIT_REQUEST, {**GOOD, "host": "elsewhere"}, ["'elsewhere'"]),
        (COMMIT_REQUEST, {"payload": GOOD, "requester": {"token": "x"}}, ["/requester", "token"]),
        (COMMIT_REQUEST, {"payload": GOOD, "requester": 5}, ["/requester"]),
        (COMMIT_REQUEST, {"payload": []}, ["expected object"]),
        (RESERVE, GOOD, [f"no {RESERVE} event"]),
        (RESERVE, {}, [f"no {RESERVE} event"]),
        (COMMIT_REQUEST, "nonsense", ["event.json"]),
        (COMMIT_REQUEST, GOOD, []),  # there is no engine
    ],
    ids=str,
)
def test_invoke_fails_with_one_line(
    invoke: Run, handler: str, document: object, words: list[str]
) -> None:
    invoke(handler, document).failed(*words)


def test_invoke_reads_a_restore_request(invoke: Run) -> None:
    bad = {"snapshot_id": UUID, "name": "zun-web"}
    invoke(RESTORE_REQUEST, bad).failed("/name: expected a container's name")
    invoke(RESTORE_REQUEST, {}).failed("exactly one of the fields snapshot_id")
    # Read, and there is no engine.
    invoke(RESTORE_REQUEST, {"snapshot_id": UUID}).failed("container engine")


def test_invoke_of_a_step_without_anything_left_to_do_works(invoke: Run) -> None:
    payload = {**GOOD, "request_id": UUID}
    begun = Snapshot.begin(
        Event(COMMIT_REQUEST, payload), host="h", created_at="2026-01-01T00:00:00+00:00"
    )
    ended = invoke("snapshot.sweep", {"payload": json.loads(json.dumps(begun.step("x").payload))})
    assert ended.worked() == ""


STOPPED = {
    "event_id": "e-1",
    "occurred_at": "2026-11-24T22:15:00+00:00",
    "host": socket.gethostname(),
    "container_uuid": UUID,
    "engine_container_id": "f" * 64,
    "container_name": "web",
    "project_id": "alpha",
    "user_id": "alice",
    "labels": {"tintype.snapshot.on": "stop;schedule=0 3 * * *", "tintype.snapshot.image": "last"},
}


@pytest.mark.parametrize(
    ("handler", "more", "trigger"),
    [
        (CONTAINER_STOP, {}, "stop"),
        (
            CONTAINER_SCHEDULE,
            {
                "state": "Running",
                "since": "2026-11-24T00:00:00+00:00",
                "now": "2026-11-24T12:00:00+00:00",
            },
            "schedule",
        ),
    ],
)
def test_invoke_of_a_trigger_prints_the_request_that_invoke_reads(
    invoke: Run, handler: str, more: dict[str, str], trigger: str
) -> None:
    asked = json.loads(invoke(handler, {**STOPPED, **more}).worked())
    assert asked["type"] == COMMIT_REQUEST
    assert asked["requester"] == {"project_id": "alpha", "user_id": "alice", "is_admin": False}
    assert asked["payload"]["container"] == STOPPED["engine_container_id"]
    assert asked["payload"]["metadata"] == {"trigger": trigger, "rule": "label"}
    invoke(COMMIT_REQUEST, asked).failed("container engine")  # read, and there is no engine


@pytest.mark.parametrize("handler", sorted(TRIGGERS))
def test_invoke_of_any_trigger_without_a_label_asks_for_nothing(invoke: Run, handler: str) -> None:
    payload = {**STOPPED, "labels": {}, "since": "2026-11-24", "now": "2026-11-25"}
    assert invoke(handler, payload).worked() == ""


@pytest.mark.parametrize(
    ("handler", "document", "words"),
    [
        (CONTAINER_STOP, {}, ["expected"]),
        (CONTAINER_STOP, {**STOPPED, "occurred_at": "soon"}, ["/occurred_at: expected a date"]),
        (CONTAINER_STOP, {**STOPPED, "occurred_at": None}, [f"no {CONTAINER_STOP} event"]),
        (CONTAINER_SCHEDULE, STOPPED, []),
        (
            CONTAINER_SCHEDULE,
            {**STOPPED, "state": "Running", "since": "soon", "now": "later"},
            [f"no {CONTAINER_SCHEDULE} event"],
        ),
    ],
    ids=ascii,
)
def test_invoke_of_a_trigger_fails_with_one_line(
    invoke: Run, handler: str, document: dict[str, Any], words: list[str]
) -> None:
    ended = invoke(handler, document)
    if document is STOPPED:
        assert ended.worked() == ""  # its state is not known, so none is due
        return
    ended.failed(*words)


def test_invokes_help_tells_of_triggers_and_the_requester(tintype: Run) -> None:
    shown = tintype("invoke", "--help").worked()
    assert all(handler in shown for handler in [*table(), *TRIGGERS])
    assert "requester" in shown


def test_a_broken_configuration_is_named(tintype: Run, tmp_path: Path) -> None:
    conf = write(tmp_path / "conf", "[agent]\nmax_concurrent_snapshots = many\n")
    event = write(tmp_path / "event.json", GOOD)
    tintype("invoke", "--config-file", conf, COMMIT_REQUEST, event).failed(
        "max_concurrent_snapshots"
    )


# Serve


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "192.0.2.1:80", "nonsense", "127.0.0.1:x", ""])
def test_serve_listens_on_this_machine_only(tintype: Run, tmp_path: Path, listen: str) -> None:
    if not listen:
        conf = write(tmp_path / "conf", "[api]\nhost = 0.0.0.0\n")
        tintype("serve", "--config-file", conf, "--state-dir", tmp_path).failed("loopback")
        return
    tintype("serve", "--listen", listen, "--state-dir", tmp_path / "state").failed(
        "loopback" if listen[0].isdigit() and listen[-1].isdigit() else "--listen"
    )
    assert not (tmp_path / "state").exists()


def test_standard_input_is_read(tintype: Run) -> None:
    ordinary = sys.stdin
    sys.stdin = io.StringIO(json.dumps(GOOD))
    try:
        assert tintype("validate", "-").worked().startswith("-: a valid")
    finally:
        sys.stdin = ordinary
