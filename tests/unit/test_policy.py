"""What an operator allows: names of variables, and when a snapshot is measured."""

from __future__ import annotations

import re

import pytest

from tintype.core.policy import Policy, looks_secret

DATABASE = Policy(secret_env=(re.compile("DB_.*"), re.compile(".*_token", re.IGNORECASE)))


@pytest.mark.parametrize(
    ("unset", "taken_out"),
    [
        ((), ("DB_PASS", "my_TOKEN")),
        (("PATH",), ("DB_PASS", "PATH", "my_TOKEN")),
        (("DB_PASS", "absent"), ("DB_PASS", "absent", "my_TOKEN")),
    ],
)
def test_what_is_taken_out_is_what_is_named_and_what_is_secret(
    unset: tuple[str, ...], taken_out: tuple[str, ...]
) -> None:
    names = ["PATH", "my_TOKEN", "DB_PASS", "MY_DB_PASS", "PATH"]
    assert DATABASE.scrubbed(names, unset) == taken_out


@pytest.mark.parametrize("name", ["XDB_PASS", "token", "a_tokens", "db_pass"])
def test_a_pattern_is_for_the_whole_name(name: str) -> None:
    assert not DATABASE.is_secret(name)


def test_nothing_is_a_secret_unless_it_is_said() -> None:
    assert Policy().scrubbed(["PASSWORD"], []) == ()


def test_names_that_look_secret_are_told_in_order() -> None:
    names = ["PATH", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "HOME", "api_key", "HTTP_AUTH", "TZ"]
    assert looks_secret(names) == ("AWS_SECRET_ACCESS_KEY", "HTTP_AUTH", "PGPASSWORD", "api_key")


@pytest.mark.parametrize(
    ("policy", "limited"),
    [
        (Policy(), False),
        (Policy(soft_limit_bytes=1), True),
        (Policy(hard_limit_bytes=0), True),
        (Policy(max_layers=1, max_pause_ms=1), False),
    ],
)
def test_only_a_limit_of_size_has_snapshots_measured(policy: Policy, *, limited: bool) -> None:
    assert policy.has_limits is limited
