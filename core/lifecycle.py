"""What the agent tells the bus of the containers on its host: `container.*`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tintype.core.engine import Container, ContainerState, EngineAction, EngineEvent, container_uuid
from tintype.core.events import (
    CONTAINER_CREATE,
    CONTAINER_DELETE,
    CONTAINER_EXISTS,
    CONTAINER_PAUSE,
    CONTAINER_RENAME,
    CONTAINER_START,
    CONTAINER_STOP,
    CONTAINER_UNPAUSE,
    CONTAINER_UPDATE,
    SCHEMA_VERSION,
    Event,
    Requester,
    derived_id,
)
from tintype.core.moments import utc_text
from tintype.core.ownership import Ownership

TOLD_AS: Mapping[EngineAction, str] = {
    EngineAction.CREATE: CONTAINER_CREATE,
    EngineAction.START: CONTAINER_START,
    EngineAction.PAUSE: CONTAINER_PAUSE,
    EngineAction.UNPAUSE: CONTAINER_UNPAUSE,
    EngineAction.DIE: CONTAINER_STOP,
    EngineAction.RENAME: CONTAINER_RENAME,
    EngineAction.UPDATE: CONTAINER_UPDATE,
    EngineAction.DESTROY: CONTAINER_DELETE,
}

_STATE_AFTER: Mapping[EngineAction, ContainerState] = {
    EngineAction.CREATE: ContainerState.OTHER,
    EngineAction.START: ContainerState.RUNNING,
    EngineAction.PAUSE: ContainerState.PAUSED,
    EngineAction.UNPAUSE: ContainerState.RUNNING,
    EngineAction.DIE: ContainerState.STOPPED,
}
"""The others leave the state as it is, and do not tell it: it may have changed since."""

OUR_LABELS = "tintype."
"""What the labels begin with that mean something to us."""

LABELS_BYTES = 32 * 1024
"""Bound of what is told of a container's labels, names and values, in UTF-8. The engine has none,
and an event that the broker refuses for its size would hold back all that follow it in the outbox;
one above `[bus] max_message_bytes` (1 MiB) nobody reads. In the envelope, which is JSON in JSON, a
byte becomes seven at the worst."""

LONGEST_IMAGE = 1024
"""Characters of an image's name, as schemas/container.json has them."""

_ONCE = frozenset({EngineAction.CREATE, EngineAction.DESTROY})
"""What happens to a container but once, so that its event has one id however it was found out."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Teller:
    """Puts what the engine says into the events of one host."""

    host: str
    ownership: Ownership

    def describe(self, container: Container) -> dict[str, Any]:
        """Return what is told of a container whatever has happened to it."""
        owner = self.ownership.owner_of(container.labels)
        return {
            "schema_version": SCHEMA_VERSION,
            "host": self.host,
            "container_uuid": container.uuid,
            "engine_container_id": container.engine_id,
            "container_name": container.name,
            "state": container.state.value,
            "base_image": container.image if len(container.image) <= LONGEST_IMAGE else None,
            "labels": self._bounded(container.labels),
            "project_id": owner.project_id,
            "tenant_id": owner.project_id,
            "user_id": owner.user_id,
            "created_at": container.created_at or None,
            "exit_code": None,
            "old_name": None,
        }

    def _bounded(self, labels: Mapping[str, str]) -> dict[str, str]:
        """Return the labels that fit into LABELS_BYTES, those with a meaning for us first."""
        owners = (self.ownership.project_label, self.ownership.user_label)
        left = LABELS_BYTES
        kept = {}
        for name in sorted(
            labels,
            key=lambda name: (name not in owners, not name.startswith(OUR_LABELS), name),
        ):
            size = _size(name) + _size(labels[name])
            if size <= left:
                left -= size
                kept[name] = labels[name]
        return kept

    def exists(self, known: Mapping[str, Any], at: datetime) -> Event:
        """Tell that a container is there, as it was at that moment or a little later."""
        moment = utc_text(at)
        event_id = derived_id(str(known["container_uuid"]), CONTAINER_EXISTS, moment)
        return _event(CONTAINER_EXISTS, known, event_id, moment)

    def happened(self, known: Mapping[str, Any], event: EngineEvent) -> Event:
        """Tell what has happened to a container; `known` is what was told of it, or is to be."""
        told = dict(known)
        if event.action is EngineAction.RENAME:
            old_name = known["container_name"]
            told |= {"container_name": event.name}
            told |= {"old_name": None if old_name == event.name else old_name}
        state = _STATE_AFTER.get(event.action)
        told |= {"state": state and state.value, "exit_code": event.exit_code}
        event_type = TOLD_AS[event.action]
        parts = [str(known["container_uuid"]), event_type]
        if event.action not in _ONCE:
            parts.append(str(event.at))
        return _event(event_type, told, derived_id(*parts), utc_text(from_nanoseconds(event.at)))

    def gone(self, known: Mapping[str, Any], at: datetime) -> Event:
        """Tell that a container is no more whose end the engine did not tell."""
        event_id = derived_id(str(known["container_uuid"]), CONTAINER_DELETE)
        return _event(CONTAINER_DELETE, {**known, "state": None}, event_id, utc_text(at))


def remembered(event: Event, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a container after an event, to be told with the next."""
    told = {name: value for name, value in event.payload.items() if name not in _OF_ONE_EVENT}
    return told | {
        "state": event.payload["state"] or before.get("state"),
        "exit_code": None,
        "old_name": None,
    }


def of_engine_event(event: EngineEvent) -> Container:
    """Return what an event of the engine alone says of a container that cannot be looked at."""
    return Container(
        engine_id=event.engine_id,
        uuid=container_uuid(event.name, event.engine_id),
        name=event.name,
        state=ContainerState.OTHER,
        image=event.image,
        image_id="",
        labels=event.labels,
    )


def nanoseconds(moment: datetime) -> int:
    """Return a moment as the engine counts it."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def from_nanoseconds(at: int) -> datetime:
    """Return a moment that the engine has counted."""
    return _EPOCH + timedelta(microseconds=at // 1000)


_OF_ONE_EVENT = frozenset({"event_id", "occurred_at"})


def _event(event_type: str, told: Mapping[str, Any], event_id: str, moment: str) -> Event:
    payload = {"event_id": event_id, **told, "occurred_at": moment}
    owner = Requester(told.get("project_id"), told.get("user_id"))
    return Event(event_type, payload, owner, event_id)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
