"""A newer Docker Engine than this machine's Debian has: its programs only, started by tests.

Since version 25 an engine saves images in another layout, and may keep them in containerd's store.
The programs come from a later Debian as packages that are unpacked and never installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from devstack.layout import StackError, make_folder, write_text
from devstack.process import Daemon
from devstack.service import Service

SUITE = "trixie"
PACKAGES = ("docker.io", "containerd")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class NewerEngine(Service):
    """The programs of a newer engine; no process of it belongs to the stack."""

    name = "newer-engine"

    def prepare(self) -> None:
        """Fetch and unpack the programs, once."""
        if self.running():
            return
        work = make_folder(self.home / "work")
        try:
            for package in _downloaded(work, self.layout.log(self.name)):
                subprocess.run(["dpkg-deb", "--extract", package, self.home / "root"], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            log = self.layout.log(self.name)
            raise StackError(f"no newer Docker Engine from {SUITE}: {error}, see {log}") from error
        shutil.rmtree(work)
        write_text(self._stamp, SUITE)

    def daemons(self) -> list[Daemon]:
        """Return none: tests start engines of their own."""
        return []

    def running(self) -> bool:
        """Return whether the programs are here."""
        return self._stamp.exists()

    def env(self) -> dict[str, str]:
        """Return the folders in which the programs are found, as in PATH."""
        return {"TINTYPE_TEST_NEWER_ENGINE": self.where()}

    def where(self) -> str:
        """Return the same."""
        return os.pathsep.join(str(self.home / "root" / "usr" / part) for part in ("sbin", "bin"))

    @property
    def _stamp(self) -> Path:
        return self.home / "complete"


def _downloaded(folder: Path, log: Path) -> list[Path]:
    """Download the packages with an apt that knows nothing but the later Debian."""
    for part in ("etc/apt/preferences.d", "etc/apt/apt.conf.d", "state/lists/partial", "cache"):
        make_folder(folder / part)
    source = f"deb [signed-by={KEYRING}] {_mirror()} {SUITE} main\n"
    write_text(folder / "etc/apt/sources.list", source)
    write_text(folder / "status", "")
    options = [
        f"-oDir::Etc={folder}/etc/apt",
        f"-oDir::State={folder}/state",
        f"-oDir::State::status={folder}/status",
        f"-oDir::Cache={folder}/cache",
        "-oAPT::Sandbox::User=root",
    ]
    with log.open("ab") as output:
        for command in (["update"], ["download", *PACKAGES]):
            subprocess.run(
                ["apt-get", "-q", *options, *command],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=True,
            )
    return sorted(folder.glob("*.deb"))


def _mirror() -> str:
    """Return where this machine has its Debian from."""
    known = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.split()
    archives = [uri for uri in known if "security" not in uri]
    if not archives:
        raise StackError("apt knows no archive of Debian: /etc/apt has no sources")
    return archives[0]
