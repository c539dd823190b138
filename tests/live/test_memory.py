"""A server that has answered very many requests takes no more memory than one that has answered some."""

import json
from pathlib import Path

import pytest
import pytest_twisted

from tests.live.conftest import RPY, TARRY, ask, resident, until
from tests.live.sockets import connect, raw, read_until, status

CONNECTIONS = 50
GOOD = b"GET /delayed.rpy?delay=0&key=%d HTTP/1.1\r\nHost: localhost\r\n\r\n"
BAD = b"GET /nowhere-%d HTTP/1.1\r\nHost: localhost\r\n\r\n"


def answered(client, request):
    client.sendall(request)
    read_until(client, b"</html>\n")


def work(server, rounds):
    """Per round: one request on each connection, every tenth to a 404, and one client that disconnects."""
    clients = [raw(server) for _ in range(CONNECTIONS)]
    for n in range(rounds):
        for each, client in enumerate(clients):
            answered(client, (BAD if each % 10 == 0 else GOOD) % n)
        with connect(server, f"streamed.rpy?count=1000&interval=60&key={n}") as leaver:
            assert status(leaver) == 200
    for client in clients:
        client.close()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
@pytest_twisted.ensureDeferred
async def test_memory_is_flat_however_many_were_served(tmp_path, serve):
    log = tmp_path / "access.log"
    # --gc idle leaves cycles for as long as the server is busy.
    options = ["--gc", "python", "--ledger", "1000", "--access-log", log]
    server = serve([*TARRY, *options, RPY])

    async def idle():
        answer = await ask(server.url("ledger.rpy?summary"))
        return json.loads(answer.body)["pending"] == 1  # this one

    work(server, 40)  # 2,040 requests, after which the ledger is full and Python's caches too
    await until(idle)
    before = resident(server.process)
    work(server, 160)  # 8,160 more
    await until(idle)
    grown = resident(server.process) - before
    assert server.stop() == 0
    assert len(log.read_text().splitlines()) > 10_000
    assert grown < 2**20, f"{grown / 8_160:.0f} bytes per request"
