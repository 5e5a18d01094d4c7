"""Three ways from a running container to an active image in Glance, each measured alike."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lab import FOLDER, Images, Stack, until
from listener_process import Listener, Seen, Witness, request
from processes import BenchError, child, memory_mb, wait_measuring

from tintype.core.events import OUTCOMES, SNAPSHOT_END

ZUN_VERSION = "18.0.0"
SNAPSHOT_SECONDS = 1800.0
"""When a snapshot is given up."""


@dataclass
class Result:
    """One snapshot by one contender."""

    seconds: float
    """From the request to the news that the image is active."""
    peak_rss_mb: float
    """Of the contender's own processes; the engine and Glance are the same for all."""
    details: dict[str, Any] = field(default_factory=dict)


class Contender(Protocol):
    """A way to snapshot a container."""

    name: str
    what: str
    """One line for the report."""

    def prepare(self) -> str | None:
        """Get ready; return why that is impossible here, or None."""

    def snapshot(self, container: str) -> Result:
        """Take one snapshot, and remove nothing. Raises BenchError."""


class Tintype:
    """A request on RabbitMQ to a fresh listener process with default settings."""

    name = "tintype"
    what = "tintype: request on RabbitMQ -> python -m tintype.listener -> image.snapshot.end"

    def __init__(self, stack: Stack) -> None:
        """Take the stack to work on."""
        self._stack = stack
        self._runs = 0

    def prepare(self) -> str | None:
        """Need nothing more."""
        return None

    def snapshot(self, container: str) -> Result:
        """Measure from before the request is published to the arrival of its outcome."""
        self._runs += 1
        with ExitStack() as at_end:
            folder = Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix=self._stack.run)))
            listener = Listener(self._stack, folder, f"host-{self._runs}")
            witness = at_end.enter_context(closing(Witness(listener)))
            publisher = at_end.enter_context(closing(listener.publisher()))
            process = at_end.enter_context(listener.running(listener.configure(store="glance")))
            idle = memory_mb(process.pid, "VmRSS")
            asked = request(container, self._stack.run)
            began = time.monotonic()
            publisher.publish(asked)

            def outcomes() -> list[Seen]:
                return [each for each in witness.of(asked.id) if each[1] in OUTCOMES]

            until(outcomes, "the outcome of the request", SNAPSHOT_SECONDS)
            moment, event_type, payload = outcomes()[0]
            if event_type != SNAPSHOT_END:
                raise BenchError(f"{event_type}: {payload['fault']}")
            details = {
                "rss_before_mb": idle,
                "rss_after_mb": memory_mb(process.pid, "VmRSS"),
                "paused_ms": payload["paused_ms"],
                "duration_ms": payload["duration_ms"],
                "size_bytes": payload["size_bytes"],
                "first_seen_seconds": _timeline(witness.of(asked.id), began),
            }
            return Result(round(moment - began, 3), memory_mb(process.pid), details)


def _timeline(events: Sequence[Seen], began: float) -> dict[str, float]:
    """Return when each kind of event first came, seconds; progress is told once a second."""
    seen: dict[str, float] = {}
    for moment, event_type, payload in events:
        kind = f"{event_type} {payload['phase']}"
        for key in [kind, "first bytes sent"] if payload["bytes_done"] else [kind]:
            seen.setdefault(key, round(moment - began, 2))
    return seen


class Plain:
    """What one types without Tintype."""

    name = "plain"
    what = "plain: docker commit && docker save | curl -T - (PUT to Glance)"

    def __init__(self, stack: Stack, images: Images) -> None:
        """Take the stack to work on."""
        self._stack = stack
        self._images = images

    def prepare(self) -> str | None:
        """Look for the two programs."""
        missing = [name for name in ("docker", "curl") if shutil.which(name) is None]
        return f"not installed: {', '.join(missing)}" if missing else None

    def snapshot(self, container: str) -> Result:
        """Measure from `docker commit` to curl's end; the token is there before."""
        tag = f"{self._stack.run}:plain"
        token = self._images.token()
        with tempfile.TemporaryDirectory(prefix=self._stack.run) as folder:
            header = Path(folder) / "header"
            header.touch(mode=0o600)  # not on the command line, where everybody could read it
            header.write_text(f"X-Auth-Token: {token}\n")
            began = time.monotonic()
            self._docker("commit", container, tag)
            committed = time.monotonic() - began
            peaks = self._send(tag, header)
            seconds = time.monotonic() - began
        details = {"commit_seconds": round(committed, 3)}
        details |= dict(zip(("docker_save_mb", "curl_mb"), peaks, strict=True))
        return Result(round(seconds, 3), round(sum(peaks), 1), details)

    def _docker(self, *arguments: str) -> None:
        with child(["docker", *arguments], stdout=subprocess.DEVNULL, env=self._env()) as process:
            wait_measuring(process)

    def _send(self, tag: str, header: Path) -> list[float]:
        """Pipe the saved image into Glance and return both programs' peak memory."""
        url = f"{self._stack.glance.endpoint_override}/v2/images/{self._images.create()}/file"
        put = ["curl", "--fail", "--silent", "--show-error", "-T", "-", "-H", f"@{header}",
               "-H", "Content-Type: application/octet-stream", url]  # fmt: skip
        with child(["docker", "save", tag], stdout=subprocess.PIPE, env=self._env()) as save:
            assert save.stdout is not None
            with child(put, stdin=save.stdout, stdout=subprocess.DEVNULL) as curl:
                save.stdout.close()  # curl's alone now: when it ends, so does `docker save`
                return wait_measuring(save, curl)

    def _env(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_HOST": self._stack.engine_url}


class Zun:
    """Zun's own code, in a process and a virtual environment of its own."""

    name = "zun"
    what = f"zun: the real Manager._do_container_commit of Zun {ZUN_VERSION} (zun_commit.py)"

    def __init__(self, stack: Stack) -> None:
        """Take the stack to work on."""
        self._stack = stack
        self._python = FOLDER / "bench-venv" / "bin" / "python"

    def prepare(self) -> str | None:
        """Install Zun unless it is there: about a minute, once."""
        try:
            if not self._runs("-c", "import zun.compute.manager"):
                print("installing Zun into .stack/bench-venv ...", file=sys.stderr)
                _run([sys.executable, "-m", "venv", "--clear", str(self._python.parents[1])])
                _run([str(self._python), "-m", "pip", "install", "-q", f"zun=={ZUN_VERSION}"])
        except BenchError as error:
            return f"Zun cannot be installed: {error}"
        return None

    def _runs(self, *arguments: str) -> bool:
        if not self._python.exists():
            return False
        done = subprocess.run([self._python, *arguments], capture_output=True, check=False)
        return done.returncode == 0

    def snapshot(self, container: str) -> Result:
        """Have it measured from within: Zun is a service and long since imported."""
        glance = self._stack.glance
        settings = {
            "container": container,
            "image_name": self._stack.run,
            "engine_url": self._stack.engine_url,
            "auth_url": glance.auth_url,
            "username": glance.username,
            "password": glance.password,
            "project_name": glance.project_name,
        }
        script = Path(__file__).with_name("zun_commit.py")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with child([str(self._python), str(script)], **pipes) as process:
            out, err = process.communicate(json.dumps(settings).encode(), SNAPSHOT_SECONDS)
        if process.returncode:
            raise BenchError(f"Zun: {err.decode(errors='replace')[-2000:]}")
        told = json.loads(out)
        return Result(told.pop("seconds"), told.pop("peak_rss_mb"), told)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(done.stderr[-500:])
