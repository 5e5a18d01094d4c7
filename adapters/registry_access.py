"""Which registries may be used, and how they are reached."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from tintype.core.errors import Invalid
from tintype.core.reference import DOCKER_HUB, LEGACY_HUB, Reference, is_domain

HUB_ADDRESS = "registry-1.docker.io"
"""Where Docker Hub's registry is; its name in references is no host of a registry."""


@dataclass(frozen=True, slots=True)
class Place:
    """A registry, or all repositories in it below a path."""

    domain: str
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read HOST[:PORT] or HOST[:PORT]/PATH. Raises ValueError."""
        domain, slash, path = text.partition("/")
        if slash:
            reference = Reference.parse(text)
            if reference.tag or reference.digest:
                raise ValueError("a tag or digest has no place here")
            # `docker.io/me` is where repositories of `me` begin, and not the image `library/me`.
            named = domain in (reference.domain, LEGACY_HUB)
            return cls(reference.domain, path if named else reference.path)
        if not is_domain(domain) or not (set(domain) & set(".:") or domain == "localhost"):
            raise ValueError("this is no registry's host")
        return cls(DOCKER_HUB if domain == LEGACY_HUB else domain)

    def holds(self, repository: Reference) -> bool:
        """Whether the repository lies here."""
        return Place(repository.domain, repository.path).lies_in(self)

    def lies_in(self, other: Place) -> bool:
        """Whether all that is here is there too."""
        inside = not other.path or f"{self.path}/".startswith(f"{other.path}/")
        return self.domain == other.domain and inside

    def __str__(self) -> str:
        return f"{self.domain}/{self.path}" if self.path else self.domain


@dataclass(frozen=True, slots=True)
class RegistryAccess:
    """The operator's word on registries."""

    home: Place | None = None
    """Where images go that name no repository."""
    allowed: tuple[Place, ...] = ()
    """Where a repository that is named must lie; at `home` where empty."""
    insecure: Collection[str] = frozenset()
    """Registries whose certificate is not checked, and that may speak plain HTTP."""
    username: str | None = None
    """User at `home`; elsewhere, and where None, Docker's configuration says."""
    password: str | None = field(default=None, repr=False)
    docker_config: str | None = None
    """Docker's config.json or its directory; None: where Docker looks."""
    cafile: str | None = None
    """Certificate authorities to believe instead of the system's."""
    connect_seconds: float = 10.0
    read_seconds: float = 300.0

    @property
    def places(self) -> tuple[Place, ...]:
        """Where repositories may lie."""
        return self.allowed or ((self.home,) if self.home else ())

    def repository_for(self, image_name: str, wanted: str | None) -> Reference:
        """Return the repository of an image: the one that is wanted, or the one of its name."""
        if wanted is not None:
            return self.checked(wanted)
        if self.home is None:
            raise Invalid.at(
                "/repository",
                "the repository that the image goes to, as [registry] repository is not set",
                "none",
            )
        try:
            return _repository(f"{self.home}/{image_name}")
        except ValueError as wrong:
            raise Invalid.at(
                "/image_name",
                f"a name that can follow {self.home}/ (or a `repository` of its own)",
                f"{image_name!r}: {wrong}",
            ) from wrong

    def checked(self, repository: str) -> Reference:
        """Return a repository that somebody named. Raises Invalid."""
        try:
            found = _repository(repository)
        except ValueError as wrong:
            raise Invalid.at(
                "/repository",
                "[HOST[:PORT]/]PATH, without tag or digest",
                f"{repository!r}: {wrong}",
            ) from wrong
        if not any(place.holds(found) for place in self.places):
            known = ", ".join(map(str, self.places)) or "nothing: see [registry] allowed"
            raise Invalid.at(
                "/repository",
                f"a repository in a registry that is allowed here ({known})",
                repr(found.repository),
            )
        return found

    def may_be_plain(self, domain: str) -> bool:
        """Whether the registry may speak plain HTTP; Docker lets those on loopback do so."""
        return domain in self.insecure or _is_loopback(domain)


def address_of(domain: str) -> str:
    """Return host and port of the registry that is called so."""
    return HUB_ADDRESS if domain == DOCKER_HUB else domain


def authorities(cafile: str | None) -> str | bool:
    """Return the file or folder of the certificate authorities to believe.

    Those of the system, as OpenSSL knows them (SSL_CERT_FILE and SSL_CERT_DIR count), where the
    operator names none. True: the system has none, requests' own (certifi) must do.
    """
    system = ssl.get_default_verify_paths()
    folder = system.capath
    return cafile or system.cafile or (folder if folder and any(Path(folder).iterdir()) else True)


def _repository(text: str) -> Reference:
    reference = Reference.parse(text)
    if reference.tag or reference.digest:
        raise ValueError("a tag or digest has no place here")
    return reference


def _is_loopback(domain: str) -> bool:
    host = domain if domain.endswith("]") else domain.rpartition(":")[0] or domain
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
