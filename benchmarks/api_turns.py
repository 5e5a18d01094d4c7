"""The contenders: our service, and the least that anybody must do to promise the same."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import requests
from api_cloud import Containers, Member, RunsImages
from api_floor import Floor
from api_load import Answer, Reply, all_at_once, post, times
from api_service import THREADS, WORKERS, Service, configure
from databases import fresh
from lab import Stack, until
from listener_process import Listener, Witness
from processes import BenchError

from tintype.config import load
from tintype.core.events import OUTCOMES, SNAPSHOT_END

OUTCOME_SECONDS = 1800.0
"""When outcomes that have not come are lost."""

CLEARED_SECONDS = 180.0
"""When images of attempts that failed must be gone: routers delete what the service could not."""

WARM_UP = WORKERS * THREADS
"""Requests before the clock: modules, connections, tables and tokens are there then."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Lab:
    """What all turns share."""

    stack: Stack
    member: Member
    images: RunsImages
    containers: Containers
    requests: int
    retries: int
    index: str


# Ours


def _tintype(lab: Lab, listener: Listener, *, waiting: bool) -> Result:
    """Ask the service, with agent and router beside it, or started after the last answer.

    In both cases every request is followed to its end.
    """
    with ExitStack() as at_end:
        index = at_end.enter_context(fresh(lab.stack, lab.index, listener.folder))
        config = listener.configure(store="glance", roles="agent,router", index_url=index)
        service = Service("tintype.wsgi:application", listener.folder, configure(lab.stack, config))
        witness = at_end.enter_context(closing(Witness(listener)))
        url = at_end.enter_context(service.running())
        bench = _Bench(lab, url, lab.member.token(), witness)
        with listener.running(config) as process:
            bench.await_containers()
            warm = bench.ask(WARM_UP)
            bench.follow(warm, partial(listener.check, process))
            if not waiting:
                asked = bench.ask(lab.requests)
                told = bench.settle([*warm, *asked], partial(listener.check, process))
        if waiting:
            asked = bench.ask(lab.requests)
            with listener.running(config) as process:
                told = bench.settle([*warm, *asked], partial(listener.check, process))
        if not told["promise"]["kept"]:
            told |= {"faults": bench.faults(asked), "log": service.log[-2000:]}
        return times(asked) | told


