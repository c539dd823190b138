"""websocket.rpy, talked to by real WebSocket clients."""

import os
import re
import shutil
import signal
import socket
import ssl

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect
from wsproto import Connection, ConnectionType
from wsproto.events import BytesMessage

from tests.live.conftest import RPY, TARRY, Server, ask, resident, until
from tests.live.sockets import HANG, more, raw, read_until, request, rest

HANDSHAKE = request(
    "/websocket.rpy", "Connection: Upgrade", "Upgrade: websocket",
    "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)  # fmt: skip


def talk(server, conversation, query="", **options):
    """Run *conversation*, a function of a connection, in a thread."""

    def run():
        url = f"ws://127.0.0.1:{server.port}/websocket.rpy{query}"
        with connect(url, open_timeout=HANG, close_timeout=HANG, proxy=None, **options) as client:
            return conversation(client)

    return deferToThread(run)


def echo(client, message="a"):
    client.send(message)
    return client.recv(HANG)


@pytest.mark.parametrize("delay", [0, 0.1])
@pytest_twisted.ensureDeferred
async def test_echoes_in_order(server, delay):
    sent = [f"{n}" for n in range(200)] + [b"\x00\xff", "\u2603" * 20000]

    def conversation(client):
        for message in sent:
            client.send(message)
        got = [client.recv(HANG) for _ in sent]
        assert client.ping().wait(HANG)
        return got

    assert await talk(server, conversation, f"?delay={delay}") == sent


@pytest.mark.parametrize("size", [65537, 500_000])
@pytest_twisted.ensureDeferred
async def test_a_message_that_is_too_long_is_refused_with_1009(server, size):
    def conversation(client):
        assert len(echo(client, bytes(65536))) == 65536
        client.send(bytes(size))
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(HANG)
        return closed.value.rcvd.code

    assert await talk(server, conversation) == 1009


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads memory from /proc")
@pytest_twisted.ensureDeferred
async def test_a_message_without_an_end_is_reset(server):
    await talk(server, echo)
    before, frames = resident(server.process), Connection(ConnectionType.CLIENT)

    def send(client):
        for _ in range(1000):
            client.sendall(frames.send(BytesMessage(bytes(100_000), message_finished=False)))

    with raw(server, HANDSHAKE) as client:
        assert read_until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await deferToThread(send, client)
    assert resident(server.process) - before < 8 * 2**20


@pytest_twisted.ensureDeferred
async def test_a_page_of_another_site_may_not_connect(server):
    with pytest.raises(InvalidStatus) as refused:
        await talk(server, print, origin="https://evil.example")
    assert refused.value.response.status_code == 403
    assert await talk(server, echo, origin=f"http://127.0.0.1:{server.port}") == "a"


@pytest.mark.parametrize("leave", ["close", "vanish"])
@pytest_twisted.ensureDeferred
async def test_a_disconnect_is_noticed(server, leave):
    query = f"?delay=600&key={leave}"

    def conversation(client):
        client.send("a")
        if leave == "vanish":
            client.socket.shutdown(socket.SHUT_RDWR)

    await talk(server, conversation, query)
    await until(lambda: f"/websocket.rpy{query}': the client disconnected" in server.output)


@pytest_twisted.ensureDeferred
async def test_others_are_answered_while_a_client_sends_many_small_messages(server):
    """40000 messages of one byte. By default, Twisted would parse 9000 of them at a time."""
    many, frame, got = 40_000, b"\x81\x81\0\0\0\0a", []

    def receive(client):
        while sum(got) < 3 * many:
            got.append(len(more(client)))

    with raw(server, HANDSHAKE) as client:
        read_until(client, b"\r\n\r\n")
        receiving = deferToThread(receive, client)
        sending = deferToThread(client.sendall, frame * many)
        answered = 0
        while not receiving.called:
            assert (await ask(server.url("delayed.rpy?delay=0"))).code == 200
            answered += bool(got)
        await receiving
        await sending
    assert answered > 10


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads memory from /proc")
@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_read_is_not_read_either(server):
    """One that sends and receives at once, which the client of websockets cannot."""
    message, most, sent, got, parts = os.urandom(60_000), 300, [], [], []
    await talk(server, lambda client: echo(client, message))
    before = resident(server.process)
    frames = Connection(ConnectionType.CLIENT)

    def send(client):
        for _ in range(most):
            client.sendall(frames.send(BytesMessage(message)))
            sent.append(1)

    def receive(client):
        while len(got) < most:
            frames.receive_data(more(client, 1 << 20))
            for event in frames.events():
                parts.append(event.data)
                if event.message_finished:
                    got.append(b"".join(parts))
                    parts.clear()

    async def stuck():
        known = len(sent)
        await ask(server.url("delayed.rpy?delay=0.3"))
        return known == len(sent) > 0

    with raw(server, HANDSHAKE) as client:
        assert read_until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        sending = deferToThread(send, client)
        await until(stuck)
        assert len(sent) < most  # 18 MB, of which the kernel has what it takes
        assert resident(server.process) - before < 8 * 2**20
        await deferToThread(receive, client)
        await sending
    assert got == [message] * most


@pytest_twisted.ensureDeferred
async def test_over_tls_it_closes_when_the_client_does():
    server = Server([*TARRY, "--https", RPY])
    authority = re.search(r"--cacert (\S+)", server.output)[1]

    def run():
        with raw(server) as plain:
            client = trust.wrap_socket(plain, server_hostname="localhost")
            client.sendall(HANDSHAKE)
            assert read_until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
            client.sendall(b"\x81\x81\0\0\0\0a")
            assert read_until(client, b"a").endswith(b"\x81\x01a")
            client.sendall(b"\x88\x80\0\0\0\0")  # a close frame
            with client:
                return rest(client)

    try:
        trust = ssl.create_default_context(cafile=authority)
        assert await deferToThread(run) == (b"\x88\x00", "FIN")
    finally:
        server.stop(signal.SIGKILL)
        shutil.rmtree(authority.rpartition("/")[0], ignore_errors=True)
