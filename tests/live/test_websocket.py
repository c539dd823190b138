"""websocket.rpy, talked to by a real WebSocket client."""

import os
import socket

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect
from wsproto import Connection, ConnectionType
from wsproto.events import BytesMessage

from tests.live.conftest import HANG, ask, until
from tests.live.test_leaving import resident

HANDSHAKE = (
    b"GET /websocket.rpy HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def talk(server, conversation, query="", **options):
    """Run *conversation*, a function of a connection, in a thread."""

    def run():
        url = f"ws://127.0.0.1:{server.port}/websocket.rpy{query}"
        with connect(url, open_timeout=HANG, close_timeout=HANG, proxy=None, **options) as client:
            return conversation(client)

    return deferToThread(run)


@pytest_twisted.ensureDeferred
async def test_echoes_and_ticks(server):
    sent = [f"{n}" for n in range(200)] + [b"\x00\xff", "\u2603" * 20000]

    def conversation(client):
        for message in sent:
            client.send(message)
        got = [client.recv(HANG) for _ in range(len(sent) + 3)]
        assert client.ping().wait(HANG)
        return got

    got = await talk(server, conversation, "?delay=0.1&interval=0.05&count=3")
    ticks = [message for message in got if isinstance(message, str) and "tick" in message]
    assert [message for message in got if message not in ticks] == sent
    assert [tick[:10] for tick in ticks] == ['{"tick": 1', '{"tick": 2', '{"tick": 3']


@pytest.mark.parametrize("size", [65537, 10_000_000])
@pytest_twisted.ensureDeferred
async def test_a_message_too_long_is_told_by_its_code(server, size):
    def conversation(client):
        client.send(bytes(65536))
        assert len(client.recv(HANG)) == 65536
        client.send(bytes(size))
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(HANG)
        return closed.value.rcvd.code

    assert await talk(server, conversation) == 1009


@pytest_twisted.ensureDeferred
async def test_a_page_of_another_site_may_not_connect(server):
    with pytest.raises(InvalidStatus) as refused:
        await talk(server, print, origin="https://evil.example")
    assert refused.value.response.status_code == 403
    own = f"http://127.0.0.1:{server.port}"
    assert (
        await talk(server, lambda client: client.send("a") or client.recv(HANG), origin=own) == "a"
    )


@pytest.mark.parametrize("leave", ["close", "vanish"])
@pytest_twisted.ensureDeferred
async def test_it_is_seen_that_a_client_left(server, leave):
    query = f"?delay=600&interval=600&count=10&key={leave}"

    def conversation(client):
        client.send("a")
        if leave == "vanish":
            client.socket.shutdown(socket.SHUT_RDWR)

    await talk(server, conversation, query)
    await until(lambda: f"/websocket.rpy{query}': the client left" in server.output)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads memory from /proc")
@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_read_is_not_read_either(server):
    """One that sends and receives at once, which the client of websockets cannot."""
    message, most, sent, got = os.urandom(60_000), 500, [], []
    await talk(server, lambda client: client.send(message) or client.recv(HANG))
    before = resident(server.process)
    frames = Connection(ConnectionType.CLIENT)

    def send(client):
        for _ in range(most):
            client.sendall(frames.send(BytesMessage(message)))
            sent.append(1)

    def receive(client):
        while len(got) < most:
            frames.receive_data(client.recv(1 << 20))
            for event in frames.events():
                parts.append(event.data)
                if event.message_finished:
                    got.append(b"".join(parts))
                    parts.clear()

    async def stuck():
        known = len(sent)
        await ask(server.url("delayed.rpy?delay=0.3"))
        return known == len(sent) > 0

    parts = []
    with socket.create_connection(("127.0.0.1", server.port), timeout=HANG) as client:
        client.sendall(HANDSHAKE)
        assert client.recv(65536).startswith(b"HTTP/1.1 101 ")
        sending = deferToThread(send, client)
        await until(stuck)
        assert len(sent) < most  # 30 MB, of which the kernel has what it takes
        assert resident(server.process) - before < 8 * 2**20
        await deferToThread(receive, client)
        await sending
    assert got == [message] * most
