"""The agent: everything that works on one host's containers, whatever bus it is asked on."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from tintype.adapters import cron, envelope
from tintype.adapters.clock import SystemClock
from tintype.adapters.docker_engine import DockerEngine
from tintype.adapters.journal_reader import read_live, read_snapshots
from tintype.adapters.rules_file import read_rules
from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.adapters.sqlite_watch_log import SqliteWatchLog
from tintype.config import ConfigError, Settings
from tintype.core.engine import Engine
from tintype.core.errors import TintypeError, Unavailable
from tintype.core.events import Event, Requester
from tintype.core.housekeeping import Chore, Housekeeper, LiveRequests, discard_captures
from tintype.core.images import ImageStore
from tintype.core.intake import Calls, Intake
from tintype.core.janitor import Janitor, Plan, Retention, repositories_of
from tintype.core.lifecycle import Teller
from tintype.core.ownership import Ownership, or_default
from tintype.core.policy import Policy
from tintype.core.ports import Cancellation, Publisher, Services
from tintype.core.relay import Relay
from tintype.core.removal import Candidate
from tintype.core.rules import Rule
from tintype.core.runner import Backoff, Runner
from tintype.core.watcher import Watched, Watcher
from tintype.handlers import TRIGGERS, cleanup, table
from tintype.schemas import validate
from tintype.stores import make_agent_stores

LOG = logging.getLogger(__name__)

RELAY_LONGEST = 5.0
"""Seconds between attempts to publish, at most. After an outage of the broker, routers give each
host `grace` to be heard before they answer in its stead: the relay must not sleep meanwhile."""

_BRACKETED = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
"""What stands in a regular expression for characters: after a backslash, or in brackets."""

HOUSEKEEPING_SECONDS = 300.0
"""How often captures and restored images that no request owns any more are looked for."""


def make_engine(settings: Settings, instance: str) -> Engine:
    """Return this host's engine; `instance` marks the captures made through it."""
    return DockerEngine(
        settings.engine.url or os.environ.get("DOCKER_HOST"),
        instance=instance,
        call_timeout=settings.engine.call_timeout,
        commit_timeout=settings.engine.commit_timeout,
        stream_timeout=settings.engine.stream_timeout,
    )


def make_services(settings: Settings, engine: Engine, stores: Mapping[str, ImageStore]) -> Services:
    """Return what handlers are given."""
    watch = settings.watch
    return Services(
        engine=engine,
        stores=stores,
        clock=SystemClock(),
        host=settings.host,
        default_stores=tuple(settings.agent.stores[:1]),
        ownership=Ownership(
            watch.project_label,
            watch.user_label,
            watch.default_project_id or None,
            watch.default_user_id or None,
        ),
        rules=_make_rules(settings),
        cron=cron.next_after,
        policy=make_policy(settings),
        poll_seconds=settings.agent.poll_interval,
    )


def make_policy(settings: Settings) -> Policy:
    """Return what the operator allows. Raises ConfigError."""
    group = settings.commit
    if group.pause_exceeded not in ("fail", "keep"):
        raise ConfigError(
            f"[commit] pause_exceeded: expected `fail` or `keep`, got {group.pause_exceeded!r}"
        )
    return Policy(
        soft_limit_bytes=group.soft_limit_mib << 20 or None,
        hard_limit_bytes=group.hard_limit_mib << 20 or None,
        max_layers=group.max_layers,
        max_pause_ms=group.max_pause_ms or None,
        keep_overrun=group.pause_exceeded == "keep",
        secret_env=tuple(map(_pattern, group.secret_env)),
        hooks=group.hooks,
        hook_seconds=group.hook_timeout,
        bind_folders=tuple(settings.restore.bind_folders),
        janitor=settings.janitor.enabled,
    )


def _pattern(text: str) -> re.Pattern[str]:
    """Read an expression; half of one that was taken apart at its comma is refused."""
    wrong = "a bracket or brace is not closed, or none was opened"
    try:
        pattern = re.compile(text, re.IGNORECASE)
    except re.error as error:
        wrong = str(error)
    else:
        left = _BRACKETED.sub("", text)
        if left.count("{") == left.count("}") and "]" not in left:
            return pattern
    raise ConfigError(
        f"[commit] secret_env: expected regular expressions without commas, which part them (for"
        f" example x|xx|xxx, not x{{1,3}}), got {text!r}: {wrong}"
    )


def _make_rules(settings: Settings) -> Sequence[Rule]:
    path = settings.trigger.rules_file
    try:
        stores = settings.agent.stores
        return read_rules(path, validate, cron.next_after, stores) if path else ()
    except ValueError as error:
        raise ConfigError(f"[trigger] rules_file: {error}") from error


def make_plan(settings: Settings, stores: Mapping[str, ImageStore]) -> Plan:
    """Return what decides which images are to go."""
    group = settings.janitor
    retention = Retention(timedelta(seconds=group.orphan_age), group.keep_last or None)
    return Plan(stores, SystemClock(), settings.host, retention)


