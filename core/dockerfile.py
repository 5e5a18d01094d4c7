"""Dockerfile instructions that a request may give for an image's configuration.

The engine itself reads and obeys them at the commit (Docker's reference, `docker container commit
--change`). Here is what can be told before any work: whether an instruction is one of those, and
what it names. Refused are, besides, what the engine would take for something else than was meant:

- an instruction of several lines: line feeds, a backslash at the end, here-documents;
- `CMD []` and `ENTRYPOINT []`: the engine puts the container's own in their place;
- an `ONBUILD` of `ONBUILD`, `FROM` or `MAINTAINER`, as in a Dockerfile;
- names of variables and labels with a `$` or a backslash, which stand for other names;
- labels that begin with `tintype.`.

A value may refer to variables of the container (`ENV COPY=$NAME`): what that one holds is then in
the image under a name of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence

from tintype.core.errors import Invalid, Violation

INSTRUCTIONS = frozenset(
    {
        *("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD"),
        *("STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
    }
)
"""What `docker commit` takes (moby's builder/dockerfile, `validCommitCommands`)."""

OWN_LABELS = "tintype."
"""What the names of labels begin with that only Tintype gives."""

_NO_TRIGGER = frozenset({"ONBUILD", "FROM", "MAINTAINER"})
_HERE_DOCUMENT = re.compile(r"<<-?\s*[\"']?\w")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_NO_NAME = re.compile(r"[\s$\\\"']")
_QUOTED = r"""\"((?:[^\"\\]|\\.)*)\"|'([^'\\]*)'"""
# A word ends at white space that is neither quoted nor escaped.
_WORD = re.compile(rf"""(?:[^\s"'\\]|\\.|{_QUOTED})+""")


def check_changes(changes: Sequence[str]) -> list[Violation]:
    """Return what is wrong with these instructions; no value that they hold is repeated."""
    return [
        Violation(f"/changes/{number}", expected, got)
        for number, change in enumerate(changes)
        for expected, got in _faults(change)
    ]


def require_changes(changes: Sequence[str]) -> None:
    """Raise Invalid when anything is wrong with these instructions; see `check_changes`."""
    if violations := check_changes(changes):
        raise Invalid("; ".join(map(str, violations)), violations)


def instruction(change: str) -> tuple[str, str]:
    """Return an instruction's name, in capitals, and the rest of it."""
    name, rest = _split(change)
    return name.upper(), rest.strip()


def env_names(changes: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the environment variables that are set, each once, in order."""
    return tuple(dict.fromkeys(name for name, _ in assignments(changes, "ENV")))


def volumes(changes: Iterable[str]) -> tuple[str, ...]:
    """Return the mount points that are declared, each once, in order."""
    found = (arguments(rest) for name, rest in map(instruction, changes) if name == "VOLUME")
    return tuple(dict.fromkeys(path for paths in found for path in paths))


def assignments(changes: Iterable[str], wanted: str) -> Iterator[tuple[str, str]]:
    """Yield name and value of what each `ENV` or each `LABEL` sets; variables are not replaced."""
    for name, rest in map(instruction, changes):
        if name == wanted:
            yield from _pairs(rest)


def arguments(rest: str) -> list[str]:
    """Return an instruction's arguments: a JSON list of strings, or words."""
    listed = json_list(rest)
    return rest.split() if listed is None else listed


def json_list(rest: str) -> list[str] | None:
    """Return the arguments in the form `["a", "b"]`; None for any other form."""
    try:
        listed = json.loads(rest) if rest.startswith("[") else None
    except ValueError:
        return None
    whole = isinstance(listed, list) and all(isinstance(each, str) for each in listed)
    return listed if whole else None


def _split(text: str) -> tuple[str, str]:
    """Return the first word, and what follows it."""
    words = [*text.split(maxsplit=1), "", ""]
    return words[0], words[1]


def _words(rest: str) -> list[str] | None:
    """Return the words of an argument; None where a quote is not closed."""
    if _WORD.sub("", rest).strip():
        return None
    return [match[0] for match in _WORD.finditer(rest)]


def _pairs(rest: str) -> list[tuple[str, str]]:
    """Return what `A=1 B="x y"` sets, or `A 1`, the older form with one name."""
    words = _words(rest)
    if not words or "=" not in words[0]:
        name, value = _split(rest)
        return [(_bare(name), value)] if name else []
    parts = [word.partition("=") for word in words]
    return [(_bare(name), _bare(value)) for name, _, value in parts]


def _bare(word: str) -> str:
    """Return a word without the quotes around it or around parts of it."""
    return re.sub(_QUOTED, r"\1\2", word)


def _faults(change: str) -> Iterator[tuple[str, str]]:
    name, rest = instruction(change)
    if len(change.splitlines()) > 1 or change.rstrip().endswith("\\"):
        yield "one instruction in one line", "several lines"
    elif _CONTROL.search(change):
        yield "text without control characters", "one"
    elif name not in INSTRUCTIONS:
        yield f"one of {', '.join(sorted(INSTRUCTIONS))}", repr(name[:40])
    elif not rest:
        yield f"an argument of {name}", "none"
    elif name in ("ENV", "LABEL"):
        yield from _assignment_faults(name, rest)
    elif name in ("CMD", "ENTRYPOINT") and json_list(rest) == []:
        yield f"a command: without one the container's {name} stays", "[]"
    elif name == "ONBUILD":
        yield from _trigger_faults(rest)


def _assignment_faults(kind: str, rest: str) -> Iterator[tuple[str, str]]:
    words = _words(rest)
    if words is None or ("=" in words[0] and not all("=" in word for word in words)):
        yield f"{kind} NAME=value ..., a value with white space in quotes", "something else"
        return
    for name, _ in _pairs(rest):
        if not name or _NO_NAME.search(name):
            yield f"a name in {kind}, without $, backslash, quotes, white space", repr(name[:40])
        if kind == "LABEL" and name.startswith(OWN_LABELS):
            yield f"a label that does not begin with {OWN_LABELS}", repr(name[:40])


def _trigger_faults(rest: str) -> Iterator[tuple[str, str]]:
    trigger, _ = instruction(rest)
    if trigger in _NO_TRIGGER:
        yield "another instruction after ONBUILD", trigger
    if _HERE_DOCUMENT.search(rest):
        yield "one instruction in one line", "a here-document"
