"""Made-up lives of containers, told as an agent tells them, and what an index makes of them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import reduce

from tintype.adapters import envelope
from tintype.core.engine import Container, ContainerState, EngineAction, EngineEvent
from tintype.core.events import Event
from tintype.core.index import ContainerRecord, Sighting
from tintype.core.lifecycle import Teller, nanoseconds, remembered
from tintype.core.ownership import Ownership

LIFE = (
    EngineAction.CREATE,
    EngineAction.START,
    EngineAction.PAUSE,
    EngineAction.UNPAUSE,
    EngineAction.UPDATE,
    EngineAction.RENAME,
    EngineAction.DIE,
    EngineAction.START,
    EngineAction.DIE,
    EngineAction.DESTROY,
)
"""What happens to a container; every second one is not destroyed, but updated once more."""

HOSTS = 10
BIRTH = datetime(2026, 1, 1, tzinfo=UTC)
ORDER = 4711
"""Seed of the order in which all is told: the same one in every run."""


def tell(containers: int) -> list[bytes]:
    """Return the bodies of all notifications, in a random order."""
    bodies = [body for number in range(containers) for body in _life(number)]
    random.Random(ORDER).shuffle(bodies)  # noqa: S311 (no secret)
    return bodies


def digest(bodies: Sequence[bytes]) -> dict[str, ContainerRecord]:
    """Return the living containers, as the index must have them in the end."""
    told: dict[str, list[Sighting]] = {}
    for body in bodies:
        sighting = Sighting.read(envelope.unseal(body), BIRTH)
        assert sighting is not None
        told.setdefault(sighting.uuid, []).append(sighting)
    records = {
        uuid: reduce(ContainerRecord.merged, news, ContainerRecord(uuid))
        for uuid, news in told.items()
    }
    return {uuid: record for uuid, record in records.items() if not record.deleted}


def _life(number: int) -> Iterator[bytes]:
    engine_id = hashlib.sha256(str(number).encode()).hexdigest()
    host, name = f"host-{number % HOSTS}", f"web-{number}"
    labels = {"tintype.project_id": f"project-{number % 7}", "com.example.service": "web"}
    teller = Teller(host, Ownership())
    image = "registry.example/team/web:2026.1"
    known = teller.describe(
        Container(
            engine_id, engine_id, name, ContainerState.OTHER, image, f"sha256:{engine_id}",
            labels=labels, created_at=BIRTH.isoformat(),
        )
    )  # fmt: skip
    for age, action in enumerate(LIFE):
        spared = action is EngineAction.DESTROY and number % 2
        event = EngineEvent(
            EngineAction.UPDATE if spared else action,
            engine_id,
            nanoseconds(BIRTH + timedelta(minutes=age, milliseconds=number)),
            f"{name}-renamed" if action is EngineAction.RENAME else name,
            image,
            labels,
            exit_code=0 if action is EngineAction.DIE else None,
        )
        told: Event = teller.happened(known, event)
        known = remembered(told, known)
        yield envelope.seal(told, f"tintype-agent:{host}")
