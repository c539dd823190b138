"""That the server notices a client that leaves, however it does, and others are undisturbed."""

import json
import os
import socket
import struct

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.web.client import ResponseNeverReceived

from tests.live.conftest import ask, until


def connect(server, path, room=None):
    """A connection on which *path* has been asked for; *room*: the size of its receive buffer."""
    client = socket.socket()
    if room:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    client.connect(("127.0.0.1", server.port))
    client.sendall(f"GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return client


def close(client):
    client.close()


def half_close(client):
    client.shutdown(socket.SHUT_WR)


def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


WAYS = [close, half_close, reset]


async def listed(server, which, key):
    answer = await ask(server.url(f"cancellable.rpy?show={which}&key={key}"))
    return json.loads(answer.body)


def others(server, count=50):
    """Requests that go on meanwhile, a half of them streams."""
    urls = ["delayed.rpy?delay=2", "streamed.rpy?count=5&interval=0.5"]
    return [ensureDeferred(ask(server.url(urls[n % 2]))) for n in range(count)]


async def undisturbed(asked):
    for answer in await gatherResults(asked):
        assert answer.code == 200
        whole = b"Sorry" in answer.body or len(answer.body.splitlines()) == 5
        assert whole


@pytest_twisted.ensureDeferred
async def test_a_cancelled_request_cancels_the_work_and_fifty_others_go_on(server):
    asked = others(server)
    leaver = ensureDeferred(ask(server.url("cancellable.rpy?duration=600&count=1000&key=treq")))
    await until(lambda: listed(server, "running", "treq"))
    leaver.cancel()
    (job,) = await until(lambda: listed(server, "recent", "treq"))
    assert job["outcome"] == "cancelled"
    assert await listed(server, "running", "treq") == []
    with pytest.raises(ResponseNeverReceived):
        await leaver
    await undisturbed(asked)


@pytest.mark.parametrize("leave", WAYS)
@pytest_twisted.ensureDeferred
async def test_every_way_to_leave_cancels_the_work(server, leave):
    key = leave.__name__
    asked = others(server)
    with connect(server, f"cancellable.rpy?duration=600&key={key}") as client:
        await until(lambda: listed(server, "running", key))
        leave(client)
        (job,) = await until(lambda: listed(server, "recent", key))
    assert job["outcome"] == "cancelled"
    await undisturbed(asked)


@pytest.mark.parametrize("leave", WAYS)
@pytest_twisted.ensureDeferred
async def test_every_way_to_leave_ends_a_stream(server, leave):
    path = f"streamed.rpy?interval=0.1&count=100000&key=stream-{leave.__name__}"
    asked = others(server)
    with connect(server, path) as client:
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK")
        leave(client)
        await until(lambda: f"/{path}': the client left after" in server.output)
    await undisturbed(asked)


@pytest.mark.parametrize("leave", WAYS)
@pytest_twisted.ensureDeferred
async def test_every_way_to_leave_ends_a_wait(server, leave):
    path = f"delayed.rpy?delay=600&key=wait-{leave.__name__}"
    with connect(server, path) as client:
        leave(client)
        await until(lambda: f"/{path}': the client left" in server.output)


def resident(process):
    """Bytes of memory that *process* has in use."""
    with open(f"/proc/{process.pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def worked(process):
    """Clock ticks that *process* has computed for."""
    with open(f"/proc/{process.pid}/stat") as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:13]))


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads memory from /proc")
@pytest_twisted.ensureDeferred
async def test_memory_is_flat_while_a_hundred_clients_do_not_read(server):
    await ask(server.url("streamed.rpy?count=1"))
    before = resident(server.process)
    path = "streamed.rpy?count=100000&interval=0"
    clients = [connect(server, path, room=4096) for _ in range(100)]

    async def paused():
        """All of them are: between two questions that take half a second the server did nothing."""
        ticks = worked(server.process)
        await ask(server.url("delayed.rpy?delay=0.5"))
        return worked(server.process) - ticks < 5

    await until(paused, patience=300)  # the kernel takes megabytes for each before it is full
    grown = resident(server.process) - before
    assert grown < 64 * 2**20  # 100 x 100,000 lines are over 450 MB

    first = clients.pop()
    first.settimeout(30)
    got = b""
    while not got.endswith(b"\r\n0\r\n\r\n"):
        piece = first.recv(1 << 20)
        assert piece
        got = got[-200:] + piece
    assert b'"n": 100000,' in got
    for client in [first, *clients]:
        client.close()
    assert (await ask(server.url("delayed.rpy?delay=0"))).code == 200
