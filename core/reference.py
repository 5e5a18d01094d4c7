"""Names of images in registries, read as Docker reads them.

The grammar and its exceptions are those of github.com/distribution/reference: a first part with a
dot, a colon or a capital letter in it, or `localhost`, is a registry; everything else lies on
Docker Hub, there under `library/` where a name has but one part.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DOCKER_HUB = "docker.io"
"""What a name on Docker Hub begins with when it is written in full."""
LEGACY_HUB = "index.docker.io"
"""What it once began with, and is still read as the same."""
PATH_LIMIT = 255
"""Longest path of a repository, in characters."""

_OFFICIAL = "library/"
_LABEL = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_REFERENCE = re.compile(rf"({_DOMAIN})/({_PATH})(?::({_TAG}))?(?:@({_DIGEST}))?")
_WHOLE_DOMAIN = re.compile(_DOMAIN)
_WHOLE_TAG = re.compile(_TAG)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
_HEX_DIGITS = {"sha256": 64, "sha384": 96, "sha512": 128}


@dataclass(frozen=True, slots=True)
class Reference:
    """A repository and, where the text had them, tag and digest in it."""

    domain: str
    """Host and port of the registry, `docker.io` for Docker Hub."""
    path: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read what people write after `docker pull`.

        Raises ValueError, which says what is wrong but does not repeat the text.
        """
        if _IDENTIFIER.fullmatch(text):
            raise ValueError("64 hexadecimal digits are an image id and no name")
        domain, rest = _split(text)
        path = rest.partition(":")[0]
        if path.lower() != path:
            raise ValueError("the name of a repository must be lowercase")
        match = _REFERENCE.fullmatch(f"{domain}/{rest}")
        if match is None:
            raise ValueError("this is not the name of an image")
        if len(match[2]) > PATH_LIMIT:
            raise ValueError(f"the name of a repository has at most {PATH_LIMIT} characters")
        if match[4] and not is_digest(match[4]):
            raise ValueError("the digest is of no known kind or has the wrong length")
        return cls(match[1], match[2], match[3], match[4])

    @property
    def repository(self) -> str:
        """Registry and path, written in full."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar(self) -> str:
        """The repository as Docker shows it: without what goes without saying on Docker Hub."""
        if self.domain != DOCKER_HUB:
            return self.repository
        name = self.path.removeprefix(_OFFICIAL)
        return self.path if "/" in name else name

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return self.repository + tag + (f"@{self.digest}" if self.digest else "")


def is_tag(text: str) -> bool:
    """Whether the text can be a tag."""
    return _WHOLE_TAG.fullmatch(text) is not None


def is_domain(text: str) -> bool:
    """Whether the text can be a registry's host, with or without a port."""
    return _WHOLE_DOMAIN.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Whether the text is a digest of a kind that registries use (go-digest's rule)."""
    algorithm, _, digits = text.partition(":")
    return len(digits) == _HEX_DIGITS.get(algorithm) and bool(re.fullmatch("[a-f0-9]+", digits))


def _split(text: str) -> tuple[str, str]:
    """Return the registry and what follows it."""
    domain, slash, rest = text.partition("/")
    if not slash:
        return DOCKER_HUB, _OFFICIAL + text
    if domain == LEGACY_HUB:
        domain = DOCKER_HUB
    elif domain != "localhost" and not re.search("[.:]", domain) and domain.lower() == domain:
        domain, rest = DOCKER_HUB, text
    if domain == DOCKER_HUB and "/" not in rest:
        rest = _OFFICIAL + rest
    return domain, rest
