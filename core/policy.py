"""What an operator allows and forbids: the same for every request on this host."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LOOKS_SECRET = re.compile(
    r"pass(word|wd|phrase)?|secret|token|credential|api_?key|access_?key|private_?key|auth",
    re.IGNORECASE,
)
"""What in an environment variable's name makes a preflight point at it. Nothing is taken out for
it: that is done for names a request gives, and for those that `secret_env` matches."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits and permissions."""

    soft_limit_bytes: int | None = None
    """Size above which a snapshot is warned of."""
    hard_limit_bytes: int | None = None
    """Size above which a snapshot is refused (413) before any work is done."""
    max_layers: int = 120
    """An image that would have more layers is squashed; engines stop at 125."""
    max_pause_ms: int | None = None
    """How long a container may be frozen whose request does not say; None: without limit."""
    keep_overrun: bool = False
    """Keep what was captured of a container that ran again in the middle, with a warning."""
    secret_env: Sequence[re.Pattern[str]] = ()
    """Environment variables whose whole name one of these matches are taken out of every image."""
    hooks: bool = False
    """Whether commands that a container's labels name are run in it."""
    hook_seconds: float = 30.0
    """How long one of them may take."""
    bind_folders: Sequence[str] = ()
    """Folders of the host which a restored container may be given; what is below them too, if an
    administrator asks."""
    janitor: bool = True
    """Whether images are removed when they expire."""

    @property
    def has_limits(self) -> bool:
        """Whether snapshots have to be measured before they are made."""
        return (self.soft_limit_bytes, self.hard_limit_bytes) != (None, None)

    def scrubbed(self, names: Iterable[str], unset: Iterable[str]) -> tuple[str, ...]:
        """Return which environment variables are to be taken out of an image, sorted.

        `names` are the container's; `unset` those that the request gives, whether the container has
        them or not: a build argument stands in the image's history alone.
        """
        return tuple(sorted({*unset, *filter(self.is_secret, names)}))

    def is_secret(self, name: str) -> bool:
        """Tell whether an environment variable of this name is never to be in an image."""
        return any(pattern.fullmatch(name) for pattern in self.secret_env)


def looks_secret(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of environment variables that may hold a secret, sorted."""
    return tuple(sorted(name for name in set(names) if LOOKS_SECRET.search(name)))
