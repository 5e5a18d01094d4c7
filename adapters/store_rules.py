"""What image stores have in common: what is found in them, and what one refuses by its nature."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from tintype.core.errors import Invalid, Refused
from tintype.core.images import ImageSpec, ImageStatus, ImageStore, StoredImage


def select(
    images: Iterable[StoredImage],
    owner: str | None,
    properties: Mapping[str, str],
    *,
    name: str | None,
    statuses: Collection[ImageStatus],
) -> list[StoredImage]:
    """Return those that `ImageStore.find` is asked for, newest first, else in the order given.

    A store that can search may have done so already: what is found may be deleted, so nothing is
    taken on trust.
    """
    found = [
        image
        for image in images
        if image.status in statuses
        and owner in (None, image.owner)
        and name in (None, image.name)
        and properties.items() <= image.properties.items()
    ]
    return sorted(found, key=lambda image: image.created_at or "", reverse=True)


def require_visibility(store: ImageStore, image: ImageSpec) -> None:
    """Raise Refused for an image that would be seen by others than the store can show it to."""
    if image.visibility not in store.visibilities:
        possible = ", ".join(sorted(store.visibilities))
        raise Refused(
            f"/visibility: an image in the store `{store.name}` can only be {possible}, "
            f"not {image.visibility}"
        )


def require_no_repository(store: ImageStore, wanted: str | None) -> None:
    """Raise Invalid for a repository that is wanted of a store that has none."""
    if wanted is not None:
        raise Invalid.at(
            "/repository", f"none, since the store `{store.name}` has no repositories", repr(wanted)
        )
