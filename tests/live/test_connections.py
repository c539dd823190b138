"""Connections of `tarry serve`, whatever is spoken on them: their end is seen, and they are released."""

import contextlib
import json
import socket
import ssl
from urllib.request import urlopen

import pytest
import pytest_twisted

from tests.live.conftest import RPY, TARRY, Server, ask, more, rest, until

TAKING_OVER = """
from twisted.internet.protocol import Protocol
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

class Upper(Protocol):
    def dataReceived(self, data):
        self.transport.write(data.upper())

class TakesOver(Resource):
    isLeaf = True

    def render_GET(self, request):
        transport, request.channel.transport = request.channel.transport, None
        transport.protocol = protocol = Upper()
        protocol.makeConnection(transport)
        transport.write(b"HTTP/1.1 101 Switching Protocols\\r\\n\\r\\n")
        return NOT_DONE_YET

recache()
resource = TakesOver()
"""


HANDSHAKE = (
    "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)  # fmt: skip


@pytest.fixture
def site(tmp_path):
    """The collection and a script that takes connections over, with room for few connections."""
    for path in RPY.glob("*.rpy"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "takesover.rpy").write_text(TAKING_OVER)
    server = Server([*TARRY, "--connections", "3", tmp_path])
    yield server
    server.stop()


def connect(server, data):
    client = socket.create_connection(("127.0.0.1", server.port))
    client.settimeout(30)
    client.sendall(data)
    return client


def get(path, *headers):
    return "\r\n".join([f"GET /{path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


async def outcomes(server, path):
    entries = json.loads((await ask(server.url(f"ledger.rpy?path=/{path}"))).body)
    return [entry["outcome"] for entry in entries]


@pytest_twisted.ensureDeferred
async def test_a_connection_that_a_script_took_over_is_released_when_it_closes(site):
    for number in range(1, 6):  # more than there is room for at once
        with connect(site, get("takesover.rpy")) as client:
            got = b""
            while b"\r\n\r\n" not in got:
                got += more(client)
            client.sendall(b"hello")
            while not got.endswith(b"HELLO"):
                got += more(client)
            assert (await outcomes(site, "takesover.rpy"))[-1] == "pending"

        async def left(number=number):
            return await outcomes(site, "takesover.rpy") == ["left"] * number

        await until(left)


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_behind_a_long_pipeline_is_noticed(site):
    with connect(
        site, get("delayed.rpy?delay=600") + get("delayed.rpy?delay=0", "X: " + "x" * 1000) * 50
    ):
        await until(lambda: outcomes(site, "delayed.rpy"))

    async def left():
        return (await outcomes(site, "delayed.rpy"))[0] == "left"

    await until(left)


@pytest_twisted.ensureDeferred
async def test_a_frame_sent_with_the_handshake_is_answered(site):
    handshake = get("websocket.rpy", *HANDSHAKE)
    frame = b"\x81\x85\0\0\0\0early"  # masked with zeros
    with connect(site, handshake + frame) as client:
        got = b""
        while b"early" not in got:
            got += more(client)
        assert got.startswith(b"HTTP/1.1 101 ")


@pytest_twisted.ensureDeferred
async def test_many_frames_sent_with_the_handshake_are_answered_in_order(site):
    handshake = get("websocket.rpy", *HANDSHAKE)
    frames = b"".join(b"\x81\x84\0\0\0\0%04d" % n for n in range(5000))
    with connect(site, handshake + frames[:50_000]) as client:
        client.sendall(frames[50_000:])
        got = b""
        while len(got.partition(b"\r\n\r\n")[2]) < 6 * 5000:
            got += more(client)
    assert got.partition(b"\r\n\r\n")[2] == b"".join(b"\x81\x04%04d" % n for n in range(5000))


@pytest_twisted.ensureDeferred
async def test_uploads_take_descriptors_and_there_is_an_answer_for_all(site):
    chunk = b"%x\r\n%b\r\n" % (150_000, b"x" * 150_000)
    upload = (
        b"POST /delayed.rpy HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunk
    )
    with connect(site, upload), connect(site, upload) as second:
        got, end = rest(second)
        assert got.startswith(b"HTTP/1.1 503 ")
        assert end in ("FIN", "RST")


def test_a_client_over_the_limit_gets_its_answer_even_if_it_is_sending(site):
    upload = (
        b"POST /delayed.rpy HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
        + b"x" * 100_000
    )
    with contextlib.ExitStack() as clients:
        for _ in range(3):
            clients.enter_context(connect(site, get("delayed.rpy?delay=600")))
        got, end = rest(clients.enter_context(connect(site, upload)))
    assert got.startswith(b"HTTP/1.1 503 ")
    assert end == "FIN"


def test_a_unix_socket_serves_and_its_ends_are_seen(tmp_path):
    path = tmp_path / "socket"
    server = Server([*TARRY[:2], f"--listen=unix:{path}"])
    assert server.port == str(path)
    try:

        def talk(data, then=rest):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.settimeout(30)
                client.sendall(data)
                return then(client)

        close = "Connection: close"
        assert b"200 OK" in talk(get("delayed.rpy?delay=0", close))[0]
        talk(get("delayed.rpy?delay=600&key=u"), lambda client: None)
        answer, _ = talk(b"GET /ledger.rpy?until=left&key=u HTTP/1.0\r\n\r\n")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["detail"] == "FIN"
    finally:
        assert server.stop() == 0


def test_how_a_tls_client_left_is_what_the_socket_said():
    server = Server([*TARRY, "--https"])
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # 1.3's tickets, unread, would make it a RST
    try:
        for number in range(3):
            raw = socket.create_connection(("127.0.0.1", server.port))
            with context.wrap_socket(raw, server_hostname="localhost") as client:
                client.sendall(get(f"delayed.rpy?delay=600&key=k{number}"))
            ledger = f"https://127.0.0.1:{server.port}/ledger.rpy?until=left&key=k{number}"
            with urlopen(ledger, context=context) as answer:
                assert json.load(answer)["detail"] == "FIN"  # it sent no close_notify
    finally:
        server.stop()


@pytest_twisted.ensureDeferred
async def test_a_websocket_has_its_messages_and_who_closed_it_in_the_ledger(site):
    handshake = get("websocket.rpy?key=ws", *HANDSHAKE)
    with connect(site, handshake + b"\x81\x85\0\0\0\0early\x88\x82\0\0\0\0\x03\xe8") as client:
        got, _ = rest(client)
    assert b"early" in got
    entry = json.loads((await ask(site.url("ledger.rpy?until=left&key=ws"))).body)
    assert entry["detail"] == "close 1000"
    assert entry["messages"] == {"received": 1, "sent": got.count(b"early")}
    frames = got.partition(b"\r\n\r\n")[2]
    assert (entry["bytes"], entry["received"]) == (len(frames), 19)


@pytest_twisted.ensureDeferred
async def test_what_a_script_writes_to_the_socket_itself_is_counted(site):
    with connect(site, get("takesover.rpy?key=raw")) as client:
        got = b""
        while b"\r\n\r\n" not in got:
            got += more(client)
        client.sendall(b"hello")
        while not got.endswith(b"HELLO"):
            got += more(client)
    entry = json.loads((await ask(site.url("ledger.rpy?until=left&key=raw"))).body)
    assert entry["bytes"] == len(got)
