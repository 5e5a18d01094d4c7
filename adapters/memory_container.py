"""A container of the engine in memory, and the image that a commit of it makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tintype.adapters.memory_events import KILLED, MemoryEvents, actions_between
from tintype.adapters.memory_layouts import tar_of
from tintype.core.changes import changed
from tintype.core.engine import (
    CaptureOptions,
    Container,
    ContainerState,
    Execution,
    Usage,
    inherited,
)


@dataclass(slots=True)
class MemoryContainer:
    """A container: what is known of it, and its files by absolute path."""

    described: Container
    files: dict[str, bytes] = field(default_factory=dict)
    events: MemoryEvents = field(default_factory=MemoryEvents)
    """Where its changes are logged."""
    env: dict[str, str] = field(default_factory=dict)
    """Its environment; a variable that only `described` names is empty."""
    base_layers: int = 1
    """How many layers its image has."""
    run: Callable[[str], Execution] = field(default=lambda _command: Execution(0, ""))
    """What `execute` does with a command."""
    sizes: Usage | None = None
    """What `usage` says; None: what its files take."""

    @property
    def state(self) -> ContainerState:
        """The state it is in now; another one is logged."""
        return self.described.state

    @state.setter
    def state(self, state: ContainerState) -> None:
        self.change(state)

    def change(self, state: ContainerState, exit_code: int = KILLED) -> None:
        """Bring it into a state; the exit code is of its main process, should that end here."""
        actions = actions_between(self.described.state, state)
        self.described = replace(self.described, state=state)
        for action in actions:
            self.events.append(action, self.described, exit_code)


def image_config(
    made: MemoryContainer, owner: str, options: CaptureOptions, layers: int
) -> dict[str, Any]:
    """Return the configuration of the image that a commit of the container makes."""
    described = made.described
    config = described.config
    base = {
        "Env": [f"{name}={made.env.get(name, '')}" for name in described.env_names],
        "Cmd": config.get("command"),
        "Entrypoint": config.get("entrypoint"),
        "WorkingDir": config.get("working_dir", ""),
        "User": config.get("user", ""),
        "ExposedPorts": {port: {} for port in config.get("exposed_ports", ())},
        "Labels": {
            **inherited(described.labels),
            **options.labels,
            "tintype.request_id": owner,
        },
    }
    history = [{"created_by": "base"}] * (layers - 1)
    return {
        "architecture": "amd64",
        "os": "linux",
        "author": options.author,
        "comment": options.message,
        "config": changed(base, options.changes),
        "history": [*history, {"author": options.author, "comment": options.message}],
    }


def layers_of(made: MemoryContainer, *, squash: bool) -> tuple[int, list[bytes]]:
    """Return the size of the container's own files, and the layers of its image."""
    volumes = tuple(f"{path.rstrip('/')}/" for path in made.described.volumes)
    own = {path: data for path, data in made.files.items() if not path.startswith(volumes)}
    size = sum(map(len, own.values()))
    base: list[dict[str, bytes]] = [{"etc/image": made.described.image.encode()}]
    base += [{f"layer/{number}": b"x"} for number in range(1, made.base_layers)]
    contents = [*base, own]
    if squash:
        contents = [{path: data for layer in contents for path, data in layer.items()}]
    return size, [tar_of(each) for each in contents]
