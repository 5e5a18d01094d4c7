"""What is derived from schemas and options is up to date."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_event_reference_is_made_from_the_schemas_as_they_are(reference: ModuleType) -> None:
    assert reference.EVENTS.read_text() == reference.events()


def test_the_configuration_sample_is_made_from_the_options_as_they_are(
    reference: ModuleType,
) -> None:
    assert reference.SAMPLE.read_text() == reference.sample()


def test_the_policy_sample_is_made_from_the_rules_as_they_are(reference: ModuleType) -> None:
    assert reference.POLICY.read_text() == reference.policy()
