"""The falcon application: every path, and what stands before all of them."""

from __future__ import annotations

import json

import falcon
import falcon.media

from tintype.core.commits import Commits
from tintype.core.errors import TintypeError
from tintype.core.restores import Restores
from tintype.rest.answers import answer_error, serialize_http_error
from tintype.rest.containers import Commit, Container, Containers
from tintype.rest.discovery import OpenApi, Version, Versions
from tintype.rest.identity import Identify
from tintype.rest.metrics import Metrics
from tintype.rest.openapi import document
from tintype.rest.restores import Restore
from tintype.rest.restores import Restores as AllRestores
from tintype.rest.snapshots import RestoreSnapshot, Snapshot, Snapshots
from tintype.rest.zun import ZunManners

METRICS = "/metrics"

App = falcon.App[falcon.Request, falcon.Response]


class JsonOnly:
    """Refuses who does not take JSON, which all answers are but the metrics."""

    def process_request(self, request: falcon.Request, response: falcon.Response) -> None:
        """Raise 406 unless the client accepts JSON."""
        del response
        if request.path != METRICS and not request.client_accepts_json:
            raise falcon.HTTPNotAcceptable(description="expected Accept: application/json")


def create_app(
    identify: Identify, commits: Commits, restores: Restores, most_body_bytes: int
) -> App:
    """Return the application. All it does to the world goes through these two and their ports."""
    metrics = Metrics()
    app = falcon.App()
    app.add_middleware(metrics)
    app.add_middleware(ZunManners())
    app.add_middleware(JsonOnly())
    app.req_options.strip_url_path_trailing_slash = True
    app.add_error_handler(TintypeError, answer_error)
    app.set_error_serializer(serialize_http_error)
    # In ASCII: what came over the bus may hold lone surrogates, which have no UTF-8 form.
    app.resp_options.media_handlers[falcon.MEDIA_JSON] = falcon.media.JSONHandler(json.dumps)
    index = commits.index
    app.add_route("/", Versions())
    app.add_route("/v1", Version())
    app.add_route("/openapi.json", OpenApi(document()))
    app.add_route(METRICS, metrics)
    app.add_route("/v1/containers", Containers(identify, index))
    app.add_route("/v1/containers/{ident}", Container(identify, index))
    app.add_route("/v1/containers/{ident}/commit", Commit(identify, commits, most_body_bytes))
    app.add_route("/v1/snapshots", Snapshots(identify, index))
    app.add_route("/v1/snapshots/{ident}", Snapshot(identify, index, commits))
    app.add_route(
        "/v1/snapshots/{ident}/restore", RestoreSnapshot(identify, restores, most_body_bytes)
    )
    app.add_route("/v1/restores", AllRestores(identify, restores, most_body_bytes))
    app.add_route("/v1/restores/{ident}", Restore(identify, index, restores))
    return app
