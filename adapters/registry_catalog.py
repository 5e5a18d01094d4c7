"""Which repositories there are, where the registry tells."""

from __future__ import annotations

from collections.abc import Iterator

from tintype.adapters.registry_access import Place
from tintype.adapters.registry_api import RegistryApi
from tintype.adapters.registry_repository import PAGE, listed
from tintype.core.errors import Refused
from tintype.core.reference import Reference

_SCOPE = "registry:catalog:*"


def repositories(api: RegistryApi, place: Place) -> Iterator[Reference]:
    """Yield the repositories that lie at a place. Raises Refused where there is no list of them."""
    try:
        for path in listed(api, f"/v2/_catalog?n={PAGE}", "repositories", _SCOPE):
            repository = Reference(api.domain, path)
            if place.holds(repository):
                yield repository
    except Refused as refused:
        raise Refused(f"{refused}; name the repository, for this registry lists none") from refused
