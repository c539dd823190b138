"""steps.rpy over real sockets: what is on the wire, and how the connection ends."""

import random
import socket
import subprocess

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.threads import deferToThread

from tests.live.conftest import HANG, PLAIN, RPY, TARRY, Server, ask, more, rest, until
from tests.live.test_leaving import connect


@pytest.fixture(scope="module", params=["twistd web", "tarry serve"])
def opened(request):
    """The collection, with all steps and headers allowed."""
    command = [*PLAIN, f"--path={RPY}"] if request.param == "twistd web" else [*TARRY, RPY]
    server = Server(command, env={"STEPS_OPEN": "1"})
    yield server
    server.stop()


@pytest.mark.parametrize(("steps", "body", "end"), [
    ("reset", b"", "RST"),
    ("close", b"", "FIN"),
    ("wait=0.1&send=abc&reset", b"3\r\nabc\r\n", "RST"),
    ("send=abc&wait=0.1&close", b"3\r\nabc\r\n", "FIN"),
    ("length=9&send=abc&close", b"abc", "FIN"),
    ("length=2&send=abc&close", b"abc", "FIN"),
    ("length=9&send=abc", b"abc", "FIN"),
    ("length=2&send=a&wait=0.1&send=bc", b"abc", "FIN"),
    ("length=9&bytes=20000&reset", b"0123456789" * 2000, "RST"),
    ("raw=%00%FF%0D%0A", b"", "FIN"),
    ("send=abc&raw=xyz", b"3\r\nabc\r\nxyz", "FIN"),
])  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_what_is_on_the_wire(opened, steps, body, end):
    with connect(opened, f"steps.rpy?{steps}") as client:
        got, ended = await deferToThread(rest, client)
    if steps.startswith("raw"):
        assert got == b"\0\xff\r\n"
    else:
        assert got.partition(b"\r\n\r\n")[2] == body
    assert ended == end
    assert (await ask(opened.url("steps.rpy?send=on"))).body == b"on"


@pytest_twisted.ensureDeferred
async def test_head_gets_no_body_and_the_connection_is_kept(server):
    answer = await ask(server.url("steps.rpy?status=404&length=3&wait=0.1&send=abc"), "HEAD")
    assert (answer.code, answer.body, answer.header("Content-Length")) == (404, b"", "3")
    assert answer.measured >= 0.1


@pytest_twisted.ensureDeferred
async def test_each_of_many_requests_keeps_its_own_time(server):
    """300 at once, in a random order; each ends after its waits, not before."""
    draw, ended = random.Random(4), []

    async def play(n):
        first, second = draw.choice([0.2, 0.7, 1.2]), draw.choice([0.1, 0.6])
        answer = await ask(
            server.url(f"steps.rpy?send={n}&wait={first}&send=,&wait={second}&send={n}")
        )
        assert answer.body == f"{n},{n}".encode()
        assert answer.took >= first + second - 0.01
        ended.append(first + second)

    await gatherResults([ensureDeferred(play(n)) for n in range(300)])
    assert ended.index(max(ended)) > ended.index(min(ended))


@pytest_twisted.ensureDeferred
async def test_a_disconnect_ends_the_steps(server):
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /steps.rpy?send=a&wait=600&send=b HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await deferToThread(more, client)
    await until(lambda: "wait=600&send=b': the client disconnected" in server.output)


@pytest_twisted.ensureDeferred
async def test_curl_tells_the_ends_apart(server):
    async def curl(steps):
        command = ["curl", "-s", "-m", str(HANG), server.url(f"steps.rpy?{steps}")]
        try:
            done = await deferToThread(subprocess.run, command, capture_output=True)
        except FileNotFoundError:
            pytest.skip("curl is not installed")
        return done.returncode

    assert await curl("send=a") == 0
    assert await curl("close") == 52  # empty reply
    assert await curl("length=2&send=a&close") == 18  # partial file
    assert await curl("send=a&wait=0.1&reset") == 56  # receive error
