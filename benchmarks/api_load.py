"""Many calls in one moment, each from a thread and on a connection of its own, and their times."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any
from urllib.parse import urlsplit

from processes import BenchError

ANSWER_SECONDS = 300.0
"""How long a client waits for its answer; longer than any service's own patience."""

Reply = tuple[int, dict[str, Any]]
"""HTTP status, and the body."""

Call = Callable[[], Reply]

TIMES = ("p50_seconds", "p95_seconds", "p99_seconds", "max_seconds", "answers_per_second")


@dataclass(frozen=True)
class Answer:
    """What came of one call. Status 0: no answer, and the body says why."""

    status: int
    body: dict[str, Any]
    began: float
    ended: float


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
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def all_at_once(calls: Sequence[Call]) -> list[Answer]:
    """Make all calls, none before every thread is there; return their answers in order."""
    start = threading.Barrier(len(calls))
    answers: list[Answer | None] = [None] * len(calls)

    def make(number: int) -> None:
        start.wait()
        began = time.monotonic()
        try:
            status, body = calls[number]()
        except (OSError, http.client.HTTPException, ValueError, BenchError) as error:
            status, body = 0, {"error": repr(error)}
        answers[number] = Answer(status, body, began, time.monotonic())

    threads = [
        threading.Thread(target=make, args=(each,), daemon=True) for each in range(len(calls))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answer for answer in answers if answer is not None]


def times(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return TIMES and how many answers had which status.

    Answers a second are counted from the first call to the last answer.
    """
    waits = [answer.ended - answer.began for answer in answers]
    cuts = quantiles(waits, n=100, method="inclusive")
    whole = max(answer.ended for answer in answers) - min(answer.began for answer in answers)
    values = (cuts[49], cuts[94], cuts[98], max(waits), len(answers) / whole)
    found = dict(zip(TIMES, (round(value, 3) for value in values), strict=True))
    return found | {"statuses": dict(Counter(str(answer.status) for answer in answers))}


def failures(answers: Sequence[Answer], most: int = 5) -> list[str]:
    """Return what some of the answers that are no 202 say."""
    wrong = [answer for answer in answers if answer.status != http.client.ACCEPTED]
    return [f"{answer.status}: {json.dumps(answer.body)[:500]}" for answer in wrong[:most]]
