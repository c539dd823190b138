"""A thousand clients of all scripts disconnect at random moments: nothing of theirs remains."""

import contextlib
import json
import random
import shutil
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater

from tarry.script_docs import manuals
from tests.live.conftest import PLAIN, RPY, TARRY, ask, resident, until

CLIENTS = 1000
AT_ONCE = 200
PATIENCE = 2.0  # seconds after which the last of them disconnects

# What the server holds, seen from inside. A class of a script is in the module "builtins", as Twisted
# sets no __name__ when it runs the file.
PROBE = """
import collections, gc, json, os
from twisted.internet import reactor
from twisted.internet.interfaces import IPullProducer, IPushProducer
from twisted.web.http import Request
from twisted.web.resource import Resource
recache()
class Probe(Resource):
    isLeaf = True
    def render_GET(self, request):
        if b"collect" in request.uri:
            gc.collect()
        kinds = collections.Counter(map(type, gc.get_objects()))
        producers = [kind for kind in kinds if kind.__module__ == "builtins"
                     and (IPushProducer.implementedBy(kind) or IPullProducer.implementedBy(kind))]
        pid = os.getpid()
        return json.dumps({
            "timers": len(reactor.getDelayedCalls()),
            "readers": len(reactor.getReaders()),
            "writers": len(reactor.getWriters()),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "children": open(f"/proc/{pid}/task/{pid}/children").read().split(),
            "requests": sum(n for kind, n in kinds.items() if issubclass(kind, Request)),
            "producers": sum(kinds[kind] for kind in producers),
        }).encode()
resource = Probe()
"""
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
BODY = '{"model": "m", "messages": [{}], "stream": true}'


def requests():
    """Yield every request that the manuals show, as bytes."""
    for manual in manuals(RPY):
        for line in manual.requests:
            method, target = line.split()[:2]
            target = target.replace("duration=10", "duration=2")  # what goes on after a disconnect
            head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n"
            head += UPGRADE if manual.name == "websocket.rpy" else ""
            body = BODY if method == "POST" else ""
            yield f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


class Leaver(Protocol):
    """Reads what comes, or nothing if it is paused."""

    def __init__(self):
        self.gone = Deferred()

    def connectionLost(self, reason):
        self.gone.callback(None)


async def come_and_go(server, request, stay, reads, way):
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", server.port)
    client = await connectProtocol(endpoint, Leaver())
    if not reads:
        client.transport.pauseProducing()
    client.transport.write(request)
    await deferLater(reactor, stay)
    if client.transport.connected:
        getattr(client.transport, way)()
        await client.gone


async def crowd(server, seed):
    """Run all clients, some at once. Each stays for a random time and disconnects in a random way."""
    draw, kinds, room = random.Random(seed), list(requests()), DeferredSemaphore(AT_ONCE)
    visits = []
    for n in range(CLIENTS):
        way = draw.choice(["loseConnection", "abortConnection"])
        visit = (kinds[n % len(kinds)], draw.uniform(0, PATIENCE), draw.random() < 0.8, way)
        visits.append(
            room.run(lambda visit: Deferred.fromCoroutine(come_and_go(server, *visit)), visit)
        )
    await gatherResults(visits)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts in /proc")
@pytest.mark.parametrize("command", [PLAIN, TARRY], ids=["twistd web", "tarry serve"])
@pytest_twisted.ensureDeferred
async def test_a_thousand_clients_that_leave_leave_nothing_behind(tmp_path, serve, command):
    folder = tmp_path / "rpy"
    shutil.copytree(RPY, folder)
    (folder / "probe.rpy").write_text(PROBE)
    server = serve([*command, f"--path={folder}"])

    async def probe(collect=""):
        return json.loads((await ask(server.url(f"probe.rpy?{collect}"))).body)

    async def back_to(before):
        now = {}

        async def is_back():
            now.update(await probe("collect"))
            return now == before

        with contextlib.suppress(AssertionError):
            await until(is_back)
        assert now == before

    async def counted(path):
        return json.loads((await ask(server.url(path))).body)

    await probe()  # the first request makes what is made once
    quiet = await probe("collect")
    await crowd(server, 1)  # the first crowd makes threads, states for keys, Python's caches
    await back_to(quiet)
    memory = resident(server.process)
    await crowd(server, 2)
    await back_to(quiet)

    async def threads_are_done():  # one that can't be interrupted ends by itself, later
        return await counted("threaded.rpy?show") == {"running": 0, "waiting": 0}

    await until(threads_are_done)
    assert (await counted("gated.rpy?key=a&show"))["waiting"] == 0
    queue = await counted("queued.rpy?key=a&show")
    assert (queue["serving"], queue["waiting"]) == (0, 0)
    assert (await counted("job.rpy"))["running"] == 0
    assert (await counted("cancellable.rpy?show=running")) == []
    assert resident(server.process) - memory < 0.1 * memory
    assert "Traceback" not in server.output
    assert "Unhandled" not in server.output
