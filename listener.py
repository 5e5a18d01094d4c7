"""The agent and its listener: where everything is put together, for one Docker host.

`Agent` is the part that works: journal, runner, relay, engine, stores. `main` puts a real bus in
front of it; `tintype serve` (cli.py) an in-process one.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

from tintype.adapters import envelope
from tintype.adapters.bus import BusListener
from tintype.adapters.clock import SystemClock
from tintype.adapters.directory import DirectoryStore
from tintype.adapters.docker_engine import DockerEngine
from tintype.adapters.glance import GlanceStore
from tintype.adapters.openstack_access import GlanceSettings, Patience
from tintype.adapters.publisher import RabbitPublisher
from tintype.adapters.sqlite_journal import JournalInUse, SqliteJournal
from tintype.config import ConfigError, Settings, load
from tintype.core.errors import TintypeError, Unavailable
from tintype.core.events import Event, Requester
from tintype.core.intake import Intake
from tintype.core.ports import Engine, ImageStore, Publisher, Services
from tintype.core.relay import Relay
from tintype.core.runner import Backoff, Runner
from tintype.handlers import cleanup, table
from tintype.schemas import validate

LOG = logging.getLogger(__name__)

HOUSEKEEPING_SECONDS = 300.0
"""How often captures that no request owns any more are looked for."""


def make_engine(settings: Settings, instance: str) -> Engine:
    """Return this host's engine; `instance` marks the captures made through it."""
    return DockerEngine(
        settings.engine.url or os.environ.get("DOCKER_HOST"),
        instance=instance,
        call_timeout=settings.engine.call_timeout,
        commit_timeout=settings.engine.commit_timeout,
        stream_timeout=settings.engine.stream_timeout,
    )


def make_stores(settings: Settings) -> dict[str, ImageStore]:
    """Return the configured stores by name. Raises ConfigError for an unknown one."""
    makers: Mapping[str, Callable[[], ImageStore]] = {
        "directory": lambda: DirectoryStore(settings.directory.path),
        "glance": lambda: _make_glance(settings),
    }
    unknown = [name for name in settings.agent.stores if name not in makers]
    if unknown or not settings.agent.stores:
        raise ConfigError(
            f"[agent] stores: expected some of {', '.join(makers)}, got {settings.agent.stores}"
        )
    return {name: makers[name]() for name in settings.agent.stores}


def _make_glance(settings: Settings) -> GlanceStore:
    group = settings.glance
    if not group.auth_url:
        raise ConfigError("[glance] auth_url: needed for the store `glance`, but empty")
    access = GlanceSettings(
        auth_url=group.auth_url,
        username=group.username,
        password=group.password,
        project_name=group.project_name,
        user_domain_name=group.user_domain_name,
        project_domain_name=group.project_domain_name,
        region_name=group.region_name or None,
        interface=group.interface,
        endpoint_override=group.endpoint_override or None,
        cacert=group.cafile or None,
    )
    return GlanceStore(access, patience=Patience(group.connect_timeout, group.read_timeout))


def make_services(settings: Settings, engine: Engine, stores: Mapping[str, ImageStore]) -> Services:
    """Return what handlers are given."""
    return Services(
        engine=engine,
        stores=stores,
        clock=SystemClock(),
        host=settings.host,
        default_stores=tuple(settings.agent.stores[:1]),
        poll_seconds=settings.agent.poll_interval,
    )


