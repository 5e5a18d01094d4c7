"""What schemathesis is told about Tintype that no OpenAPI document can say.

It loads this file by itself, in a process of its own (`hooks` in its configuration).
"""

from __future__ import annotations

import uuid
from typing import Any

import schemathesis
from schemathesis import Case, HookContext, Response
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.openapi.checks import RejectedPositiveData, UseAfterFree

UNSAID = ("/image_id: expected an image of yours that waits for data", "/changes/")
"""How refusals begin that depend on what is in the image service, or on a language of its own."""

COMMIT = "/v1/containers/{ident}/commit"
KEYED = (COMMIT, "/v1/restores", "/v1/snapshots/{ident}/restore")
"""Where a request may have a key, in its header or in its body."""

RUN = uuid.uuid4()
"""Of whose keys all are. Glance never takes the image ids of an earlier run's again, which has left
the same keys there (simple ones come each time), but not in this run's index."""


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Let a valid request say each thing once: OpenAPI has no words for "not in two places"."""
    del context, kwargs
    path = case.operation.path
    if path not in KEYED or case.meta is None or case.meta.generation.mode.is_negative:
        return
    key = case.headers.pop("Idempotency-Key", None)
    body = case.body if isinstance(case.body, dict) else {}
    if "request_id" in body:
        case.body = {**body, "request_id": str(uuid.uuid5(RUN, body["request_id"]))}
    elif key is not None:
        case.headers["Idempotency-Key"] = f"{RUN.hex}{key}"[:255].rstrip()
    if path != COMMIT:
        return
    for parameter, field in (("repository", "image_name"), ("tag", "tag")):
        if field in body:
            case.query.pop(parameter, None)
    if "image_name" not in body:
        case.query.setdefault("repository", "web")


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case, response: Response) -> bool:
    """Tell whether what a check has found is a fault."""
    del context
    if isinstance(failure, RejectedPositiveData) and response.status_code == 400:
        return not response.json()["errors"][0]["detail"].startswith(UNSAID)
    if isinstance(failure, AcceptedNegativeData):
        return response.status_code != 413  # too long to be looked at is refused, too
    if isinstance(failure, UseAfterFree):
        # Our DELETE stops what is being made. Its record stays, for it tells the outcome.
        return case.operation.path not in {"/v1/snapshots/{ident}", "/v1/restores/{ident}"}
    return True