def to_be_removed(settings: Settings, stores: Mapping[str, ImageStore]) -> Sequence[Candidate]:
    """Return the images that this host's janitor removes when it looks next.

    Raises OSError for a journal that cannot be read; without one no request is at work.
    """
    path = settings.journal_path
    plan = make_plan(settings, stores)
    if not path.exists():
        return list(plan.candidates(()))
    return list(plan.candidates(read_live(path), repositories_of(read_snapshots(path))))


def invoke(settings: Settings, event: Event) -> Iterator[Event]:
    """Run the handler of an event with the configured engine and stores; yield what it returns."""
    engine = make_engine(settings, "invoke")
    services = make_services(settings, engine, make_agent_stores(settings))
    try:
        yield from {**table(), **TRIGGERS}[event.type](event, services)
    finally:
        engine.close()


class Agent:
    """Works on the snapshots of one host, and tells of its containers."""

    def __init__(
        self,
        settings: Settings,
        publisher: Publisher,
        requester_of: Callable[[object], Requester] = envelope.requester_of,
        journal: SqliteJournal | None = None,
    ) -> None:
        """Open the journal and make the parts; nothing runs yet.

        Raises ConfigError, JournalInUse.
        """
        self.settings = settings
        self.journal = journal or SqliteJournal(settings.journal_path)
        self.engine = make_engine(settings, self.journal.instance)
        self.stores = make_agent_stores(settings)
        self._publisher = publisher
        group = settings.agent
        backoff = Backoff(group.retry_first, group.retry_longest)
        patient = Backoff(group.retry_first, min(group.retry_longest, RELAY_LONGEST))
        self.relay = Relay(self.journal, publisher, patient)
        self._services = replace(
            make_services(settings, self.engine, self.stores),
            confirmed_at=self.relay.confirmed_at,
        )
        self.runner = Runner(
            self.journal,
            table(),
            self._services,
            workers=group.max_concurrent_snapshots,
            backoff=backoff,
            on_progress=self._on_progress,
            on_recorded=self.relay.wake,
        )
        self.watcher = Watcher(
            self.engine,
            SqliteWatchLog(self.journal),
            teller=Teller(settings.host, self._services.ownership),
            services=self._services,
            triggers=TRIGGERS,
            watched=Watched(self.relay.wake, self._on_deleted, self.journal.snapshots),
            backoff=backoff,
            exists_seconds=settings.watch.exists_interval,
        )
        self.intake = Intake(
            journal=self.journal,
            validate=validate,
            requester_of=or_default(requester_of, settings.default_requester),
            clock=self._services.clock,
            host=settings.host,
            default_deadline=timedelta(seconds=group.default_deadline),
            wake=self._wake,
            calls=Calls(self.runner.cancel, self.watcher.ask, self.watcher.deleting),
        )
        self._janitor = Janitor(make_plan(settings, self.stores), self.journal)
        self._housekeeper = Housekeeper(self._chores())

    def start(self) -> None:
        """Take up what an earlier run left, then work on what comes."""
        self.relay.start()
        self.runner.start()
        self.watcher.start()
        self._housekeeper.start()

    def stop(self) -> None:
        """Bring running steps to a safe point, or leave them for the next start."""
        self._housekeeper.stop()
        self.watcher.stop()
        for work in self.runner.stop(self.settings.agent.graceful_timeout):
            LOG.warning("request %s: left in the middle of %s", work.request_id, work.step.type)
            try:
                cleanup.release(work.step, self._services)
            except TintypeError as error:
                LOG.error("request %s: %s", work.request_id, error)
        self.relay.stop(self.settings.agent.graceful_timeout)
        # A worker that could not be interrupted may still use the journal: it stays open then, and
        # the process's end closes it.
        self._publisher.close()

    def _wake(self) -> None:
        self.runner.wake()
        self.relay.wake()

    def _on_deleted(self, engine_id: str, spared: Collection[str]) -> None:
        """Stop what a container has in hand that is gone, or soon will be."""
        cancellation = Cancellation(f"container {engine_id[:12]} was deleted")
        for request_id in self.journal.holding(engine_id):
            if request_id not in spared:
                self.runner.cancel(request_id, cancellation)

    def _on_progress(self, event: Event) -> None:
        self.relay.offer(event)
        try:
            self.journal.note(event)
        except Unavailable as error:
            LOG.warning("progress not noted: %s", error)

    def _chores(self) -> Mapping[str, Chore]:
        live = LiveRequests(self.journal)
        chores = {
            "captures": Chore(lambda: discard_captures(self.engine, live), HOUSEKEEPING_SECONDS),
            "restored": Chore(lambda: self.engine.tidy(live), HOUSEKEEPING_SECONDS),
            "journal": Chore(self._forget, HOUSEKEEPING_SECONDS),
        }
        if self.settings.janitor.enabled:
            chores["janitor"] = Chore(self._sweep_images, self.settings.janitor.interval)
        return chores

    def _forget(self) -> None:
        days = self.settings.agent.retention_days
        self.journal.prune(self._services.clock.now() - timedelta(days=days))

    def _sweep_images(self) -> None:
        if self._janitor.sweep():
            self.runner.wake()
