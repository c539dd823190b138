"""HTTP/2 on real sockets, with TLS and without: times, ends, the stop, and connections that must not stay."""

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import time

import h2.errors
import pytest
from hyperframe.frame import GoAwayFrame, RstStreamFrame

from tests.live.conftest import RPY, TARRY, Server, resident
from tests.live.http2_client import PREFACE, Client, connect
from tests.live.sockets import HANG, raw, request, reset, rest


def start(*options):
    server = Server([*TARRY, *options, RPY])
    found = re.search(r"--cacert (\S+)", server.output)
    server.authority = found and found[1]
    return server


@pytest.fixture
def secure(request):
    server = start("--https", *getattr(request, "param", []))
    yield server
    server.stop(signal.SIGKILL)


@pytest.fixture
def plain():
    server = start()
    yield server
    server.stop(signal.SIGKILL)


@pytest.fixture(params=["https", "http"])
def server(request):
    server = start(*["--https"] * (request.param == "https"))
    yield server
    server.stop(signal.SIGKILL)


def client(server):
    return Client(server, server.authority)


def entries(server, query):
    with client(server) as asking:
        return json.loads(asking.get(f"ledger.rpy?{query}")[1])


def sockets(server):
    """Return how many sockets the server has open."""
    folder, found = f"/proc/{server.process.pid}/fd", 0
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(f"{folder}/{name}").startswith("socket:")
    return found


def test_each_stream_has_its_own_time(server):
    with client(server) as asking:
        streams = [asking.ask(f"delayed.rpy?delay={delay}") for delay in (1.5, 1, 0.5)]
        asking.until(lambda: len(asking.ends) == 3)
        assert asking.order == streams[::-1]
    assert {e["protocol"] for e in entries(server, "path=/delayed.rpy")} == {"HTTP/2"}


def test_http1_goes_on_beside_http2_on_the_plain_port(plain):
    with (
        raw(plain, request("/delayed.rpy?delay=0", "Connection: close")) as first,
        client(plain) as second,
    ):
        assert second.get("delayed.rpy?delay=0")[0] == 200
        assert rest(first)[0].startswith(b"HTTP/1.1 200 OK")


def test_a_body_larger_than_any_window_arrives_whole(server):
    with client(server) as asking:
        status, body = asking.get("throttled.rpy?rate=0&size=3000000")
        assert (status, len(body)) == (200, 3_000_000)


# What the ledger tells of clients that leave


def leave_by_reset(asking, stream):
    asking.socket.sendall(RstStreamFrame(stream, h2.errors.ErrorCodes.CANCEL).serialize())


def leave_by_goaway(asking, stream):
    asking.socket.sendall(GoAwayFrame(0, error_code=h2.errors.ErrorCodes.NO_ERROR).serialize())
    asking.socket.close()


def leave_by_fin(asking, stream):
    asking.socket.close()  # without close_notify, with TLS


def leave_by_close_notify(asking, stream):
    if isinstance(asking.socket, ssl.SSLSocket):
        asking.socket.settimeout(1)
        try:
            asking.socket.unwrap().close()
        except (TimeoutError, OSError):
            asking.socket.close()
    else:
        asking.socket.close()


def leave_by_rst(asking, stream):
    reset(asking.socket)


@pytest.mark.parametrize(("leave", "detail"), [
    (leave_by_reset, "RST_STREAM CANCEL"), (leave_by_goaway, "GOAWAY NO_ERROR"),
    (leave_by_fin, "FIN"), (leave_by_close_notify, "FIN"), (leave_by_rst, "RST"),
])  # fmt: skip
def test_how_a_client_left_is_what_it_did(server, leave, detail):
    for number in range(4):
        with client(server) as asking:
            stream = asking.ask(f"streamed.rpy?interval=0.05&count=100000&key={number}")
            while not asking.bodies[stream]:
                asking.read()
            leave(asking, stream)
            entry = entries(server, f"until=left&key={number}")
        assert (entry["outcome"], entry["detail"]) == ("left", detail)


