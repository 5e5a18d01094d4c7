"""Who may do what over REST: the default rules, and a file that overrides them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tintype.config import load_for_oslo
from tintype.rest.policy import CONTEXT_IS_ADMIN, Policy, list_rules

OWN, OTHERS, NOBODYS = "project-a", "project-m", None
KINDS = ("container", "snapshot", "restore")
READS = tuple(f"{kind}:{what}" for kind in KINDS for what in ("list", "show"))
ACTS = ("container:commit", "snapshot:cancel", "restore:create", "restore:cancel")
EVERYBODYS = tuple(f"{kind}:list_all" for kind in KINDS)
ROLES: dict[str, list[str]] = {
    "admin": ["admin", "member", "reader"],
    "member": ["member", "reader"],
    "reader": ["reader"],
    "stranger": ["heat_stack_owner", ""],
    "shouting": ["MEMBER", "Reader"],
}
"""What roles somebody's token has: Keystone adds those that a role implies."""


def somebody(kind: str, project_id: str | None = OWN) -> dict[str, Any]:
    return {"project_id": project_id, "user_id": "alice", "roles": ROLES[kind]}


@pytest.fixture
def policy_file(tmp_path: Path) -> Callable[[str], Policy]:
    """Return what makes a policy with the rules of a file."""

    def make(rules: str) -> Policy:
        (tmp_path / "policy.yaml").write_text(rules)
        config = tmp_path / "tintype.conf"
        config.write_text(f"[oslo_policy]\npolicy_file = {tmp_path}/policy.yaml\n")
        return Policy(load_for_oslo([str(config)]))

    return make


@pytest.fixture
def policy() -> Policy:
    return Policy(load_for_oslo())


def allowed(policy: Policy, who: dict[str, Any], owner: str | None) -> set[str]:
    return {each for each in (*READS, *ACTS, *EVERYBODYS) if policy.may(who, each, owner)}


@pytest.mark.parametrize(
    ("kind", "owner", "expected"),
    [
        ("admin", OWN, {*READS, *ACTS, *EVERYBODYS}),
        ("admin", OTHERS, {*READS, *ACTS, *EVERYBODYS}),
        ("admin", NOBODYS, {*READS, *ACTS, *EVERYBODYS}),
        ("member", OWN, {*READS, *ACTS}),
        ("member", OTHERS, set()),
        ("reader", OWN, {*READS}),
        ("reader", OTHERS, set()),
        ("reader", NOBODYS, set()),
        ("member", NOBODYS, set()),
        ("stranger", OWN, set()),
        ("stranger", NOBODYS, set()),
        ("shouting", OWN, {*READS, *ACTS}),
    ],
)
def test_readers_look_members_act_and_admins_do_everything(
    policy: Policy, kind: str, owner: str | None, expected: set[str]
) -> None:
    assert allowed(policy, somebody(kind), owner) == expected


@pytest.mark.parametrize("kind", ["member", "reader", "stranger"])
@pytest.mark.parametrize("project_id", [None, "", "None"])
def test_who_is_of_no_project_may_nothing_with_what_is_nobodys(
    policy: Policy, kind: str, project_id: str | None
) -> None:
    assert allowed(policy, somebody(kind, project_id), NOBODYS) == set()


def test_only_admins_are_admins(policy: Policy) -> None:
    assert [kind for kind in ROLES if policy.is_admin(somebody(kind))] == ["admin"]


def test_the_answer_is_a_bool(policy: Policy) -> None:
    assert policy.may(somebody("reader"), "container:show", OWN) is True
    assert policy.is_admin(somebody("reader")) is False


def test_an_action_that_has_no_rule_is_a_defect(policy: Policy) -> None:
    with pytest.raises(Exception, match="tintype:container:eat"):
        policy.may(somebody("admin"), "container:eat", OWN)


def test_a_file_overrides_single_rules(policy_file: Callable[[str], Policy]) -> None:
    policy = policy_file(
        '"tintype:container:commit": "role:snapshotter"\n"tintype:snapshot:cancel": "!"\n'
    )
    snapshotter = {**somebody("reader"), "roles": ["reader", "snapshotter"]}
    assert allowed(policy, snapshotter, OWN) == {*READS, "container:commit"}
    assert allowed(policy, somebody("member"), OWN) == {*READS, "restore:create", "restore:cancel"}
    assert "snapshot:cancel" not in allowed(policy, somebody("admin"), OWN)


def test_a_file_says_who_is_admin_for_all_rules(policy_file: Callable[[str], Policy]) -> None:
    policy = policy_file('"context_is_admin": "role:admin or role:operator"\n')
    operator = {**somebody("reader"), "roles": ["operator"]}
    assert policy.is_admin(operator)
    assert allowed(policy, operator, OTHERS) == {*READS, *ACTS, *EVERYBODYS}


def test_a_file_that_changes_counts_at_once(
    policy_file: Callable[[str], Policy], tmp_path: Path
) -> None:
    policy = policy_file('"tintype:container:commit": "!"\n')
    assert not policy.may(somebody("member"), "container:commit", OWN)
    file = tmp_path / "policy.yaml"
    file.write_text('"tintype:container:commit": "@"\n# now for everybody\n')
    later = file.stat().st_mtime + 10
    os.utime(file, (later, later))
    assert policy.may(somebody("stranger"), "container:commit", OTHERS)


def test_every_rule_says_what_it_is_for() -> None:
    admin, *rules = list_rules()
    assert admin.name == CONTEXT_IS_ADMIN
    assert {rule.name for rule in rules} == {
        f"tintype:{each}" for each in (*READS, *ACTS, *EVERYBODYS)
    }
    for rule in rules:
        assert rule.description.endswith(".")
        assert rule.operations
        for operation in rule.operations:
            assert operation["path"].startswith("/v1/")
            assert operation["method"] in {"GET", "POST", "DELETE"}
