"""Names of images made from templates like `{container_name}-{date}`.

Values put into a template are made fit for a Docker name, so that a template which is good for one
container is good for all, and what is wrong with one can be told before it is used.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping

from tintype.core.errors import Invalid

FIELDS = ("container_name", "container_uuid", "host", "project_id", "trigger", "date", "time")
"""What a template may name."""

LONGEST_NAME = 200
LONGEST_TAG = 128
"""Bounds, as schemas/container.commit.request.json has them, and the patterns too."""

NAME = re.compile(
    r"(?:(?=[a-z0-9.-]*\.)[a-z0-9]+(?:[.-]+[a-z0-9]+)*/)?"
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")

_ENGINE_ID = re.compile(r"[0-9a-f]{64}")
_FIELD = re.compile(r"\{([^{}]*)\}")
_GOOD_NAME = "a lowercase Docker repository name, without a registry's port"
_GOOD_TAG = f"a tag: up to {LONGEST_TAG} letters, digits, '_', '.', '-'"

Values = Mapping[str, str | None]


def check_templates(name: str | None, tag: str | None, name_at: str, tag_at: str) -> None:
    """Raise Invalid, with the pointer given, for a template that makes no name or no tag."""
    sample = dict.fromkeys(FIELDS, "x")
    if name is not None:
        fill_name(name, sample, name_at)
    if tag is not None:
        fill_tag(tag, sample, tag_at)


def fill_name(template: str, values: Values, where: str) -> str:
    """Return the image name that a template makes. Raises Invalid."""
    filled = _fill(template, values, fit_for_name, where, LONGEST_NAME)
    if not NAME.fullmatch(filled):
        raise wrong(where, _GOOD_NAME, template)
    return filled


def fill_tag(template: str, values: Values, where: str) -> str:
    """Return the tag that a template makes. Raises Invalid."""
    filled = _fill(template, values, fit_for_tag, where, LONGEST_TAG)
    if not TAG.fullmatch(filled):
        raise wrong(where, _GOOD_TAG, template)
    return filled


def fit_for_name(value: str) -> str:
    """Return a value as a part of a Docker repository name: lowercase, all else a `-`."""
    return _fit(re.sub(r"[^a-z0-9]+", _separator, value.lower()))


def fit_for_tag(value: str) -> str:
    """Return a value as a part of a tag."""
    return _fit(re.sub(r"[^A-Za-z0-9_.-]+", "-", value))


def wrong(where: str, expected: str, got: str | None) -> Invalid:
    """Return the error that says what is wrong at a JSON pointer."""
    came = "nothing" if got is None else reprlib.repr(got)
    return Invalid.at(where, expected, came)


def _separator(match: re.Match[str]) -> str:
    text = match.group()
    return text if text in (".", "_", "__") or not text.strip("-") else "-"


def _fit(value: str) -> str:
    """Cut an engine id as `docker ps` does: the engine takes no image name of 64 hex digits."""
    value = value.strip("._-")
    return (value[:12] if _ENGINE_ID.fullmatch(value) else value) or "none"


def _fill(
    template: str, values: Values, fit: Callable[[str], str], where: str, longest: int
) -> str:
    """Put the values into a template: fields only, nothing of what `str.format` can reach."""
    parts = _FIELD.split(template)  # text, field, text, field, ..., text
    if len(template) > longest or any(brace in text for text in parts[::2] for brace in "{}"):
        raise wrong(where, f"at most {longest} characters, each field in its braces", template)
    for name in parts[1::2]:
        if name not in FIELDS:
            fields = " ".join(f"{{{known}}}" for known in FIELDS)
            raise wrong(where, f"only the fields {fields}", f"{{{name}}}")
    parts[1::2] = [fit(values.get(name) or "") for name in parts[1::2]]
    whole = "".join(parts)
    return whole if len(whole) <= longest else whole[:longest].rstrip("/._-")
