"""The service's description in OpenAPI 3.1, made of the same schemas that the bus keeps to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tintype import __version__
from tintype.core.events import COMMIT_REQUEST, RESTORE_REQUEST
from tintype.core.reservation import KEY_LENGTH
from tintype.rest import containers, restores, snapshots
from tintype.rest.lists import LIMIT_DEFAULT, LIMIT_MOST, Listing
from tintype.rest.restores import IMAGE_NAMES
from tintype.schemas import SCHEMAS

Json = dict[str, Any]

SURROGATES, NO_LAST_LINE_FEED = r"\ud800-\udfff", r"(?!\n)"
"""What patterns have for Python's sake."""

NOT_IN_BODIES = frozenset({"container", "accept_by"})
"""Fields of a request that the path says, or that only routers set."""

COMMIT_WORDS = """\
Answers once the image is reserved and the bus has the request; the snapshot goes on by itself. Poll
the `Location`, or wait for `image.snapshot.end` or `.error` on the bus.

Fields may be written with dashes (`image-name`), as in Zun's specification. Its clients send
`?repository=NAME&tag=TAG` without a body, which is understood as well."""

RESTORE_WORDS = """\
Answers once the bus has the request; the container is made by and by. Poll the `Location`, or wait
for `container.restore.end` or `.error` on the bus. Fields may be written with dashes."""

_REQUEST_ERRORS = (400, 401, 403, 404, 409, 411, 413, 415)

_ERRORS: Mapping[int, str] = {
    400: "The request is wrong: each fault is named, with its JSON pointer.",
    401: "No token, or one that is not valid.",
    403: "Your roles do not allow it.",
    404: "There is no such thing, or none that you may see.",
    406: "Answers are JSON; and OpenStack-API-Version names one of Zun's microversions, if any.",
    409: "Not in this state; or an ambiguous name; or the same key with another request.",
    411: "The server wants a Content-Length: it takes no chunked bodies.",
    413: "A quota is reached, or the body is too long.",
    415: "Bodies are JSON.",
    503: "Something needed is away. Nothing was promised; try again after Retry-After.",
}


def document() -> Json:
    """Return the whole description."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tintype",
            "version": __version__,
            "description": "Snapshots of running containers, driven by the message bus.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "paths": {**_containers(), **_snapshots(), **_restores(), **_open()},
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-Auth-Token",
                    "description": "A token of Keystone's, scoped to a project.",
                }
            },
            "schemas": {
                "CommitRequest": commit_body(),
                "RestoreRequest": restore_body(),
                "SnapshotRestoreRequest": snapshot_restore_body(),
                "Promise": _PROMISE,
                "RestorePromise": _RESTORE_PROMISE,
                "Container": _CONTAINER,
                "Snapshot": _plain(SCHEMAS["image.snapshot"]),
                "Restore": _plain(SCHEMAS["container.restore"]),
                "Version": _VERSION,
                "Errors": _ERRORS_BODY,
            },
            "headers": {
                "RequestId": _header("Id of this request, `req-` and a uuid.", required=True)
            },
        },
    }


def commit_body() -> Json:
    """Return the schema of a commit request's body: the bus's, but for what the path says."""
    schema = _without(_plain(SCHEMAS[COMMIT_REQUEST]), *NOT_IN_BODIES)
    schema["required"] = [name for name in schema["required"] if name not in NOT_IN_BODIES]
    return schema


def restore_body() -> Json:
    """Return the schema of a restore request's body: the bus's.

    That one and no other of three fields names the image is said in another way than there, in
    which generators of requests see it at once.
    """
    schema = _without(_plain(SCHEMAS[RESTORE_REQUEST]), *NOT_IN_BODIES)
    needs = {"snapshot_id": ["snapshot_id"], "image_id": ["image_id", "host"]}
    needs["image"] = ["image", "host"]
    schema["oneOf"] = [
        {"required": needs[name], "properties": dict.fromkeys({*IMAGE_NAMES} - {name}, False)}
        for name in IMAGE_NAMES
    ]
    return schema


def snapshot_restore_body() -> Json:
    """Return the same where the path names the snapshot."""
    return _without(_plain(SCHEMAS[RESTORE_REQUEST]), *NOT_IN_BODIES, *IMAGE_NAMES)


def _without(schema: Json, *fields: str) -> Json:
    """Return an object's schema without some of its fields, and without what is said of several."""
    kept = {name: rule for name, rule in schema["properties"].items() if name not in fields}
    return {**{name: rule for name, rule in schema.items() if name != "allOf"}, "properties": kept}


