"""Which containers exist for a capture alone, and are nobody else's to see."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tintype.adapters.docker_squash import INSTANCE_LABEL, OWNER_LABEL, is_scratch


def test_a_container_that_a_capture_has_made_is_known_by_its_labels() -> None:
    assert is_scratch({OWNER_LABEL: "request", INSTANCE_LABEL: "tintype-capture/i", "app": "web"})


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {OWNER_LABEL: "request"},
        {INSTANCE_LABEL: "tintype-capture/i"},
        # What a restore puts over labels that its image has.
        {OWNER_LABEL: "", INSTANCE_LABEL: ""},
    ],
)
def test_no_other_container_is(labels: Mapping[str, str]) -> None:
    assert not is_scratch(labels)