class _Bench:
    """Somebody who asks, and who hears what the bus says."""

    def __init__(self, lab: Lab, url: str, token: str, witness: Witness) -> None:
        self._lab = lab
        self._url = url
        self._token = token
        self._witness = witness

    def await_containers(self) -> None:
        """Wait until the service knows all containers."""
        for name in self._lab.containers.names:
            until(partial(self._known, name), f"container {name} to be in the index")

    def _known(self, name: str) -> bool:
        answer = requests.get(
            f"{self._url}/v1/containers/{name}",
            headers={"X-Auth-Token": self._token},
            timeout=60,
        )
        return answer.ok and answer.json()["state"] == "Running"

    def ask(self, count: int) -> list[Answer]:
        """Ask for so many snapshots at once; return the answers."""
        names = self._lab.containers.names
        calls = [
            partial(
                post,
                f"{self._url}/v1/containers/{names[number % len(names)]}/commit",
                self._token,
                {"image_name": self._lab.stack.run, "request_id": str(uuid.uuid4())},
            )
            for number in range(count)
        ]
        return all_at_once(calls, self._lab.retries)

    def follow(self, asked: Sequence[Answer], check: Callable[[], None]) -> None:
        """Wait for the outcome of all that were promised; what is late is lost, and no error."""
        promised = {answer.request_id for answer in asked if answer.accepted}
        give_up = time.monotonic() + OUTCOME_SECONDS
        while promised - self._outcomes().keys() and time.monotonic() < give_up:
            check()
            time.sleep(0.1)

    def settle(self, asked: Sequence[Answer], check: Callable[[], None]) -> Result:
        """Wait for all outcomes, and for what routers have to clear away; judge what is there."""
        began = time.monotonic()
        self.follow(asked, check)
        seconds = round(time.monotonic() - began, 1)
        give_up = time.monotonic() + CLEARED_SECONDS
        promise = self._judge(asked)
        while promise["images_without_end"] and time.monotonic() < give_up:
            time.sleep(1)
            promise = self._judge(asked)
        return {"ends_after_answers_seconds": seconds, "promise": promise}

    def _judge(self, asked: Sequence[Answer]) -> dict[str, Any]:
        """Compare answers, outcomes and images: each request has one of each, or it is broken."""
        outcomes, statuses = self._outcomes(), self._lab.images.statuses()
        told = [each for answer in asked for each in outcomes.get(answer.request_id, ())]
        kinds = Counter(event_type for event_type, _ in told)
        filled = set()
        for answer in asked:
            image_id = str(answer.last.body.get("image_id"))
            ended = [(kind, end["image_id"]) for kind, end in outcomes.get(answer.request_id, ())]
            if ended == [(SNAPSHOT_END, image_id)] and statuses.get(image_id) == "active":
                filled.add(image_id)
        promised = [answer for answer in asked if answer.accepted]
        return {
            "asked": len(asked),
            "answered_202": len(promised),
            "ends": kinds[SNAPSHOT_END],
            "errors": len(told) - kinds[SNAPSHOT_END],
            "active_images": Counter(statuses.values())["active"],
            "lost": sum(answer.request_id not in outcomes for answer in promised),
            "images_without_end": len(statuses.keys() - filled),
            "kept": len(asked) == len(promised) == len(filled) == len(statuses) == len(told),
        }

    def faults(self, asked: Sequence[Answer], most: int = 5) -> list[str]:
        """Return the faults of some of the requests that have failed."""
        outcomes = self._outcomes()
        told = [each for answer in asked for _, each in outcomes.get(answer.request_id, ())]
        return [str(payload["fault"]) for payload in told if payload.get("fault")][:most]

    def _outcomes(self) -> dict[str, list[tuple[str, dict[str, Any]]]]:
        """Return the outcomes so far, by request id."""
        found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        for _, event_type, payload in list(self._witness.events):
            if event_type in OUTCOMES:
                found.setdefault(payload["request_id"], []).append((event_type, payload))
        return found


# The least


def _direct(lab: Lab, listener: Listener) -> Result:
    """Do the two calls from as many threads as there are requests, with no service between."""
    with _floor(lab, listener) as (floor, _):
        token = lab.member.token()

        def call() -> Reply:
            try:
                return Reply(202, {"image_id": floor.promise(token, _body(lab))})
            except (OSError, BenchError) as error:
                return Reply(0, {"error": repr(error)})

        return _measured(lab, floor, lambda count: all_at_once([call] * count, lab.retries))


def _served(lab: Lab, listener: Listener) -> Result:
    """Do the two calls in a service of the same kind as ours."""
    with _floor(lab, listener) as (floor, config):
        service = Service("api_floor:make_application()", listener.folder, config)
        with service.running() as url:
            token = lab.member.token()

            def ask(count: int) -> list[Answer]:
                calls = [partial(post, f"{url}/commit", token, _body(lab)) for _ in range(count)]
                return all_at_once(calls, lab.retries)

            return _measured(lab, floor, ask)


@contextmanager
def _floor(lab: Lab, listener: Listener) -> Iterator[tuple[Floor, Path]]:
    config = configure(lab.stack, listener.configure())
    with closing(Floor(load([str(config)]))) as floor:
        floor.prepare()
        yield floor, config


def _body(lab: Lab) -> dict[str, str]:
    return {"image_name": lab.stack.run, "request_id": str(uuid.uuid4())}


def _measured(lab: Lab, floor: Floor, ask: Callable[[int], list[Answer]]) -> Result:
    """Warm up, measure, and count what is there in the end."""
    ask(WARM_UP)
    lab.images.remove()
    floor.waiting()
    answers = ask(lab.requests)
    return times(answers) | {"messages": floor.waiting(), "images": len(lab.images.statuses())}


OURS: Mapping[str, Callable[[Lab, Listener], Result]] = {
    "tintype": partial(_tintype, waiting=False),
    "tintype service alone": partial(_tintype, waiting=True),
}
FLOORS: Mapping[str, Callable[[Lab, Listener], Result]] = {
    "floor service": _served,
    "floor direct": _direct,
}
CONTENDERS = {**OURS, **FLOORS}
