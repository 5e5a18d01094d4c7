"""The REST service is as its OpenAPI document says: schemathesis, all checks, all parts real.

Schemathesis runs as its users run it, in a process of its own: this one takes warnings for errors.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

from tests.support.docker import Containers
from tests.support.openstack import Cloud
from tests.support.rest import Site, owned_by, remove_restored
from tintype.adapters.publisher import RabbitPublisher
from tintype.core.engine import ContainerState
from tintype.core.events import CONTAINER_EXISTS, Event
from tintype.rest.openapi import document

HOOKS = Path(__file__).parents[1] / "support" / "openapi_hooks.py"

SEED = 4
"""Of the run that every change meets, so that it fails of the change and not of its luck."""

CONFIG = """\
hooks = {hooks}
continue-on-failure = true
# Python 3.11 fails now and then where two threads parse sources (gh-106905), as Hypothesis does.
workers = 1

# Nothing is switched off. This one is on only with a limit: that of gunicorn's workers.
[checks]
max_response_time = 60

# Every request has a token but those with which ignored_auth tries what goes without.
[generation]
with-security-parameters = false

# Alice sends everything; Bob tries what is hers (object_level_authorization).
[auth.wfc]
path = {people}
user = "alice"
peers = ["alice", "bob"]

# But for the token, what is printed can be sent again.
[output.sanitization]
keys-to-sanitize = ["X-Auth-Token"]
sensitive-markers = ["x-auth-token"]

[dictionaries]
{dictionaries}

{operations}
"""

USED_BY = {
    "^/v1/containers$": {
        "query.name": "names",
        "query.host": "hosts",
        "query.state": "states",
        "query.marker": "containers",
    },
    "^/v1/containers/[^/]+$": {"path.ident": "containers", "query.host": "hosts"},
    "^/v1/containers/[^/]+/commit$": {"path.ident": "containers", "body.host": "hosts"},
    "^/v1/snapshots$": {
        "query.container_name": "names",
        "query.container_uuid": "containers",
        "query.host": "hosts",
        "query.status": "statuses",
        "query.image_name": "images",
        "query.marker": "snapshots",
    },
    "^/v1/snapshots/[^/]+$": {"path.ident": "snapshots"},
    "^/v1/snapshots/[^/]+/restore$": {"path.ident": "snapshots", "body.host": "hosts"},
    "^/v1/restores$": {
        "query.container_name": "names",
        "query.host": "hosts",
        "query.status": "statuses",
        "query.image_name": "images",
        "query.snapshot_id": "snapshots",
        "query.marker": "restores",
        "body.host": "hosts",
        "body.snapshot_id": "snapshots",
    },
    "^/v1/restores/[^/]+$": {"path.ident": "restores"},
}
"""Where the words of a dictionary are put, beside what is made up."""

REAL_AT_ALL = 0.7
"""How often a word from a dictionary is taken."""

REAL_COMMITS = 0.3
"""The same for commits: each makes a real image, and none is needed a thousand times."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A line of gunicorn's log."""

    status: int
    method: str
    path: str


