"""A thousand clients, across all scripts, leave at random moments: nothing of theirs is left over."""

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
from tests.live.conftest import PLAIN, RPY, TARRY, Server, ask, until
from tests.live.test_leaving import resident

CLIENTS = 1000
AT_ONCE = 200
PATIENCE = 2.0  # seconds that the most patient of them stays

# What the server has in hand, as it sees it itself.
PROBE = """
import gc, json, os
from twisted.internet import reactor
from twisted.web.http import Request
from twisted.web.resource import Resource
recache()
class Probe(Resource):
    isLeaf = True
    def render_GET(self, request):
        if b"collect" in request.uri:
            gc.collect()
        timers = [str(call.func) for call in reactor.getDelayedCalls()]
        kinds = [type(each).__name__ for each in gc.get_objects()]
        pid = os.getpid()
        return json.dumps({
            "timers": len(timers),
            "readers": len(reactor.getReaders()),
            "writers": len(reactor.getWriters()),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "children": open(f"/proc/{pid}/task/{pid}/children").read().split(),
            "requests": sum(isinstance(each, Request) for each in gc.get_objects()),
            "producers": sum(kinds.count(kind) for kind in ("Flow", "Trickle", "Following", "Child")),
        }).encode()
resource = Probe()
"""
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
BODY = '{"model": "m", "messages": [], "stream": true}'


def requests():
    """Every request that the manuals show, as bytes."""
    for manual in manuals(RPY):
        for line in manual.requests:
            method, target = line.split()[:2]
            target = target.replace(
                "duration=10", "duration=2"
            )  # of what goes on when they have left
            head = f"{method} {target} HTTP/1.1\r\nHost: x\r\n"
            head += UPGRADE if manual.name == "websocket.rpy" else ""
            body = BODY if method == "POST" else ""
            yield f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


class Leaver(Protocol):
    """Reads what comes, or nothing at all."""

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
    """All of them, some at once; each stays for a time, and leaves in a way, drawn at random."""
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
async def test_a_thousand_clients_that_leave_leave_nothing_behind(tmp_path, command):
    folder = tmp_path / "rpy"
    shutil.copytree(RPY, folder)
    (folder / "probe.rpy").write_text(PROBE)
    server = Server([*command, f"--path={folder}"])

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

    try:
        await probe()  # what is made once, at the first request, is there
        quiet = await probe("collect")
        await crowd(server, 1)  # so are threads, channels, keys and what Python keeps
        await back_to(quiet)
        memory = resident(server.process)
        await crowd(server, 2)
        await back_to(quiet)
        assert await counted("threaded.rpy?count") == {"running": 0, "waiting": 0}
        assert (await counted("gated.rpy?key=a&count"))["waiting"] == 0
        queue = await counted("queued.rpy?key=a&count")
        assert (queue["serving"], queue["waiting"]) == (0, 0)
        assert (await counted("job.rpy"))["running"] == 0
        assert (await counted("cancellable.rpy?show=running")) == []
        assert resident(server.process) - memory < 0.1 * memory
        assert "Traceback" not in server.output
        assert "Unhandled" not in server.output
    finally:
        server.stop()
