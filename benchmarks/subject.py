"""The container that everybody snapshots, watched from the engine's side."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException, NotFound
from lab import Stack, until
from processes import BenchError

IMAGES = Path(__file__).resolve().parents[1] / "tools" / "images.py"
LABEL = "tintype.bench"
"""Label of the container; every image committed from it inherits it."""

COMMIT_SECONDS = 600.0
"""How long a commit may go on at the engine after its client has gone."""


class Subject:
    """A running container with `size_mb` MB of random bytes in its upper layer."""

    def __init__(self, stack: Stack, size_mb: int) -> None:
        """Make it, ready to be snapshotted. Raises BenchError."""
        self._client = docker.DockerClient(stack.engine_url, timeout=600)
        self._filter = {"label": f"{LABEL}={stack.run}"}
        self._moments: list[tuple[str, float]] = []
        self.name = stack.run
        image = subprocess.run(
            [sys.executable, str(IMAGES)],
            env={"DOCKER_HOST": stack.engine_url, "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        self._container = self._client.containers.create(
            image, ["/bin/busybox", "sleep", "1000000"],
            name=self.name, labels={LABEL: stack.run}, network_mode="none",
        )  # fmt: skip
        try:
            self._container.start()
            self._fill(size_mb)
        except BaseException:
            self.remove()
            raise
        self.id = str(self._container.id)
        self._stream = self._client.events(decode=True, filters={"container": self.id})
        threading.Thread(target=self._watch, daemon=True).start()

    def _fill(self, size_mb: int) -> None:
        command = ["dd", "if=/dev/urandom", "of=/home/data", "bs=1M", f"count={size_mb}"]
        code, output = self._container.exec_run(command)
        if code:
            raise BenchError(f"filling the container: {output!r}")

    def _watch(self) -> None:
        with suppress(DockerException, OSError, ValueError):
            for event in self._stream:
                if event.get("Action") in {"pause", "unpause", "commit"}:
                    self._moments.append((event["Action"], event["timeNano"] / 1e9))

    def forget(self) -> None:
        """Begin a new measurement."""
        self._moments.clear()

    def frozen_seconds(self) -> float:
        """Return for how long the container was frozen, as the engine's own events tell."""
        until(lambda: self._count("pause") == self._count("unpause"), "the container to run on", 10)
        total, since = 0.0, 0.0
        for action, moment in self._moments:
            if action == "pause":
                since = moment
            elif action == "unpause":
                total += moment - since
        return round(total, 3)

    def clear(self) -> None:
        """Remove all images committed from the container.

        A commit whose client was killed is finished first: the engine does so regardless, and its
        image would be left over.
        """
        with suppress(BenchError):
            until(lambda: self._count("commit") >= self._count("pause"), "commits", COMMIT_SECONDS)
        for image in self._client.images.list(filters=self._filter):
            with suppress(NotFound):
                self._client.images.remove(str(image.id), force=True)

    def remove(self) -> None:
        """Remove the container."""
        with suppress(NotFound):
            self._container.remove(force=True, v=True)

    def close(self) -> None:
        """Remove everything there is of it on the engine."""
        self.clear()
        self.remove()
        self._stream.close()
        self._client.close()

    def engine(self) -> dict[str, Any]:
        """Return what the engine says of itself."""
        info = self._client.info()
        return {"version": info["ServerVersion"], "storage_driver": info["Driver"]}

    def _count(self, action: str) -> int:
        return sum(1 for seen, _ in list(self._moments) if seen == action)