@dataclass(frozen=True, slots=True)
class Fuzz:
    """Schemathesis in front of a site with something to find, and what gunicorn has answered."""

    site: Site
    config: Path
    log: Path

    def run(self, *options: str) -> list[Answer]:
        """Let schemathesis find nothing, and return all answers that it got."""
        before = len(self._answers())
        command = [sys.executable, "-m", "schemathesis.cli", f"--config-file={self.config}", "run"]
        ran = subprocess.run(
            [*command, f"{self.site.api.url}/openapi.json", "--checks=all", "--no-color", *options],
            cwd=self.config.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        print(ran.stdout)  # pytest shows it where a test fails
        assert ran.returncode == 0
        return self._answers()[before:]

    def _answers(self) -> list[Answer]:
        lines = [line.split(" ", 2) for line in self.log.read_text().splitlines()]
        return [Answer(int(status), method, uri.split("?")[0]) for status, method, uri in lines]


@pytest.fixture
def fuzz(
    site: Site,
    cloud: Cloud,
    container: Containers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Fuzz:
    log = tmp_path / "access.log"
    options = [f"--access-logfile={log}", "--access-logformat=%(s)s %(m)s %({raw_uri}e)s"]
    monkeypatch.setenv("GUNICORN_CMD_ARGS", shlex.join(options))
    # As in any deployment: without, Keystone is most of what is measured.
    site.api.options["keystone_authtoken"]["token_cache_time"] = 300
    # What waits for the host that is away shall be there to be stopped.
    site.router.options["router"]["host_timeout"] = 3600
    site.start()
    config = tmp_path / "schemathesis.toml"
    people = tmp_path / "people.json"
    people.write_text(json.dumps({"auth": [logged_in(cloud, name) for name in ("alice", "bob")]}))
    config.write_text(
        CONFIG.format(
            hooks=json.dumps(str(HOOKS)),
            people=json.dumps(str(people)),
            dictionaries="\n".join(
                f"{name} = {{ values = {json.dumps(words)} }}"
                for name, words in words_of(site, cloud, container).items()
            ),
            operations="\n".join(operation(path, used) for path, used in USED_BY.items()),
        )
    )
    return Fuzz(site, config, log)


def logged_in(cloud: Cloud, name: str) -> dict[str, Any]:
    """Return somebody as Web Fuzzing Commons writes him down."""
    token = cloud.token(getattr(cloud, name))
    return {"name": name, "fixedHeaders": [{"name": "X-Auth-Token", "value": token}]}


def words_of(site: Site, cloud: Cloud, container: Containers) -> dict[str, list[str]]:
    """Make things to be found: alice's, some with a snapshot that has ended or waits, and bob's."""
    web = container(labels=owned_by(cloud, cloud.alice))
    stopped = container(ContainerState.STOPPED, labels=owned_by(cloud, cloud.alice))
    foreign = container(labels=owned_by(cloud, cloud.bob))
    site.known(web.name)
    site.known(stopped.name, "Stopped")
    site.known(foreign.name)
    away = of_a_host_that_is_away(site, cloud.project_id(cloud.alice))
    ended = [site.commit(each.name, cloud.alice).json() for each in (web, stopped)]
    for promise in ended:
        assert site.ended(promise["snapshot_id"])["status"] == "active"
    waiting = [site.commit(away, cloud.alice).json() for _ in range(2)]
    promises = ended + waiting
    restored = [restore(site, cloud, promise["snapshot_id"]) for promise in ended]
    return {
        "containers": [web.id, web.name, web.id[:12], stopped.id, stopped.name, foreign.id, away],
        "names": [web.name, stopped.name],
        "hosts": [site.agent.host],
        "states": ["Running", "Stopped"],
        "snapshots": [
            promise[id_] for promise in promises for id_ in ("snapshot_id", "request_id")
        ],
        "restores": [promise[id_] for promise in restored for id_ in ("restore_id", "request_id")],
        "statuses": ["queued", "active", "error"],
        "images": ["test/rest"],
    }


def restore(site: Site, cloud: Cloud, snapshot_id: str) -> dict[str, Any]:
    """Ask for a container on the host that is away, and return the answer: it waits for ever."""
    path = f"/v1/snapshots/{snapshot_id}/restore"
    answer = site.call("POST", path, cloud.alice, json={"host": "away"})
    return dict(answer.json())


def of_a_host_that_is_away(site: Site, project_id: str) -> str:
    """Tell of a container, as an agent did before its host went; return its uuid."""
    uuid_ = str(uuid.uuid4())
    told = {
        "container_uuid": uuid_,
        "container_name": f"away-{uuid_}",
        "host": "away",
        "state": "Running",
        "project_id": project_id,
    }
    agent = site.agent
    publisher = RabbitPublisher(
        agent.broker.url, exchange=agent.exchange, topic="notifications", publisher_id="test"
    )
    publisher.publish(Event(CONTAINER_EXISTS, told, id=str(uuid.uuid4())))
    publisher.close()
    site.known(uuid_)
    return uuid_


def operation(path: str, used: dict[str, str]) -> str:
    """Return the part of the configuration that binds an operation's parameters."""
    makes = "commit" in path or "restore" in path
    often = REAL_COMMITS if makes else REAL_AT_ALL
    bound = [
        f'"{parameter}" = {{ dictionary = "{name}", probability = {often} }}'
        for parameter, name in used.items()
    ]
    head = f"[[operations]]\ninclude-path-regex = {json.dumps(path)}\n[operations.parameters]"
    return "\n".join([head, *bound, ""])


def reached(answers: list[Answer]) -> set[tuple[str, str, int]]:
    """Return which of the document's operations were answered how."""
    routes = {path: re.compile(re.sub(r"{\w+}", "[^/]+", path)) for path in document()["paths"]}
    return {
        (answer.method, path, answer.status)
        for answer in answers
        for path, pattern in routes.items()
        if pattern.fullmatch(answer.path)
    }


def successes() -> set[tuple[str, str, int]]:
    """Return how each operation of the document is answered if all goes well."""
    return {
        (method.upper(), path, int(status))
        for path, item in document()["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
        for status in operation["responses"]
        if status.startswith("2")
    }


def check(fuzz: Fuzz, answers: list[Answer]) -> None:
    """Check that nothing failed unseen, and that each operation was really put to work."""
    assert [answer for answer in answers if answer.status >= 500] == []
    assert "Traceback" not in fuzz.site.api.log()
    assert successes() <= reached(answers)


def test_schemathesis_finds_nothing(fuzz: Fuzz) -> None:
    check(fuzz, fuzz.run("--max-examples=40", f"--seed={SEED}"))


@pytest.mark.soak
def test_schemathesis_finds_nothing_with_ten_thousand_requests(fuzz: Fuzz) -> None:
    answers = fuzz.run("--max-examples=1300")
    check(fuzz, answers)
    let_in = [answer for answer in answers if answer.status != 401]
    print(f"{len(answers)} requests, {len(let_in)} of them with a token")
    assert len(let_in) >= 10_000


def test_the_document_is_served(site: Site) -> None:
    site.start()
    served = site.call("GET", "/openapi.json")
    assert served.json() == document()
    assert served.headers["Content-Type"] == "application/json"


@pytest.fixture(autouse=True)
def nothing_left(cloud: Cloud, tmp_path: Path, docker_client: DockerClient) -> Iterator[None]:
    """Delete what these tests have made, after its service was stopped."""
    yield
    for journal in tmp_path.rglob("journal.sqlite"):
        remove_restored(journal, docker_client)
    store = cloud.store()
    for image in store.find(cloud.project_id(cloud.alice), {"image_type": "snapshot"}):
        store.discard(image.id)
