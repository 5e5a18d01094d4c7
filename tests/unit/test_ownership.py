"""Whose a container is, and who may act on what is whose."""

from __future__ import annotations

import pytest

from tests.support.twins import ADMIN, ALICE, MALLORY
from tintype.config import AgentSettings, Settings
from tintype.core.events import Requester
from tintype.core.ownership import Ownership, may_use, or_default

LABELS = {"tintype.project_id": "p", "tintype.user_id": "u", "other": "o"}


def test_an_owner_is_read_from_labels() -> None:
    assert Ownership().owner_of(LABELS) == Requester("p", "u")
    assert Ownership("other").owner_of(LABELS) == Requester("o", "u")


def test_without_labels_it_is_the_configured_one() -> None:
    ownership = Ownership(default_project_id="dp", default_user_id="du")
    assert ownership.owner_of({}) == Requester("dp", "du")
    assert ownership.owner_of(LABELS) == Requester("p", "u")
    assert Ownership().owner_of({}) == Requester()


@pytest.mark.parametrize("label", ["", "a\nb", "\x00", "\ud800", "x" * 256])
def test_a_label_that_is_no_id_is_nobodys(label: str) -> None:
    owner = Ownership(default_project_id="dp").owner_of({"tintype.project_id": label})
    assert owner.project_id == ""
    assert not may_use(owner.project_id, ALICE)
    assert not may_use(owner.project_id, Requester())
    assert may_use(owner.project_id, ADMIN)


def test_ones_own_and_nobodys_in_particular_may_be_used() -> None:
    assert may_use("project-a", ALICE)
    assert may_use(None, MALLORY)
    assert may_use("project-a", ADMIN)
    assert not may_use("project-a", MALLORY)
    assert not may_use("project-a", Requester())


def test_who_names_no_project_is_the_configured_one_unless_an_admin() -> None:
    settings = Settings(agent=AgentSettings(default_project_id="dp", default_user_id="du"))
    found = {"alice": ALICE, "nobody": Requester(), "router": Requester(is_admin=True)}
    read = or_default(lambda name: found[str(name)], settings.default_requester)
    assert read("alice") == ALICE
    assert read("nobody") == Requester("dp", "du")
    assert read("router") == Requester(is_admin=True)
