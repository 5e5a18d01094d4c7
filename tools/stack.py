#!/usr/bin/env python3
"""The development stack: real services for Tintype's tests, each a process of this checkout."""

from __future__ import annotations

import argparse
import os
import shlex
import sys

from devstack import manager
from devstack.layout import Layout, StackError


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    layout = Layout.find()
    try:
        return int(options.run(layout, options) or 0)
    except StackError as error:
        print(f"stack: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/stack.py", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    names = list(manager.SERVICES)

    up = commands.add_parser("up", help="install, prepare and start services (default: all)")
    up.add_argument("--stack-engine", action="store_true", help="never use the machine's engine")
    up.set_defaults(run=_up)
    down = commands.add_parser("down", help="stop services, keeping their data (default: all)")
    down.set_defaults(run=_down)
    for command in (up, down):
        command.add_argument("services", nargs="*", metavar="SERVICE", help=", ".join(names))
    status = commands.add_parser("status", help="show what runs; 1 if a part of the stack does not")
    status.set_defaults(run=_status)
    logs = commands.add_parser("logs", help="show the end of a service's log")
    logs.add_argument("service", choices=names)
    logs.add_argument("-f", "--follow", action="store_true", help="go on as the log grows")
    logs.set_defaults(run=_logs)
    env = commands.add_parser("env", help="print export lines for the services of the stack")
    env.set_defaults(run=_env)
    return parser


def _up(layout: Layout, options: argparse.Namespace) -> None:
    if options.stack_engine:
        os.environ["TINTYPE_STACK_OWN_ENGINE"] = "1"
    manager.up(layout, _known(options.services))


def _down(layout: Layout, options: argparse.Namespace) -> None:
    manager.down(layout, _known(options.services))


def _known(names: list[str]) -> list[str]:
    unknown = [name for name in names if name not in manager.SERVICES]
    if unknown:
        raise StackError(f"no such service: {', '.join(unknown)} ({', '.join(manager.SERVICES)})")
    return names


def _status(layout: Layout, _: argparse.Namespace) -> int:
    members, broken = manager.members(layout), 0
    for name, kind in manager.SERVICES.items():
        service = kind(layout)
        running = service.running() if name in members else bool(service.pids())
        state = "up" if running else "FAILED" if name in members else "down"
        pids = " ".join(map(str, service.pids())) or "-"
        print(f"{name:15} {state:7} pid {pids:13} {service.where() if name in members else ''}")
        broken += state == "FAILED"
    return 1 if broken else 0


def _logs(layout: Layout, options: argparse.Namespace) -> None:
    follow = ["-F"] if options.follow else []
    os.execvp("tail", ["tail", "-n", "200", *follow, str(layout.log(options.service))])


def _env(layout: Layout, _: argparse.Namespace) -> None:
    for name, value in manager.environment(layout).items():
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    sys.exit(main())