def _plain(schema: Mapping[str, Any]) -> Json:
    """Return a copy of a schema without what only this project's own validator reads."""
    plain: Json = _portable(schema)
    for name in ("$schema", "$id"):
        plain.pop(name, None)
    return plain


def _portable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _portable_pattern(item) if key == "pattern" else _portable(item)
            for key, item in value.items()
            if key not in ("x-expected", "x-secret")
        }
    return [_portable(item) for item in value] if isinstance(value, list) else value


def _portable_pattern(value: Any) -> Any:
    """Return a pattern as any engine of regular expressions takes it.

    Many know no surrogates, which are in no valid JSON; and only Python's `$` needs to be told that
    it is not before the last line feed.
    """
    if not isinstance(value, str):  # a property named `pattern`
        return _portable(value)
    return value.replace(SURROGATES, "").removesuffix(NO_LAST_LINE_FEED)


def _containers() -> Json:
    rules = SCHEMAS[COMMIT_REQUEST]["properties"]
    name_rule, tag_rule = _plain(rules["image_name"]), _plain(rules["tag"])
    ident = _parameter(
        "ident",
        "path",
        "Uuid, engine id (or 12 or more of its start) or name.",
        _plain(rules["container"]),
    )
    accepted = _answer("The snapshot is promised.", "Promise")
    accepted["headers"]["Location"] = _header("Where to look how it stands.", required=True)
    accepted["links"] = _links("snapshot_id", "showSnapshot", "cancelSnapshot")
    commit = _operation("commit", "Snapshot a container", {"202": accepted}, _REQUEST_ERRORS)
    host = _parameter("host", "query", "Where several hosts have one of this name.")
    return {
        "/v1/containers": {
            "get": {
                **_list_operation(
                    "Container",
                    "containers",
                    _links("containers/0/uuid", "showContainer", "commit"),
                ),
                "parameters": _list_parameters(containers.LISTING),
            }
        },
        "/v1/containers/{ident}": {
            "parameters": [ident],
            "get": {
                **_operation(
                    "showContainer",
                    "Show a container",
                    {"200": _answer("The container.", "Container")},
                    (400, 401, 403, 404, 409),
                ),
                "parameters": [host],
            },
        },
        "/v1/containers/{ident}/commit": {
            "parameters": [ident],
            "post": {
                **commit,
                "description": COMMIT_WORDS,
                "parameters": [
                    _key(),
                    _parameter(
                        "repository", "query", "In place of `image_name` in the body.", name_rule
                    ),
                    _parameter("tag", "query", "In place of `tag` in the body.", tag_rule),
                ],
                "requestBody": {"required": False, "content": _json("CommitRequest")},
            },
        },
    }


def _snapshots() -> Json:
    ident = _parameter(
        "ident", "path", "Snapshot id or request id.", {"type": "string", "format": "uuid"}
    )
    shown = _answer("The snapshot, as its latest event tells.", "Snapshot")
    restored = "Make a container of a snapshot"
    return {
        "/v1/snapshots": {
            "get": {
                **_list_operation(
                    "Snapshot",
                    "snapshots",
                    _links("snapshots/0/snapshot_id", "showSnapshot", "cancelSnapshot"),
                ),
                "parameters": _list_parameters(snapshots.LISTING),
            }
        },
        "/v1/snapshots/{ident}": {
            "parameters": [ident],
            "get": _operation(
                "showSnapshot", "Show a snapshot", {"200": shown}, (400, 401, 403, 404)
            ),
            "delete": _operation(
                "cancelSnapshot",
                "Stop a snapshot",
                {"202": _answer("It is told to stop; its outcome is an event.", "Snapshot")},
                (400, 401, 403, 404, 409),
            ),
        },
        "/v1/snapshots/{ident}/restore": {
            "parameters": [ident],
            "post": _restoring("restoreSnapshot", restored, "SnapshotRestoreRequest"),
        },
    }


