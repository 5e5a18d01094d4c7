"""The bus adapters against a real RabbitMQ and against oslo.messaging's own other end."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import amqp
import kombu
import kombu.exceptions
import oslo_messaging
import pytest
from oslo_context.context import RequestContext
from oslo_messaging.notify.dispatcher import PRIORITIES

from tests.support.rabbit import DEADLINE, Broker, Inbox, Line, until
from tintype.adapters import envelope, hardening
from tintype.adapters.bus import BusListener
from tintype.adapters.publisher import BROKER_ERRORS, _kombu_url, _tls, transport_url
from tintype.core.errors import Unavailable
from tintype.core.events import Event, Message, Requester

ALICE = Requester("project-a", "alice")


@pytest.mark.parametrize("module", [amqp.exceptions, kombu.exceptions])
def test_every_exception_of_the_libraries_is_translated(module: Any) -> None:
    raised = [
        thing
        for thing in vars(module).values()
        if isinstance(thing, type)
        and issubclass(thing, Exception)
        and not issubclass(thing, Warning)
        and thing.__module__ == module.__name__
    ]
    assert len(raised) > 5
    missing = [thing for thing in raised if not issubclass(thing, BROKER_ERRORS)]
    # HttpError belongs to kombu's client for Amazon's queues.
    assert [thing.__name__ for thing in missing if thing is not kombu.exceptions.HttpError] == []


@pytest.mark.parametrize(
    ("url", "kombu_url"),
    [
        ("rabbit://u:p@h:1/v", "amqp://u:p@h:1/v"),
        ("rabbit://u:p@h/", "amqp://u:p@h:5672/"),
        ("rabbit://u:p@h//", "amqp://u:p@h:5672/%2F"),
        ("rabbit://u:p%40%2F@[::1]:1/v", "amqp://u:p%40%2F@[::1]:1/v"),
    ],
)
def test_transport_url_becomes_kombus(url: str, kombu_url: str) -> None:
    parsed = transport_url(url)
    assert _kombu_url(parsed, parsed.hosts[0]) == kombu_url


def test_tls_is_asked_for_in_the_url() -> None:
    assert _tls(transport_url("rabbit://h/").query) is False
    assert _tls(transport_url("rabbit://h/?ssl=1").query) is True
    assert _tls(transport_url("rabbit://h/?ssl=1&ssl_ca_file=/ca&ssl_key_file=/k").query) == {
        "ca_certs": "/ca",
        "keyfile": "/k",
        "cert_reqs": ssl.CERT_REQUIRED,
        "server_hostname": None,
    }


def test_unknown_library_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hardening.check_libraries()
    monkeypatch.delattr(hardening.impl_rabbit.Consumer, "_callback")
    with pytest.raises(RuntimeError, match=r"Consumer\._callback"):
        hardening.check_libraries()


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


def test_plain_notifier_reaches_the_listener_with_its_context(line: Line, inbox: Inbox) -> None:
    line.listen(inbox)
    context = RequestContext(
        user_id="alice", project_id="project-a", auth_token="secret", overwrite=False
    )
    line.notifier().info(context, "container.commit.request", {"container": "web"})
    until(lambda: inbox.messages, "the message")
    (message,) = inbox.messages
    assert message.event_type == "container.commit.request"
    assert message.payload == {"container": "web"}
    assert message.publisher_id == "plain.oslo"
    assert isinstance(message.message_id, str)
    assert envelope.requester_of(message.context) == ALICE
    assert "secret" not in repr(message)


def test_every_priority_is_consumed(line: Line, inbox: Inbox) -> None:
    line.listen(inbox)
    notifier = line.notifier()
    for priority in PRIORITIES:
        getattr(notifier, priority)({}, f"event.{priority}", {})
    until(lambda: len(inbox.messages) == len(PRIORITIES), "all priorities")
    assert {message.event_type for message in inbox.messages} == {
        f"event.{priority}" for priority in PRIORITIES
    }


def test_listens_on_several_topics(line: Line, inbox: Inbox) -> None:
    topics = [line.topic, f"{line.topic}.host-1"]
    line.listen(inbox, topics=topics)
    for topic in topics:
        Line(line.broker, line.exchange, topic).send(line.good(1))
    until(lambda: len(inbox.messages) == 2, "a message on each topic")


@pytest.mark.parametrize("compression", ["gzip", "bzip2"])
def test_compressed_message_is_read(line: Line, inbox: Inbox, compression: str) -> None:
    line.listen(inbox)
    line.send(line.good(1), compression=compression)
    until(lambda: inbox.messages, "the message")
    assert inbox.messages[0].payload == {"number": 1}


def test_notification_without_envelope_is_read(line: Line, inbox: Inbox) -> None:
    line.listen(inbox)
    line.send(b'{"event_type": "old", "payload": [], "_context_tenant": "project-a"}')
    until(lambda: inbox.messages, "the message")
    assert inbox.messages[0].event_type == "old"
    assert envelope.requester_of(inbox.messages[0].context).project_id == "project-a"


def failing_at_first(error: BaseException, then: Callable[..., None]) -> Callable[..., None]:
    """Return a callback that raises at its first call and works from the second on."""
    errors = [error]
    lock = threading.Lock()

    def callback(*arguments: Any) -> None:
        with lock:
            error = errors.pop() if errors else None
        if error is not None:
            raise error
        then(*arguments)

    return callback


def test_unavailable_journal_gets_the_message_again(line: Line, inbox: Inbox) -> None:
    line.listen(inbox, on_message=failing_at_first(Unavailable("journal locked"), inbox.take))
    line.send(line.good(1))
    until(lambda: inbox.messages, "the message's second delivery")
    assert len(inbox.messages) == 1
    assert inbox.garbage == []


def test_unavailable_dead_letters_get_the_message_again(line: Line, inbox: Inbox) -> None:
    line.listen(inbox, on_garbage=failing_at_first(Unavailable("journal locked"), inbox.bury))
    line.send(b"not JSON")
    until(lambda: inbox.garbage, "the second delivery")
    assert inbox.garbage[0][1]["redelivered"] is True


@pytest.mark.parametrize("error", [ZeroDivisionError("defect"), SystemExit(3), KeyboardInterrupt()])
def test_any_other_failure_is_garbage(line: Line, inbox: Inbox, error: BaseException) -> None:
    line.listen(inbox, on_message=failing_at_first(error, inbox.take))
    line.send(line.good(1))
    until(lambda: inbox.garbage, "the garbage")
    line.send(line.good(2))
    until(lambda: inbox.messages, "the message after it")
    ((reason, description),) = inbox.garbage
    assert type(error).__name__ in reason
    assert envelope.unseal(description["body"].encode()).payload == {"number": 1}
    until(lambda: line.broker.backlog(line.queue) == (0, 0), "an empty queue")


def test_failing_dead_letter_is_not_repeated(line: Line, inbox: Inbox) -> None:
    line.listen(inbox, on_garbage=failing_at_first(ValueError("defect"), inbox.bury))
    line.send(b"not JSON")
    line.send(line.good(1))
    until(lambda: inbox.messages, "the message after it")
    until(lambda: line.broker.backlog(line.queue) == (0, 0), "an empty queue")
    assert inbox.garbage == []


def test_stop_finishes_what_runs_and_gives_back_the_rest(line: Line, inbox: Inbox) -> None:
    running, go_on = threading.Event(), threading.Event()

    def slow(message: Message) -> None:
        running.set()
        go_on.wait()
        inbox.take(message)

    listener = line.listen(inbox, on_message=slow, threads=1)
    for number in range(5):
        line.send(line.good(number))
    until(running.is_set, "the callback")
    stopper = threading.Thread(target=listener.stop, args=(60,))
    stopper.start()
    until(lambda: not listener.healthy, "the listener to know that it stops")
    go_on.set()
    stopper.join()
    assert [message.payload["number"] for message in inbox.messages] == [0]
    assert not listener.healthy
    assert line.broker.backlog(line.queue) == (4, 0)


def test_start_without_broker_neither_blocks_nor_gives_up(broker: Broker, inbox: Inbox) -> None:
    line = Line(broker, "exchange-late", "topic-late")
    broker.stop()
    try:
        listener = line.listener(inbox)
        listener.start()
        until(lambda: listener.trouble is not None, "the failure to be known")
        assert not listener.healthy
    finally:
        broker.start()
    until(lambda: listener.healthy, "the listener")
    assert listener.trouble is None
    line.send(line.good(1))
    until(lambda: inbox.messages, "the message")
    assert listener.stop(60)


def test_stop_without_broker_ends(line: Line, inbox: Inbox) -> None:
    listener = line.listener(inbox)
    line.broker.stop()
    try:
        listener.start()
        until(lambda: listener.trouble is not None, "the failure to be known")
        assert listener.stop(60)
    finally:
        line.broker.start()


def test_listener_survives_a_restart_of_the_broker(line: Line, inbox: Inbox) -> None:
    listener = line.listen(inbox)
    line.send(line.good(1))
    until(lambda: inbox.messages, "the message before")
    line.broker.stop()
    try:
        until(lambda: not listener.healthy, "the listener to notice")
    finally:
        line.broker.start()
    until(lambda: listener.healthy, "the listener to be back")
    for number in range(2, 40):
        line.send(line.good(number))
    until(lambda: {m.message_id for m in inbox.messages} >= {f"good-{n}" for n in range(2, 40)})
    until(lambda: line.broker.backlog(line.queue) == (0, 0), "an empty queue")


def test_redelivery_during_the_callback_is_handled(line: Line, inbox: Inbox) -> None:
    """FACTS 2: with the driver's duplicate cache this stalls the consumer for good."""
    running, go_on = threading.Event(), threading.Event()

    def slow(message: Message) -> None:
        running.set()
        go_on.wait()
        inbox.take(message)

    listener = line.listen(inbox, on_message=slow, prefetch=1, threads=1)
    line.send(line.good(1))
    until(running.is_set, "the callback")
    line.broker.stop()
    go_on.set()
    until(lambda: inbox.messages, "the callback's end")
    until(lambda: not listener.healthy, "the listener to notice")
    line.broker.start()
    until(lambda: listener.healthy, "the listener to be back")
    line.send(line.good(2))
    until(lambda: inbox.messages[-1].message_id == "good-2", "the message after")
    until(lambda: line.broker.backlog(line.queue) == (0, 0), "an empty queue")
    assert [message.message_id for message in inbox.messages] == ["good-1", "good-1", "good-2"]


