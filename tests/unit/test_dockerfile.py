"""Dockerfile instructions in a request: what is taken, what is refused, what they name."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tintype.core.dockerfile import (
    INSTRUCTIONS,
    arguments,
    assignments,
    check_changes,
    env_names,
    require_changes,
    volumes,
)
from tintype.core.errors import Invalid


@pytest.mark.parametrize(
    "change",
    [
        'CMD ["/bin/x", "y"]',
        "CMD echo \\$HOME | cat",
        "cmd x",
        'ENTRYPOINT ["/x"]',
        "ENV A=1",
        "ENV\tA=1   B=\"x y\" C='x y' D=x\\ y E=a'b'\"c\"",
        "ENV A the whole rest",
        "ENV A=$B",
        "ENV A==",
        "EXPOSE 80 81/udp",
        "HEALTHCHECK --interval=5s CMD true",
        "HEALTHCHECK NONE",
        'LABEL "com.example"="a b" x=y',
        "LABEL mytintype.x=1",
        "ONBUILD RUN x",
        "STOPSIGNAL SIGTERM",
        "USER a:b",
        'VOLUME ["/a b"]',
        "  WORKDIR /x  ",
    ],
)
def test_what_a_commit_takes(change: str) -> None:
    assert check_changes([change]) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("", "one of CMD, ENTRYPOINT"),
        ("   ", "one of CMD, ENTRYPOINT"),
        ("RUN x", "one of CMD, ENTRYPOINT"),
        ("FROM x", "one of CMD, ENTRYPOINT"),
        ("SHELL x", "one of CMD, ENTRYPOINT"),
        ("# escape=`", "one of CMD, ENTRYPOINT"),
        ("ENV A=1\nRUN x", "one line"),
        ("ENV A=1\rRUN x", "one line"),
        ("ENV A=1\u2028RUN x", "one line"),
        ("ENV A=1 \\", "one line"),
        ("ENV A=1\\  ", "one line"),
        ("ENV A=\0", "control characters"),
        ("ENV A=\x1fB=1", "one line|control characters"),
        ("USER", "an argument of USER"),
        ("ENV   ", "an argument of ENV"),
        ("CMD []", "a command"),
        ("ENTRYPOINT [ ]", "a command"),
        ("ENV $A=1", "a name in ENV"),
        ("ENV ${A}=1", "a name in ENV"),
        ("ENV A\\ B=1", "a name in ENV"),
        ('ENV "A B"=1', "a name in ENV"),
        ("ENV =1", "a name in ENV"),
        ("ENV $A 1", "a name in ENV"),
        ("ENV A=1 B", "ENV NAME=value"),
        ('ENV A="x', "ENV NAME=value"),
        ("ENV A='x\\' B=1'", "ENV NAME=value"),
        ("LABEL tintype.request_id=x", "does not begin with tintype."),
        ('LABEL "tintype.x"=x', "does not begin with tintype."),
        ('LABEL t"inty"pe.x=x', "does not begin with tintype."),
        ("LABEL $X=x", "a name in LABEL"),
        ("ONBUILD ONBUILD RUN x", "after ONBUILD"),
        ("ONBUILD from x", "after ONBUILD"),
        ("ONBUILD maintainer x", "after ONBUILD"),
        ("ONBUILD RUN <<EOF", "one line"),
        ("ONBUILD RUN cat <<-'EOF' > x", "one line"),
    ],
)
def test_what_is_refused_and_why(change: str, expected: str) -> None:
    violations = check_changes(["USER x", change])

    assert {each.pointer for each in violations} == {"/changes/1"}
    assert any(
        each in violation.expected for violation in violations for each in expected.split("|")
    )


def test_no_value_is_repeated() -> None:
    changes = ["ENV $A=hunter2", "ENV A=hunter2 B", 'ENV A="hunter2', "RUN hunter2", "SECRET\\"]

    violations = check_changes(changes)

    assert len({each.pointer for each in violations}) == len(changes)
    assert "hunter2" not in repr(violations)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(Invalid, match=r"/changes/0: .*/changes/2: ") as raised:
        require_changes(["RUN x", "USER x", "ENV"])

    assert [each.pointer for each in raised.value.violations] == ["/changes/0", "/changes/2"]
    require_changes([f"{name} x=1" for name in sorted(INSTRUCTIONS)])


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ([], ()),
        (
            ["ENV A=1 B='x C=2' D=\"E=3\"", "LABEL F=4", "env G H=5", "ENV A=6"],
            ("A", "B", "D", "G"),
        ),
        (["ENV A=x\\ B=2 C=3"], ("A", "C")),
        (["USER x", "CMD ENV A=1"], ()),
    ],
)
def test_the_variables_that_are_set(changes: Sequence[str], names: Sequence[str]) -> None:
    assert env_names(changes) == tuple(names)


def test_the_volumes_that_are_declared() -> None:
    changes = ["VOLUME /a /b", 'volume ["/c d", "/a"]', 'VOLUME ["/e', "USER /x"]

    assert volumes(changes) == ("/a", "/b", "/c d", '["/e')


def test_what_is_set_to_what() -> None:
    found = assignments(["ENV A=1 B='x y' C=a\"b c\"d", "ENV D e f", "LABEL A=2"], "ENV")

    assert list(found) == [("A", "1"), ("B", "x y"), ("C", "ab cd"), ("D", "e f")]


def test_arguments_are_words_or_a_json_list_of_strings() -> None:
    assert arguments('["a b", "c"]') == ["a b", "c"]
    assert arguments("a  b") == ["a", "b"]
    assert arguments("[1]") == ["[1]"]
    assert arguments('["a"') == ['["a"']
