"""What a client feeds to the launcher takes it time in proportion: twice the input, twice the time."""

import time

import pytest

from tarry.access_log import quoted, url_without_credentials
from tarry.errors import Refused
from tarry.ledger import without_credentials
from tarry.origins import Origins
from tarry.request_rules import keeps_alive
from tarry.script_directory import hidden

from .test_request import Wire

LONG = 200_000  # bytes: far over any limit, so that a quadratic loop would take minutes


def host(data):
    with pytest.raises(Refused):
        Origins().check_host(data)


def cookies(data):
    Wire(lambda request: b"%d" % len(request.received_cookies)).send(
        "GET /", f"Cookie: {data.decode()}"
    )


FED = {
    "a query": (without_credentials, [b"a=1&", b"token", b"%74oken=", b"=", b"&;", b"%"]),
    "a Referer": (url_without_credentials, [b"a@", b"://", b"?", b"/", b"x?token=1;"]),
    "a field of the log": (quoted, [b'"', b"\\", b"\xff", b"a"]),
    "a Host": (host, [b"a.", b"[", b":", b"-", b"1"]),
    "a Connection": (lambda data: keeps_alive(b"HTTP/1.1", [data]), [b"close ", b",", b" ", b"a,"]),
    "a file's name": (lambda data: hidden(data.decode("latin-1")), [b".rpy", b"~", b"."]),
    "cookies": (cookies, [b"a=1;", b";", b"=", b" "]),
}


def fastest(function, data):
    """Return the least of three times, in seconds."""
    times = []
    for _ in range(3):
        began = time.process_time()
        function(data)
        times.append(time.process_time() - began)
    return min(times)


@pytest.mark.parametrize("name", FED)
def test_twice_the_input_takes_about_twice_the_time(name):
    function, pieces = FED[name]
    slow = []
    for piece in pieces:
        one = fastest(function, (piece * LONG)[:LONG])
        two = fastest(function, (piece * LONG * 2)[: 2 * LONG])
        if two > 3 * one + 0.02:  # a quadratic loop of this length is far beyond both
            slow.append((piece, one, two))
    assert slow == []
