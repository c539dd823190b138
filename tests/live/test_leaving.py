"""Clients that disconnect, in every way: the server stops their work, and others go on."""

import json
import os

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.web.client import ResponseNeverReceived

from tests.live.conftest import ask, resident, until, worked
from tests.live.sockets import WAYS, connect, more, read_until, status


async def listed(server, which, key):
    answer = await ask(server.url(f"cancellable.rpy?show={which}&key={key}"))
    return json.loads(answer.body)


def others(server, count=50):
    """Start requests of other clients, half of them streams."""
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
        assert status(client) == 200
        leave(client)
        await until(lambda: f"/{path}': the client disconnected" in server.output)
    await undisturbed(asked)


@pytest.mark.parametrize("leave", WAYS)
@pytest_twisted.ensureDeferred
async def test_every_way_to_leave_ends_a_wait(server, leave):
    path = f"delayed.rpy?delay=600&key=wait-{leave.__name__}"
    with connect(server, path) as client:
        leave(client)
        await until(lambda: f"/{path}': the client disconnected" in server.output)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads memory from /proc")
@pytest_twisted.ensureDeferred
async def test_memory_is_flat_while_clients_do_not_read(server):
    await ask(server.url("throttled.rpy?size=1&rate=0"))
    before, size = resident(server.process), 50_000_000
    path = f"throttled.rpy?size={size}&rate=0"
    clients = [connect(server, path, room=65536) for _ in range(20)]

    async def paused():
        """Return whether the server computes nothing between two requests 0.5 s apart."""
        ticks = worked(server.process)
        await ask(server.url("delayed.rpy?delay=0.5"))
        return worked(server.process) - ticks < 5

    await until(paused)  # the kernel buffers megabytes for each client before it is full
    grown = resident(server.process) - before
    assert grown < 32 * 2**20  # of 1,000 MB

    last = await deferToThread(last_bytes, clients[0], size)
    assert last == b"%015d\n" % (size - 16)
    for client in clients:
        client.close()
    assert (await ask(server.url("delayed.rpy?delay=0"))).code == 200


def last_bytes(client, size):
    """Read a body of *size* bytes; return its last 16."""
    got = read_until(client, b"\r\n\r\n").partition(b"\r\n\r\n")[2]
    count = len(got)
    while count < size:
        got = got[-16:] + more(client, 1 << 20)
        count += len(got) - 16
    return got[-16:]
