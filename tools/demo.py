#!/usr/bin/env python3
"""The demo: snapshot a running container, restore it, compare. `make demo` installs and runs it."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import http.client
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn

import images
from demo_docker import DemoError, Docker, output, short
from demo_screen import Events, Screen
from devstack import manager
from devstack.engine import SYSTEM_ENGINE, Engine
from devstack.layout import Layout, StackError, make_folder
from devstack.process import Daemon

CONTAINER, RESTORED = "tintype-demo", "tintype-demo-restored"
BASE, IMAGE = "tintype-demo/busybox:latest", "demo-snapshot:v1"
LABEL = "tintype.demo"
"""Label of all that the demo makes, and a snapshot inherits; its value is the stack's folder."""

WORD, TICKS = "/home/word", "/home/ticks"
SCRIPT = f"""
dd if=/dev/urandom of=/home/data bs=1M count=48 2> /dev/null
n=$(($(od -An -N2 -tu2 /dev/urandom)))
set -- amber birch copper delta ember flint garnet heather
shift $((n % 8)); echo $1-$n > /home/new; mv /home/new {WORD}
t=0; while true; do t=$((t + 1)); echo $t > /home/new; mv /home/new {TICKS}; usleep 100000; done
"""
"""What the container does: 48 MiB of data, a word that nobody else knows, then a tick for ever."""

PATIENCE = 60.0
"""Seconds for anything that takes a moment."""

NEXT = """\
  {0} serve --state-dir DIR              one process: no broker, no OpenStack
  {0} commit CONTAINER NAME:TAG --wait   a snapshot of a container of your own
  {0} restore NAME:TAG --wait            and a container of it again
  {0}-listener --config-file FILE        requests off RabbitMQ; FILE has [bus] url = ...
  README.md and docs/                                  all the rest"""


