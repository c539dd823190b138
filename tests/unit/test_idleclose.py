"""idleclose.rpy in virtual time."""

import pytest
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.web.test.requesthelper import DummyRequest

SCRIPT = "idleclose.rpy"
AGAIN = b"GET /?after=5&how=reset HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(("how", "aborted"), [("close", False), ("reset", True)])
def test_the_response_is_whole_and_the_end_comes_when_due(script, how, aborted):
    _, transport = script.connect(b"after=5&how=" + how.encode())
    head, _, body = transport.value().partition(b"\r\n\r\n")
    assert body == b'{"how": "%s", "after": 5.0}\n' % how.encode()
    assert b"\r\nContent-Length: %d" % len(body) in head
    assert b"Connection" not in head
    script.advance(0, 0, 4.9)
    assert not transport.disconnecting
    script.advance(0.1)
    assert (transport.disconnecting, transport.disconnected) == (True, aborted)
    assert script.resource.endings == {}


def test_the_last_request_counts(script):
    server, transport = script.connect(b"after=5")
    script.advance(0, 0, 4)
    server.dataReceived(AGAIN)
    script.advance(0, 0, 4.9)
    assert transport.value().count(b"200 OK") == 2
    assert not transport.disconnecting
    script.advance(0.1)
    assert transport.disconnected
    assert script.idle()


def test_the_server_s_own_timeout_is_off_until_the_next_response(script):
    server, transport = script.connect(b"after=3600")
    assert server.timeOut == 60
    script.advance(0, 0, 3599)
    assert not transport.disconnecting
    server.dataReceived(b"GET /?unheard HTTP/1.1\r\nHost: localhost\r\n\r\n")  # it is on again
    assert server.timeOut == 60
    script.advance(1)
    assert transport.disconnecting


def test_no_timer_is_left_when_the_client_disconnects(script, logged):
    for requests in (1, 2):
        server, _ = script.connect(b"after=60")
        script.advance(0)
        for _ in range(requests - 1):
            server.dataReceived(AGAIN)
            script.advance(0, 0, 1)
        server.connectionLost(Failure(ConnectionDone()))
        assert script.idle()
        assert script.resource.endings == {}
        assert logged().count("the client disconnected") == requests


def test_connection_close_is_closed_at_once_and_needs_no_timer(script):
    _, transport = script.connect(b"after=60", b"Connection: close\r\n")
    assert transport.disconnecting
    assert script.resource.endings == {}


def test_http_2_is_refused(script):
    """There, request.transport is None."""
    script.resource.schedule = None
    request = DummyRequest([b""])
    request.uri, request.transport = b"/", None
    assert b"HTTP/1.1" in script.resource.render_GET(request)
    assert request.responseCode == 400


def test_a_failure_is_logged(script, logged):
    script.connect(b"after=5")
    (channel,) = script.resource.endings
    channel.setTimeout = None
    script.advance(0, 0)
    assert "TypeError" in logged()
