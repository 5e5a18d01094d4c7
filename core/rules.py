"""Rules: when to snapshot a container of itself, and under which name.

A rule stands in the operator's file, or in the container's own labels. It is a value: to evaluate
one takes an event's payload and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from tintype.core.errors import Invalid, Violation
from tintype.core.templates import FIELDS, check_templates, fill_name, fill_tag, wrong

LABEL_PREFIX = "tintype.snapshot."
"""What all labels begin with that ask for snapshots."""

LABEL_RULE = "label"
"""Name of the rule that a container's labels make, and so of its series of images."""

STOP = "stop"
BEFORE_DELETE = "before-delete"
SCHEDULE = "schedule"

TRIGGERS: Mapping[str, str] = {"stop": STOP, "die": STOP, "before-delete": BEFORE_DELETE}
"""What a rule can be `on`. The engine tells of `die` whenever a container stops, of `stop` only
after it when somebody asked for it: one snapshot either way."""

MOST_KEPT = 1000
MOST_DAYS = 3650
MOST_STORES = 8
LONGEST_CRON = 255
"""Bounds, as schemas/container.commit.request.json has them."""

_LONGEST_PLACE = 100

_GAPS = " \t\r\n,;"
_WHEN = "stop, die, before-delete or schedule=<cron>, separated by ',' or ';'"


@dataclass(frozen=True, slots=True)
class Rule:
    """When which containers are snapshotted, and how."""

    name: str
    """Also the series (`backup_type`) that its images belong to."""
    container_name: str = "*"
    """Glob that the container's name matches."""
    image: str = "*"
    """Glob that the image matches which the container was made from."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that the container has, each with a glob for its value."""
    project_id: str | None = None
    """Project that owns the container; None: any, or none."""
    on: frozenset[str] = frozenset()
    """Some of `stop`, `before-delete`."""
    schedule: str | None = None
    """Cron expression, UTC."""
    image_name: str = "{container_name}"
    tag: str = "{trigger}-{time}"
    keep_last: int | None = None
    """How many images of the series are kept for each container."""
    keep_days: int | None = None
    """For how many days they are."""
    stores: tuple[str, ...] = ()
    pause: bool | None = None

    def matches(self, payload: Mapping[str, Any]) -> bool:
        """Tell whether the rule is for the container that an event is about."""
        labels = payload.get("labels") or {}
        return (
            _like(self.container_name, payload.get("container_name"))
            and _like(self.image, payload.get("base_image"))
            and all(name in labels for name in self.labels)
            and all(_like(glob, labels[name]) for name, glob in self.labels.items())
            and self.project_id in (None, payload.get("project_id"))
        )

    def image_for(
        self, payload: Mapping[str, Any], trigger: str, moment: datetime
    ) -> tuple[str, str]:
        """Return the image's name and tag. Raises Invalid for a bad template."""
        utc = moment.astimezone(UTC)
        values = {
            **{name: payload.get(name) for name in FIELDS},
            "container_name": payload.get("container_name") or payload.get("container_uuid"),
            "trigger": trigger,
            "date": f"{utc:%Y%m%d}",
            "time": f"{utc:%Y%m%dt%H%M%S}",
        }
        name = fill_name(self.image_name, values, "/image_name")
        return name, fill_tag(self.tag, values, "/tag")


def rule_of_labels(labels: Mapping[str, str]) -> Rule | None:
    """Return the rule that a container's labels make, or None when they ask for nothing.

    Raises Invalid that names each bad label, what was expected and what came.
    """
    found: dict[str, Any] = {}
    faults: list[Violation] = []
    ours = sorted(name for name in labels if name.startswith(LABEL_PREFIX))
    for label in ours:
        try:
            read = _LABELS.get(label.removeprefix(LABEL_PREFIX), _read_unknown)
            _merge(found, read(f"/labels/{label}", labels[label]), f"/labels/{label}")
        except Invalid as error:
            faults += error.violations
    if ours and not faults and not ("on" in found or "schedule" in found):
        expected = f"a label that says when ({_WHEN}), or {LABEL_PREFIX}schedule"
        faults.append(Violation(f"/labels/{LABEL_PREFIX}on", expected, "nothing"))
    if faults:
        raise Invalid("; ".join(map(str, faults)), faults)
    return Rule(LABEL_RULE, **found) if ours else None


