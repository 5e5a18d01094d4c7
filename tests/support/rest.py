"""The REST service under gunicorn, in front of one host and a router, all real."""

from __future__ import annotations

import copy
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from docker import DockerClient

from tests.support.agent import (
    AgentProcess,
    ListenerProcess,
    bus_options,
    glance_options,
)
from tests.support.openstack import Cloud, everybody
from tests.support.rabbit import Broker, until
from tintype.adapters.openstack_access import GlanceSettings
from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.rest.metrics import MULTIPROCESS

SERVICE_TYPES = {"container-snapshot": "", "container": "/v1"}
"""What the service is in Keystone's catalogue, and with which path: ours, and Zun's."""

API_ROLES = ("service", "reader")
"""The least roles of the REST service's own user (docs/credentials.md)."""

ORIGIN = "https://horizon.example"
"""Whose pages in a browser may call the service of `running`."""

NOISY = """\
import logging


def post_worker_init(_):
    logging.getLogger().setLevel(logging.DEBUG)
"""
"""gunicorn's configuration by which the workers log all that there is."""


class ApiProcess(ListenerProcess):
    """A gunicorn with the REST service; its configuration is a listener's, and more."""

    url = ""

    def __init__(self, folder: Path, host: str) -> None:
        super().__init__(folder, host)
        self.environment: dict[str, str] = {}
        """Variables beside those of the tests."""

    def start(self, *, kill_at: int | None = None) -> None:
        """Start the server on a free port, the same one again after a restart."""
        assert kill_at is None
        self._starts = self.log().count("Booting worker") + 2
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(int(self.url.rpartition(":")[2] or "0")),
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={
                    **os.environ,
                    "PYTHONPATH": os.environ.get("TINTYPE_OVERLAY", ""),
                    "OS_TINTYPE_CONFIG_FILES": str(self.config),
                    **self.environment,
                },
                start_new_session=True,  # a group of processes, to be killed at once
            )

    def command(self, port: int) -> list[str]:
        """Return the server's command line; port 0: a free one, which it logs."""
        command = [sys.executable, "-m", "gunicorn", "tintype.wsgi:application"]
        options = ["--workers=2", "--threads=8", "--timeout=60", "--no-control-socket"]
        return [*command, *options, f"--bind=127.0.0.1:{port}"]

    def await_up(self) -> None:
        """Wait until both workers are there."""
        until(lambda: self.log().count("Booting worker") >= self._starts, "gunicorn to be up")
        self.url = re.findall(r"Listening at: (http://\S+)", self.log())[-1]
        until(self._answers, "the service to answer")

    def _answers(self) -> bool:
        try:
            requests.get(f"{self.url}/", timeout=30)
        except (requests.ConnectionError, requests.Timeout):
            return False
        return True  # if only to say that the index is away

    def kill(self) -> None:
        """Kill the whole server, workers included, as a power cut would."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def kill_amid(self, condition: Callable[[], bool], what: str) -> None:
        """Kill the whole server while a condition holds: it stands still when that is looked at."""
        assert self.process is not None
        group = self.process.pid

        def killed() -> bool:
            os.killpg(group, signal.SIGSTOP)
            if condition():
                self.kill()
                return True
            os.killpg(group, signal.SIGCONT)
            return False

        until(killed, what)


class UwsgiProcess(ApiProcess):
    """The same under uWSGI."""

    def command(self, port: int) -> list[str]:
        """Return the server's command line."""
        options = ["--master", "--processes=2", "--threads=4", "--lazy-apps", "--die-on-term"]
        where = f"--http-socket=127.0.0.1:{port}"
        home = f"--virtualenv={sys.prefix}"
        program = str(Path(sys.executable).parent / "uwsgi")
        return [program, where, home, *options, "--module=tintype.wsgi"]

    def await_up(self) -> None:
        """Wait until it answers."""
        until(lambda: "uwsgi socket 0 bound" in self.log(), "uWSGI to be up")
        bound = re.findall(r"uwsgi socket 0 bound to TCP address (\S+)", self.log())[-1]
        self.url = f"http://{bound}"
        until(self._answers, "the service to answer")


