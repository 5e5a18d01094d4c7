"""Run the `tintype` command in this process, or in one of its own."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tintype.cli import main

NOISY = ("", "keystoneauth", "openstack", "stevedore")
"""Loggers that the command sets to its liking."""


class Ended:
    """What a command left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    def failed(self, *words: str) -> str:
        """Return the one line on stderr with which the command failed."""
        assert self.code == 1, self.out + self.err
        assert self.out == ""
        (line,) = self.err.splitlines()
        for word in words:
            assert word in line
        assert "Traceback" not in line
        return line

    def worked(self) -> str:
        """Return the output of a command that worked."""
        assert self.code == 0, self.err
        return self.out

    def shown(self) -> Any:
        """Return what a command that worked has shown as JSON."""
        return json.loads(self.worked())


Run = Callable[..., Ended]


def run_here(capsys: pytest.CaptureFixture[str], *arguments: object) -> Ended:
    """Run the command in this process."""
    loggers = [logging.getLogger(name) for name in NOISY]
    handlers, levels = list(loggers[0].handlers), [logger.level for logger in loggers]
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as end:  # argparse and cliff's help
        code = int(end.code or 0)
    finally:
        # cliff adds a handler for each command, bound to the stderr of the time.
        loggers[0].handlers[:] = handlers
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    return Ended(code, *capsys.readouterr())


def environment(**more: str) -> dict[str, str]:
    """Return the environment without anything that tells a command who asks, and whom."""
    kept = {name: value for name, value in os.environ.items() if not names_a_cloud(name)}
    return {**kept, **more}


def variables(auth: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of somebody who logs in so; the names are those in clouds.yaml."""
    return environment(**{f"OS_{name.upper()}": value for name, value in auth.items()})


def names_a_cloud(name: str) -> bool:
    """Tell whether a variable is one of those that credentials are read from."""
    return name.startswith("OS_") or name == "TINTYPE_ENDPOINT"


def start(
    *command: object, env: Mapping[str, str] | None = None, out: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """Start `tintype`, or with an absolute path another command, in a process of its own."""
    words = [str(word) for word in command]
    if not Path(words[0]).is_absolute():
        words = [sys.executable, "-m", "tintype", *words]
    process = subprocess.Popen(
        words,
        env=environment() if env is None else env,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
    )
    bound(process)
    return process


def bound(process: subprocess.Popen[Any], seconds: float = 120) -> None:
    """See to it that whoever reads what a process says comes to an end."""
    timer = threading.Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()


def ended(process: subprocess.Popen[str], seconds: float = 60) -> Ended:
    """Wait for a process."""
    out, err = process.communicate(timeout=seconds)
    return Ended(process.returncode, out or "", err)