def rule_of_document(document: Mapping[str, Any]) -> Rule:
    """Return a configured rule; `document` has passed schemas/trigger.rule.json.

    Raises Invalid for what a schema cannot see.
    """
    found = dict(document)
    if not (found.get("on") or found.get("schedule")):
        raise wrong("/on", "`on` or `schedule`: when to make snapshots", None)
    if found["name"] == LABEL_RULE:
        raise wrong("/name", "a name that containers' labels do not stand for", LABEL_RULE)
    check_templates(found.get("image_name"), found.get("tag"), "/image_name", "/tag")
    found["on"] = frozenset(TRIGGERS[word] for word in found.get("on", ()))
    found["stores"] = tuple(found.get("stores", ()))
    return Rule(**found)


def _like(glob: str, value: str | None) -> bool:
    """Tell whether a value matches; one that is not there matches `*` only."""
    return glob == "*" if value is None else fnmatchcase(value, glob)


def _merge(found: dict[str, Any], more: Mapping[str, Any], where: str) -> None:
    if "schedule" in found and "schedule" in more:
        raise wrong(where, f"one schedule, not another beside {LABEL_PREFIX}on", more["schedule"])
    found.update(more)


def _read_on(where: str, text: str) -> dict[str, Any]:
    """Read when: a cron expression has commas and spaces itself, and reaches to the next `;`."""
    found: dict[str, Any] = {}
    on = set()
    rest = text.strip(_GAPS)
    while rest:
        end = ";" if rest.lower().startswith(f"{SCHEDULE}=") else "[,;]"
        item, *others = re.split(end, rest, maxsplit=1)
        rest = "".join(others).strip(_GAPS)
        word, _, cron = item.partition("=")
        if end == ";":
            _merge(found, _read_schedule(where, cron), where)
        elif item.strip().lower() in TRIGGERS:
            on.add(TRIGGERS[item.strip().lower()])
        else:
            raise wrong(where, _WHEN, word.strip())
    if not (on or found):
        raise wrong(where, _WHEN, text)
    return {**found, "on": frozenset(on)}


def _read_schedule(where: str, text: str) -> dict[str, Any]:
    if not text.strip() or len(text) > LONGEST_CRON:
        raise wrong(where, "a cron expression: minute hour day month weekday", text)
    return {"schedule": text.strip()}


def _read_image(where: str, text: str) -> dict[str, Any]:
    name, colon, tag = text.partition(":")
    check_templates(name, tag if colon else None, where, where)
    return {"image_name": name, "tag": tag} if colon else {"image_name": name}


def _read_keep_last(where: str, text: str) -> dict[str, Any]:
    return {"keep_last": _number(where, text, MOST_KEPT)}


def _read_keep_days(where: str, text: str) -> dict[str, Any]:
    return {"keep_days": _number(where, text, MOST_DAYS)}


def _number(where: str, text: str, most: int) -> int:
    if re.fullmatch(r"[0-9]{1,4}", text.strip()) and 1 <= int(text) <= most:
        return int(text)
    raise wrong(where, f"a whole number from 1 to {most}", text)


def _read_stores(where: str, text: str) -> dict[str, Any]:
    names = tuple(dict.fromkeys(re.split(r"[,;\s]+", text.strip(_GAPS))))
    if len(names) > MOST_STORES or any(not 1 <= len(name) <= 64 for name in names):
        raise wrong(where, f"1 to {MOST_STORES} names of stores, separated by ','", text)
    return {"stores": names}


def _read_unknown(where: str, _text: str) -> dict[str, Any]:
    # In the place as elsewhere in the message, text is shown in a form that every store can keep.
    shown = ascii(where[:_LONGEST_PLACE])[1:-1]
    known = ", ".join(f"{LABEL_PREFIX}{name}" for name in _LABELS)
    raise Invalid.at(shown, f"one of the labels {known}", "an unknown one")


_LABELS: Mapping[str, Callable[[str, str], dict[str, Any]]] = {
    "on": _read_on,
    "schedule": _read_schedule,
    "image": _read_image,
    "keep-last": _read_keep_last,
    "keep-days": _read_keep_days,
    "stores": _read_stores,
}
