"""earlyhints.rpy in virtual time."""

import pytest
from twisted.internet.testing import StringTransport
from twisted.web.server import Site

SCRIPT = "earlyhints.rpy"
HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload; as=style\r\n\r\n"


def test_hints_and_page_are_sent_when_they_are_due(script):
    _, transport = script.connect(b"count=3&interval=0.5&delay=2")
    sent = []
    for step in (0, 0.4, 0.1, 0.5, 1.9):
        script.advance(step)
        sent.append(transport.value().count(HINT))
    assert sent == [1, 1, 2, 3, 3]
    assert transport.value() == 3 * HINT
    script.advance(0.1)
    page = transport.value().removeprefix(3 * HINT)
    assert page.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nLink: </style.css>; rel=preload; as=style\r\n" in page
    assert b"\r\nServer-Timing: wait;dur=3000.000\r\n" in page
    assert page.count(b"<!DOCTYPE html>") == 1


def test_without_hints_the_page_is_the_first_response(script):
    _, transport = script.connect(b"count=0&delay=1")
    script.advance(0.9)
    assert transport.value() == b""
    script.advance(0.1)
    assert transport.value().startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("line", "first"), [(b"GET / HTTP/1.0", b"HTTP/1.0 200 OK"), (b"HEAD / HTTP/1.1", HINT)]
)
def test_http_1_0_gets_no_hints_and_head_no_page(script, line, first):
    server, transport = (
        Site(script.resource, reactor=script.clock).buildProtocol(None),
        StringTransport(),
    )
    server.makeConnection(transport)
    server.dataReceived(line + b"\r\nHost: localhost\r\n\r\n")
    script.advance(0, 1)
    assert transport.value().startswith(first)
    assert (b"<html" in transport.value()) == (b"GET" in line)


def test_nothing_is_left_when_the_client_disconnects(script, logged):
    asked = script.get("?count=10&interval=60")
    script.advance(0, 60)
    asked.leave()
    assert script.idle()
    assert "the client disconnected" in logged()
