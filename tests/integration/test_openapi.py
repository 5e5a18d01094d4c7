"""The service keeps to its own OpenAPI document: schemathesis, all its checks, on the real thing."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.docker import Containers
from tests.support.openstack import Cloud
from tests.support.rest import Site, owned_by
from tintype.core.ports import ContainerState

HOOKS = Path(__file__).parents[1] / "support" / "openapi_hooks.py"

CONFIG = """\
hooks = {hooks}
continue-on-failure = true
workers = 2

[auth.wfc]
path = {people}
user = "alice"
peers = ["alice", "bob"]

[dictionaries]
containers = {{ values = {containers} }}
snapshots = {{ values = {snapshots} }}

[[operations]]
include-path-regex = "^/v1/containers/"
[operations.parameters]
"path.ident" = {{ dictionary = "containers", probability = 0.5 }}

[[operations]]
include-path-regex = "^/v1/snapshots/"
[operations.parameters]
"path.ident" = {{ dictionary = "snapshots", probability = 0.3 }}
"""

@dataclass(frozen=True)
class Traffic:
    """What gunicorn says that it has answered."""
    log: Path

    def answers(self) -> Counter:
        return Counter(tuple(line.split(" ")[:2]) for line in self.log.read_text().splitlines())


@pytest.fixture
def traffic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Traffic:
    log = tmp_path / "access.log"
    options = [f"--access-logfile={log}", "--access-logformat=%(s)s %(m)s %(U)s"]
    monkeypatch.setenv("GUNICORN_CMD_ARGS", shlex.join(options))
    return Traffic(log)


def test_short(site: Site, cloud: Cloud, container: Containers, traffic: Traffic, tmp_path: Path) -> None:
    site.api.options["keystone_authtoken"]["token_cache_time"] = 300
    site.start()
    made = [
        container(state, labels=owned_by(cloud, cloud.alice))
        for state in (ContainerState.RUNNING, ContainerState.STOPPED)
    ]
    for each, state in zip(made, ("Running", "Stopped"), strict=True):
        site.known(each.name, state)
    snaps = []
    for each in made:
        ids = site.commit(each.name, cloud.alice).json()
        site.ended(ids["snapshot_id"])
        snaps += [ids["snapshot_id"], ids["request_id"]]
    site.agent.stop()
    people = tmp_path / "people.json"
    people.write_text(json.dumps({"auth": [
        {"name": name, "fixedHeaders": [{"name": "X-Auth-Token", "value": cloud.token(getattr(cloud, name))}]}
        for name in ("alice", "bob")
    ]}))
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG.format(
        hooks=json.dumps(str(HOOKS)), people=json.dumps(str(people)),
        containers=json.dumps([x for each in made for x in (each.id, each.id[:12], each.name)]),
        snapshots=json.dumps(snaps)))
    import os
    n = os.environ.get("N", "20")
    out = Path("/tmp/oa/out.txt")
    with out.open("w") as f:
        r = subprocess.run([sys.executable, "-m", "schemathesis.cli", f"--config-file={config}", "run",
           f"{site.api.url}/openapi.json", "--checks=all", "--max-response-time=60", f"--max-examples={n}", "--no-color", "--report=ndjson", "--report-dir=/tmp/oa/report", "--generation-database=none"], stdout=f, stderr=f, cwd=tmp_path)
    (tmp_path/"x").write_text("")
    import shutil
    shutil.copy(traffic.log, "/tmp/oa/access.log")
    Path("/tmp/oa/api.log").write_text(site.api.log())
    Path("/tmp/oa/agent.log").write_text(site.agent.log())
    print(traffic.answers())
    assert r.returncode == 0

@pytest.fixture(autouse=True)
def no_images_left(cloud: Cloud) -> Iterator[None]:
    """Delete what these tests have made."""
    yield
    store = cloud.store()
    for image in store.find(cloud.project_id(cloud.alice), {"image_type": "snapshot"}):
        store.discard(image.id)
