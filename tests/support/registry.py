"""Fixtures for the real registries of the development stack (`tools/stack.py`).

A test that needs them fails where they are not: one that is skipped says nothing.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.archives import classic, layer
from tintype.adapters.registry import RegistryStore
from tintype.adapters.registry_access import Place, RegistryAccess
from tintype.core.archive import ArchiveStream, ArchiveSummary
from tintype.core.images import ImageSpec


@dataclass
class RealRegistry:
    """One registry of the stack, and a part of it that no other test uses."""

    access: RegistryAccess
    _stores: list[RegistryStore] = field(default_factory=list)

    @property
    def domain(self) -> str:
        """Its host and port."""
        assert self.access.home is not None
        return self.access.home.domain

    def store(self, **changes: Any) -> RegistryStore:
        """Return a store, with some of the operator's words changed; closed in the end."""
        store = RegistryStore(replace(self.access, **changes))
        self._stores.append(store)
        return store

    def close(self) -> None:
        """Close the stores."""
        for store in self._stores:
            store.close()


def plain_registry() -> RealRegistry:
    """Return the one that speaks plain HTTP and lets everybody in."""
    return RealRegistry(RegistryAccess(home=_place(_variable("REGISTRY"))))


def secure_registry() -> RealRegistry:
    """Return the one with TLS and a password."""
    return RealRegistry(
        RegistryAccess(
            home=_place(_variable("SECURE_REGISTRY")),
            username=_variable("SECURE_REGISTRY_USER"),
            password=_variable("SECURE_REGISTRY_PASSWORD"),
            cafile=_variable("SECURE_REGISTRY_CAFILE"),
        )
    )


@pytest.fixture
def registry() -> Iterator[RealRegistry]:
    """The plain registry."""
    found = plain_registry()
    yield found
    found.close()


@pytest.fixture
def locked_registry() -> Iterator[RealRegistry]:
    """The registry with TLS and a password."""
    found = secure_registry()
    yield found
    found.close()


def spec(**changes: Any) -> ImageSpec:
    """Return a new image."""
    return replace(ImageSpec(str(uuid.uuid4()), "web", "v1", "alpha"), **changes)


def named(data: bytes, name: str = "web:v1") -> tuple[bytes, ArchiveSummary]:
    """Return an archive as it would be sent, and what its sender knows of it."""
    stream = ArchiveStream([data], name)
    return b"".join(stream), stream.summary


def small_archive(*contents: bytes) -> tuple[bytes, ArchiveSummary]:
    """Return an archive with a layer for each of the contents."""
    return named(classic([layer({"content": each}) for each in contents]).to_bytes())


def pieces(data: bytes, size: int = 100_000) -> Iterable[bytes]:
    """Return data in pieces, as an iterator that can be used once."""
    return iter([data[start : start + size] for start in range(0, len(data), size)])


def _place(domain: str) -> Place:
    return Place(domain, f"test-{uuid.uuid4().hex[:12]}")


def _variable(name: str) -> str:
    value = os.environ.get(f"TINTYPE_TEST_{name}")
    if not value:
        pytest.fail(f"TINTYPE_TEST_{name} is not set: tools/stack.py up; eval its `env`")
    return value
