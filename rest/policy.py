"""Who may do what: oslo.policy rules, which operators override in a policy.yaml.

Admin or owner, as everywhere in OpenStack: readers of a project see what is its own, members act on
it. What somebody may not even see is not there for him (404); where he may only see it, he is
refused (403).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from oslo_config import cfg
from oslo_policy import policy

CONTEXT_IS_ADMIN = "context_is_admin"
_READER = f"rule:{CONTEXT_IS_ADMIN} or (role:reader and project_id:%(project_id)s)"
_MEMBER = f"rule:{CONTEXT_IS_ADMIN} or (role:member and project_id:%(project_id)s)"
_ADMIN = f"rule:{CONTEXT_IS_ADMIN}"

Operation = tuple[str, str]
"""A method and a path."""

_CONTAINER, _SNAPSHOT = "/v1/containers/{ident}", "/v1/snapshots/{ident}"
_RESTORES, _RESTORE = "/v1/restores", "/v1/restores/{ident}"

_DOCUMENTED: Sequence[tuple[str, str, str, *tuple[Operation, ...]]] = (
    ("container:list", _READER, "List the containers of one's project.", ("GET", "/v1/containers")),
    ("container:list_all", _ADMIN, "List those of all projects.", ("GET", "/v1/containers")),
    ("container:show", _READER, "See a container; 404 without it.", ("GET", _CONTAINER)),
    ("container:commit", _MEMBER, "Snapshot a container.", ("POST", f"{_CONTAINER}/commit")),
    ("snapshot:list", _READER, "List the snapshots of one's project.", ("GET", "/v1/snapshots")),
    ("snapshot:list_all", _ADMIN, "List those of all projects.", ("GET", "/v1/snapshots")),
    ("snapshot:show", _READER, "See a snapshot; 404 without it.", ("GET", _SNAPSHOT)),
    ("snapshot:cancel", _MEMBER, "Stop a snapshot.", ("DELETE", _SNAPSHOT)),
    (
        "restore:create",
        _MEMBER,
        "Make a container of a snapshot, or of an image for one's project.",
        ("POST", f"{_SNAPSHOT}/restore"),
        ("POST", _RESTORES),
    ),
    ("restore:list", _READER, "List the restores of one's project.", ("GET", _RESTORES)),
    ("restore:list_all", _ADMIN, "List those of all projects.", ("GET", _RESTORES)),
    ("restore:show", _READER, "See a restore; 404 without it.", ("GET", _RESTORE)),
    ("restore:cancel", _MEMBER, "Stop a restore.", ("DELETE", _RESTORE)),
)


def list_rules() -> list[policy.RuleDefault]:
    """Return all rules with their defaults, for the service and for oslo.policy's generators."""
    admin = policy.RuleDefault(
        CONTEXT_IS_ADMIN,
        "role:admin",
        "Who may act for every project. Agents and routers believe this of him, too.",
    )
    return [admin, *(_documented(*each) for each in _DOCUMENTED)]


def _documented(name: str, check: str, words: str, *operations: Operation) -> policy.RuleDefault:
    where: list[Any] = [{"method": method, "path": path} for method, path in operations]
    return policy.DocumentedRuleDefault(f"tintype:{name}", check, words, where)


class Policy:
    """Applies the rules."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Read the policy file that the configuration names, if it is there."""
        self._enforcer = policy.Enforcer(conf)
        self._enforcer.register_defaults(list_rules())
        self._enforcer.load_rules()

    def is_admin(self, credentials: Mapping[str, Any]) -> bool:
        """Tell whether somebody may act for every project."""
        return bool(self._enforcer.authorize(CONTEXT_IS_ADMIN, {}, dict(credentials)))

    def may(self, credentials: Mapping[str, Any], action: str, project_id: str | None) -> bool:
        """Tell whether somebody may do something (`container:show`) to what a project owns.

        By the default rules, what belongs to nobody in particular is the admins'.
        """
        # A rule that names what is not there is not fulfilled; None would equal None.
        target = {} if project_id is None else {"project_id": project_id}
        return bool(self._enforcer.authorize(f"tintype:{action}", target, dict(credentials)))
