"""Environment variables taken out of image documents, so that their values stand nowhere in them.

What an engine keeps of a variable is more than the configuration's `Env`: the legacy
`container_config`, the build history (`ENV NAME=value`, and `|1 NAME=value` before a command for a
build argument), the legacy document of the top layer. These are remarks, which nobody runs by: a
text that sets the variable is replaced as a whole, and a value that stands in another is replaced.

What a container is run by (`config`) is not altered but for its `Env`: a value that stands in the
command, a label or another variable too can neither stay nor be replaced, so that is Refused. Short
values, plain words, paths and version numbers cannot be told from ordinary text and are not looked
for there (docs/adr/0014).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet

from tintype.core.documents import as_object, as_objects, as_strings
from tintype.core.errors import Refused

REPLACEMENT = "[scrubbed]"
"""What stands in a remark in place of a value."""

_ORDINARY = re.compile(r".{0,5}|[A-Za-z]{0,15}|(:?/[a-z0-9_.-]+)+/?|v?[0-9]+(\.[0-9]+)+", re.DOTALL)
"""Values that stand in texts by chance: short ones, words, lower-case paths, versions."""
_STRUCTURE = frozenset(
    {"architecture", "created", "docker_version", "id", "layer_id", "os", "os.version", "parent"}
    | {"size", "variant"}
)
"""Fields of a configuration whose values are the format's own."""
_LAYERS = frozenset({"type", "diff_ids"})
_HISTORY = frozenset({"created"})
_REMARKS = frozenset({"domainname", "hostname", "image"})
"""Fields of `config` that an engine fills in and does not read."""
_CACHE_PREFIX = "moby.buildkit."
"""BuildKit's own fields in a configuration; some hold build arguments, in base64."""