def _restores() -> Json:
    ident = _parameter(
        "ident", "path", "Restore id or request id.", {"type": "string", "format": "uuid"}
    )
    shown = _answer("The restore, as its latest event tells.", "Restore")
    made = _restoring("restore", "Make a container of an image", "RestoreRequest")
    made["requestBody"]["required"] = True
    return {
        "/v1/restores": {
            "get": {
                **_list_operation(
                    "Restore",
                    "restores",
                    _links("restores/0/restore_id", "showRestore", "cancelRestore"),
                ),
                "parameters": _list_parameters(restores.LISTING),
            },
            "post": made,
        },
        "/v1/restores/{ident}": {
            "parameters": [ident],
            "get": _operation(
                "showRestore", "Show a restore", {"200": shown}, (400, 401, 403, 404)
            ),
            "delete": _operation(
                "cancelRestore",
                "Stop a restore",
                {"202": _answer("It is told to stop; its outcome is an event.", "Restore")},
                (400, 401, 403, 404, 409),
            ),
        },
    }


def _restoring(operation_id: str, summary: str, body: str) -> Json:
    """Return an operation that makes a container."""
    accepted = _answer("The container is promised.", "RestorePromise")
    accepted["headers"]["Location"] = _header("Where to look how it stands.", required=True)
    accepted["links"] = _links("restore_id", "showRestore", "cancelRestore")
    return {
        **_operation(operation_id, summary, {"202": accepted}, _REQUEST_ERRORS),
        "description": RESTORE_WORDS,
        "parameters": [_key()],
        "requestBody": {"required": False, "content": _json(body)},
    }


def _open() -> Json:
    """Return the paths that need no token."""
    versions = {
        "type": "object",
        "properties": {
            "name": {"const": "tintype"},
            "version": {"type": "string"},
            "default_version": {"$ref": "#/components/schemas/Version"},
            "versions": {"type": "array", "items": {"$ref": "#/components/schemas/Version"}},
        },
        "required": ["name", "version", "default_version", "versions"],
    }
    return {
        "/": _get("versions", "List versions", _body("What is served here.", versions)),
        "/v1": _get("version", "Show the version", _answer("The version.", "Version")),
        "/openapi.json": _get(
            "openapi", "Describe this service", _body("This document.", {"type": "object"})
        ),
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "summary": "Count requests and their seconds",
                "responses": {
                    "200": _body("Counts, in Prometheus' text format.", _TEXT, "text/plain"),
                    "503": _refusal(503),
                },
                "security": [],
            }
        },
    }


def _get(operation_id: str, summary: str, answer: Json) -> Json:
    operation = _operation(operation_id, summary, {"200": answer}, ())
    return {"get": {**operation, "security": []}}


def _operation(
    operation_id: str, summary: str, answers: Mapping[str, Any], errors: Sequence[int]
) -> Json:
    return {
        "operationId": operation_id,
        "summary": summary,
        "responses": {
            **answers,
            **{str(code): _refusal(code) for code in (*errors, 406, 503)},
        },
    }


def _refusal(code: int) -> Json:
    answer = _answer(_ERRORS[code], "Errors")
    answer["headers"].update(_ERROR_HEADERS.get(code, {}))
    return answer


def _list_operation(kind: str, name: str, links: Json) -> Json:
    page = {
        "type": "object",
        "properties": {
            name: {"type": "array", "items": {"$ref": f"#/components/schemas/{kind}"}},
            "links": {"type": "array", "items": _LINK},
        },
        "required": [name],
        "additionalProperties": False,
    }
    answer = _body(f"A page of {name}; `links` where there may be another.", page)
    answers = {"200": {**answer, "links": links}}
    return _operation(f"list{kind}s", f"List {name}", answers, (400, 401, 403, 404))


def _links(pointer: str, *operations: str) -> Json:
    """Return what can be asked about a thing whose id is in the answer."""
    parameters = {"ident": f"$response.body#/{pointer}"}
    return {name: {"operationId": name, "parameters": parameters} for name in operations}