def test_queues_are_durable_even_where_our_exchange_is_not(line: Line, inbox: Inbox) -> None:
    with line.broker.kombu() as connection:
        kombu.Exchange(
            line.exchange, "topic", durable=False, channel=connection.channel()
        ).declare()
    line.listen(inbox)
    assert line.broker.queues("durable")[line.queue] == ["true"]
    publish_to_transient = kombu.Exchange(line.exchange, "topic", durable=False)
    with line.broker.kombu() as connection:
        connection.Producer().publish(
            line.good(1),
            exchange=publish_to_transient,
            routing_key=line.queue,
            content_type=envelope.CONTENT_TYPE,
        )
    until(lambda: inbox.messages, "the message")


def test_transient_queue_of_that_name_is_reported(line: Line, inbox: Inbox) -> None:
    with line.broker.kombu() as connection:
        kombu.Queue(line.queue, durable=False, channel=connection.channel()).declare()
        listener = line.listener(inbox)
        listener.start()
        until(lambda: listener.trouble is not None, "the failure to be known")
        assert "durable" in str(listener.trouble)
        assert not listener.healthy
        kombu.Queue(line.queue, channel=connection.channel()).delete()
    until(lambda: listener.healthy, "the listener once the queue is gone")


@pytest.mark.parametrize("quorum", [False, True])
def test_oslo_listener_receives_what_is_published(line: Line, quorum: bool) -> None:
    received: list[tuple[str, Any, str, str, Any, Any]] = []

    class Endpoint:
        def info(self, *arguments: Any) -> None:
            received.append(("info", *arguments))

        def error(self, *arguments: Any) -> None:
            received.append(("error", *arguments))

    url = transport_url(line.broker.url + f"?amqp_durable_queues=1&rabbit_quorum_queue={quorum:d}")
    transport = oslo_messaging.get_notification_transport(url.conf, url)
    server = oslo_messaging.get_notification_listener(
        transport,
        [oslo_messaging.Target(exchange=line.exchange, topic=line.topic)],
        [Endpoint()],
    )
    way_out = line.publisher(quorum=quorum)
    # Before the first consumer: the publisher's own queue keeps it.
    way_out.publish(Event("image.snapshot.end", {"request_id": "r1"}, ALICE, "event-1"))
    server.start()
    way_out.publish(Event("image.snapshot.error", {"request_id": "r1"}, ALICE, "event-2"))
    until(lambda: len(received) == 2, "both events")
    server.stop()
    server.wait()
    transport.cleanup()
    by_priority = {priority: rest for priority, *rest in received}
    context, publisher_id, event_type, payload, metadata = by_priority["error"]
    assert event_type == "image.snapshot.error"
    assert publisher_id == "tintype-agent:host-1"
    assert payload == {"request_id": "r1"}
    assert metadata["message_id"] == "event-2"
    assert (context["project_id"], context["tenant"]) == ("project-a", "project-a")
    assert (context["user_id"], context["user"]) == ("alice", "alice")
    assert context["auth_token"] is None
    assert by_priority["info"][2] == "image.snapshot.end"


