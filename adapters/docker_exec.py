"""Running a command in a container of a Docker Engine, for so long and no longer."""

from __future__ import annotations

import logging
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import requests

from tintype.adapters.docker_client import LazyClient, open_stream
from tintype.adapters.docker_errors import translated
from tintype.core.engine import Execution
from tintype.core.errors import Refused, TintypeError

OUTPUT_LIMIT = 4096
"""Bytes kept of what a command writes."""
KILL_SECONDS = 5.0
"""How long it may take to end a command whose time is over, and to learn an exit code."""

# Only from within can a pid in the container's own namespace be learnt; the engine tells the
# host's. A process that the engine starts leads a group of its own (runc's `setsid`).
_TELL_PID = 'echo $$; exec /bin/sh -c "$1"'
_FRAME = struct.Struct(">BxxxL")  # stream, size: the engine's format for output without a terminal
_STDOUT = 1
_PID_CHARS = 20
"""Longest line that can be a pid."""

_log = logging.getLogger(__name__)

_Frames = SimpleQueue[tuple[int, bytes] | TintypeError | None]
"""What comes from the engine: output of a stream; the end; or why there is no more."""


@dataclass(slots=True)
class _Output:
    """What a command has written so far."""

    pid: int | None = None
    """Of its shell, in the container; None: it has not started."""
    kept: bytes = b""
    _head: bytes = b""
    _begun: bool = False
    """Whether the first line has come: the pid, or what stands in its place."""

    def add(self, stream: int, data: bytes) -> None:
        if stream == _STDOUT and not self._begun:
            data = self._without_pid(data)
        self.kept += data[: OUTPUT_LIMIT - len(self.kept)]

    def _without_pid(self, data: bytes) -> bytes:
        head = self._head + data
        line, end, rest = head.partition(b"\n")
        self._begun = bool(end) or len(head) > _PID_CHARS
        if not self._begun:
            self._head = head
            return b""
        if end and len(line) <= _PID_CHARS and line.isdigit():
            self.pid = int(line)
            return rest
        return head

    @property
    def text(self) -> str:
        return self.kept.decode(errors="replace")


def execute(calls: LazyClient, engine_id: str, command: str, seconds: float) -> Execution:
    """Run a command by the container's `/bin/sh -c`, as the container's user; see the port.

    One that takes too long is killed, with what it has started, unless that made itself the leader
    of another group. A command that left a process behind which holds its output is waited for
    until the time is over, and has its exit code then.
    """
    deadline = time.monotonic() + seconds
    exec_id = _create(calls, engine_id, _TELL_PID, command)
    frames: _Frames = SimpleQueue()
    over = threading.Event()
    patience = seconds + 2 * KILL_SECONDS
    # Not this thread: a read of the SDK's has a time limit of its own, which each byte renews.
    reader = (calls, exec_id, patience, frames, over)
    threading.Thread(target=_read, args=reader, name="exec", daemon=True).start()
    output = _Output()
    try:
        if _gather(frames, output, deadline) or _exit_code(calls, exec_id, 0) is not None:
            return _ended(calls, exec_id, output)
        _kill(calls, engine_id, output.pid)
        _gather(frames, output, time.monotonic() + KILL_SECONDS)
        return Execution(None, output.text, timed_out=True)
    finally:
        over.set()


def _create(calls: LazyClient, engine_id: str, script: str, *arguments: str) -> str:
    with translated():
        made = calls.get().exec_create(engine_id, ["/bin/sh", "-c", script, "sh", *arguments])
    return str(made["Id"])


def _read(
    calls: LazyClient, exec_id: str, patience: float, frames: _Frames, over: threading.Event
) -> None:
    """Start the command and hand on what it writes, until it ends or nobody listens any more."""
    path, how = f"/exec/{exec_id}/start", {"Detach": False, "Tty": False}
    try:
        with open_stream(calls, path, patience, method="POST", json=how) as response, translated():
            for frame in _frames(response):
                if over.is_set():
                    return
                frames.put(frame)
        frames.put(None)
    except TintypeError as error:
        frames.put(error)


def _frames(response: requests.Response) -> Iterator[tuple[int, bytes]]:
    while len(header := response.raw.read(_FRAME.size)) == _FRAME.size:
        stream, size = _FRAME.unpack(header)
        yield stream, response.raw.read(size)


def _gather(frames: _Frames, output: _Output, deadline: float) -> bool:
    """Take what the command writes; False when it has not ended by the deadline."""
    # By the clock, and not until nothing comes: a command may write faster than this reads.
    while (left := deadline - time.monotonic()) > 0:
        try:
            frame = frames.get(timeout=left)
        except Empty:
            return False
        if frame is None:
            return True
        if isinstance(frame, TintypeError):
            raise frame
        output.add(*frame)
    return False


def _ended(calls: LazyClient, exec_id: str, output: _Output) -> Execution:
    code = _exit_code(calls, exec_id, KILL_SECONDS)
    if output.pid is None:
        # The engine writes why into the stream, with an exit code of its own making.
        raise Refused(
            f"the container has no /bin/sh that could run a command: {output.text.strip()}"
        )
    return Execution(code, output.text)


def _exit_code(calls: LazyClient, exec_id: str, seconds: float) -> int | None:
    """Return the exit code, for which the engine may need a moment after the output has ended."""
    give_up = time.monotonic() + seconds
    while True:
        with translated():
            state = calls.get().exec_inspect(exec_id)
        if not state["Running"]:
            code: int | None = state["ExitCode"]
            return code
        if time.monotonic() >= give_up:
            return None
        time.sleep(0.02)


def _kill(calls: LazyClient, engine_id: str, pid: int | None) -> None:
    """End a command by a second one; what goes wrong is only logged, its time is over anyway."""
    if pid is None:
        _log.warning("a command in %s did not even start in its time", engine_id[:12])
        return
    try:
        exec_id = _create(calls, engine_id, f"kill -s KILL -- -{pid}")
        with translated():
            calls.get().exec_start(exec_id, detach=True)
    except TintypeError as error:
        _log.warning("a command in %s may go on: %s", engine_id[:12], error)
