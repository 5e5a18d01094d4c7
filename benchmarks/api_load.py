"""Many calls in one moment, each from a thread and on a connection of its own, and their times.

Who is answered 503, or anything above, asks once more after the time that the answer names, as
clients are meant to. That counts as part of the time until the answer, and is told.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import quantiles
from typing import Any
from urllib.parse import urlsplit

MOST_FAILURES = 5
"""That are told."""

ANSWER_SECONDS = 300.0
"""How long a client waits for its answer; longer than any service's own patience."""

RETRY_SECONDS = 5.0
"""After which a call is made again whose failure names no time."""

TIMES = ("p50_seconds", "p95_seconds", "p99_seconds", "max_seconds", "answers_per_second")


@dataclass(frozen=True)
class Reply:
    """One answer over HTTP. Status 0: there was none, and the body says why."""

    status: int
    body: dict[str, Any]
    retry_seconds: float = RETRY_SECONDS

    @property
    def passing(self) -> bool:
        """Whether the same call may succeed later."""
        return not self.status or self.status >= http.client.INTERNAL_SERVER_ERROR


Call = Callable[[], Reply]


@dataclass(frozen=True)
class Answer:
    """What came of one call in the end, and before."""

    last: Reply
    before: Sequence[Reply]
    began: float
    ended: float

    @property
    def accepted(self) -> bool:
        """Whether it is a 202 in the end."""
        return self.last.status == http.client.ACCEPTED

    @property
    def request_id(self) -> str:
        """What the events call the request: after a 503 another than the one that was sent."""
        return str(self.last.body.get("request_id"))


def post(url: str, token: str, body: Mapping[str, Any]) -> Reply:
    """Send JSON on a new connection, which is closed after the answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=ANSWER_SECONDS)
    headers = {
        "X-Auth-Token": token,
        "Content-Type": "application/json",
        "Connection": "close",
    }
    try:
        connection.request("POST", parts.path, json.dumps(body), headers)
        answer = connection.getresponse()
        wait = float(answer.headers.get("Retry-After", RETRY_SECONDS))
        return Reply(answer.status, json.loads(answer.read()), wait)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Reply(0, {"error": repr(error)})
    finally:
        connection.close()


def all_at_once(calls: Sequence[Call], retries: int) -> list[Answer]:
    """Make all calls, none before every thread is there; return their answers in order."""
    start = threading.Barrier(len(calls))

    def make(call: Call) -> Answer:
        start.wait()
        began = time.monotonic()
        replies = [call()]
        while replies[-1].passing and len(replies) <= retries:
            time.sleep(replies[-1].retry_seconds)
            replies.append(call())
        return Answer(replies[-1], replies[:-1], began, time.monotonic())

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(make, calls))


def times(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return TIMES, how many replies had which status, and what some say that are no 202.

    Answers a second are counted from the first call to the last answer.
    """
    waits = [answer.ended - answer.began for answer in answers]
    cuts = quantiles(waits, n=100, method="inclusive")
    whole = max(answer.ended for answer in answers) - min(answer.began for answer in answers)
    values = (cuts[49], cuts[94], cuts[98], max(waits), len(answers) / whole)
    replies = [reply for answer in answers for reply in (*answer.before, answer.last)]
    wrong = [reply for reply in replies if reply.status != http.client.ACCEPTED]
    return {
        **dict(zip(TIMES, (round(value, 3) for value in values), strict=True)),
        "statuses": dict(Counter(str(reply.status) for reply in replies)),
        "told_to_retry": sum(len(answer.before) for answer in answers),
        "failures": [json.dumps(reply.body)[:500] for reply in wrong[:MOST_FAILURES]],
    }
