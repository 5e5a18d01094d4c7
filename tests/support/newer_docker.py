"""Newer Docker Engines than this machine's: they save images in the OCI layout.

One keeps images as the machine's does, the other in containerd's store. Their programs are those of
the stack (`TINTYPE_TEST_NEWER_ENGINE`).
"""

from __future__ import annotations

import gc
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.dockerd import Dockerd


@contextmanager
def newer_dockerd(features: dict[str, bool]) -> Iterator[Dockerd]:
    """Run a newer engine with these features, as `daemon.json` names them."""
    programs = os.environ.get("TINTYPE_TEST_NEWER_ENGINE")
    if not programs:
        pytest.fail("no newer Docker Engine: run tools/stack.py up newer-engine")
    with tempfile.TemporaryDirectory(prefix="tt", dir="/tmp") as folder:
        config = Path(folder) / "daemon.json"
        config.write_text(json.dumps({"features": features}))
        home = Path(folder) / "d"  # short: sockets lie in it
        home.mkdir()
        dockerd = Dockerd(home, f"--config-file={config}", programs=programs)
        dockerd.start()
        gc.collect()  # the SDK drops the sockets of a daemon that does not answer yet
        try:
            yield dockerd
        finally:
            dockerd.stop()


@pytest.fixture(scope="session")
def newer_engine_url() -> Iterator[str]:
    """Address of a newer engine that keeps images in its own store."""
    with newer_dockerd({}) as dockerd:
        yield dockerd.url


@pytest.fixture(scope="session")
def containerd_engine_url() -> Iterator[str]:
    """Address of a newer engine that keeps images in containerd's store."""
    with newer_dockerd({"containerd-snapshotter": True}) as dockerd:
        yield dockerd.url