# Connections that must not stay


@pytest.mark.parametrize("secure", [["--connections", "20"]], indirect=True)
def test_after_a_protocol_error_a_connection_is_closed_whatever_it_sends(secure):
    """With a response under way, whose producer TLS would wait for; and the memory stays."""
    before, resting = sockets(secure), resident(secure.process)
    clients = []
    for _ in range(12):
        asking = client(secure)
        stream = asking.ask("streamed.rpy?interval=0.05&count=100000")
        asking.until(lambda a=asking, s=stream: a.bodies[s])
        asking.socket.sendall(b"\0\0\x03\x06\0\0\0\0\0abc")  # a PING of three bytes
        clients.append(asking)
    for asking in clients:
        with contextlib.suppress(OSError):  # it is closed at last
            for _ in range(200):
                asking.socket.sendall(bytes(100_000))
    assert resident(secure.process) - resting < 30_000_000  # of up to 240 MB that were sent
    give_up = time.monotonic() + HANG
    while sockets(secure) > before and time.monotonic() < give_up:
        time.sleep(0.1)
    assert sockets(secure) == before, "no connection is left although no client has closed"
    for asking in clients:
        asking.socket.close()
    told = {e["detail"].partition(":")[0] for e in entries(secure, "path=/streamed.rpy")}
    assert told == {"GOAWAY FRAME_SIZE_ERROR, sent"}


@pytest.mark.parametrize("secure", [["--idle-seconds", "1"]], indirect=True)
def test_a_body_that_never_ends_is_seen_and_ended(secure):
    with client(secure) as asking:
        stream = asking.ask("delayed.rpy?key=body", "POST", end=False)
        (entry,) = entries(secure, "key=body")
        assert (entry["outcome"], entry["in_body"]) == ("pending", True)
        asking.until(lambda: stream in asking.ends)
        assert asking.statuses[stream] == 408
    (entry,) = entries(secure, "key=body")
    assert (entry["outcome"], entry["status"]) == ("refused", 408)


@pytest.mark.parametrize("end", ["idle", "nothing", "handshake"])
@pytest.mark.parametrize(
    "secure", [["--idle-seconds", "1", "--header-seconds", "1"]], indirect=True
)
def test_a_client_that_says_nothing_is_closed(secure, end):
    before = sockets(secure)
    if end == "handshake":
        gone = socket.create_connection(("127.0.0.1", secure.port))
    else:
        gone = connect(secure, secure.authority)
        gone.sendall(PREFACE if end == "idle" else b"")
    with gone:
        give_up = time.monotonic() + HANG
        while sockets(secure) <= before and time.monotonic() < give_up:
            time.sleep(0.01)
        while sockets(secure) > before and time.monotonic() < give_up:
            time.sleep(0.1)
        assert sockets(secure) == before


# The stop


def test_the_stop_drops_nobody(server):
    with client(server) as asking, client(server) as idle:
        idle.get("delayed.rpy?delay=0")
        streams = [asking.ask(f"delayed.rpy?delay={delay}&key=last") for delay in (2, 1)]
        body = asking.ask("delayed.rpy?key=last", "POST", end=False)
        while len(entries(server, "key=last")) < 3:
            continue
        server.process.send_signal(signal.SIGTERM)
        idle.until(lambda: idle.goaway is not None)
        late = asking.ask("delayed.rpy?delay=0")
        asking.until(lambda: late in asking.ends)
        assert asking.ends[late] == h2.errors.ErrorCodes.REFUSED_STREAM
        asking.http.end_stream(body)
        asking.send()
        asking.until(lambda: asking.goaway is not None)
        assert [asking.ends[s] for s in (*streams, body)] == ["end"] * 3
        assert [asking.statuses[s] for s in streams] == [200, 200]
        assert asking.goaway == idle.goaway == h2.errors.ErrorCodes.NO_ERROR
    assert server.end() == 0
