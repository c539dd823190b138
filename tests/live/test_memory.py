"""That a server which has answered very many requests is as big as one which has answered some."""

import json
import socket
from pathlib import Path

import pytest
import pytest_twisted

from tests.live.conftest import RPY, TARRY, Server, ask, until
from tests.live.test_leaving import resident

CONNECTIONS = 50
GOOD = b"GET /delayed.rpy?delay=0&key=%d HTTP/1.1\r\nHost: localhost\r\n\r\n"
BAD = b"GET /nowhere-%d HTTP/1.1\r\nHost: localhost\r\n\r\n"
LONG = b"GET /streamed.rpy?count=1000&interval=60&key=%d HTTP/1.1\r\nHost: localhost\r\n\r\n"


def answered(client, request):
    client.sendall(request)
    got = b""
    while b"</html>\n" not in got:
        piece = client.recv(65536)
        assert piece
        got += piece


def work(server, rounds):
    """Per round: on each connection one request, on some of them one for nothing; one that leaves."""
    clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(CONNECTIONS)]
    for n in range(rounds):
        for each, client in enumerate(clients):
            answered(client, (BAD if each % 10 == 0 else GOOD) % n)
        with socket.create_connection(("127.0.0.1", server.port)) as leaver:
            leaver.sendall(LONG % n)
            assert leaver.recv(100).startswith(b"HTTP/1.1 200")
    for client in clients:
        client.close()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
@pytest_twisted.ensureDeferred
async def test_memory_is_flat_however_many_were_served(tmp_path):
    log = tmp_path / "access.log"
    server = Server([*TARRY, "--ledger", "1000", "--access-log", log, RPY])

    async def idle():
        answer = await ask(server.url("ledger.rpy?summary"))
        return json.loads(answer.body)["pending"] == 1  # this one

    try:
        work(server, 100)  # 5,100 requests, by which the ledger is full and Python warm
        await until(idle)
        before = resident(server.process)
        work(server, 800)  # 40,800 more
        await until(idle)
        grown = resident(server.process) - before
    finally:
        assert server.stop() == 0
    assert len(log.read_text().splitlines()) > 45_000
    assert grown < 6 * 2**20, f"{grown / 40_800:.0f} bytes a request"
