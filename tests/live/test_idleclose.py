"""idleclose.rpy over real sockets: how the connection ends, and what clients make of it."""

import http.client
import select
import socket

import httpx
import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.live.conftest import HANG, until
from tests.live.sockets import WAYS, connect, read_until

ENDS = {"close": b"", "reset": ConnectionResetError}


def answered(client):
    """Read a response of idleclose.rpy to its last byte, and return it."""
    return read_until(client, b"}\n")


@pytest.mark.parametrize("after", [0, 0.2])
@pytest.mark.parametrize("how", ENDS)
@pytest_twisted.ensureDeferred
async def test_the_whole_answer_then_fin_or_rst(server, how, after):
    def talk():
        with connect(server, f"idleclose.rpy?after={after}&how={how}") as client:
            client.settimeout(HANG)
            assert answered(client).startswith(b"HTTP/1.1 200 OK\r\n")
            try:
                return client.recv(1)
            except ConnectionResetError:
                return ConnectionResetError

    assert await deferToThread(talk) == ENDS[how]


@pytest_twisted.ensureDeferred
async def test_requests_before_the_end_are_answered(server):
    def talk():
        with connect(server, "idleclose.rpy?after=0.3&how=reset") as client:
            client.settimeout(HANG)
            answered(client)
            client.sendall(b"GET /delayed.rpy?delay=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            read_until(client, b"</html>")
            client.sendall(b"GET /idleclose.rpy?after=0.6 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answered(client)
            return client.recv(1)  # the end that the later request asked for

    assert await deferToThread(talk) == b""


@pytest.mark.parametrize("leave", WAYS)
@pytest_twisted.ensureDeferred
async def test_a_client_may_disconnect_first(server, leave):
    path = f"idleclose.rpy?after=600&key={leave.__name__}"
    with connect(server, path) as client:
        client.settimeout(HANG)
        await deferToThread(answered, client)
        leave(client)
        await until(lambda: f"/{path}': the client disconnected" in server.output)


@pytest.mark.parametrize("how", ENDS)
@pytest_twisted.ensureDeferred
async def test_a_pool_that_checks_before_it_sends_opens_another_connection(server, how):
    def talk():
        with httpx.Client(timeout=HANG, trust_env=False) as client:
            first = client.get(server.url(f"idleclose.rpy?after=0.1&how={how}"))
            stream = first.extensions["network_stream"]
            old = stream.get_extra_info("client_addr")
            select.select([stream.get_extra_info("socket")], [], [], HANG)  # until it has ended
            again = client.get(server.url("idleclose.rpy?after=600"))
            new = again.extensions["network_stream"].get_extra_info("client_addr")
            return first.status_code, again.status_code, old != new

    assert await deferToThread(talk) == (200, 200, True)


@pytest.mark.parametrize(
    ("how", "error"),
    [("close", http.client.RemoteDisconnected), ("reset", ConnectionResetError)],
)
@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_check_fails(server, how, error):
    def talk():
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=HANG)
        try:
            client.request("GET", f"/idleclose.rpy?after=0.1&how={how}")
            client.getresponse().read()
            select.select([client.sock], [], [], HANG)
            assert isinstance(client.sock, socket.socket)  # the client has not noticed
            client.request("GET", "/idleclose.rpy")
            client.getresponse()
        finally:
            client.close()

    with pytest.raises(error) as caught:
        await deferToThread(talk)
    assert caught.type is error  # RemoteDisconnected is a ConnectionResetError