class Site:
    """One host, one router and the REST service, with an index and an exchange of their own."""

    def __init__(
        self,
        folder: Path,
        agent: AgentProcess,
        cloud: Cloud,
        *,
        api_user: GlanceSettings | None = None,
    ) -> None:
        """Prepare all; `api_user`: the REST service's user, if it is not the others'."""
        self.folder = folder
        self.agent = agent
        self.cloud = cloud
        bus = bus_options(agent.broker, agent.exchange, agent.requests)
        index = {
            "index_url": f"sqlite:///{folder}/index.sqlite",
            "pool": f"pool-{agent.exchange}",
            "stores": "glance",
            "host_timeout": 20,
            "grace": 2,
            "unknown_timeout": 1,
        }
        self.router = ListenerProcess(folder, "router")
        self.router.options = {
            "listener": {"roles": "router"},
            "agent": {"host": "router", "state_dir": folder / "router"},
            "router": index,
            "bus": bus,
            "glance": glance_options(cloud),
        }
        self.api = ApiProcess(folder, "api")
        as_user = replace(cloud, service=api_user or cloud.service)
        self.api.options = {
            "agent": {"host": "api", "state_dir": folder / "api"},
            "router": index,
            "bus": bus,
            "glance": glance_options(as_user),
            "keystone_authtoken": authtoken_options(as_user),
        }

    def start(self) -> None:
        """Start all, and wait until they are up."""
        for process in (self.agent, self.router, self.api):
            process.start()
        for process in (self.agent, self.router, self.api):
            process.await_up()

    @contextmanager
    def beside(
        self, name: str, kind: type[ApiProcess] = ApiProcess, **changes: Mapping[str, object]
    ) -> Iterator[Site]:
        """Start a second REST service, with some options changed; yield the site with that one."""
        other = copy.copy(self)
        other.api = kind(self.folder, name)
        other.api.options = {
            group: {**options, **changes.get(group, {})}
            for group, options in self.api.options.items()
        }
        try:
            other.api.start()
            other.api.await_up()
            yield other
        finally:
            other.api.close()
            print(f"--- {name}\n{other.api.log()}")  # pytest shows it where a test fails

    def call(
        self,
        method: str,
        path: str,
        person: GlanceSettings | None = None,
        *,
        token: str | None = None,
        **options: Any,
    ) -> requests.Response:
        """Call the service as somebody, and check what every answer has."""
        headers = dict(options.pop("headers", {}))
        if person is not None:
            token = self.cloud.token(person)
        if token is not None:
            headers["X-Auth-Token"] = token
        response = requests.request(
            method, f"{self.api.url}{path}", headers=headers, timeout=60, **options
        )
        assert re.fullmatch(r"req-[0-9a-f-]{36}", response.headers["X-Openstack-Request-Id"])
        return response

    def commit(
        self, container: str, person: GlanceSettings, name: str = "test/rest", **fields: Any
    ) -> requests.Response:
        """Ask for a snapshot as somebody."""
        headers = fields.pop("headers", {})
        body = {"image-name": name, **fields}
        path = f"/v1/containers/{container}/commit"
        return self.call("POST", path, person, json=body, headers=headers)

    def known(self, ident: str, state: str = "Running") -> None:
        """Wait until the index knows a container in a state."""
        admin = self.cloud.token(self.cloud.admin)

        def seen() -> bool:
            answer = self.call("GET", f"/v1/containers/{ident}", token=admin)
            return answer.ok and answer.json()["state"] == state

        until(seen, f"container {ident} to be known as {state}")

    def ended(self, snapshot_id: str) -> dict[str, Any]:
        """Wait for a snapshot to end, and return it."""
        admin = self.cloud.token(self.cloud.admin)
        path = f"/v1/snapshots/{snapshot_id}"
        until(
            lambda: self.call("GET", path, token=admin).json().get("finished_at") is not None,
            f"snapshot {snapshot_id} to end",
        )
        return dict(self.call("GET", path, token=admin).json())

    @contextmanager
    def in_catalogue(self) -> Iterator[None]:
        """Have Keystone's catalogue name the service, for clients that look there."""
        identity = self.cloud.connection(self.cloud.admin).identity
        made = []
        try:
            for kind, path in SERVICE_TYPES.items():
                service = identity.create_service(type=kind, name=f"tintype-{uuid.uuid4().hex[:8]}")
                made.append(service)
                identity.create_endpoint(
                    service_id=service.id,
                    interface="public",
                    url=f"{self.api.url}{path}",
                    region_id="RegionOne",
                )
            yield
        finally:
            for service in made:
                identity.delete_service(service)

    def close(self) -> None:
        """End what still runs; the agent is its fixture's."""
        for process in (self.api, self.router):
            process.close()
            print(f"--- {process.host}\n{process.log()}")  # pytest shows it where a test fails


