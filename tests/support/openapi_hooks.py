"""What schemathesis is told about Tintype that no OpenAPI document can say.

It loads this file by itself, in a process of its own (`hooks` in its configuration).
"""

from __future__ import annotations

import uuid
from typing import Any

import schemathesis
from schemathesis import Case, HookContext, Response
from schemathesis.core.failures import Failure
from schemathesis.openapi.checks import RejectedPositiveData, UseAfterFree

IMAGE_ID = "/image_id: expected an image of yours that waits for data"
"""How a refusal begins that depends on what is in the image service."""

COMMIT = "/v1/containers/{ident}/commit"

RUN = uuid.uuid4()
"""Of whose keys all are. Glance never takes the image ids of an earlier run's again, which has left
the same keys there (simple ones come each time), but not in this run's index."""


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Let a valid request say each thing once: OpenAPI has no words for "not in two places"."""
    del context, kwargs
    if case.operation.path != COMMIT or case.meta is None or case.meta.generation.mode.is_negative:
        return
    key = case.headers.pop("Idempotency-Key", None)
    body = case.body if isinstance(case.body, dict) else {}
    if "request_id" in body:
        case.body = {**body, "request_id": str(uuid.uuid5(RUN, body["request_id"]))}
    elif key is not None:
        case.headers["Idempotency-Key"] = f"{RUN.hex}{key}"[:255].rstrip()
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
        return not response.json()["errors"][0]["detail"].startswith(IMAGE_ID)
    if isinstance(failure, UseAfterFree):
        # Our DELETE stops a snapshot's making. Its record stays, for it tells the outcome.
        return case.operation.path != "/v1/snapshots/{ident}"
    return True
