"""A registry in memory, as far as the core sees one: a store with repositories."""

from __future__ import annotations

from tintype.adapters.memory_store import MemoryStore
from tintype.core.errors import Invalid


class MemoryRegistry(MemoryStore):
    """A store with repositories, all of them under `prefix`; without a prefix each is to be said.

    Images in all repositories are found in any of them.
    """

    def __init__(self, name: str = "registry", prefix: str | None = "prefix") -> None:
        super().__init__(name, visibilities=frozenset({"private"}))
        self.prefix = prefix
        self.seen_at: list[str | None] = []

    def repository_for(self, image_name: str, wanted: str | None) -> str:  # type: ignore[override]
        if wanted == "no/../repository":
            raise Invalid.at("/repository", "a repository", repr(wanted))
        if wanted is None and self.prefix is None:
            raise Invalid.at("/repository", "a repository, for there is no prefix", "nothing")
        return wanted or f"{self.prefix}/{image_name}"

    def at(self, repository: str | None) -> MemoryRegistry:
        self.seen_at.append(repository)
        return self
