"""Many containers on the stack's engine, made and never started, and gone with the measurement."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import docker
from docker.errors import APIError, NotFound
from lab import Stack
from subject import IMAGES, LABEL

AT_ONCE = 4
"""Calls to the engine at a time."""


class Fleet:
    """`size` containers, each named `<run>-<number>` and labelled with the run's name."""

    def __init__(self, stack: Stack, size: int) -> None:
        """Make them; an image of the smallest kind is made where there is none."""
        self._client = docker.APIClient(stack.engine_url, timeout=600, num_pools=AT_ONCE)
        self._label = f"{LABEL}={stack.run}"
        image = subprocess.run(
            [sys.executable, str(IMAGES)],
            env={"DOCKER_HOST": stack.engine_url, "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip

        def make(number: int) -> None:
            self._client.create_container(
                image, ["/bin/busybox", "true"], name=f"{stack.run}-{number}",
                labels={LABEL: stack.run, "tintype.project_id": "benchmark"},
                host_config=self._client.create_host_config(network_mode="none"),
            )  # fmt: skip

        try:
            _for_all(make, range(size))
        except BaseException:
            self.close()
            raise

    @property
    def everybody(self) -> int:
        """How many containers the engine has, those of others included."""
        return len(self._client.containers(all=True))

    def close(self) -> None:
        """Remove them."""
        found = self._client.containers(all=True, filters={"label": self._label})
        _for_all(self._remove, [each["Id"] for each in found])
        self._client.close()

    def _remove(self, ident: str) -> None:
        # APIError: it is being removed already, by whoever was interrupted.
        with suppress(NotFound, APIError):
            self._client.remove_container(ident, force=True, v=True)


def _for_all(call: Callable[[Any], None], values: Iterable[Any]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        calls = [pool.submit(call, value) for value in values]
        try:
            for each in calls:
                each.result()
        except BaseException:
            # Ctrl-C, for example: what has not begun does not begin.
            pool.shutdown(cancel_futures=True)
            raise
