"""A bus URL that is cut wrong is refused, and what may be a password stays out of the answer."""

from __future__ import annotations

import traceback

import pytest

from tintype.adapters.bus import BusListener
from tintype.adapters.publisher import RabbitPublisher, transport_url

EXPECTED = (
    "the bus url is malformed: expected rabbit://user:password@host:port/vhost"
    " (percent-encode special characters)"
)


def publisher(url: str) -> object:
    return RabbitPublisher(url, exchange="e", topic="t", publisher_id="p")


def listener(url: str) -> object:
    return BusListener(
        url, exchange="e", topics=["t"], on_message=print, on_garbage=lambda *_: None
    )


@pytest.mark.parametrize("make", [publisher, listener])
@pytest.mark.parametrize(
    "url",
    [
        "rabbit://u:s3/cret@h/",
        "rabbit://u:5672/cret@h/",
        "rabbit://u:s3?cret@h/",
        "rabbit://u:5672?cret@h/",
        "rabbit://u:s3#cret@h/",
        "rabbit://u:5672#cret@h/",
        "rabbit://u:s3[cret@h/",
        "rabbit://u:5672,s3cret@h/",
        "rabbit://u:s3\u2100cret@h/",
        "rabbit://u:s3cret@h:port/",
        "rabbit://u:s3cret@h:99999/",
        "rabbit://u:s3cret@h:-1/",
        "rabbit://u:s3cret@:1/",
        "u:s3cret@h",
        "u:s3cret@h:5672/v",
        "http://u:s3cret@h/",
        "s3cret",
    ],
)
def test_malformed_url_is_refused_without_a_quotation(make: object, url: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match="malformed") as caught:
        make(url)
    assert str(caught.value) == EXPECTED
    told = traceback.format_exception_only(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "s3" not in "".join(told)


@pytest.mark.parametrize(
    "url",
    [
        "rabbit://",
        "rabbit://h",
        "rabbit://u:s3%2Fcret@h/",
        "rabbit://u:p@h1:1,u:p@[::1]:2/v?ssl=1&ssl_ca_file=/etc/ssl/bus.pem",
    ],
)
def test_sound_url_is_taken(url: str) -> None:
    assert transport_url(url)
    publisher(url)
    listener(url)
