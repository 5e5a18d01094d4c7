"""A small HTTP server that answers as the REST service does, and as a Keystone with one user.

What it answers is held against the service's own description, so that the double cannot drift from
what it stands for.
"""

from __future__ import annotations

import copy
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import jsonschema_rs

from tintype.core.restore import restore_id_for
from tintype.core.snapshot import image_id_for, snapshot_id_for
from tintype.rest.openapi import document

PASSWORD = "secret"
TOKEN = "a-token"
ENDED = ("active", "error", "preflight")
BY_PROXIES = (502, 504)
"""Answers that are not the service's own."""

DOCUMENT = document()
IN_JSON = "content/application~1json/schema"
Record = dict[str, Any]
Answer = tuple[int, dict[str, str], Any]
"""Status, headers and body: bytes, or what becomes JSON."""


@dataclass(frozen=True)
class Seen:
    """One request."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


def container(name: str = "web", **about: Any) -> Record:
    """Return a container as the service shows it."""
    return {
        "uuid": str(uuid.uuid5(uuid.NAMESPACE_DNS, name)),
        "name": name,
        "host": "host-1",
        "state": "Running",
        "image": "nginx:1",
        "project_id": "alpha",
        "user_id": "alice",
        "labels": {"tier": "front"},
        "engine_container_id": uuid.uuid5(uuid.NAMESPACE_OID, name).hex * 2,
        "created_at": "2026-11-24T10:00:00.000000+00:00",
        **about,
    }


def snapshot(number: int = 1, status: str = "saving", **about: Any) -> Record:
    """Return a snapshot as the service shows it; a higher number is a later one."""
    request_id = str(uuid.UUID(int=number))
    ended = status in ENDED
    return {
        "event_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{number} {status}")),
        "schema_version": "1.0",
        "request_id": request_id,
        "snapshot_id": snapshot_id_for(request_id),
        "project_id": "alpha",
        "tenant_id": "alpha",
        "user_id": "alice",
        "container_uuid": container()["uuid"],
        "container_name": "web",
        "host": "host-1",
        "engine_container_id": "f" * 64,
        "image_id": image_id_for(request_id),
        "image_name": "snap",
        "tag": "v1",
        "stores": [],
        "base_image": "nginx:1",
        "status": status,
        "phase": "verifying" if ended else "uploading",
        "bytes_done": 1_000_000 if ended else 250_000,
        "bytes_total": 1_000_000,
        "size_bytes": 1_000_000 if status == "active" else None,
        "sha256": "0" * 64 if status == "active" else None,
        "paused_ms": 35,
        "duration_ms": 2500 if ended else None,
        "layers": [],
        "squashed": False,
        "excluded_volumes": ["/data"],
        "scrubbed_env": [],
        "hooks": [],
        "warnings": [],
        "rotated_images": [],
        "preflight": preflight() if status == "preflight" else None,
        "expires_at": None,
        "created_at": f"2026-11-24T12:{number // 60:02}:{number % 60:02}.000000+00:00",
        "finished_at": "2026-11-24T14:00:00.000000+00:00" if ended else None,
        "metadata": {"purpose": "test"},
        "fault": fault() if status in ("error", "waiting") else None,
        **about,
    }


def preflight(*problems: str, **about: Any) -> Record:
    """Return what a dry run has found."""
    return {
        "size_rw_bytes": 1_000,
        "size_rootfs_bytes": 1_000_000,
        "estimated_bytes": 1_001_000,
        "free_bytes": None,
        "layers": 3,
        "max_layers": 120,
        "squash_needed": False,
        "excluded_volumes": ["/data"],
        "secret_looking_env": ["DB_PASSWORD"],
        "scrubbed_env": [],
        "hooks": ["pre-commit"],
        "stores": [{"name": "glance", "room_bytes": 5_000_000, "repository": None}],
        "soft_limit_bytes": None,
        "hard_limit_bytes": None,
        "problems": list(problems),
        **about,
    }


def restore(number: int = 1, status: str = "loading", **about: Any) -> Record:
    """Return a restore as the service shows it; a higher number is a later one."""
    request_id = str(uuid.UUID(int=1000 + number))
    ended = status in ENDED
    return {
        "event_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"restore {number} {status}")),
        "schema_version": "1.0",
        "request_id": request_id,
        "restore_id": restore_id_for(request_id),
        "project_id": "alpha",
        "tenant_id": "alpha",
        "user_id": "alice",
        "host": "host-1",
        "snapshot_id": snapshot()["snapshot_id"],
        "store": "glance",
        "image_id": snapshot()["image_id"],
        "image_name": "snap",
        "tag": "v1",
        "container_uuid": "e" * 64 if status == "active" else None,
        "container_name": "web-restored",
        "engine_container_id": "e" * 64 if status == "active" else None,
        "status": status,
        "phase": "cleanup" if ended else "downloading",
        "bytes_done": 1_000_000 if ended else 250_000,
        "bytes_total": 1_000_000,
        "sha256": "0" * 64,
        "missing_volumes": ["/data"],
        "warnings": [],
        "started": status == "active",
        "duration_ms": 2500 if ended else None,
        "created_at": f"2026-11-24T13:{number // 60:02}:{number % 60:02}.000000+00:00",
        "finished_at": "2026-11-24T14:00:00.000000+00:00" if ended else None,
        "metadata": {},
        "fault": fault("the name is taken") if status in ("error", "waiting") else None,
        **about,
    }


def fault(message: str = "quota exceeded", **about: Any) -> Record:
    """Return why a snapshot failed."""
    return {
        "code": 413,
        "exception": "TooLarge",
        "message": message,
        "retryable": False,
        "phase": "uploading",
        "image_deleted": True,
        **about,
    }


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass
class RestDouble:
    """What the service knows, and what it was asked. Ids and names are found as the service does.

    `plan` is what happens before the next answers: one function is called before each, with the
    double to change.
    """

    containers: list[Record] = field(default_factory=lambda: [container()])
    snapshots: list[Record] = field(default_factory=list)
    restores: list[Record] = field(default_factory=list)
    page: int = 100
    """Records on a page where the request does not say."""
    token: str | None = None
    """The token that is wanted; None: none is."""
    service_type: str = "container-snapshot"
    """The service's type in the catalogue; "": it is not there."""
    suffix: str = ""
    """What the catalogue adds to the service's address."""
    plan: list[Callable[[RestDouble], None]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    """What the service was asked, without what its Keystone was."""
    answered: dict[str, tuple[Any, Record]] = field(default_factory=dict)
    """Idempotency-Key -> the body and the answer."""
    drifted: list[str] = field(default_factory=list)
    """What of the calls the service's description does not allow."""
    port: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    _server: ThreadingHTTPServer | None = None

    @property
    def endpoint(self) -> str:
        """The service's address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def auth_url(self) -> str:
        """The Keystone's address."""
        return f"{self.endpoint}/identity/v3"

    @property
    def auth(self) -> dict[str, str]:
        """What its one user logs in with, by the names in clouds.yaml."""
        return {
            "auth_url": self.auth_url,
            "username": "alice",
            "password": PASSWORD,
            "project_name": "alpha",
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        }

    def start(self) -> None:
        """Answer, after a stop at the same address."""
        self._server = Server(self)
        self.port = self._server.server_port
        # The default is to look every half second whether it is to stop.
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Answer no more."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def find(self, ident: str) -> Record:
        """Return the snapshot with this id, or of the request with this id."""
        for record in self.snapshots:
            if ident in (record["snapshot_id"], record["request_id"]):
                return record
        raise Refusal(404, f"no snapshot {ident!r} is known")

    def find_restore(self, ident: str) -> Record:
        """Return the restore with this id, or of the request with this id."""
        for record in self.restores:
            if ident in (record["restore_id"], record["request_id"]):
                return record
        raise Refusal(404, f"no restore {ident!r} is known")

    def change(self, ident: str, status: str, **about: Any) -> None:
        """Let a snapshot go on."""
        record = self.find(ident)
        number = uuid.UUID(record["request_id"]).int
        record.update(snapshot(number, status, **about))

    def asked(self, method: str, path: str) -> list[Seen]:
        """Return the requests to a path."""
        with self.lock:
            return [seen for seen in self.seen if (seen.method, seen.path) == (method, path)]


def become(number: int, status: str, **about: Any) -> Callable[[RestDouble], None]:
    """Let a snapshot stand so from the next answer on, for a plan."""
    return lambda double: double.change(snapshot(number)["snapshot_id"], status, **about)


def become_restored(number: int, status: str, **about: Any) -> Callable[[RestDouble], None]:
    """The same for a restore."""
    made = restore(number, status, **about)
    return lambda double: double.find_restore(made["restore_id"]).update(made)


@contextmanager
def rest_double(**about: Any) -> Iterator[RestDouble]:
    """Serve a double as long as the context lasts; fail if it was not like the service."""
    double = RestDouble(**about)
    double.start()
    try:
        yield double
    finally:
        double.stop()
    assert not double.drifted, double.drifted


class Server(ThreadingHTTPServer):
    """The server, which knows its double."""

    def __init__(self, double: RestDouble) -> None:
        super().__init__(("127.0.0.1", double.port), Handler)
        self.double = double


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
        pass

    def _answer(self) -> None:
        double, url = self.server.double, urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        seen = Seen(
            self.command, url.path, dict(parse_qsl(url.query)), dict(self.headers.items()), body
        )
        with double.lock:
            if url.path.startswith("/identity/"):
                status, headers, answer = _identity(double, seen)
            else:
                double.seen.append(seen)
                status, headers, answer = _service(double, seen)
                if status not in BY_PROXIES:
                    double.drifted += drift(seen, status, headers, answer)
        self._send(status, headers, answer)

    def _send(self, status: int, headers: Mapping[str, str], answer: Any) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def drift(seen: Seen, status: int, headers: Mapping[str, str], answer: Any) -> list[str]:
    """Return where an answer, or the request where it is granted, is not as described."""
    found = _described(seen)
    if found is None:
        return _faults("#/components/schemas/Errors", answer)
    place, parameters, operation = found
    response = operation["responses"].get(str(status))
    if response is None:
        return [f"{seen.method} {seen.path} never answers {status}"]
    wanted = {name for name, about in response["headers"].items() if about.get("required", True)}
    faults = [f"{status} without {name}" for name in sorted(wanted - headers.keys())]
    if status < 400:
        faults += [f"{seen.path} has no ?{name}" for name in sorted(seen.query.keys() - parameters)]
        if seen.body is not None:
            faults += _faults(f"{place}/requestBody/{IN_JSON}", seen.body)
    return faults + _faults(f"{place}/responses/{status}/{IN_JSON}", answer)


def _described(seen: Seen) -> tuple[str, set[str], Record] | None:
    """Return an operation: its place, its query's parameters and what else is said of it."""
    method = seen.method.lower()
    for template, item in DOCUMENT["paths"].items():
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
        if method in item and re.fullmatch(pattern, seen.path):
            known = [*item.get("parameters", []), *item[method].get("parameters", [])]
            names = {each["name"] for each in known if each["in"] == "query"}
            escaped = quote(template.replace("/", "~1"), safe="~")
            return f"#/paths/{escaped}/{method}", names, item[method]
    return None


def _faults(place: str, value: Any) -> list[str]:
    return [error.message for error in _validator(place).iter_errors(value)]


@cache
def _validator(place: str) -> Any:
    # The one in Rust: lists here are long.
    return jsonschema_rs.validator_for({**DOCUMENT, "$ref": place})


def _service(double: RestDouble, seen: Seen) -> Answer:
    headers = {"X-Openstack-Request-Id": f"req-{uuid.uuid4()}"}
    try:
        if double.plan:
            double.plan.pop(0)(double)
        answer = copy.deepcopy(_found(double, seen))
    except Refusal as refusal:
        if refusal.status in BY_PROXIES:
            return refusal.status, {"Content-Type": "text/html"}, b"<html>"
        if refusal.status == 401:
            headers["WWW-Authenticate"] = f'Keystone uri="{double.auth_url}"'
        return refusal.status, headers, _errors(refusal, headers["X-Openstack-Request-Id"])
    if seen.method == "POST":
        is_restore = "restore_id" in answer
        what = "restores" if is_restore else "snapshots"
        ident = answer["restore_id" if is_restore else "snapshot_id"]
        headers["Location"] = f"{double.endpoint}/v1/{what}/{ident}"
    return 200 if seen.method == "GET" else 202, headers, answer


def _errors(refusal: Refusal, request_id: str) -> Record:
    detail = str(refusal)
    error = {
        "status": refusal.status,
        "code": "Refusal",
        "title": detail,
        "detail": detail,
        "request_id": request_id,
    }
    return {"errors": [error]}


def _found(double: RestDouble, seen: Seen) -> Any:
    if double.token and seen.headers.get("X-Auth-Token") != double.token:
        raise Refusal(401, "this service wants a token of Keystone's")
    if seen.query.get("all_projects") and double.token == TOKEN:
        raise Refusal(403, "all_projects: your roles do not allow it")
    parts = seen.path.strip("/").split("/")
    if "restores" in parts or parts[-1] == "restore":
        return _found_restore(double, seen, parts)
    if "containers" in parts:
        return _found_container(double, seen, parts)
    match seen.method, parts:
        case "GET", ["v1", "snapshots"]:
            newest_first = sorted(double.snapshots, key=_created, reverse=True)
            return _page(double, "snapshots", "snapshot_id", newest_first, seen)
        case "GET", ["v1", "snapshots", ident]:
            return double.find(ident)
        case "DELETE", ["v1", "snapshots", ident]:
            record = double.find(ident)
            if record["status"] in ENDED:
                raise Refusal(409, f"snapshot {ident} has ended: delete its image instead")
            return record
    raise Refusal(404, f"there is nothing at {seen.path}")


def _found_container(double: RestDouble, seen: Seen, parts: list[str]) -> Any:
    match seen.method, parts:
        case "GET", ["v1", "containers"]:
            return _page(double, "containers", "uuid", double.containers, seen)
        case "GET", ["v1", "containers", ident]:
            return _container(double, ident)
        case "POST", ["v1", "containers", ident, "commit"]:
            return _commit(double, _container(double, ident), seen)
    raise Refusal(404, f"there is nothing at {seen.path}")


def _found_restore(double: RestDouble, seen: Seen, parts: list[str]) -> Any:
    match seen.method, parts:
        case "POST", ["v1", "snapshots", ident, "restore"]:
            return _restore(double, double.find(ident), seen)
        case "POST", ["v1", "restores"]:
            if "host" not in seen.body:
                raise Refusal(400, "/host: expected the host that is to have the container")
            return _restore(double, {"snapshot_id": None, **seen.body}, seen)
        case "GET", ["v1", "restores"]:
            newest_first = sorted(double.restores, key=_created, reverse=True)
            return _page(double, "restores", "restore_id", newest_first, seen)
    record = double.find_restore(parts[-1])
    if seen.method == "DELETE" and record["status"] in ENDED:
        raise Refusal(409, f"restore {parts[-1]} has ended: delete its container instead")
    return record


def _page(
    double: RestDouble, name: str, id_field: str, records: Sequence[Record], seen: Seen
) -> Record:
    query = dict(seen.query)
    limit, marker = int(query.get("limit", double.page)), query.get("marker")
    if key := query.get("sort_key"):
        if key not in records[0]:
            raise Refusal(400, f"?sort_key: expected one of the fields, got {key!r}")
        reverse = query.get("sort_dir") == "desc"
        records = sorted(records, key=lambda record: str(record[key]), reverse=reverse)
    known = {*records[0]} if records else set()
    wanted = {field: query[field] for field in known & query.keys()}
    found = [r for r in records if all(r[name] == value for name, value in wanted.items())]
    if marker:
        ids = [record[id_field] for record in found]
        if marker not in ids:
            raise Refusal(404, f"no marker {marker!r} is known")
        found = found[ids.index(marker) + 1 :]
    page: Record = {name: found[:limit]}
    if len(found) > limit:
        following = urlencode({**query, "marker": found[limit - 1][id_field]})
        # As behind a proxy that the service does not know of.
        page["links"] = [{"rel": "next", "href": f"http://inner.invalid{seen.path}?{following}"}]
    return page


def _container(double: RestDouble, ident: str) -> Record:
    for record in double.containers:
        if ident in (record["uuid"], record["engine_container_id"], record["name"]):
            return record
    raise Refusal(404, f"no container {ident!r} is known")


def _answered(double: RestDouble, seen: Seen) -> tuple[str | None, Record | None]:
    """Return the key of a request, and the answer that it had before."""
    key = seen.headers.get("Idempotency-Key") or seen.body.get("request_id")
    if key not in double.answered:
        return key, None
    body, answer = double.answered[key]
    if body != seen.body:
        raise Refusal(409, f"{key} was used before with another body")
    return key, answer


def _restore(double: RestDouble, source: Record, seen: Seen) -> Record:
    key, answer = _answered(double, seen)
    if answer is not None:
        return answer
    number = len(double.restores) + 1
    made = restore(number, "queued", phase="accepted", bytes_done=None, bytes_total=None)
    made["snapshot_id"] = source["snapshot_id"]
    request_id = seen.body.get("request_id") or made["request_id"]
    made |= {"request_id": request_id, "restore_id": restore_id_for(request_id)}
    double.restores.append(made)
    answer = {name: made[name] for name in ("restore_id", "request_id", "snapshot_id")}
    if key:
        double.answered[key] = (seen.body, answer)
    return answer


def _commit(double: RestDouble, found: Record, seen: Seen) -> Record:
    key, answer = _answered(double, seen)
    if answer is not None:
        return answer
    number = len(double.snapshots) + 1
    made = snapshot(number, "queued", phase="accepted", bytes_done=None, bytes_total=None)
    request_id = seen.body.get("request_id") or made["request_id"]
    made |= {
        "request_id": request_id,
        "snapshot_id": snapshot_id_for(request_id),
        "container_name": found["name"],
        "image_name": seen.body["image_name"],
        "tag": seen.body.get("tag", "latest"),
    }
    if seen.body.get("dry_run"):
        made["image_id"] = None
    double.snapshots.append(made)
    answer = {
        "uuid": made["image_id"],
        "image_id": made["image_id"],
        "snapshot_id": made["snapshot_id"],
        "request_id": request_id,
        "container_uuid": found["uuid"],
    }
    if key:
        double.answered[key] = (seen.body, answer)
    return answer


def _created(record: Record) -> str:
    return str(record["created_at"])


def _identity(double: RestDouble, seen: Seen) -> Answer:
    version = {
        "id": "v3.14",
        "status": "stable",
        "links": [{"rel": "self", "href": f"{double.auth_url}/"}],
    }
    if seen.method == "GET":
        return 200, {}, {"version": version}
    method = seen.body["auth"]["identity"]
    password = method.get("password", {}).get("user", {}).get("password")
    token = method.get("token", {}).get("id")
    if password != PASSWORD and token != TOKEN:
        wrong = {"code": 401, "title": "Unauthorized", "message": "wrong user or password"}
        return 401, {}, {"error": wrong}
    return 201, {"X-Subject-Token": TOKEN}, {"token": _token(double)}


def _token(double: RestDouble) -> Record:
    endpoint = {
        "id": "1",
        "interface": "public",
        "region": "north",
        "region_id": "north",
        "url": double.endpoint + double.suffix,
    }
    service = {"id": "2", "type": double.service_type, "name": "x", "endpoints": [endpoint]}
    domain = {"id": "default", "name": "Default"}
    return {
        "methods": ["password"],
        "user": {"id": "alice", "name": "alice", "domain": domain},
        "project": {"id": "alpha", "name": "alpha", "domain": domain},
        "roles": [{"id": "3", "name": "member"}],
        "issued_at": "2026-11-24T12:00:00.000000Z",
        "expires_at": "2999-01-01T00:00:00.000000Z",
        "catalog": [service] if double.service_type else [],
    }
