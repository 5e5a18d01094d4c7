"""oslo.messaging's own notification listener with an endpoint that does nothing, counted.

Run by intake.py and index.py, and writes its result as JSON:

    python noop_listener.py URL EXCHANGE TOPIC COUNT [POOL]
"""

from __future__ import annotations

import json
import sys
import threading
import time

import oslo_messaging
from oslo_config import cfg


class Counter:
    """An endpoint that counts; the callbacks come on many threads."""

    def __init__(self, expected: int) -> None:
        """Count up to `expected`."""
        self.done = threading.Event()
        self.moments: list[float] = []
        self._expected = expected

    def info(self, *message: object) -> None:
        """Take a notification of priority INFO."""
        self.moments.append(time.monotonic())
        if len(self.moments) >= self._expected:
            self.done.set()


def main() -> None:
    """Listen until all messages have come and tell how fast they did."""
    url, exchange, topic, expected, *pool = sys.argv[1:]
    conf = cfg.ConfigOpts()
    conf([], project="tintype-bench", default_config_files=[])
    transport = oslo_messaging.get_notification_transport(conf, f"{url}?amqp_durable_queues=true")
    counter = Counter(int(expected))
    target = oslo_messaging.Target(exchange=exchange, topic=topic)
    listener = oslo_messaging.get_notification_listener(
        transport, [target], [counter], executor="threading", pool=pool[0] if pool else None
    )
    listener.start()
    counter.done.wait()
    listener.stop()
    listener.wait()
    seconds = counter.moments[-1] - counter.moments[0]
    print(json.dumps({"messages_per_second": round((len(counter.moments) - 1) / seconds, 1)}))


if __name__ == "__main__":
    main()
