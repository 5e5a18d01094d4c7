"""Installing what is missing: Debian packages by apt, OpenStack into a virtual environment."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from devstack.layout import Layout, StackError, make_folder, write_text
from devstack.process import find

POLICY = Path("/usr/sbin/policy-rc.d")
#: Keystone and Glance share one environment: half the disk and half the time of two.
OPENSTACK = ("keystone>=27", "glance>=30", "gunicorn>=23")

_venv_lock = threading.Lock()


def missing(programs: Mapping[str, str]) -> list[str]:
    """Return the packages, by program name, whose program this machine does not have."""
    return [package for program, package in programs.items() if not find(program)]


def apt_install(layout: Layout, packages: Sequence[str]) -> None:
    """Install Debian packages without starting the services in them."""
    if not packages:
        return
    root = _as_root()
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = [*root, "apt-get", "install", "-y", "--no-install-recommends", *packages]
    if root:  # sudo drops the environment
        install[len(root) : len(root)] = ["env", "DEBIAN_FRONTEND=noninteractive"]
    log = layout.log("apt")
    with _services_held(root):
        if _run(install, log, environment) == 0:
            return
        # Lists that are missing or too old: only now is the slow update worth its time.
        _run([*root, "apt-get", "update"], log, environment)
        if _run(install, log, environment) == 0:
            return
    raise StackError(f"apt-get could not install {' '.join(packages)}, see {log}")


def openstack_venv(layout: Layout, venv: Path) -> None:
    """Build the environment that holds Keystone and Glance, unless it is there.

    An environment whose building was interrupted has no stamp and is built again.
    """
    log, stamp, wanted = layout.log("pip"), venv / "complete", "\n".join(OPENSTACK)
    with _venv_lock:
        if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
            return
        shutil.rmtree(venv, ignore_errors=True)
        make_folder(layout.root)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        for command in (
            [sys.executable, "-m", "venv", str(venv)],
            [str(venv / "bin" / "pip"), "install", "--prefer-binary", *OPENSTACK],
        ):
            if _run(command, log, environment) != 0:
                raise StackError(f"could not install {', '.join(OPENSTACK)}, see {log}")
        write_text(stamp, wanted)


def venv_packages() -> Iterable[str]:
    """Return the Debian package that `python3 -m venv` needs, where Debian split it off."""
    return [] if importlib.util.find_spec("ensurepip") else ["python3-venv"]


def _run(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> int:
    with log.open("ab") as output:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            check=False,
        ).returncode


def _as_root() -> list[str]:
    """Return the prefix that makes a command run as root."""
    if os.getuid() == 0:
        return []
    sudo = ["sudo", "-n"]
    if find("sudo") and subprocess.run([*sudo, "true"], check=False).returncode == 0:
        return sudo
    raise StackError("Debian packages are missing: run as root, or allow sudo without password")


@contextmanager
def _services_held(root: list[str]) -> Iterator[None]:
    """Keep packages from starting their own daemons while they are installed.

    `policy-rc.d` is the one switch that both invoke-rc.d and deb-systemd-invoke obey (RUNLEVEL=1
    is ignored under systemd). One that is already there is the owner's and stays.
    """
    if POLICY.exists():
        yield
        return
    create = f"printf '#!/bin/sh\\nexit 101\\n' > {POLICY} && chmod 755 {POLICY}"
    subprocess.run([*root, "sh", "-c", create], check=True)
    try:
        yield
    finally:
        subprocess.run([*root, "rm", "-f", str(POLICY)], check=True)
