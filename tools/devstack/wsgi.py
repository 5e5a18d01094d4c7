"""OpenStack's WSGI services under gunicorn, which needs no compiler."""

from __future__ import annotations

import http.client
import json
import shlex
import shutil
import subprocess
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from devstack.layout import StackError, make_folder, write_text
from devstack.packages import openstack_venv, venv_packages
from devstack.ports import LOOPBACK
from devstack.process import Daemon
from devstack.service import Service

#: Sixteen threads are sixteen uploads at once. A thread may take as long as it likes: the timeout
#: is about the worker's heartbeat, which a thread does not hold up.
SETTINGS = '''\
wsgi_app = {app!r}
bind = {bind!r}
chdir = {chdir!r}
worker_class = "gthread"
threads = 16
keepalive = 75
timeout = 600
graceful_timeout = 5
control_socket_disable = True
accesslog = "-"


def post_worker_init(worker):
    """Let writers wait for each other: SQLite tells one that has begun to read to give up at once,
    and Glance then answers 500 and leaves images in `saving`."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "before_cursor_execute", retval=True)
    def begin_as_writer(connection, cursor, statement, parameters, context, many):
        return ("BEGIN IMMEDIATE" if statement == "BEGIN" else statement), parameters
'''


class WsgiService(Service):
    """An OpenStack service: one gunicorn in the environment that all of them share."""

    #: The application as gunicorn names it, and the variable that names its configuration folder.
    application: ClassVar[str]
    config_variable: ClassVar[str]

    @property
    def venv(self) -> Path:
        """Return the virtual environment."""
        return self.layout.root / "venv"

    def packages(self) -> Iterable[str]:
        """Return what building the virtual environment needs."""
        return venv_packages()

    def prepare(self) -> None:
        """Install the service and make its data; begin again if that was interrupted."""
        openstack_venv(self.layout, self.venv)
        data = self.home / "data"
        if not (data / "complete").exists():
            shutil.rmtree(data, ignore_errors=True)
            self.make_data(make_folder(data))
            (data / "complete").touch()

    @abstractmethod
    def make_data(self, data: Path) -> None:
        """Make tables, keys and folders in an empty data folder."""

    def manage(self, program: str, *arguments: str) -> None:
        """Run a command of the virtual environment, its output going to the service's log."""
        with self.layout.log(self.name).open("ab") as log:
            command = [str(self.venv / "bin" / program), *arguments]
            code = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
        if code != 0:
            raise StackError(f"{program} failed, see {log.name}")

    def daemons(self) -> list[Daemon]:
        """Return gunicorn."""
        return [
            Daemon(
                self.layout,
                self.name,
                (str(self.venv / "bin" / "gunicorn"),),
                lambda: status(self.port()) in (200, 300),
                {
                    "HOME": str(self.home),
                    # Not on the command line, which Keystone would take for its own.
                    "GUNICORN_CMD_ARGS": f"--config={shlex.quote(str(self._settings))}",
                    self.config_variable: str(self.home / "etc"),
                },
                start_timeout=120.0,
                stop_timeout=15.0,
            )
        ]

    def start(self) -> None:
        """Start the service unless it runs."""
        bind, home = f"{LOOPBACK}:{self.port()}", str(self.home)
        text = SETTINGS.format(app=self.application, bind=bind, chdir=home)
        write_text(self._settings, text)
        super().start()

    @property
    def _settings(self) -> Path:
        return self.home / "gunicorn.conf.py"


def status(port: int) -> int:
    """Return the HTTP status of a service's root, 0 when nothing answers."""
    try:
        return call(port, "GET", "/")[0]
    except (OSError, http.client.HTTPException):
        return 0


def call(
    port: int, method: str, path: str, body: object = None, token: str = ""
) -> tuple[int, Mapping[str, str], bytes]:
    """Make one call with a JSON body to a loopback port; return status, headers and answer."""
    headers = {"Content-Type": "application/json", "Connection": "close"}
    if token:
        headers["X-Auth-Token"] = token
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=30.0)
    try:
        connection.request(method, path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        connection.close()


def ini(sections: Mapping[str, Mapping[str, object]]) -> str:
    """Return an oslo.config file."""
    parts = []
    for section, options in sections.items():
        parts += [f"[{section}]", *(f"{key} = {value}" for key, value in options.items()), ""]
    return "\n".join(parts)
