"""A Docker Engine of a test's own, which it may kill."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import closing
from pathlib import Path

import docker
import requests

START_SECONDS = 60


class Dockerd:
    """A dockerd with directories, containers and images of its own."""

    def __init__(self, folder: Path, *options: str, programs: str = "") -> None:
        """Keep everything under `folder`, whose path must be short: sockets lie in it.

        `programs` are folders in which its programs are looked for first, as in PATH.
        """
        self._folder = folder
        self._options = options
        self._path = os.pathsep.join(filter(None, (programs, os.environ["PATH"])))
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{folder}/docker.sock"

    def start(self) -> None:
        """Start it and wait until it answers."""
        folder = self._folder
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    shutil.which("dockerd", path=self._path) or "dockerd",
                    f"--host={self.url}",
                    f"--data-root={folder}/data",
                    f"--exec-root={folder}/exec",
                    f"--pidfile={folder}/pid",
                    *("--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"),
                    *self._options,
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": self._path},
                start_new_session=True,
            )
        give_up = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < give_up, "dockerd does not answer"
            time.sleep(0.1)

    def _answers(self) -> bool:
        with closing(docker.APIClient(self.url, version="1.41", timeout=5)) as client:
            try:
                return bool(client.ping())
            except (requests.RequestException, OSError):
                return False

    def kill(self) -> None:
        """Kill it without a chance to clean up; its containers go on, its containerd dies too."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None
        pid_file = self._folder / "exec" / "containerd" / "containerd.pid"
        # A dockerd that finds a process under this pid, if only a dying one, waits for it in vain.
        while Path("/proc", pid_file.read_text()).exists():
            time.sleep(0.01)
        pid_file.unlink()
        (self._folder / "pid").unlink(missing_ok=True)

    def stop(self) -> None:
        """Stop it with its containers and containerd, which only a living dockerd can; clear up."""
        if self._process is None:
            self.start()
        assert self._process is not None
        with closing(docker.DockerClient(self.url, timeout=START_SECONDS)) as client:
            for container in client.containers.list(all=True):
                container.remove(force=True, v=True)  # with live-restore they would go on
        self._process.terminate()
        self._process.wait(timeout=START_SECONDS)
        self._process = None
        self._clear()

    def _clear(self) -> None:
        """Remove everything; a dockerd that was killed has left its data mounted."""
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in reversed([each for each in mounts if each.startswith(f"{self._folder}/")]):
            subprocess.run(["umount", mount], check=True)
        shutil.rmtree(self._folder)