class Demo:
    """One run: what it made, and what it has to clear away."""

    def __init__(self, layout: Layout, screen: Screen) -> None:
        """Find the command `tintype` beside this Python. Raises DemoError."""
        program = Path(sys.executable).parent / "tintype"
        if not program.exists():
            raise DemoError("tintype is not installed here: use `make demo`")
        self.program = short(program)
        self.state = layout.root / "demo"
        self._layout = layout
        self._screen = screen
        self._docker: Docker | None = None
        self._url = ""
        self._container_id = ""

    def run(self) -> None:
        """Tell the whole story. Raises DemoError or StackError where it goes wrong."""
        step = self._screen.step
        step("A Docker Engine: the one that answers here, else one is installed and started")
        docker = self._find_engine()
        step("A container that writes down a word which only it knows, and goes on working")
        word = self._start_container(docker)
        step("Tintype: bus, journal, worker, image store and HTTP in one process")
        self._start_service(docker)
        step("The snapshot, and the events it puts on the bus")
        ticks = int(docker.read(CONTAINER, TICKS))
        end = self._snapshot()
        step("The restore: the snapshot becomes a container again")
        self._restore(end["snapshot_id"])
        step("Compare")
        self._compare(word, docker.read(RESTORED, WORD))
        self._check_rest(docker, ticks, end["paused_ms"])

    def stop(self) -> None:
        """Stop the service, also that of a demo that was killed."""
        self._service(()).stop()

    def clear(self) -> None:
        """Stop the service and remove what this demo, or one that was killed, made."""
        self.stop()
        if self._docker is not None:
            self._docker.remove("container", RESTORED)
            self._docker.remove("container", CONTAINER)
            for tag in self._docker.tags("tintype-restore/*"):
                self._docker.remove("image", tag)

    def forget(self) -> None:
        """Remove what only the next demo could use: base image, journal, archives, log."""
        if self._docker is not None:
            self._docker.remove("image", BASE)
        shutil.rmtree(self.state)
        self._layout.log("demo").unlink()

    def _find_engine(self) -> Docker:
        manager.up(self._layout, [Engine.name])
        host = Engine(self._layout).host()
        if host != SYSTEM_ENGINE:
            self._screen.command("export", f"DOCKER_HOST={host}")
        self._docker = Docker(host, LABEL, str(self._layout.root), self._screen)
        self.clear()
        return self._docker

    def _start_container(self, docker: Docker) -> str:
        if not docker.has("image", BASE):
            label = f'LABEL {LABEL}="{docker.value}"'
            images.import_image(docker.host, BASE, images.busybox_tar(), [label])
        self._container_id = images.run_container(
            docker.host, BASE, ["sh", "-c", SCRIPT], CONTAINER
        )
        _until(lambda: docker.read(CONTAINER, TICKS), "the container to write its files")
        word = docker.read(CONTAINER, WORD)
        self._screen.say(f"{CONTAINER} wrote {word!r} to {WORD}, and 48 MiB of other data")
        return word

    def _start_service(self, docker: Docker) -> None:
        log = self._layout.log("demo")
        log.unlink(missing_ok=True)
        words = ("serve", "--state-dir", short(self.state), "--listen", "127.0.0.1:0")

        def ready() -> bool:
            said = re.search(r"serves http://(\S+?),", log.read_text(encoding="utf-8"))
            self._url = f"http://{said[1]}" if said else ""
            return said is not None and _healthy(said[1])

        self._screen.command(self.program, *words)
        self._service(words, docker.host, ready).start()
        self._screen.say(f"serves {self._url}")

    def _service(
        self, words: tuple[str, ...], host: str = "", ready: Callable[[], bool] = bool
    ) -> Daemon:
        """Return the service; it is known by its pid, also to the next run of the demo."""
        argv = (self.program, *words)
        return Daemon(self._layout, "demo", argv, ready, {"DOCKER_HOST": host})

    def _snapshot(self) -> Mapping[str, Any]:
        """Snapshot the container and return what the event of the end says."""
        return self._command(
            ("commit", CONTAINER, IMAGE, "--wait"), self._is_of_snapshot, "image.snapshot.end"
        )

    def _restore(self, snapshot_id: str) -> None:
        """Make a container of the snapshot: one that does nothing, or it would begin anew."""
        doing_nothing = ("--command", "sleep 1000", "--network", "none")
        self._command(
            ("restore", snapshot_id, "--name", RESTORED, *doing_nothing, "--wait"),
            lambda event: event["type"].startswith("container.restore."),
            "container.restore.end",
        )

    def _command(
        self, words: tuple[str, ...], is_ours: Callable[[Mapping[str, Any]], bool], last: str
    ) -> Mapping[str, Any]:
        """Run a command of Tintype's, showing events; return the payload of its last one."""
        call = (self.program, "--endpoint", self._url, *words)
        self._screen.command(*call)
        events = Events(self._layout.log("demo"), self._screen, is_ours)
        try:
            table = output(call, {"NO_PROXY": "127.0.0.1"})
            end = _until(lambda: events.find(last), f"the event {last}")
        finally:
            events.stop()
        self._screen.say(table)
        payload: Mapping[str, Any] = end["payload"]
        return payload

    def _is_of_snapshot(self, event: Mapping[str, Any]) -> bool:
        known = event["payload"].get("engine_container_id")
        return bool(known == self._container_id) or event["type"] == "container.commit.request"

    def _compare(self, word: str, found: str) -> None:
        self._screen.say(f"in the running container:   {word}")
        self._screen.say(f"in the restored container:  {found}")
        if found != word:
            raise DemoError("the restored container does not hold what the running one wrote")
        self._screen.good("They are the same.")

    def _check_rest(self, docker: Docker, ticks: int, paused_ms: int) -> None:
        """Look that the container works on and the host is clean."""
        status = docker.status(CONTAINER)
        if status != "running":
            raise DemoError(f"{CONTAINER} is {status} now")
        now = ticks + _until(
            lambda: int(docker.read(CONTAINER, TICKS)) - ticks, f"{CONTAINER} to work on"
        )
        self._screen.good(
            f"{CONTAINER} works on: tick {now} now, {ticks} before;"
            f" it was paused for {paused_ms} ms."
        )
        # What a killed demo left is removed by the service meanwhile.
        _until(lambda: not docker.tags("tintype-capture/*"), "temporary tags to be removed")
        self._screen.good("No temporary tag is left on the engine.")


def _healthy(address: str) -> bool:
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", "/healthcheck")
        return connection.getresponse().status == HTTPStatus.OK
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
        time.sleep(0.05)
    return found


@contextlib.contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    with (make_folder(layout.root) / "demo.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DemoError("another demo of this checkout is running") from error
        yield


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; 0 only when everything was as it should be."""
    parser = argparse.ArgumentParser(prog="tools/demo.py", description=__doc__)
    parser.add_argument(
        "--keep", action="store_true", help="leave containers and images to look at"
    )
    keep = parser.parse_args(arguments).keep
    signal.signal(signal.SIGTERM, _interrupt)
    layout, began = Layout.find(), time.monotonic()
    try:
        with _alone(layout):
            demo = Demo(layout, Screen())
            try:
                demo.run()
            finally:
                demo.stop() if keep else demo.clear()
            if not keep:
                demo.forget()
    except (DemoError, StackError) as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        if layout.log("demo").exists():
            print(f"demo: the service's log: {layout.log('demo')}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"\nAll of it in {time.monotonic() - began:.0f} s. Next:")
    print(NEXT.format(demo.program))
    return 0


if __name__ == "__main__":
    sys.exit(main())
