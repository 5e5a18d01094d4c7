"""Tokens, checked by keystonemiddleware; its refusals come in the same form as ours."""

from __future__ import annotations

import json
from typing import Any

import webob
import webob.exc
from keystonemiddleware import auth_token
from oslo_config import cfg

from tintype.rest.answers import plain_error, retry_after

GUARDED = "/v1/"
"""Where the paths begin that need a token."""


class TokenCheck(auth_token.AuthProtocol):  # type: ignore[misc] # it has no types
    """keystonemiddleware's filter before the paths that need a token.

    Not with its `delay_auth_decision`: that would take a Keystone that is away for a token that is
    not valid.
    """

    def __init__(self, application: Any, conf: cfg.ConfigOpts) -> None:
        """Put the filter before an application; `[keystone_authtoken]` is keystonemiddleware's."""
        super().__init__(application, {"oslo_config_config": conf, "delay_auth_decision": False})

    def process_request(self, request: Any) -> Any:
        """Check the token: None lets the request pass, with what was found out in its headers."""
        path = request.environ["PATH_INFO"]  # as falcon sees it: any bytes at all
        if not path.startswith(GUARDED) or path == GUARDED:
            request.remove_auth_headers()
            return None
        try:
            return super().process_request(request)
        except webob.exc.HTTPUnauthorized as refusal:
            missing = request.headers.get("X-Auth-Token") is None
            detail = (
                "send a token of Keystone's as X-Auth-Token"
                if missing
                else "the token is not valid, or no longer: get a new one"
            )
            scheme = refusal.headers["WWW-Authenticate"]
            return _answer(request, 401, "Unauthorized", detail, ("WWW-Authenticate", scheme))
        except webob.exc.HTTPServiceUnavailable:
            detail = "tokens cannot be checked now: Keystone is away"
            return _answer(request, 503, "Unavailable", detail, *retry_after(request.environ))


def _answer(
    request: Any, status: int, code: str, detail: str, *headers: tuple[str, str]
) -> webob.Response:
    body = plain_error(request.environ, status, code, detail)
    response = webob.Response(
        status=status, body=json.dumps(body).encode(), content_type="application/json"
    )
    response.headers.update(headers)
    return response
