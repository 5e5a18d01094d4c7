"""The moments at which tests kill a real listener."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

OFTEN = 4
"""Every so many moments are tried each time, and the others in the soak: each takes ten seconds.
All are tried on the twins each time, too (tests/unit/test_runner.py, test_restore.py)."""


def points(writes: Sequence[int]) -> list[Any]:
    """Return the journal writes at which to kill, as parameters of a test."""
    marks = ([] if number % OFTEN == 0 else [pytest.mark.soak] for number in range(len(writes)))
    return [pytest.param(write, marks=mark) for write, mark in zip(writes, marks, strict=True)]
