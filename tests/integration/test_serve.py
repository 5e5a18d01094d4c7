"""`tintype serve` as it is started: one process with the REST service, on a real Docker Engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
from docker import DockerClient

from tests.support.agent import ListenerProcess, clear_engine, left_on
from tests.support.command_line import Ended, ended, environment, start
from tests.support.docker import PATIENCE, Containers, fill
from tests.support.rabbit import until
from tintype.adapters.docker_engine import DockerEngine
from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.core.events import (
    COMMIT_REQUEST,
    OUTCOMES,
    RESTORE_END,
    RESTORE_REQUEST,
    RESTORE_START,
    SNAPSHOT_END,
    SNAPSHOT_START,
)
from tintype.rest.openapi import document
from tintype.schemas import validate

ORIGIN = {"Origin": "https://page.example"}
"""What a browser tells of the page that has it send a request."""

SERVES = r"tintype serves (http://127\.0\.0\.1:\d+), images in (.+)"


class ServeProcess(ListenerProcess):
    """A `tintype serve` that can be killed and restarted; its events are in a file."""

    def __init__(self, folder: Path, engine_url: str) -> None:
        super().__init__(folder, "serve")
        self.state_dir = folder / "state"
        self.engine_url = engine_url
        self.url = ""
        self._events = folder / "events"

    def start(self, *, kill_at: int | None = None) -> None:
        """Start it on a free port."""
        assert kill_at is None
        self._starts = self.log().count("tintype serves") + 1
        with self._log.open("ab") as log, self._events.open("ab") as events:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tintype", *self.command("127.0.0.1:0")],
                stdin=subprocess.DEVNULL,
                stdout=events,
                stderr=log,
                cwd=self.folder,
                env=environment(DOCKER_HOST=self.engine_url),
            )

    def command(self, listen: str) -> list[str]:
        """Return what comes after `tintype`."""
        return ["serve", "--state-dir", str(self.state_dir), "--listen", listen]

    def await_up(self) -> None:
        """Wait until it says where it is."""
        until(lambda: len(self._told()) >= self._starts or self.died(), "tintype serve to be up")
        assert not self.died(), self.log()
        self.url, images = self._told()[-1]
        assert images == str(self.state_dir / "images")

    def _told(self) -> list[tuple[str, str]]:
        return re.findall(SERVES, self.log())

    def begin(self) -> None:
        """Start it, and wait until it is up."""
        self.start()
        self.await_up()

    def run(self, *words: object) -> Ended:
        """Run `tintype` against it."""
        return ended(start("--endpoint", self.url, *words), PATIENCE)

    def get(self, path: str) -> Any:
        """Return what is there, as JSON."""
        answer = requests.get(f"{self.url}{path}", timeout=PATIENCE)
        assert answer.ok, answer.text
        return answer.json()

    def commit(self, container: str, **fields: str) -> dict[str, Any]:
        """Ask for a snapshot, and return its ids."""
        url = f"{self.url}/v1/containers/{container}/commit"
        answer = requests.post(url, json={"image_name": "test/serve", **fields}, timeout=PATIENCE)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def known(self, container: str) -> None:
        """Wait until it lists a container."""

        def listed() -> bool:
            return bool(self.get(f"/v1/containers?name={container}")["containers"])

        until(listed, f"container {container} to be listed")

    def events(self, request_id: str) -> list[dict[str, Any]]:
        """Return the events about a request, each event id once; all have to be valid."""
        lines = self._events.read_text().splitlines(keepends=True)
        # What a kill has cut off is told anew by the next start.
        whole = [json.loads(line) for line in lines if line.endswith("}\n")]
        for event in whole:
            assert validate(event["type"], event["payload"]) == [], event
        about = [event for event in whole if event["payload"].get("request_id") == request_id]
        return list({event["payload"].get("event_id"): event for event in about}.values())

    def archives(self) -> list[Path]:
        """Return the images that are there, and what else there is of images."""
        return sorted((self.state_dir / "images").glob("*/image.tar*"))

    def left(self, client: DockerClient, request_id: str) -> list[str]:
        """Return what a request has left on the engine. The process has to be stopped."""
        with (
            closing(SqliteJournal(self.state_dir / "journal.sqlite")) as journal,
            closing(DockerEngine(self.engine_url, instance=journal.instance)) as engine,
        ):
            return [*map(str, engine.owners()), *left_on(client, request_id)]

    def close(self) -> None:
        """Stop what still runs, and remove what a failed test has left on the engine."""
        super().close()
        print(f"--- serve\n{self.log()}")  # pytest shows it where a test fails
        if (self.state_dir / "journal.sqlite").exists():
            clear_engine(self.state_dir, self.engine_url)


@pytest.fixture
def serve(tmp_path: Path, engine_url: str) -> Iterator[ServeProcess]:
    """A service that is not started yet."""
    serve = ServeProcess(tmp_path, engine_url)
    yield serve
    serve.close()


@pytest.fixture
def web(container: Containers) -> str:
    """A running container."""
    return str(container(files={"/data/file": b"content"}).name)


def test_a_container_is_snapshotted_and_all_of_it_shown(
    serve: ServeProcess, web: str, docker_client: DockerClient
) -> None:
    serve.begin()
    serve.known(web)
    health = requests.get(f"{serve.url}/healthcheck", timeout=PATIENCE)
    assert (health.status_code, health.text) == (200, "OK")
    assert serve.get("/openapi.json") == document()
    (listed,) = serve.run("container", "list", "--name", web, "-f", "json").shown()
    assert listed.items() <= serve.run("container", "show", web, "-f", "json").shown().items()

    done = serve.run("commit", web, "test/serve:v1", "--metadata", "a=b", "--wait", "-f", "json")

    made = done.shown()
    assert (made["status"], made["container_uuid"]) == ("active", listed["uuid"])
    ident, request_id = made["snapshot_id"], made["request_id"]
    (row,) = serve.run("snapshot", "list", "--container", web, "-f", "json").shown()
    assert (row["snapshot_id"], row["status"], row["tag"]) == (ident, "active", "v1")
    about = serve.run("snapshot", "show", request_id, "-f", "json").shown()
    assert made.items() <= about.items()
    (archive,) = serve.archives()
    assert archive.name == "image.tar"
    assert archive.parent.name == made["image_id"]
    assert archive.stat().st_size == made["size_bytes"]
    assert serve.stop() == 0
    told = [event["type"] for event in serve.events(request_id)]
    assert told[0] == COMMIT_REQUEST
    assert [each for each in told if each in (SNAPSHOT_START, *OUTCOMES)] == [
        SNAPSHOT_START,
        SNAPSHOT_END,
    ]
    assert serve.left(docker_client, request_id) == []


def test_a_snapshot_is_restored(serve: ServeProcess, web: str, docker_client: DockerClient) -> None:
    serve.begin()
    serve.known(web)
    tried = serve.run("commit", web, "test/serve:v1", "--dry-run", "-f", "json").shown()
    assert (tried["problems"], tried["stores"][0]["name"]) == ([], "directory")
    assert serve.archives() == []
    made = serve.run("commit", web, "test/serve:v1", "--wait", "-f", "json").shown()
    name = f"{web}-restored"
    about = ("--name", name, "--network", "none", "--env", "A=b", "--wait", "-f", "json")
    for ident, words in (
        ("test/serve:v1", about),
        (made["image_id"], ("--no-start", *about[2:])),
    ):
        restored = serve.run("restore", ident, *words).shown()
        assert (restored["status"], restored["snapshot_id"]) == ("active", made["snapshot_id"])
        container = docker_client.containers.get(restored["container_uuid"])
        try:
            assert container.name == restored["container_name"]
            assert restored["started"] is (ident != made["image_id"])
            if restored["started"]:
                file = container.exec_run(["/bin/busybox", "cat", "/data/file"])
                assert file.output == b"content"
            assert "A=b" in container.attrs["Config"]["Env"]
            shown = serve.run("restores", "show", restored["request_id"], "-f", "json").shown()
            assert shown["status"] == "active"
        finally:
            container.remove(force=True, v=True)
            docker_client.images.remove(container.attrs["Image"], force=True)
    rows = serve.run("restores", "list", "--snapshot", made["snapshot_id"], "-f", "json").shown()
    assert len(rows) == 2
    serve.run("restore", str(uuid.uuid4())).worked()
    line = serve.run("restore", str(uuid.uuid4()), "--wait").err
    assert "the restore failed" in line
    assert serve.stop() == 0
    told = [event["type"] for event in serve.events(restored["request_id"])]
    assert [each for each in told if each in (RESTORE_REQUEST, RESTORE_START, *OUTCOMES)] == [
        RESTORE_REQUEST,
        RESTORE_START,
        RESTORE_END,
    ]


def test_a_page_in_a_browser_is_refused(serve: ServeProcess, web: str) -> None:
    serve.begin()
    serve.known(web)
    url = f"{serve.url}/v1/containers/{web}/commit"
    body = {"image_name": "test/serve"}
    rebound = {"Host": f"page.example:{serve.url.rpartition(':')[2]}"}
    for headers in (ORIGIN, rebound):
        sent = requests.post(url, json=body, headers=headers, timeout=PATIENCE)
        # As a page may send it without asking: a form's content type.
        form = {**headers, "Content-Type": "text/plain"}
        plain = requests.post(url, data=json.dumps(body), headers=form, timeout=PATIENCE)
        listed = requests.get(f"{serve.url}/v1/containers", headers=headers, timeout=PATIENCE)
        for answer in (sent, plain, listed):
            assert answer.status_code == 403
            assert "Access-Control-Allow-Origin" not in answer.headers
            assert web not in answer.text
    asks = {**ORIGIN, "Access-Control-Request-Method": "POST"}
    preflight = requests.options(url, headers=asks, timeout=PATIENCE)
    assert "Access-Control-Allow-Origin" not in preflight.headers
    assert serve.get("/v1/snapshots")["snapshots"] == []


def test_what_is_promised_is_done_once_however_often_it_is_killed(
    serve: ServeProcess, container: Containers, docker_client: DockerClient
) -> None:
    made = container()
    fill(made, 192)
    serve.begin()
    serve.known(made.name)
    ids = serve.commit(made.name)
    serve.kill()  # right after the 202
    path = f"/v1/snapshots/{ids['snapshot_id']}"

    serve.start()
    until(serve.archives, "data to come in")
    serve.kill()
    (part,) = serve.archives()
    assert part.name == "image.tar.part", "it was over before the kill"
    serve.begin()
    until(lambda: serve.get(path)["finished_at"] is not None, "the snapshot to end")

    end = serve.get(path)
    assert (end["status"], end["fault"]) == ("active", None)
    assert [each["snapshot_id"] for each in serve.get("/v1/snapshots")["snapshots"]] == [
        ids["snapshot_id"]
    ]
    assert serve.stop() == 0
    outcomes = [e for e in serve.events(ids["request_id"]) if e["type"] in OUTCOMES]
    assert [event["type"] for event in outcomes] == [SNAPSHOT_END]
    (archive,) = serve.archives()
    assert archive.parent.name == ids["image_id"]
    assert archive.stat().st_size == end["size_bytes"]
    assert serve.left(docker_client, ids["request_id"]) == []


def test_an_index_that_is_lost_is_filled_anew(
    serve: ServeProcess, web: str, docker_client: DockerClient
) -> None:
    serve.begin()
    serve.known(web)
    first = serve.commit(web)
    until(
        lambda: serve.get(f"/v1/snapshots/{first['snapshot_id']}")["status"] == "active",
        "the snapshot",
    )
    assert serve.stop() == 0
    lost = list(serve.state_dir.glob("index.sqlite*"))
    assert lost
    for file in lost:
        file.unlink()

    serve.begin()

    serve.known(web)
    # The journal is the truth: what was done is done once, and there is a next one.
    made = serve.run("commit", web, "test/serve:v2", "--wait", "-f", "json").shown()
    assert made["status"] == "active"
    assert len(serve.archives()) == 2
    assert serve.stop() == 0
    assert serve.left(docker_client, made["request_id"]) == []


def test_what_keeps_it_from_starting_is_told_in_one_line(
    serve: ServeProcess, tmp_path: Path
) -> None:
    serve.begin()
    here = serve.url.removeprefix("http://")
    second = ended(start(*serve.command("127.0.0.1:0"), env=environment(DOCKER_HOST="")), PATIENCE)
    second.failed("journal.sqlite is in use")
    elsewhere = ["serve", "--state-dir", tmp_path / "other", "--listen", here]
    ended(start(*elsewhere), PATIENCE).failed(here.rpartition(":")[2], "in use")
    (tmp_path / "file").write_text("")
    in_a_file = ["serve", "--state-dir", tmp_path / "file" / "x", "--listen", "127.0.0.1:0"]
    ended(start(*in_a_file), PATIENCE).failed(str(tmp_path / "file"))
    serve.run("container", "list").worked()
    assert serve.stop() == 0


def test_without_an_engine_it_is_up_and_says_so(tmp_path: Path) -> None:
    serve = ServeProcess(tmp_path, f"unix://{tmp_path}/no-engine.sock")
    try:
        serve.begin()
        health = requests.get(f"{serve.url}/healthcheck", timeout=PATIENCE)
        assert (health.status_code, health.text) == (503, "engine is away")
        serve.run("commit", str(uuid.uuid4()), "test/serve").failed("is known")
        assert serve.stop() == 0
    finally:
        ListenerProcess.close(serve)