def test_oslo_notifier_and_publisher_share_a_topic(line: Line, inbox: Inbox) -> None:
    line.publisher().publish(Event("first", {}, id="1"))
    line.notifier().info({}, "second", {})
    line.listen(inbox)
    line.publisher().publish(Event("third", {}, id="3"))
    until(lambda: len(inbox.messages) == 3, "three messages")
    assert {message.event_type for message in inbox.messages} == {"first", "second", "third"}


def test_topic_may_depend_on_the_event(line: Line, inbox: Inbox) -> None:
    line.listen(inbox, topics=[f"{line.topic}.host-1"])
    way_out = line.publisher(topic=lambda event: f"{line.topic}.{event.payload['host']}")
    way_out.publish(Event("container.commit.request", {"host": "host-1"}, id="1"))
    until(lambda: inbox.messages, "the request")


def test_publisher_reports_an_absent_broker_and_recovers(line: Line, inbox: Inbox) -> None:
    way_out = line.publisher()
    way_out.publish(Event("before", {}, id="1"))
    line.broker.stop()
    try:
        for _ in range(2):
            with pytest.raises(Unavailable, match="message bus"):
                way_out.publish(Event("during", {}, id="2"))
    finally:
        line.broker.start()
    way_out.publish(Event("after", {}, id="3"))
    line.listen(inbox)
    until(lambda: len(inbox.messages) == 2, "what was confirmed")
    assert {message.event_type for message in inbox.messages} == {"before", "after"}