def authtoken_options(cloud: Cloud) -> dict[str, object]:
    """Return what keystonemiddleware needs; no cache, so that a revocation counts at once."""
    return {
        "auth_type": "password",
        "auth_url": cloud.service.auth_url,
        "www_authenticate_uri": cloud.service.auth_url,
        "username": cloud.service.username,
        "password": cloud.service.password,
        "project_name": cloud.service.project_name,
        "user_domain_name": "Default",
        "project_domain_name": "Default",
        "service_token_roles_required": "true",
        "token_cache_time": -1,
    }


@contextmanager
def user_with(cloud: Cloud, *roles: str) -> Iterator[GlanceSettings]:
    """Make a user of the services' project with these roles; Glance is where the catalogue says."""
    identity = cloud.connection(cloud.admin).identity
    name, password = f"tintype-{uuid.uuid4().hex}", uuid.uuid4().hex
    user = identity.create_user(name=name, password=password, domain_id="default")
    try:
        project = cloud.project_id(cloud.service)
        for name_of_role in roles:
            role = identity.find_role(name_of_role, ignore_missing=False)
            identity.assign_project_role_to_user(project, user.id, role.id)
        yield replace(cloud.service, username=name, password=password, endpoint_override="")
    finally:
        identity.delete_user(user)


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: Broker, engine_url: str
) -> Iterator[Site]:
    """A REST service that is up, for all tests of a module that leave it so.

    It has the least roles, and of what may be configured as much as does no harm to any test.
    """
    folder, cloud = tmp_path_factory.mktemp("site"), everybody()
    with ExitStack() as stack:
        stack.callback(cloud.clean)
        user = stack.enter_context(user_with(cloud, *API_ROLES))
        agent = AgentProcess(folder, broker, cloud, engine_url)
        stack.callback(lambda: print(agent.log()))
        stack.callback(agent.close)
        site = Site(folder, agent, cloud, api_user=user)
        stack.callback(site.close)
        configure(site)
        site.start()
        yield site


def configure(site: Site) -> None:
    """Have the REST service log all, serve a page in a browser, trust a proxy, and add up."""
    (site.folder / "gunicorn.conf.py").write_text(NOISY)
    metrics = site.folder / "metrics"
    metrics.mkdir()
    site.api.environment[MULTIPROCESS] = str(metrics)
    site.api.options["cors"] = {"allowed_origin": ORIGIN}
    site.api.options["oslo_middleware"] = {"enable_proxy_headers_parsing": "true"}


@pytest.fixture
def site(tmp_path: Path, agent: AgentProcess, cloud: Cloud) -> Iterator[Site]:
    """A REST service with what is behind it, not started yet."""
    site = Site(tmp_path, agent, cloud)
    yield site
    site.close()


def remove_restored(journal: Path, client: DockerClient) -> None:
    """Remove the containers that a host has restored, and their images; it must be stopped."""
    with closing(SqliteJournal(journal)) as opened:
        instance = opened.instance
    label = f"tintype.restore.instance={instance}"
    for container in client.containers.list(all=True, filters={"label": label}):
        container.remove(force=True, v=True)
    for image in client.images.list(name=f"tintype-restore/{instance}"):
        client.images.remove(image.id, force=True)


def owned_by(cloud: Cloud, person: GlanceSettings) -> dict[str, str]:
    """Return the labels of a container that belongs to somebody's project."""
    return {"tintype.project_id": cloud.project_id(person)}
