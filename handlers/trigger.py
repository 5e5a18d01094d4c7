"""What happens to a container may ask for a snapshot of it: its labels or configured rules say so.

What follows is an ordinary commit request, on behalf of the container's own project. All ids are
derived, so that an event which is seen twice asks once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from tintype.core.errors import Invalid
from tintype.core.events import (
    COMMIT_REQUEST,
    CONTAINER_DELETE_START,
    CONTAINER_STOP,
    Event,
    Requester,
    derived_id,
    fingerprint,
)
from tintype.core.ports import Services
from tintype.core.resolution import ALLOWED_STATES
from tintype.core.rules import (
    BEFORE_DELETE,
    LABEL_PREFIX,
    LABEL_RULE,
    SCHEDULE,
    STOP,
    Rule,
    rule_of_labels,
)
from tintype.core.steps import rejection

TRIGGER_OF: Mapping[str, str] = {CONTAINER_STOP: STOP, CONTAINER_DELETE_START: BEFORE_DELETE}
"""Event type -> what a rule is `on`."""


def react(event: Event, services: Services) -> Iterator[Event]:
    """Ask for what the rules want at a stop, or before a deletion.

    What is wrong with a label is told as an `image.snapshot.error`, never raised.
    """
    trigger = TRIGGER_OF.get(event.type)
    if trigger is None:
        return
    payload = event.payload
    moment = _moment(payload["occurred_at"])
    rules, wrong = _rules(payload, trigger, services)
    yield from wrong
    for rule in rules:
        if trigger in rule.on:
            request_id = derived_id(str(payload["event_id"]), rule.name, "trigger")
            yield _ask(payload, rule, trigger, moment, request_id=request_id, services=services)


def scheduled(event: Event, services: Services) -> Iterator[Event]:
    """Ask for what schedules want that came due after `since`, until `now`.

    For times missed there is one snapshot, of the latest: a container has but one present.
    """
    payload = event.payload
    if payload.get("state") not in ALLOWED_STATES:
        return
    uuid = str(payload["container_uuid"])
    since, now = _moment(payload["since"]), _moment(payload["now"])
    rules, wrong = _rules(payload, SCHEDULE, services)
    yield from wrong
    for rule in rules:
        if rule.schedule is None:
            continue
        try:
            due = _latest_due(rule.schedule, since, now, services)
        except Invalid as error:
            yield _mistake(payload, rule.name, SCHEDULE, _located(error, payload, rule), services)
            continue
        if due is not None:
            request_id = derived_id(uuid, rule.name, due.isoformat(), "trigger")
            yield _ask(payload, rule, SCHEDULE, due, request_id=request_id, services=services)


def mistakes(event: Event, services: Services) -> Iterator[Event]:
    """Tell what is wrong with a new container's labels, before they are needed.

    The answer has the same id however often it is given.
    """
    payload = event.payload
    rules, wrong = _rules(payload, None, services)
    yield from wrong
    for rule in rules:
        if rule.schedule is None or rule.name != LABEL_RULE:
            continue  # configured rules were looked at when they were read
        try:
            services.cron(rule.schedule, services.clock.now())
        except Invalid as error:
            yield _mistake(payload, rule.name, None, _located(error, payload, rule), services)


def _rules(
    payload: Mapping[str, Any], trigger: str | None, services: Services
) -> tuple[list[Rule], list[Event]]:
    """Return the rules for a container, its own first, and what is wrong with its labels."""
    rules = [rule for rule in services.rules if rule.matches(payload)]
    try:
        own = rule_of_labels(payload.get("labels") or {})
    except Invalid as error:
        return rules, [_mistake(payload, LABEL_RULE, trigger, error, services)]
    return ([own] if own else []) + rules, []


def _located(error: Invalid, payload: Mapping[str, Any], rule: Rule) -> Invalid:
    """Return the error about a cron expression, with the place where that stands."""
    where = "/schedule"
    if rule.name == LABEL_RULE:
        label = f"{LABEL_PREFIX}schedule"
        where = f"/labels/{label if label in payload['labels'] else f'{LABEL_PREFIX}on'}"
    return Invalid(f"{where}: {error}", error.violations)


def _latest_due(
    expression: str, since: datetime, now: datetime, services: Services
) -> datetime | None:
    """Return the latest time in (since, now] that an expression names. Raises Invalid.

    By halving: a host that was down for a year is not asked about each minute of it.
    """
    latest = services.cron(expression, since)
    if latest > now:
        return None
    end = now  # none is due in (end, now]
    while (following := services.cron(expression, latest)) <= now:
        middle = following + (end - following) / 2
        due = services.cron(expression, middle)
        if due <= now:
            latest = due
        else:
            latest, end = following, middle
    return latest


def _ask(
    payload: Mapping[str, Any],
    rule: Rule,
    trigger: str,
    moment: datetime,
    *,
    request_id: str,
    services: Services,
) -> Event:
    """Return the commit request of a rule, or the error that says why there is none."""
    try:
        image_name, tag = rule.image_for(payload, trigger, moment)
    except Invalid as error:
        return _mistake(payload, rule.name, trigger, error, services)
    wanted = {
        "container": payload.get("engine_container_id") or payload["container_uuid"],
        "image_name": image_name,
        "tag": tag,
        "request_id": request_id,
        "host": payload.get("host"),
        "backup_type": rule.name,
        "rotation": rule.keep_last,
        "keep_days": rule.keep_days,
        "stores": list(rule.stores) or None,
        "pause": rule.pause,
        "metadata": {"trigger": trigger, "rule": rule.name},
    }
    request = {name: value for name, value in wanted.items() if value is not None}
    return Event(COMMIT_REQUEST, request, _owner(payload), request_id)


def _mistake(
    payload: Mapping[str, Any],
    rule_name: str,
    trigger: str | None,
    error: Invalid,
    services: Services,
) -> Event:
    """Answer a rule that cannot work, to the container's owner.

    The id says whether anybody is to hear it again: once for each trigger, and before a deletion
    each time, for whoever deletes waits for it.
    """
    labels = payload.get("labels") or {}
    ours = {name: text for name, text in labels.items() if name.startswith(LABEL_PREFIX)}
    uuid = str(payload["container_uuid"])
    occasion = [] if trigger is None else [trigger]
    if trigger == BEFORE_DELETE:
        occasion.append(str(payload["event_id"]))
    key = derived_id(uuid, rule_name, fingerprint(ours), *occasion)
    told = rejection(
        key,
        {"container": payload.get("container_name")},
        _owner(payload),
        error,
        request_id=derived_id(key, "trigger"),
        host=payload.get("host") or services.host,
        now=services.clock.now().isoformat(),
    )
    about = {
        name: payload.get(name) for name in ("container_uuid", "engine_container_id", "base_image")
    }
    about["metadata"] = {"rule": rule_name} | ({"trigger": trigger} if trigger else {})
    return Event(told.type, {**told.payload, **about}, told.requester, told.id)


def _owner(payload: Mapping[str, Any]) -> Requester:
    project = payload.get("project_id") or payload.get("tenant_id")
    return Requester(project, payload.get("user_id"))


def _moment(text: str) -> datetime:
    """Read a moment; one without a zone is UTC, as in every oslo.messaging notification."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
