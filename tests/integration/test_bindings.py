"""Exchanges of other services: listened to when they exist, never made, never in anybody's way."""

from __future__ import annotations

import logging
from typing import Any

import amqp
import kombu
import oslo_messaging
import pytest

from tests.support.rabbit import Inbox, Line, until
from tintype.adapters import hardening
from tintype.adapters.bindings import Binding, Bindings
from tintype.adapters.publisher import transport_url

THEIRS = "theirs"


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def theirs(line: Line) -> str:
    """Name of another service's exchange."""
    return f"{line.exchange}-theirs"


def declare(line: Line, exchange: str, *, durable: bool, kind: str = "topic") -> None:
    with line.broker.kombu() as connection:
        kombu.Exchange(exchange, kind, durable=durable, channel=connection.channel()).declare()


def exists(line: Line, exchange: str) -> bool:
    with line.broker.amqp() as connection, connection.channel() as channel:
        try:
            channel.exchange_declare(exchange, "topic", passive=True)
        except amqp.exceptions.NotFound:
            return False
        return True


def send(line: Line, exchange: str, number: int = 1) -> bool:
    """Publish to an exchange as it is; returns whether a queue took the message."""
    returned: list[object] = []
    with line.broker.kombu(transport_options={"confirm_publish": True}) as connection:
        kombu.Producer(connection.channel(), on_return=lambda *what: returned.append(what)).publish(
            line.good(number),
            exchange=exchange,
            routing_key=line.queue,
            content_type="application/json",
            mandatory=True,
        )
    return not returned


def notify(line: Line, exchange: str, topic: str, *, durable: bool) -> None:
    """Notify as another service does, by oslo.messaging's Notifier."""
    url = transport_url(f"{line.broker.url}?amqp_durable_queues={durable}")
    url.conf.set_override("control_exchange", exchange)
    transport = oslo_messaging.get_notification_transport(url.conf, url)
    oslo_messaging.Notifier(transport, "nova", driver="messagingv2", topics=[topic]).info(
        {}, "instance.create", {}
    )
    transport.cleanup()


@pytest.mark.parametrize("durable", [False, True])
def test_existing_exchange_is_listened_to(
    line: Line, inbox: Inbox, theirs: str, *, durable: bool
) -> None:
    declare(line, theirs, durable=durable)
    line.listen(inbox, foreign_exchanges=[theirs])
    until(lambda: send(line, theirs), "the binding, made at once")
    until(lambda: inbox.messages, "the message")
    line.send(line.good(2))
    until(lambda: inbox.of_type("good")[1:], "the message on our own exchange")


def test_absent_exchange_is_not_made_and_its_owner_makes_it_as_it_likes(
    line: Line, inbox: Inbox, theirs: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tintype")
    line.listen(inbox, foreign_exchanges=[theirs], rebind_seconds=0.1)
    until(lambda: "not bound yet" in caplog.text, "the first look")
    assert not exists(line, theirs)
    # As Nova: not durable, on a topic that is none of ours. A Notifier tells nobody when it is
    # refused; that its message is in the queue is the proof that it was not.
    notify(line, theirs, f"{line.topic}-nova", durable=False)
    assert line.broker.backlog(f"{line.topic}-nova.info") == (1, 0)
    until(lambda: send(line, theirs), "the binding")
    until(lambda: inbox.messages, "the message")
    assert caplog.text.count("not bound yet") == 1
    assert caplog.text.count(f"{theirs}: bound") == 1


def test_durable_notifier_that_comes_late_is_heard(line: Line, inbox: Inbox, theirs: str) -> None:
    line.listen(inbox, foreign_exchanges=[theirs], rebind_seconds=0.1)
    notify(line, theirs, line.topic, durable=True)
    until(lambda: inbox.messages, "the message")


def test_exchange_that_was_made_anew_is_bound_again(line: Line, inbox: Inbox, theirs: str) -> None:
    """A restart of the broker takes an exchange that is not durable, and its bindings."""
    declare(line, theirs, durable=False)
    line.listen(inbox, foreign_exchanges=[theirs], rebind_seconds=0.1)
    until(lambda: send(line, theirs), "the binding")
    with line.broker.amqp() as connection, connection.channel() as channel:
        channel.exchange_delete(theirs)
    until(lambda: not exists(line, theirs), "its end")
    declare(line, theirs, durable=False)
    until(lambda: send(line, theirs, 2), "the new binding")
    until(lambda: {m.message_id for m in inbox.messages} == {"good-1", "good-2"}, "both messages")


def test_absent_exchange_hinders_no_other(line: Line, inbox: Inbox, theirs: str) -> None:
    declare(line, theirs, durable=False)
    line.listen(inbox, foreign_exchanges=[f"{theirs}-absent", theirs])
    until(lambda: send(line, theirs), "the binding")


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), ZeroDivisionError("defect")])
def test_failure_to_bind_is_logged_and_tried_again(
    line: Line,
    inbox: Inbox,
    theirs: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    errors, bind = [error], Bindings._bind

    def failing(self: Bindings, *arguments: Any) -> None:
        if errors:
            raise errors.pop()
        bind(self, *arguments)

    monkeypatch.setattr(Bindings, "_bind", failing)
    declare(line, theirs, durable=False)
    listener = line.listen(inbox, foreign_exchanges=[theirs], rebind_seconds=0.1)
    until(lambda: send(line, theirs), "the binding")
    assert "exchanges" in caplog.text
    assert str(error) in caplog.text
    assert listener.healthy
    assert listener.stop(60)


def test_hosts_are_tried_in_turn(line: Line, theirs: str) -> None:
    declare(line, theirs, durable=False)
    line.publisher().close()
    with line.broker.kombu() as connection:
        kombu.Queue(line.queue, channel=connection.channel()).declare()
    credentials, _, rest = line.broker.url.removeprefix("rabbit://").partition("@")
    url = f"rabbit://{credentials}@127.0.0.1:1,{credentials}@{rest}"
    Bindings(url, [Binding(theirs, line.queue, line.queue)]).renew()
    assert send(line, theirs)


def test_absent_broker_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    bindings = Bindings("rabbit://u:s3cret@127.0.0.1:1/", [Binding(THEIRS, "q.info", "q.info")])
    bindings.renew()
    bindings.renew()
    assert caplog.text.count("not bound") == 1
    assert "s3cret" not in caplog.text


def test_defect_at_the_start_does_not_end_the_listener(
    line: Line, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = []

    class Driver(hardening.Driver):
        def __init__(self, *arguments: Any) -> None:
            attempts.append(listener.trouble)
            if len(attempts) < 3:
                raise ZeroDivisionError("defect")
            super().__init__(*arguments)

    monkeypatch.setattr(hardening, "Driver", Driver)
    listener = line.listener(inbox)
    listener.start()
    until(lambda: listener.healthy, "the third attempt")
    assert "ZeroDivisionError" in str(attempts[-1])
    assert "ZeroDivisionError: defect" in caplog.text
    assert listener.trouble is None