def test_deleted_queue_never_swallows_an_event(line: Line, inbox: Inbox) -> None:
    way_out = line.publisher()
    way_out.publish(Event("before", {}, id="1"))
    line.broker.ctl("delete_queue", "-p", line.broker.vhost, line.queue)
    with pytest.raises(Unavailable, match="NO_ROUTE"):
        way_out.publish(Event("during", {}, id="2"))
    way_out.publish(Event("after", {}, id="3"))
    line.listen(inbox)
    until(lambda: inbox.messages, "the event after")
    assert [message.event_type for message in inbox.messages] == ["after"]


def test_full_queue_is_reported(line: Line) -> None:
    definition = '{"max-length": 1, "overflow": "reject-publish"}'
    pattern = f"^{line.topic}"
    line.broker.ctl(
        "set_policy", "-p", line.broker.vhost, "--apply-to", "queues", "full", pattern, definition
    )
    way_out = line.publisher()
    way_out.publish(Event("fits", {}, id="1"))
    with pytest.raises(Unavailable, match="MessageNacked"):
        way_out.publish(Event("does not", {}, id="2"))


def test_blocked_connection_is_reported_and_ends(line: Line) -> None:
    way_out = line.publisher()
    way_out.publish(Event("before", {}, id="1"))
    line.broker.ctl("set_vm_memory_high_watermark", "0.0000001")
    try:
        until(
            lambda: "memory" in line.broker.ctl("eval", "rabbit_alarm:get_alarms()."), "the alarm"
        )
        with pytest.raises(Unavailable, match="blocked"):
            way_out.publish(Event("during", {}, id="2"))
    finally:
        line.broker.ctl("set_vm_memory_high_watermark", "0.4")
    until(lambda: "memory" not in line.broker.ctl("eval", "rabbit_alarm:get_alarms()."), "its end")
    way_out.publish(Event("after", {}, id="3"))


