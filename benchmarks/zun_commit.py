"""Zun's own commit of one container, measured: run by contenders.py with the Python Zun is in.

The real `Manager._do_container_commit` of the installed Zun against the real engine and Glance.
What stands in for the rest of Zun: a container record that is not saved, a driver made without
looking at the host's storage, and a token asked for here instead of by the API's middleware.

Reads settings as JSON from standard input and writes the result as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from keystoneauth1.session import Session
from zun.common import consts  # type: ignore[import-not-found]
from zun.common.context import RequestContext  # type: ignore[import-not-found]
from zun.compute.manager import Manager  # type: ignore[import-not-found]
from zun.conf import CONF  # type: ignore[import-not-found]
from zun.container.docker.driver import DockerDriver  # type: ignore[import-not-found]
from zun.image.glance.driver import GlanceDriver  # type: ignore[import-not-found]

CALL_SECONDS = 3600
"""Instead of Zun's default of 60, with which a commit of 2 GB may fail on a slow machine."""


def main() -> None:
    """Commit the container into Glance and tell how long that took, and in how much memory."""
    settings: dict[str, str] = json.load(sys.stdin)
    CONF([], project="zun", default_config_files=[])
    CONF.set_override("api_url", settings["engine_url"], group="docker")
    CONF.set_override("api_insecure", True, group="docker")
    CONF.set_override("default_timeout", CALL_SECONDS, group="docker")
    CONF.set_override("www_authenticate_uri", settings["auth_url"], group="keystone_authtoken")
    context = _context(settings)
    manager = Manager.__new__(Manager)
    manager.driver = DockerDriver.__new__(DockerDriver)
    container = SimpleNamespace(
        container_id=settings["container"],
        uuid=settings["container"],
        status=consts.RUNNING,
        save=lambda context: None,
    )
    before = _memory_mb()
    began = time.monotonic()
    name = settings["image_name"]
    image = GlanceDriver().create_image(context, name)
    commit = Manager._do_container_commit.__wrapped__  # noqa: SLF001 - it has no public name
    commit(manager, context, image, container, name, "zun")
    result = {
        "seconds": round(time.monotonic() - began, 3),
        "peak_rss_mb": _memory_mb(),
        "rss_before_mb": before,
    }
    print(json.dumps(result))


def _context(settings: dict[str, str]) -> Any:
    """Return the context of a request whose token the API's middleware has checked."""
    domain = {"name": "Default"}
    user = {"name": settings["username"], "password": settings["password"], "domain": domain}
    project = {"name": settings["project_name"], "domain": domain}
    asked = {
        "identity": {"methods": ["password"], "password": {"user": user}},
        "scope": {"project": project},
    }
    answer = Session().post(
        f"{settings['auth_url']}/auth/tokens", json={"auth": asked}, authenticated=False
    )
    return RequestContext(
        auth_token=answer.headers["X-Subject-Token"], auth_token_info=answer.json()
    )


def _memory_mb() -> float:
    """Return this process's peak resident memory."""
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(line.split()[1] for line in status if line.startswith("VmHWM:"))
    return round(int(peak) / 1024, 1)


if __name__ == "__main__":
    main()
