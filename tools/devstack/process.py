"""Daemons: started in the background, known again by more than a pid, stopped for sure."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from devstack.layout import Layout, StackError, read_json, write_json

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TAIL_LINES = 25
ROTATE_BYTES = 20 * 1024 * 1024


@dataclass(frozen=True)
class Daemon:
    """One background process of the stack and how to tell that it serves."""

    layout: Layout
    name: str
    argv: tuple[str, ...]
    ready: Callable[[], bool]
    #: The whole environment but PATH and LANG: nothing leaks in from the caller's shell.
    env: Mapping[str, str] = field(default_factory=dict)
    start_timeout: float = 60.0
    stop_timeout: float = 30.0

    def pid(self) -> int | None:
        """Return the pid if our process lives; a reused pid or one before a reboot is not ours."""
        record = read_json(self.layout.pid_file(self.name))
        pid = record.pop("pid", None)
        return pid if isinstance(pid, int) and record and record == _identity(pid) else None

    def start(self) -> None:
        """Start the process unless it runs, and wait until it serves.

        Raises StackError, with the end of the log in it, when it dies or takes too long; a
        process that took too long is stopped, so that the next start begins afresh.
        """
        log = self.layout.log(self.name)
        begin = log.stat().st_size if log.exists() else 0
        pid = self.pid()
        if pid is None:
            if begin > ROTATE_BYTES:
                log.replace(log.with_suffix(".log.1"))
                begin = 0
            pid = self._spawn(log)
        deadline = time.monotonic() + self.start_timeout
        while not self.ready() or self.pid() != pid:
            if self.pid() != pid:
                raise StackError(f"{self.name} ended while starting\n{_tail(log, begin)}")
            if time.monotonic() > deadline:
                self.stop()
                raise StackError(
                    f"{self.name} did not serve within {self.start_timeout:.0f} s\n"
                    f"{_tail(log, begin)}"
                )
            time.sleep(0.1)

    def stop(self) -> None:
        """Ask the process to end, insist after the timeout; do nothing when it does not run."""
        self._signal(signal.SIGTERM, self.stop_timeout)
        self.kill()

    def kill(self) -> None:
        """End the process and its process group at once, as a crash would."""
        self._signal(signal.SIGKILL, 10.0)

    def _signal(self, number: signal.Signals, patience: float) -> None:
        pid = self.pid()
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number is signal.SIGKILL:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)
        deadline = time.monotonic() + patience
        while self.pid() == pid and time.monotonic() < deadline:
            time.sleep(0.05)
        if self.pid() is None:
            self.layout.pid_file(self.name).unlink(missing_ok=True)
        elif number is signal.SIGKILL:
            raise StackError(f"{self.name} (pid {pid}) does not end")

    def _spawn(self, log: Path) -> int:
        program = find(self.argv[0])
        if program is None:
            raise StackError(f"{self.argv[0]} is not installed")
        # Not subprocess: its object would want to be waited for, and this process is left alone.
        pid = os.posix_spawn(
            program,
            self.argv,
            {"PATH": SEARCH_PATH, "LANG": "C.UTF-8", **self.env},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        write_json(self.layout.pid_file(self.name), {"pid": pid, **_identity(pid)})
        return pid


def find(program: str) -> str | None:
    """Return the path of an installed program, also from /sbin, and never the caller's own."""
    return shutil.which(program, path=SEARCH_PATH)


def command_line(pid: int) -> list[str]:
    """Return the arguments of a process, empty when it is gone or a kernel thread."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return os.fsdecode(raw).rstrip("\0").split("\0") if raw else []


def all_pids() -> list[int]:
    """Return the pids of all processes."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def parent(pid: int) -> int | None:
    """Return the pid of a process's parent, None when the process is gone."""
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third (the state) on, empty when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def boot_id() -> str:
    """Return the kernel's name for the time since the last boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _identity(pid: int) -> dict[str, str]:
    """Return what no other process ever has: the start time in ticks, and the boot it counts from.

    Empty for a process that is gone, or dead and only waiting for its parent.
    """
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # if it was our own child, let it go
    fields = _stat(pid)
    if not fields or fields[0] in "ZX":
        return {}
    return {"started": fields[19], "boot": boot_id()}


def _tail(log: Path, begin: int) -> str:
    with log.open("rb") as handle:
        handle.seek(begin)
        text = handle.read().decode("utf-8", "replace")
    lines = text.splitlines()[-TAIL_LINES:]
    return "\n".join([f"  end of {log}:", *(f"  | {line}" for line in lines)])
