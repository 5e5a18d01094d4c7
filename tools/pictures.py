#!/usr/bin/env python3
"""Makes docs/pictures: what `commit --wait` and `snapshot watch` look like in a terminal.

Run it with the Python that has tintype: `python tools/pictures.py`. It takes a minute or two, and
needs tmux, an engine (DOCKER_HOST, else the stack's) and 4 GB of room there and in /tmp.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import images
from demo_docker import DemoError, Docker, output
from demo_screen import Screen
from devstack.engine import Engine
from devstack.layout import Layout, StackError
from devstack.process import Daemon
from rich.console import Console
from rich.text import Text

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
COLUMNS, LINES = 100, 24

LABEL = "tintype.pictures"
"""Label of the containers made here; its value is the stack's folder."""

SIZES = {"web": 500, "shop": 250, "mail": 350}
"""Container -> MiB of data that nobody can compress, so that its bar is seen to move.

No name is hexadecimal: the engine would take it for the start of a stranger's id.
"""

SCRIPT = "dd if=/dev/urandom of=/home/data bs=1M count={} && echo yes > /home/ready && sleep 86400"

COMMIT, WATCH = "tintype commit web alpha/web:v1 --wait", "tintype snapshot watch"

PATIENCE = 600.0
"""Seconds for everything that is waited for."""


@dataclass(frozen=True)
class Terminal:
    """A tmux server of its own; each window of it has a shell, and no more."""

    folder: Path
    path: str
    url: str

    def open(self, window: str, columns: int = COLUMNS) -> None:
        """Open a window."""
        conf = self.folder / "tmux.conf"
        conf.write_text("set -g status off\nset -g default-terminal screen-256color\n")
        size = ("-x", str(columns), "-y", str(LINES))
        self._tmux("-f", str(conf), "new-session", "-d", "-s", window, *size, "bash", "--norc")

    def enter(self, window: str, line: str) -> None:
        """Type a line."""
        self._tmux("send-keys", "-t", window, "-l", line)
        self.press(window, "Enter")

    def press(self, window: str, key: str) -> None:
        """Press a key, named as tmux does: C-c, Enter."""
        self._tmux("send-keys", "-t", window, key)

    def look(self, window: str) -> Text:
        """Return what is to be seen, in its colours."""
        return Text.from_ansi(self._tmux("capture-pane", "-e", "-p", "-t", window).rstrip())

    def close(self) -> None:
        """End the server with all its windows."""
        self._tmux("kill-server")

    def _tmux(self, *words: str) -> str:
        env = {
            "PATH": self.path,
            "LANG": "C.UTF-8",  # else it has no way to show a bar
            "PS1": "$ ",
            "TINTYPE_ENDPOINT": self.url,
            "NO_PROXY": "127.0.0.1",
        }
        command = ("tmux", "-S", str(self.folder / "tmux"), *words)
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DemoError(f"tmux {words[0]}: {done.stderr.strip()}")
        return done.stdout


@dataclass
class Best:
    """The best of what was seen."""

    rate: Callable[[str], float]
    """How good a text is; nothing that is rated 0 is kept."""
    seen: Text | None = None
    rating: float = 0.0

    def consider(self, text: Text) -> None:
        """Keep it if it is better than what there is."""
        rating = self.rate(text.plain)
        if rating > self.rating:
            self.seen, self.rating = text, rating


