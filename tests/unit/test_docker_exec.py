"""What a command writes is taken by the clock, and little of it is kept."""

from __future__ import annotations

import time
from queue import SimpleQueue

from tintype.adapters.docker_exec import OUTPUT_LIMIT, _gather, _Output
from tintype.core.errors import TintypeError

Frames = SimpleQueue[tuple[int, bytes] | TintypeError | None]


def queued(*frames: tuple[int, bytes] | None) -> Frames:
    """Return what has come from the engine."""
    queue: Frames = SimpleQueue()
    for frame in frames:
        queue.put(frame)
    return queue


def test_a_command_that_never_stops_writing_has_its_time_and_no_more() -> None:
    frames = queued(*[(1, b"x")] * 1000)
    assert not _gather(frames, _Output(), time.monotonic())
    assert frames.qsize() == 1000


def test_output_that_has_ended_in_time_is_all_of_it() -> None:
    output = _Output()
    assert _gather(
        queued((1, b"7"), (1, b"7\nout"), (2, b"err"), None), output, time.monotonic() + 99
    )
    assert (output.pid, output.text) == (77, "outerr")


def test_a_first_line_that_never_ends_is_not_kept() -> None:
    output = _Output()
    for _ in range(100):
        output.add(1, b"x" * 1000)
    assert output.pid is None
    assert output.kept == b"x" * OUTPUT_LIMIT
    assert len(output._head) <= 20


def test_what_stands_in_the_place_of_a_pid_is_kept_once() -> None:
    output = _Output()
    for data in (b"OCI runtime", b" exec failed\n", b"and more\n"):
        output.add(1, data)
    assert (output.pid, output.text) == (None, "OCI runtime exec failed\nand more\n")
