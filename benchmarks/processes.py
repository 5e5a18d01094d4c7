"""Child processes: how much memory they took, and that they end with the measurement."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 30.0
"""How long a process gets to end after SIGTERM."""


class BenchError(Exception):
    """A measurement cannot be made; the message is for the person who asked for it."""


def heed_sigterm() -> None:
    """Let SIGTERM end a run as Ctrl-C does: with everything cleared away."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def turn_deaf() -> None:
    """Ignore Ctrl-C and SIGTERM from now on: what follows clears gigabytes away."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def child(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that does not outlive the block.

    It has a session of its own: Ctrl-C reaches us alone, and we end the children in order.
    """
    with subprocess.Popen(command, start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process: politely, then not."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def memory_mb(pid: int, field: str = "VmHWM") -> float:
    """Return a process's peak (VmHWM) or present (VmRSS) resident memory; 0 for one that is gone.

    Not `ru_maxrss`: after a vfork it begins with the parent's peak.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return round(int(found[0]) / 1024, 1) if found else 0.0


def wait_measuring(*processes: subprocess.Popen[bytes]) -> list[float]:
    """Wait for all to end well and return each one's peak memory, MB. Raises BenchError."""
    peaks = [0.0] * len(processes)
    running = True
    while running:
        running = any(process.poll() is None for process in processes)
        peaks = [max(p, memory_mb(c.pid)) for p, c in zip(peaks, processes, strict=True)]
        time.sleep(0.02)
    for process in processes:
        if process.returncode:
            program = Path(str(process.args[0])).name if isinstance(process.args, list) else "child"
            raise BenchError(f"{program} ended with exit code {process.returncode}")
    return peaks
