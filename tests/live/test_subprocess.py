"""subprocess.rpy with real children."""

import json
import os
import signal
import socket
from http.client import HTTPResponse

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.live.conftest import HANG, PLAIN, RPY, TARRY, EnoughError, Server, ask, until
from tests.live.test_leaving import connect


def exists(pid):
    """Return whether there is such a process, even as a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def worked(pid):
    """Return the clock ticks of processor time that a process has used."""
    with open(f"/proc/{int(pid)}/stat") as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:13]))


class Output:
    """What came from a child so far, in whole lines: a piece may end in the middle of one."""

    def __init__(self):
        self.received = b""

    def __call__(self, piece):
        self.received += piece

    def lines(self):
        return [json.loads(line) for line in self.received.splitlines(True) if line[-1:] == b"\n"]


async def leave(server, query, look=exists):
    """Ask, *look* at the child once it has printed a line, disconnect; return its pid and what look did."""
    output, seen = Output(), []

    def received(piece):
        output(piece)
        if output.lines():
            pid = output.lines()[0]["pid"]
            seen.append((pid, look(pid)))
            raise EnoughError

    with pytest.raises(EnoughError):
        await ask(server.url(f"subprocess.rpy?{query}"), received=received)
    return seen[0]


@pytest_twisted.ensureDeferred
async def test_lines_of_a_child_and_how_it_ended(server):
    answer = await ask(server.url("subprocess.rpy?count=3&interval=0.1"))
    *lines, last = map(json.loads, answer.body.splitlines())
    assert [line["n"] for line in lines] == [1, 2, 3]
    assert [line["printed"] >= (line["n"] - 1) / 10 for line in lines] == [True] * 3
    assert (last["exit"], last["signal"]) == (0, None)
    assert last["took"] >= 0.2
    assert not exists(lines[0]["pid"])


@pytest_twisted.ensureDeferred
async def test_a_child_that_something_else_kills(server):
    output = Output()
    asked = ensureDeferred(ask(server.url("subprocess.rpy?interval=60"), received=output))
    await until(output.lines)
    os.kill(output.lines()[0]["pid"], signal.SIGKILL)
    await asked
    assert output.lines()[-1]["signal"] == signal.SIGKILL


@pytest_twisted.ensureDeferred
async def test_a_child_waits_while_its_client_does_not_read(server):
    with connect(server, "subprocess.rpy?count=100000&interval=0", room=4096) as client:
        client.settimeout(HANG)
        response = HTTPResponse(client)
        await deferToThread(response.begin)
        pid = json.loads(await deferToThread(response.readline))["pid"]

        async def waits():
            """Return whether the child did nothing for half a second."""
            ticks = worked(pid)
            await ask(server.url("delayed.rpy?delay=0.5"))
            return worked(pid) == ticks

        await until(waits)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        *_, line, last = map(json.loads, (await deferToThread(response.read)).splitlines())
    assert (line["n"], last["exit"]) == (100_000, 0)


# The second ignores SIGTERM for a minute.
@pytest.mark.parametrize("query", ["interval=60", "interval=0.01&count=100000&cleanup=60"])
@pytest_twisted.ensureDeferred
async def test_a_child_ends_after_its_client_disconnects(server, query):
    pid, existed = await leave(server, query)
    assert existed
    await until(lambda: not exists(pid))
    await until(lambda: f"{query}': the client disconnected" in server.output)


@pytest_twisted.ensureDeferred
async def test_a_child_has_nothing_of_the_server_s_environment_and_files(server):
    def look(pid):
        files = [os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")]
        with open(f"/proc/{pid}/environ", "rb") as environment:
            return environment.read(), {name.partition(":")[0] for name in files}

    _, (environment, files) = await leave(server, "interval=60", look)
    assert environment == b""
    assert files == {"pipe"}


@pytest.mark.parametrize("command", [[*PLAIN, f"--path={RPY}"], [*TARRY, "--grace=0", RPY]])
@pytest_twisted.ensureDeferred
async def test_no_child_outlives_the_server(command):
    """One has a client when the server exits; the other has none and would take a minute to end."""
    server, output = Server(command), Output()
    try:
        url = server.url("subprocess.rpy?interval=60&cleanup=60")
        asked = ensureDeferred(ask(url, received=output)).addErrback(lambda failure: None)
        await until(output.lines)
        left, _ = await leave(server, "interval=60&cleanup=60")
    finally:
        server.stop()
    pid = output.lines()[0]["pid"]
    await until(lambda: not exists(pid) and not exists(left))
    await asked