def _list_parameters(listing: Listing) -> list[Json]:
    return [
        *(_parameter(name, "query", f"Only those with this {name}.") for name in listing.filters),
        _parameter("sort_key", "query", "What orders them.", {"enum": list(listing.sorts)}),
        _parameter("sort_dir", "query", "Which way.", {"enum": ["asc", "desc"]}),
        _parameter(
            "limit",
            "query",
            "Records on a page.",
            {"type": "integer", "minimum": 1, "maximum": LIMIT_MOST, "default": LIMIT_DEFAULT},
        ),
        _parameter("marker", "query", "Id of the last record of the page before."),
        _parameter(
            "all_projects",
            "query",
            "Those of all projects; for admins.",
            {"type": "boolean", "default": False},
        ),
    ]


def _parameter(name: str, where: str, words: str, schema: Json | None = None) -> Json:
    return {
        "name": name,
        "in": where,
        "description": words,
        "required": where == "path",
        "schema": schema or _TEXT,
    }


def _key() -> Json:
    return _parameter(
        "Idempotency-Key",
        "header",
        "The same key with the same request gets the first answer again. In place of `request_id`.",
        # HTTP takes blanks at either end off.
        {"type": "string", "maxLength": KEY_LENGTH, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    )


def _header(words: str, *, required: bool = False) -> Json:
    return {"description": words, "required": required, "schema": _TEXT}


def _answer(words: str, schema: str) -> Json:
    return _body(words, {"$ref": f"#/components/schemas/{schema}"})


def _body(words: str, schema: Json, kind: str = "application/json") -> Json:
    return {
        "description": words,
        "headers": {"X-Openstack-Request-Id": {"$ref": "#/components/headers/RequestId"}},
        "content": {kind: {"schema": schema}},
    }


def _json(schema: str) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _object(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> Json:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


_TEXT: Json = {"type": "string"}
_OPTIONAL: Json = {"type": ["string", "null"]}
_UUID: Json = {"type": "string", "format": "uuid"}
_ERROR_HEADERS: Mapping[int, Json] = {
    401: {"WWW-Authenticate": _header("Where Keystone is.", required=True)},
    503: {"Retry-After": _header("Seconds; not for Zun's clients, which fail at it.")},
}
_LINK = _object({"rel": _TEXT, "href": _TEXT})
_NULLABLE_UUID: Json = {"type": ["string", "null"], "format": "uuid"}
_PROMISE = _object(
    {
        "uuid": {**_NULLABLE_UUID, "description": "The image, as Zun answers."},
        "image_id": {
            **_NULLABLE_UUID,
            "description": "The image, to be polled in Glance from now on; null for a dry run.",
        },
        "snapshot_id": _UUID,
        "request_id": {**_UUID, "description": "Id of the request on the bus."},
        "container_uuid": _TEXT,
    }
)
_RESTORE_PROMISE = _object(
    {
        "restore_id": _UUID,
        "request_id": {**_UUID, "description": "Id of the request on the bus."},
        "snapshot_id": {**_NULLABLE_UUID, "description": "The snapshot; null for an image."},
    }
)
_CONTAINER = _object(
    {
        "uuid": _TEXT,
        "name": _OPTIONAL,
        "host": _OPTIONAL,
        "state": {**_OPTIONAL, "description": "Running, Stopped, Paused or Other."},
        "image": _OPTIONAL,
        "project_id": _OPTIONAL,
        "user_id": _OPTIONAL,
        "labels": {"type": "object", "additionalProperties": _TEXT},
        "engine_container_id": _OPTIONAL,
        "created_at": _OPTIONAL,
    }
)
_VERSION = _object(
    {
        "id": {"const": "v1"},
        "status": {"const": "CURRENT"},
        "min_version": _TEXT,
        "max_version": _TEXT,
        "links": {"type": "array", "items": _LINK},
    }
)
_ERRORS_BODY = _object(
    {
        "errors": {
            "type": "array",
            "minItems": 1,
            "items": _object(
                {
                    "status": {"type": "integer"},
                    "code": _TEXT,
                    "title": _TEXT,
                    "detail": _TEXT,
                    "request_id": _OPTIONAL,
                },
                {"pointer": {**_TEXT, "description": "JSON pointer to what is wrong (RFC 6901)."}},
            ),
        }
    }
)