def test_clash_of_durability_is_reported(line: Line) -> None:
    line.publisher(durable=False).publish(Event("transient", {}, id="1"))
    with pytest.raises(Unavailable, match="durable"):
        line.publisher().publish(Event("durable", {}, id="2"))


def test_silent_host_is_given_up_for_the_next(line: Line, inbox: Inbox) -> None:
    line.listen(inbox)
    credentials, _, rest = line.broker.url.removeprefix("rabbit://").partition("@")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"{credentials}@127.0.0.1:{silent.getsockname()[1]}"
        way_out = line.publisher(f"rabbit://{host},{credentials}@{rest}", timeout=1.0)
        way_out.publish(Event("to the second", {}, id="1"))
        with pytest.raises(Unavailable, match="timed out"):
            line.publisher(f"rabbit://{host}/", timeout=1.0).publish(Event("to nobody", {}, id="2"))
    until(lambda: inbox.messages, "the event")


def test_wrong_password_is_reported_without_it(line: Line) -> None:
    url = line.broker.url.replace("guest:guest", "guest:not-the-password")
    way_out = line.publisher(url)
    with pytest.raises(Unavailable) as caught:
        way_out.publish(Event("event", {}, id="1"))
    assert "not-the-password" not in str(caught.value)


def test_what_waits_is_counted_on_whichever_host_answers(line: Line, inbox: Inbox) -> None:
    line.listen(inbox).stop(DEADLINE)
    host = urlsplit(line.broker.url).netloc
    url = line.broker.url.replace(host, f"{host.rpartition('@')[0]}@127.0.0.1:1,{host}", 1)
    settings: dict[str, Any] = {"exchange": line.exchange, "topics": [line.topic]}
    listener = BusListener(url, **settings, on_message=inbox.take, on_garbage=inbox.bury)
    assert listener.backlog() == 0
    for number in range(3):
        line.send(line.good(number))
    assert listener.backlog() == 3


def test_what_waits_is_not_known_without_a_broker(inbox: Inbox) -> None:
    listener = BusListener(
        "rabbit://u:s3cret@127.0.0.1:1/",
        exchange="x",
        topics=["t"],
        on_message=inbox.take,
        on_garbage=inbox.bury,
    )
    with pytest.raises(Unavailable) as failure:
        listener.backlog()
    assert "s3cret" not in str(failure.value)