class Agent:
    """Everything that works on one host's snapshots, whatever bus they are asked for on."""

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
        self.stores = make_stores(settings)
        self._publisher = publisher
        self._services = make_services(settings, self.engine, self.stores)
        group = settings.agent
        backoff = Backoff(group.retry_first, group.retry_longest)
        self.relay = Relay(self.journal, publisher, backoff)
        self.runner = Runner(
            self.journal,
            table(),
            self._services,
            workers=group.max_concurrent_snapshots,
            backoff=backoff,
            on_progress=self._on_progress,
            on_recorded=self.relay.wake,
        )
        fallback = Requester(group.default_project_id or None, group.default_user_id or None)
        self.intake = Intake(
            journal=self.journal,
            validate=validate,
            requester_of=lambda context: _or_default(requester_of(context), fallback),
            clock=self._services.clock,
            host=settings.host,
            default_deadline=timedelta(seconds=group.default_deadline),
            wake=self._wake,
        )
        self._stopped = threading.Event()
        self._housekeeper = threading.Thread(
            target=self._keep_house, name="housekeeper", daemon=True
        )

    def start(self) -> None:
        """Take up what an earlier run left, then work on what comes."""
        self.relay.start()
        self.runner.start()
        self._housekeeper.start()

    def stop(self) -> None:
        """Bring running steps to a safe point, or leave them for the next start."""
        self._stopped.set()
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

    def _on_progress(self, event: Event) -> None:
        self.relay.offer(event)
        try:
            self.journal.note(event)
        except Unavailable as error:
            LOG.warning("progress not noted: %s", error)

    def _keep_house(self) -> None:
        """Remove captures that nobody waits for, and forget what is long past.

        An engine finishes a commit whose client was killed, after the next start has cleaned up.
        """
        while True:
            try:
                for owner in self.engine.owners() - self.journal.live():
                    LOG.info("removing the capture of request %s, which has ended", owner)
                    self.engine.discard(owner)
                days = self.settings.agent.retention_days
                self.journal.prune(self._services.clock.now() - timedelta(days=days))
            except TintypeError as error:
                LOG.warning("housekeeping: %s", error)
            except Exception:
                # The housekeeper's edge: a defect must not end it, and let captures pile up.
                LOG.exception("housekeeping broke")
            if self._stopped.wait(HOUSEKEEPING_SECONDS):
                return


def _or_default(requester: Requester, fallback: Requester) -> Requester:
    """Return the requester, or the configured one when the message names no project."""
    return requester if requester.project_id is not None else fallback


def make_publisher(settings: Settings) -> RabbitPublisher:
    """Return the publisher of this host's events on the configured broker."""
    return RabbitPublisher(
        settings.bus.url,
        exchange=settings.bus.exchange,
        topic=settings.bus.notification_topic,
        publisher_id=f"tintype-agent:{settings.host}",
        quorum=settings.bus.quorum,
    )


def make_listener(settings: Settings, intake: Intake) -> BusListener:
    """Return the listener that feeds requests from the configured broker to the intake."""
    topic, own = settings.bus.request_topic, settings.bus.exchange
    return BusListener(
        settings.bus.url,
        exchange=own,
        foreign_exchanges=[name for name in settings.bus.listen_exchanges if name != own],
        topics=[topic, f"{topic}.{settings.host}"],
        on_message=intake.on_message,
        on_garbage=intake.on_garbage,
        prefetch=settings.bus.prefetch,
        max_message_bytes=settings.bus.max_message_bytes,
        quorum=settings.bus.quorum,
    )


def serve(settings: Settings, agent: Agent, listener: BusListener) -> None:
    """Work until SIGTERM or SIGINT, then stop in order: taking, working, telling."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    agent.start()
    listener.start()
    LOG.info("tintype agent on %s is listening", settings.host)
    stop.wait()
    LOG.info("stopping")
    listener.stop(settings.agent.graceful_timeout)
    agent.stop()


def main(argv: list[str] | None = None) -> int:
    """Run the agent's listener: the command `tintype-listener`."""
    parser = argparse.ArgumentParser(
        prog="tintype-listener", description="Take commit requests off the bus, on a Docker host."
    )
    parser.add_argument("--config-file", action="append", default=[], type=Path)
    parser.add_argument("--debug", action="store_true", help="log every detail")
    arguments = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if arguments.debug else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        settings = load([str(path) for path in arguments.config_file])
        agent = Agent(settings, make_publisher(settings))
        listener = make_listener(settings, agent.intake)
    except (ConfigError, JournalInUse, OSError, RuntimeError, ValueError) as error:
        print(f"tintype-listener: {error}", file=sys.stderr)  # noqa: T201 - a command's last word
        return 1
    serve(settings, agent, listener)
    return 0


if __name__ == "__main__":
    sys.exit(main())