class Pictures:
    """One run: what it starts, and has to clear away."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        """Find tmux and the command `tintype`. Raises DemoError."""
        self._program = Path(sys.executable).parent / "tintype"
        if not self._program.exists():
            raise DemoError("tintype is not installed here: pip install .")
        if shutil.which("tmux") is None:
            raise DemoError("tmux is not installed: apt-get install tmux")
        host = os.environ.get("DOCKER_HOST") or Engine(layout).host()
        self._docker = Docker(host, LABEL, str(layout.root), Screen())
        self._folder = folder
        self._service: Daemon | None = None
        self._terminal: Terminal | None = None

    def take(self) -> dict[str, Text]:
        """Return the pictures by name. Raises DemoError or StackError."""
        self._start_containers()
        url = self._start_service()
        path = f"{self._program.parent}:{os.environ['PATH']}"
        terminal = self._terminal = Terminal(self._folder, path, url)
        terminal.open("watch")
        terminal.open("commit")
        terminal.enter("watch", WATCH)
        for name in SIZES.keys() - {"web"}:
            output((str(self._program), "--endpoint", url, "commit", name, f"alpha/{name}:v1"), {})
        terminal.enter("commit", COMMIT)
        return self._follow(terminal)

    def clear(self) -> None:
        """End and remove all of it."""
        if self._terminal is not None:
            self._terminal.close()
        if self._service is not None:
            self._service.stop()
        self._remove_all()

    def _follow(self, terminal: Terminal) -> dict[str, Text]:
        """Look at both windows until all snapshots have ended."""
        watch, commit = Best(_rate_watch), Best(_rate_commit)

        def ended() -> Text | None:
            now = terminal.look("commit")
            commit.consider(now)
            watch.consider(seen := terminal.look("watch"))
            over = now.plain.endswith("\n$") and "no snapshot in hand" in seen.plain
            return now if over else None

        result = _until(ended, "the snapshots")
        if "active" not in result.plain or watch.seen is None or commit.seen is None:
            raise DemoError(f"no good picture was to be had, the last was\n{result.plain}")
        return {"commit-wait": commit.seen, "commit-end": result, "snapshot-watch": watch.seen}

    def _start_containers(self) -> None:
        self._remove_all()
        host = self._docker.host
        image = images.ensure_busybox(host)
        labels = {LABEL: self._docker.value}
        for name, size in SIZES.items():
            images.run_container(host, image, ["sh", "-c", SCRIPT.format(size)], name, labels)
        for name in SIZES:
            _until(partial(self._docker.read, name, "/home/ready"), f"{name}'s data")

    def _remove_all(self) -> None:
        """Remove the containers, and what a run that was killed left of their snapshots."""
        for name in SIZES:
            self._docker.remove("container", name)
        for tag in self._docker.tags("tintype-capture/*"):
            self._docker.remove("image", tag)

    def _start_service(self) -> str:
        """Start `tintype serve` on a free port and return its address."""
        layout = Layout(self._folder)  # its log and pid; the state is beside them
        state = str(self._folder / "state")
        words = (str(self._program), "serve", "--state-dir", state, "--listen", "127.0.0.1:0")
        env = {"DOCKER_HOST": self._docker.host}

        def address() -> str:
            said = re.search(r"serves http://(\S+?),", layout.log("serve").read_text())
            return said[1] if said else ""

        self._service = Daemon(layout, "serve", words, lambda: _healthy(address()), env)
        self._service.start()
        return f"http://{address()}"


def _rate_commit(text: str) -> float:
    """Prefer a bar that is a good way along, and says how fast."""
    (share,) = _shares(text) or [0]
    return share * (2 if "/s" in text else 1) if 20 < share < 80 else 0.0


def _rate_watch(text: str) -> float:
    """Prefer many bars on their way, then one that has arrived beside them, then longer ones."""
    shares = _shares(text)
    moving = {share for share in shares if 10 < share < 95}
    return len(moving) + 0.5 * (100 in shares) + sum(moving) / 1000 if moving else 0.0


def _shares(text: str) -> list[int]:
    """Return the percents in a text."""
    return [int(share) for share in re.findall(r"(\d+)%", text)]


def draw(picture: Text, name: str) -> str:
    """Return a picture as SVG: the same one for the same text, in a font that the reader has."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(picture, end="\n\n", no_wrap=True, overflow="crop", highlight=False)
    svg = console.export_svg(title="", unique_id=name)
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    return svg.replace("Fira Code, monospace", "monospace")


def _healthy(address: str) -> bool:
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", "/healthcheck")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _until(look: Callable[[], Any], what: str) -> Any:
    """Look again and again until there is something, and return it."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        if time.monotonic() > deadline:
            raise DemoError(f"waited {PATIENCE:.0f} s for {what}")
        time.sleep(0.1)
    return found


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Make the pictures and name them."""
    parser = argparse.ArgumentParser(prog="tools/pictures.py", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=PICTURES)
    folder = parser.parse_args(arguments).folder
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="pictures") as scratch:
            pictures = Pictures(Path(scratch), Layout.find())
            try:
                taken = pictures.take()
            finally:
                pictures.clear()
    except (DemoError, StackError) as error:
        print(f"pictures: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in taken.items():
        path = folder / f"{name}.svg"
        path.write_text(draw(picture, name), encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