class Scrubber:
    """Takes the variables of these names out of documents.

    All documents of an archive are to be learned before the first is scrubbed.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """Raise ValueError for what cannot be the name of an environment variable."""
        self.names = frozenset(names)
        for name in self.names:
            if not name or "=" in name or "\0" in name:
                raise ValueError(f"not a name of an environment variable: {name!r}")
        self._found: set[str] = set()
        self._values: dict[str, str] = {}  # as it stands in a text -> the variable's name
        alternatives = "|".join(sorted(map(re.escape, self.names), key=len, reverse=True))
        # `ENV NAME value` is the Dockerfile's old form, which some builders record as it is.
        self._setting = re.compile(
            rf"(?<![A-Za-z0-9_])(?:({alternatives})=|ENV\s+({alternatives})(?=\s))"
        )

    @property
    def found(self) -> tuple[str, ...]:
        """Names of the variables that were taken out so far, sorted."""
        return tuple(sorted(self._found))

    def learn(self, documents: Iterable[object]) -> None:
        """Note the values that the variables have anywhere in the documents."""
        for key, value in _fields(list(documents)):
            for entry in as_strings(value, key) if _is_env(key, value) else ():
                name, _, text = entry.partition("=")
                if name in self.names and not _ORDINARY.fullmatch(text):
                    self._values |= dict.fromkeys(_spellings(text), name)
        # Longest first: a value may be part of another.
        self._values = dict(sorted(self._values.items(), key=lambda each: -len(each[0])))

    def configuration(self, document: Mapping[str, object]) -> dict[str, object]:
        """Return an image's configuration, or a layer's legacy document, without the variables.

        Raises Refused when a value stands in what a container is run by.
        """
        remarks: dict[str, object] = {}
        scrubbed: dict[str, object] = {}
        for key, value in document.items():
            kind = key.casefold()
            if kind == "config" and value is not None:
                scrubbed[key] = self.run_by(as_object(value, "config"))
            elif kind == "rootfs":
                scrubbed[key] = self.remarks(as_object(value, "rootfs"), _LAYERS)
            elif kind == "history" and value is not None:
                history = as_objects(value, "history")
                scrubbed[key] = [self.remarks(entry, _HISTORY) for entry in history]
            elif not kind.startswith(_CACHE_PREFIX):
                remarks[key] = value
        return self.remarks(remarks, _STRUCTURE) | scrubbed

    def run_by(self, config: Mapping[str, object]) -> dict[str, object]:
        """Return what a container is run by without the variables; Refused like `configuration`."""
        scrubbed: dict[str, object] = {}
        for key, value in config.items():
            if key.casefold() == "env" and value is not None:
                scrubbed[key] = self._without(value)
            elif key.casefold() in _REMARKS:
                scrubbed[key] = self._remark(value)
            else:
                scrubbed[key] = value
        for where, text in _texts(scrubbed, "config"):
            self._check(where, text)
        return scrubbed

    def remarks(
        self, document: Mapping[str, object], kept: AbstractSet[str] = frozenset()
    ) -> dict[str, object]:
        """Return a document that nobody runs by without the variables and their values.

        Fields that are `kept` (in any case) are the format's own, and stay when they are no more
        than a text, a number or a list of texts.
        """
        return {
            self._text(key): value
            if key.casefold() in kept and (_is_texts(value) or not isinstance(value, dict | list))
            else self._remark(self._without(value) if _is_env(key, value) else value)
            for key, value in document.items()
        }

    def _remark(self, value: object) -> object:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, list):
            return [self._remark(item) for item in value]
        return self.remarks(value) if isinstance(value, dict) else value

    def _without(self, environment: object) -> list[str]:
        entries = as_strings(environment, "Env")
        self._found |= {_name(entry) for entry in entries} & self.names
        return [entry for entry in entries if _name(entry) not in self.names]

    def _text(self, text: str) -> str:
        settings = {match[1] or match[2] for match in self._setting.finditer(text)}
        if settings:
            self._found |= settings
            return f"[scrubbed: set {', '.join(sorted(settings))}]"
        for value in self._values:
            text = text.replace(value, REPLACEMENT)
        return text

    def _check(self, where: str, text: str) -> None:
        for value, name in self._values.items():
            if value in text:
                raise Refused(
                    f"/unset_env: the value of {name} stands in the image's {where} too: name "
                    f"that variable too, change it by /changes, or leave {name} in"
                )


def check_scrubbable(config: Mapping[str, object], names: Iterable[str]) -> None:
    """Raise Refused unless these variables can be taken out of what a container is run by.

    `config` is as the engine's inspection of a container or image has it.
    """
    scrubber = Scrubber(names)
    scrubber.learn([config])
    scrubber.run_by(config)


def _is_env(key: str, value: object) -> bool:
    """Tell an environment, whose key Go reads in any case, from a label of that name, say."""
    return key.casefold() == "env" and _is_texts(value)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _name(entry: str) -> str:
    return entry.partition("=")[0]


def _fields(value: object) -> Iterator[tuple[str, object]]:
    """Yield every key with its value, at any depth."""
    if isinstance(value, list):
        for item in value:
            yield from _fields(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from _fields(item)


def _spellings(value: str) -> set[str]:
    """Return the value as a text may have it: plain, and as JSON (Go's `%q` too) has it."""
    plain = json.dumps(value, ensure_ascii=False)[1:-1]
    # Go's encoding/json puts escapes for what means something in HTML or JavaScript.
    gos = plain.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "&<>\u2028\u2029"})
    return {value, json.dumps(value)[1:-1], plain, gos}


def _texts(value: object, where: str) -> Iterator[tuple[str, str]]:
    """Yield every string, keys included, and where it stands.

    A `where` is made of keys that were yielded before it.
    """
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, where)
    elif isinstance(value, dict):
        for key in value:
            yield where, key
        for key, item in value.items():
            if _is_env(key, item):
                yield from _entries(item)
            else:
                yield from _texts(item, f"{where}/{key}")


def _entries(environment: list[str]) -> Iterator[tuple[str, str]]:
    for entry in environment:
        yield "environment", _name(entry)
        yield f"environment variable {_name(entry)}", entry
