"""subprocess.rpy with real children."""

import json
import os
import re
import socket

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.live.conftest import PLAIN, RPY, TARRY, EnoughError, Server, ask, until
from tests.live.test_leaving import connect


def there(pid):
    """Whether there is such a process, be it a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def worked(pid):
    """Clock ticks that a process has computed for."""
    with open(f"/proc/{int(pid)}/stat") as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:13]))


async def leave(server, query, look=there):
    """Ask, *look* at the child once it has printed, and leave; returns its number and what was seen."""
    seen = []

    def received(piece):
        pid = json.loads(piece.splitlines()[0])["pid"]
        seen.append((pid, look(pid)))
        raise EnoughError

    with pytest.raises(EnoughError):
        await ask(server.url(f"subprocess.rpy?{query}"), received=received)
    return seen[0]


@pytest_twisted.ensureDeferred
async def test_lines_of_a_child_and_how_it_ended(server):
    answer = await ask(server.url("subprocess.rpy?count=3&interval=0.1&exit=7"))
    *lines, last = map(json.loads, answer.body.splitlines())
    assert [line["n"] for line in lines] == [1, 2, 3]
    assert [line["printed"] >= line["n"] / 10 - 0.1 for line in lines] == [True] * 3
    assert (last["exit"], last["signal"]) == (7, None)
    assert last["took"] >= 0.2
    assert not there(lines[0]["pid"])


@pytest_twisted.ensureDeferred
async def test_a_child_that_somebody_else_kills(server):
    pieces = []
    asked = ensureDeferred(ask(server.url("subprocess.rpy?interval=60"), received=pieces.append))
    await until(lambda: pieces)
    os.kill(json.loads(pieces[0])["pid"], 9)
    await asked
    assert json.loads(pieces[-1])["signal"] == 9


@pytest_twisted.ensureDeferred
async def test_a_child_waits_while_its_client_does_not_read(server):
    with connect(server, "subprocess.rpy?count=100000&interval=0", room=4096) as client:
        begun = await deferToThread(client.recv, 1000)
        (pid,) = {*re.findall(rb'"pid": ([0-9]+)', begun)}

        async def waits():
            """Between two questions, half a second apart, it did nothing."""
            ticks = worked(pid)
            await ask(server.url("delayed.rpy?delay=0.5"))
            return worked(pid) == ticks

        await until(waits)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        pieces = [begun]
        while not pieces[-1].endswith(b"\r\n0\r\n\r\n"):
            pieces.append(await deferToThread(client.recv, 1 << 20))
            assert pieces[-1]
    assert all(line in b"".join(pieces) for line in (b'"n": 100000,', b'{"exit": 0, '))


@pytest.mark.parametrize("query", ["interval=60", "interval=0.01&count=100000&stubborn"])
@pytest_twisted.ensureDeferred
async def test_nothing_is_left_of_a_child_whose_client_left(server, query):
    pid, was_there = await leave(server, query)
    assert was_there
    await until(lambda: not there(pid))


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
async def test_nothing_is_left_of_a_child_whose_server_ended(command):
    server, pieces = Server(command), []
    try:
        asked = ask(server.url("subprocess.rpy?interval=60&stubborn"), received=pieces.append)
        stays = ensureDeferred(asked).addErrback(lambda failure: None)
        await until(lambda: pieces)
        left, _ = await leave(server, "interval=60&stubborn&key=left")
        await until(lambda: "&key=left': the client left" in server.output)
    finally:
        server.stop()
    pid = json.loads(pieces[0])["pid"]
    await until(lambda: not there(pid) and not there(left))
    await stays
