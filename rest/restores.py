"""`/v1/restores`: containers that are made of images, how that goes on, and how to stop it."""

from __future__ import annotations

from dataclasses import dataclass

import falcon

from tintype.core.errors import NotFound
from tintype.core.events import is_uuid
from tintype.core.index import RESTORE_FIELDS, Index, RestoreRecord
from tintype.core.promises import Caller
from tintype.core.reservation import Reservation
from tintype.core.restores import Restores as Promiser
from tintype.rest.identity import Identify
from tintype.rest.lists import Listing
from tintype.rest.reading import fields, idempotency_key, parameters

LISTING = Listing(
    kind="restore",
    filters=tuple(name for name in RESTORE_FIELDS if name != "created_at"),
    sorts=("restore_id", *RESTORE_FIELDS),
    newest_first=True,
)

IMAGE_NAMES = ("snapshot_id", "image_id", "image")
"""The fields of a request that say what is to be restored."""


@dataclass(frozen=True, slots=True)
class Restores:
    """`GET` and `POST /v1/restores`."""

    identify: Identify
    restores: Promiser
    most_bytes: int

    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        """Answer with a page of the caller's restores, the newest first."""
        response.media = LISTING.answer(
            request,
            self.identify(request),
            self.restores.index.list_restores,
            lambda record: record.payload,
            lambda record: str(record.payload["restore_id"]),
        )

    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        """Promise a container: answer 202 with all ids; its making has only begun."""
        caller = self.identify(request)
        parameters(request, ())
        payload = fields(request, self.most_bytes)
        promise(request, response, self.restores.submit(caller, payload, idempotency_key(request)))


@dataclass(frozen=True, slots=True)
class Restore:
    """`GET` and `DELETE /v1/restores/{ident}`."""

    identify: Identify
    index: Index
    restores: Promiser

    def on_get(self, request: falcon.Request, response: falcon.Response, ident: str) -> None:
        """Answer with the restore's latest event, by restore id or request id."""
        caller = self.identify(request)
        parameters(request, ())
        response.media = dict(self._find(caller, ident).payload)

    def on_delete(self, request: falcon.Request, response: falcon.Response, ident: str) -> None:
        """Have the restore stopped: answer 202 with how it stands; its outcome is an event."""
        caller = self.identify(request)
        parameters(request, ())
        restore = self._find(caller, ident)
        self.restores.cancel(caller, restore)
        response.status = falcon.HTTP_202
        response.media = dict(restore.payload)

    def _find(self, caller: Caller, ident: str) -> RestoreRecord:
        found = self.index.find_restore(ident.lower()) if is_uuid(ident) else None
        if found is None or not caller.may("restore:show", found.payload["project_id"]):
            raise NotFound(f"no restore {ident!r} is known")
        return found


def promise(request: falcon.Request, response: falcon.Response, promised: Reservation) -> None:
    """Answer that a container is promised."""
    response.status = falcon.HTTP_202
    response.location = f"{request.root_path}/v1/restores/{promised.answer['restore_id']}"
    response.media = dict(promised.answer)
