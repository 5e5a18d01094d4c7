"""WSGI applications under gunicorn, with the settings that the REST service is tested with."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from api_floor import FILES
from lab import Stack, until
from processes import BenchError, child

WORKERS, THREADS = 2, 8


def require_gunicorn() -> None:
    """Raise BenchError unless gunicorn is installed."""
    if importlib.util.find_spec("gunicorn") is None:
        raise BenchError("gunicorn is missing: pip install 'tintype[gunicorn]'")


@dataclass(frozen=True)
class Service:
    """An application that gunicorn can load, with a configuration and a folder of its own."""

    application: str
    folder: Path
    config: Path

    @property
    def log(self) -> str:
        """What gunicorn and the application have logged so far."""
        file = self.folder / "service.log"
        return file.read_text(errors="replace") if file.exists() else ""

    @contextmanager
    def running(self) -> Iterator[str]:
        """Run it to the end of the block, and yield its address once all workers are there."""
        here = str(Path(__file__).parent)
        command = [
            *(sys.executable, "-m", "gunicorn", self.application, "--bind=127.0.0.1:0"),
            *(f"--workers={WORKERS}", f"--threads={THREADS}", "--timeout=60"),
            f"--pythonpath={here}",
        ]
        env = {**os.environ, FILES: str(self.config)}
        with (
            (self.folder / "service.log").open("wb") as log,
            child(command, stdout=log, stderr=log, cwd=self.folder, env=env) as process,
        ):

            def up() -> bool:
                if process.poll() is not None:
                    raise BenchError(f"gunicorn has ended: {self.log[-2000:]}")
                return self.log.count("Booting worker") >= WORKERS

            until(up, "gunicorn to be up")
            yield re.findall(r"Listening at: (http://\S+)", self.log)[-1]


def configure(stack: Stack, listener_config: Path) -> Path:
    """Write what a service needs: a listener's configuration, and how tokens are checked.

    Tokens are kept for as long as keystonemiddleware does by default: in each worker, for 300 s.
    """
    glance = stack.glance
    options = {
        "auth_type": "password",
        "auth_url": glance.auth_url,
        "www_authenticate_uri": glance.auth_url,
        "username": glance.username,
        "password": glance.password.replace("$", "$$"),
        "project_name": glance.project_name,
        "user_domain_name": glance.user_domain_name,
        "project_domain_name": glance.project_domain_name,
        "service_token_roles_required": "true",
    }
    path = listener_config.with_name("service.conf")
    path.touch(mode=0o600)
    lines = [f"{name} = {value}" for name, value in options.items()]
    path.write_text("\n".join([listener_config.read_text(), "[keystone_authtoken]", *lines, ""]))
    return path
