"""What schemathesis is told about Tintype that no OpenAPI document can say.

It loads this file by itself, in a process of its own (`hooks` in its configuration).
"""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis import Case, HookContext, Response
from schemathesis.core.failures import Failure
from schemathesis.openapi.checks import RejectedPositiveData, UseAfterFree

NOT_IN_SCHEMA = (
    "/image_id: expected an image of yours that waits for data",
    "/request_id: expected the same as the Idempotency-Key",
    "?repository: expected the same as image_name in the body",
    "?tag: expected the same as tag in the body",
)
"""How refusals begin of what depends on the image service, or on two parts of a request at once."""


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case, response: Response) -> bool:
    """Tell whether what a check has found is a fault."""
    if isinstance(failure, RejectedPositiveData) and response.status_code == 400:
        return not all(error["detail"].startswith(NOT_IN_SCHEMA) for error in errors_of(response))
    if isinstance(failure, UseAfterFree):
        # Our DELETE stops a snapshot's making. Its record stays, for it tells the outcome.
        return case.operation.path != "/v1/snapshots/{ident}"
    return True


def errors_of(response: Response) -> list[dict[str, Any]]:
    """Return the errors in an answer of ours."""
    found: list[dict[str, Any]] = response.json()["errors"]
    return found
