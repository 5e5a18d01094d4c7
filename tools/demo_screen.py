"""What one sees of the demo: its steps, the commands it runs, and events as lines for people."""

from __future__ import annotations

import json
import os
import shlex
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Screen:
    """Plain lines on standard output, with some colour where that is a terminal."""

    def __init__(self) -> None:
        """Look once whether colour is welcome."""
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._steps = 0

    def step(self, text: str) -> None:
        """Begin a new part of the story."""
        self._steps += 1
        self._write("\n" + self._painted("1", f"{self._steps}. {text}"))

    def command(self, *words: str) -> None:
        """Show a command as one would type it."""
        self._write("   " + self._painted("36", f"$ {shlex.join(words)}"))

    def say(self, text: str) -> None:
        """Show text, indented."""
        self._write("\n".join(f"   {line}" for line in text.splitlines()))

    def good(self, text: str) -> None:
        """Show what went well."""
        self._write("   " + self._painted("32", text))

    def _painted(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colour else text

    def _write(self, text: str) -> None:
        # One write: events are shown by another thread.
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


class Events:
    """Follows the log of `tintype serve` and shows the events in it.

    Only what `ours` accepts: a service that takes up what a killed demo left has more to tell.
    """

    def __init__(
        self, log: Path, screen: Screen, ours: Callable[[Mapping[str, Any]], bool]
    ) -> None:
        """Show the events that come from now on."""
        self._log, self._screen, self._ours = log, screen, ours
        self._offset = log.stat().st_size
        self._seen: list[Mapping[str, Any]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="events", daemon=True)
        self._thread.start()

    def find(self, *types: str) -> Mapping[str, Any] | None:
        """Return the first event of these types, if it came already."""
        return next((event for event in self._seen if event["type"] in types), None)

    def stop(self) -> None:
        """Show what is left and end."""
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        while True:
            last = self._ended.is_set()
            for line in self._new_lines():
                if line.startswith("{") and self._ours(event := json.loads(line)):
                    self._screen.say(describe(event))
                    self._seen.append(event)
            if last:
                return
            self._ended.wait(0.05)

    def _new_lines(self) -> list[str]:
        with self._log.open("rb") as handle:
            handle.seek(self._offset)
            whole, newline, _ = handle.read().rpartition(b"\n")
        self._offset += len(whole + newline)
        return whole.decode("utf-8", "replace").splitlines()


def describe(event: Mapping[str, Any]) -> str:
    """Return an event as one line: its type, how far the work is, bytes, milliseconds."""
    get = event["payload"].get
    if event["type"] == "container.commit.request":
        return f"{event['type']:28}{get('container')} as {get('image_name')}:{get('tag', 'latest')}"
    if event["type"] == "container.restore.request":
        return f"{event['type']:28}{get('snapshot_id')} as {get('name')}"
    details = []
    if get("size_bytes"):
        details.append(_mib(get("size_bytes")))
    elif get("bytes_done") and get("bytes_total"):
        details.append(f"{_mib(get('bytes_done'))} of {_mib(get('bytes_total'))}")
    if get("paused_ms") is not None:
        details.append(f"container paused for {get('paused_ms')} ms")
    if get("fault"):
        details.append(get("fault")["message"])
    state = get("status") if get("status") in ("active", "error") else get("phase")
    return f"{event['type']:28}{state or '':12}{', '.join(details)}".rstrip()


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
