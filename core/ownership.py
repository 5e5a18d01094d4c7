"""Whose a container is: what its labels say, or else what the configuration does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tintype.core.events import Requester

IDENT_LENGTH = 255
"""Longest project or user id that is believed; Keystone's columns hold 64."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """Reads owners from labels."""

    project_label: str = "tintype.project_id"
    user_label: str = "tintype.user_id"
    default_project_id: str | None = None
    """Owner of containers without the label; None: they are nobody's in particular."""
    default_user_id: str | None = None

    def owner_of(self, labels: Mapping[str, str]) -> Requester:
        """Return the project and the user that a container with these labels belongs to."""
        return Requester(
            _ident(labels.get(self.project_label, self.default_project_id)),
            _ident(labels.get(self.user_label, self.default_user_id)),
        )


def _ident(text: str | None) -> str | None:
    """Return an id that every consumer can store; one that is none is nobody's, not everybody's."""
    usable = text is None or (len(text) <= IDENT_LENGTH and text.isprintable())
    return text if usable else ""


def may_use(project_id: str | None, requester: Requester) -> bool:
    """Tell whether a requester may act on what belongs to a project: its own, or any as an admin.

    What belongs to nobody in particular anybody may use.
    """
    return project_id is None or requester.is_admin or project_id == requester.project_id


def or_default(
    read: Callable[[object], Requester], default: Requester
) -> Callable[[object], Requester]:
    """Return what reads a message's context, and takes one that names no project for `default`'s.

    An admin without a project, as routers are, stays one.
    """

    def requester_of(context: object) -> Requester:
        found = read(context)
        return default if found.project_id is None and not found.is_admin else found

    return requester_of
