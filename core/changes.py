"""Dockerfile instructions obeyed as an engine's commit obeys them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tintype.core.dockerfile import INSTRUCTIONS, arguments, assignments, instruction, json_list
from tintype.core.errors import Invalid

_Config = dict[str, Any]
"""The `config` of an image configuration: Env, Cmd, Labels ..."""


def changed(config: _Config, changes: Sequence[str]) -> _Config:
    """Return the configuration with these changes.

    Variables in them stay as they are. Raises Invalid for what is no instruction for a commit.
    """
    config = dict(config)
    for change in changes:
        name, rest = instruction(change)
        if name not in INSTRUCTIONS:
            raise Invalid.at("/changes", "an instruction for a commit", repr(name))
        if not rest:
            raise Invalid.at("/changes", f"an argument of {name}", "none")
        _OBEY[name](config, rest)
    # A command that was for the entrypoint before does not go with the new one.
    given = {name for name, _ in map(instruction, changes)}
    return config if "ENTRYPOINT" not in given or "CMD" in given else {**config, "Cmd": None}


def _cmd(config: _Config, rest: str) -> None:
    config["Cmd"] = _process(rest)


def _entrypoint(config: _Config, rest: str) -> None:
    config["Entrypoint"] = _process(rest)


def _process(rest: str) -> list[str]:
    listed = json_list(rest)
    return ["/bin/sh", "-c", rest] if listed is None else listed


def _env(config: _Config, rest: str) -> None:
    new = dict(assignments([f"ENV {rest}"], "ENV"))
    old = [each for each in config.get("Env") or () if each.partition("=")[0] not in new]
    config["Env"] = old + [f"{name}={value}" for name, value in new.items()]


def _label(config: _Config, rest: str) -> None:
    config["Labels"] = {
        **(config.get("Labels") or {}),
        **dict(assignments([f"LABEL {rest}"], "LABEL")),
    }


def _expose(config: _Config, rest: str) -> None:
    ports: dict[str, Any] = {port if "/" in port else f"{port}/tcp": {} for port in rest.split()}
    config["ExposedPorts"] = {**(config.get("ExposedPorts") or {}), **ports}


def _volume(config: _Config, rest: str) -> None:
    config["Volumes"] = {
        **(config.get("Volumes") or {}),
        **{path: {} for path in arguments(rest)},
    }


def _workdir(config: _Config, rest: str) -> None:
    below = config.get("WorkingDir") or "/"
    config["WorkingDir"] = rest if rest.startswith("/") else f"{below.rstrip('/')}/{rest}"


def _onbuild(config: _Config, rest: str) -> None:
    config["OnBuild"] = [*(config.get("OnBuild") or ()), rest]


def _healthcheck(config: _Config, rest: str) -> None:
    kind, command = instruction(rest)
    if kind == "NONE":
        config["Healthcheck"] = {"Test": ["NONE"]}
        return
    listed = json_list(command)
    config["Healthcheck"] = {"Test": ["CMD-SHELL", command] if listed is None else ["CMD", *listed]}


def _user(config: _Config, rest: str) -> None:
    config["User"] = rest


def _stopsignal(config: _Config, rest: str) -> None:
    config["StopSignal"] = rest


_OBEY: dict[str, Callable[[_Config, str], None]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
