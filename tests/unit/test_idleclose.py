"""idleclose.rpy in virtual time."""

import pytest
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

SCRIPT = "idleclose.rpy"
AGAIN = b"GET /?after=5&how=reset HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(("how", "aborted"), [("close", False), ("reset", True)])
def test_the_answer_is_whole_and_the_end_comes_in_its_time(script, how, aborted):
    _, transport = script.connect(b"after=5&how=" + how.encode())
    head, _, body = transport.value().partition(b"\r\n\r\n")
    assert body == b'{"how": "%s", "after": 5.0}\n' % how.encode()
    assert b"\r\nContent-Length: %d" % len(body) in head
    assert b"Connection" not in head
    script.advance(0, 0, 4.9)
    assert not transport.disconnecting
    script.advance(0.1)
    assert (transport.disconnecting, transport.disconnected) == (True, aborted)
    assert script.resource.ending == {}


def test_the_last_request_says_when_and_how(script):
    server, transport = script.connect(b"after=5")
    script.advance(0, 0, 4)
    server.dataReceived(AGAIN)
    script.advance(0, 0, 4.9)
    assert transport.value().count(b"200 OK") == 2
    assert not transport.disconnecting
    script.advance(0.1)
    assert transport.disconnected
    assert script.idle()


def test_the_server_s_own_limit_does_not_come_first(script):
    server, transport = script.connect(b"after=3600")
    assert server.timeOut == 60
    script.advance(0, 0, 3599)
    assert not transport.disconnecting
    server.dataReceived(
        b"GET /?unheard HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )  # but now it counts again
    assert server.timeOut == 60
    script.advance(1)
    assert transport.disconnecting


def test_no_timer_remains_when_the_client_leaves(script, logged):
    for requests in (1, 2):
        server, _ = script.connect(b"after=60")
        script.advance(0)
        for _ in range(requests - 1):
            server.dataReceived(AGAIN)
            script.advance(0, 0, 1)
        server.connectionLost(Failure(ConnectionDone()))
        assert script.idle()
        assert script.resource.ending == {}
        assert logged().count("the client left") == requests


def test_who_wants_no_more_requests_has_no_timer(script):
    _, transport = script.connect(b"after=60", b"Connection: close\r\n")
    assert transport.disconnecting
    assert script.resource.ending == {}
