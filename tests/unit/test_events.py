"""Events: derived ids, fingerprints, and what they look like from outside."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.twins import ALICE
from tintype.core.errors import TintypeError, Unavailable, Violation
from tintype.core.events import (
    Event,
    canonical,
    derived_id,
    event_line,
    fingerprint,
    is_uuid,
)
from tintype.core.jobs import Fault
from tintype.core.snapshot import Copy, image_id_for, snapshot_id_for
from tintype.core.steps import rejection
from tintype.schemas import validate

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=20,
)


# Ids


def test_ids_are_what_they_have_always_been() -> None:
    """These numbers are in the field: were they to change, repeated requests would run twice."""
    assert snapshot_id_for(UUID) == "ed8a7ab5-928a-50eb-8ea1-75213eac4246"
    assert image_id_for(UUID) == "000b8062-9373-5d5c-882a-4eeb8052136a"
    assert image_id_for(UUID, 1) == "86267770-32c0-536d-bcb5-0e7ae1e98d91"


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_a_derived_id_is_a_uuid_and_the_same_every_time(parts: list[str]) -> None:
    assert derived_id(*parts) == derived_id(*parts)
    assert is_uuid(derived_id(*parts))


def test_each_generation_and_each_purpose_has_its_own_id() -> None:
    ids = [snapshot_id_for(UUID), *(image_id_for(UUID, number) for number in range(5))]
    assert len(set(ids)) == 6


@pytest.mark.parametrize("value", [UUID, UUID.upper()])
def test_a_uuid_is_one_in_either_case(value: str) -> None:
    assert is_uuid(value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        UUID[:-1],
        UUID + "0",
        UUID + "\n",
        UUID.replace("-", ""),
        f"urn:uuid:{UUID}",
        f"{{{UUID}}}",
        None,
        5,
        uuid.UUID(UUID),
        [UUID],
        "\u0661" * 32,
        "\ud800",
        b"x" * 36,
    ],
    ids=ascii,
)
def test_anything_else_is_no_uuid(value: object) -> None:
    assert not is_uuid(value)


# Fingerprints


@given(JSON)
def test_equal_documents_have_equal_fingerprints(value: Any) -> None:
    text = json.dumps(value)
    assert fingerprint(value) == fingerprint(json.loads(text)) == fingerprint(value)


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_fields_does_not_matter(value: dict[str, int]) -> None:
    assert fingerprint(value) == fingerprint(dict(reversed(value.items())))


@given(JSON, JSON)
def test_different_documents_have_different_fingerprints(one: Any, two: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
    assert (fingerprint(one) == fingerprint(two)) == same


def test_values_do_not_run_into_each_other() -> None:
    assert fingerprint("a", "b") != fingerprint("ab") != fingerprint(["a", "b"])
    assert fingerprint(None) != fingerprint("null") != fingerprint()


def test_a_fingerprint_is_the_same_in_another_process() -> None:
    value = {"b": [1, None, "é\ud800"], "a": {"y": True, "x": 1.5}}
    script = (
        "import sys, json; from tintype.core.events import fingerprint;"
        "print(fingerprint(json.loads(sys.argv[1])))"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, json.dumps(value)],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    assert out.stdout.strip() == fingerprint(value)


@pytest.mark.parametrize(
    "value",
    [{1: 2, "a": 3}, {(1, 2): 3}, {b"x": 1}, object, b"\xff", {1, 2}, float("nan"), "\ud800\x00"],
    ids=ascii,
)
def test_what_is_no_json_has_a_fingerprint_too(value: Any) -> None:
    assert canonical([value]).isascii()
    assert fingerprint(value) == fingerprint(value)


def test_a_document_of_any_depth_has_a_fingerprint() -> None:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    assert fingerprint(value) == fingerprint(value)


# Faults and lines


@pytest.mark.parametrize("error", TintypeError.__subclasses__(), ids=lambda error: error.__name__)
def test_an_error_becomes_a_fault_with_its_code(error: type[TintypeError]) -> None:
    fault = Fault.of(error("x" * 5000), "uploading")
    assert (fault.code, fault.exception) == (error.code, error.__name__)
    assert fault.retryable is error.retryable
    assert len(fault.message) == 2000
    assert fault.image_deleted is None


def test_a_violation_says_where_what_was_expected_and_what_came() -> None:
    assert str(Violation("/a", "a value", "nothing")) == "/a: expected a value, got nothing"
    assert str(Violation("", "object", "5")) == "(document): expected object, got 5"


def test_an_event_is_one_line() -> None:
    line = event_line(Event("a.b", {"text": "x\ny\ud800\u2028"}, ALICE))
    assert line.isascii()
    assert "\n" not in line
    document = json.loads(line)
    assert document["requester"] == {
        "project_id": "project-a",
        "user_id": "alice",
        "is_admin": False,
    }
    assert document["payload"] == {"text": "x\ny\ud800\u2028"}


def test_a_copy_that_is_not_known_to_be_ours_is_not_deleted_with_its_id() -> None:
    copy = Copy("glance", UUID)
    assert copy.next_generation(UUID).spent == ()
    ours = Copy("glance", UUID, reserved=True).next_generation(UUID)
    assert ours.spent == (UUID,)
    assert ours.image_id == image_id_for(UUID, 1)
    assert not ours.reserved


# Answers to what was not taken in


@given(JSON)
def test_any_payload_can_be_answered(payload: Any) -> None:
    answer = rejection(
        "key",
        payload,
        ALICE,
        Unavailable("no"),
        request_id=UUID,
        host="h",
        now="2026-01-01T00:00:00+00:00",
    )
    assert validate(answer.type, answer.payload) == []
    json.dumps(answer.payload, ensure_ascii=False).encode()


def test_answers_to_two_messages_with_one_request_id_can_be_told_apart() -> None:
    one, two = (
        rejection(
            key,
            {},
            ALICE,
            Unavailable("no"),
            request_id=UUID,
            host="h",
            now="2026-01-01T00:00:00+00:00",
        )
        for key in ("one", "two")
    )
    assert one.id != two.id
    assert one.payload["request_id"] == two.payload["request_id"] == UUID
    assert one.payload["snapshot_id"] not in (two.payload["snapshot_id"], snapshot_id_for(UUID))
