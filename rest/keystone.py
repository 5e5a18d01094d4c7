"""Tokens, checked by keystonemiddleware; its own refusals come in the same form as ours."""

from __future__ import annotations

import json
from typing import Any

import webob
import webob.exc
from keystonemiddleware import auth_token
from oslo_config import cfg

from tintype.rest.answers import REQUEST_ID, RETRY_SECONDS


class TokenCheck(auth_token.AuthProtocol):  # type: ignore[misc] # it has no types
    """keystonemiddleware's filter: says in headers what it has found, and lets all pass.

    `rest.identity` refuses whoever has no token, so that what needs none is open to all.
    """

    def __init__(self, application: Any, conf: cfg.ConfigOpts) -> None:
        """Put the filter before an application; `[keystone_authtoken]` is keystonemiddleware's."""
        super().__init__(application, {"oslo_config_config": conf, "delay_auth_decision": True})

    def process_request(self, request: Any) -> Any:
        """Check the token; a Keystone that is away is a 503 of ours."""
        try:
            return super().process_request(request)
        except webob.exc.HTTPException as refusal:
            return _ours(refusal, request.environ.get(REQUEST_ID))


def _ours(refusal: Any, request_id: str | None) -> webob.Response:
    error = {
        "status": refusal.status_int,
        "code": "IdentityUnavailable" if refusal.status_int >= 500 else "Unauthorized",
        "title": refusal.title,
        "detail": "tokens cannot be checked now: Keystone is away"
        if refusal.status_int >= 500
        else "the token is not valid",
        "request_id": request_id,
    }
    response = webob.Response(
        status=refusal.status_int,
        body=json.dumps({"errors": [error]}).encode(),
        content_type="application/json",
    )
    response.headers["Retry-After"] = str(RETRY_SECONDS)
    return response
