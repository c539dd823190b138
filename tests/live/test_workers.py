"""`--workers`: one port, several processes, and what happens when they or their parent die."""

import json
import os
import re
import signal
import socket
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults

from tests.live.conftest import RPY, TARRY, Server, ask, until

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds them in /proc")


def children(server):
    pid = server.process.pid
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def running(pids):
    """Return those of *pids* that still run: neither ended nor zombies."""
    return {pid for pid in pids if state(pid) not in ("", "Z")}


def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@pytest.fixture
def server(serve):
    return serve([*TARRY, "--workers", "3", "--grace", "5", RPY])


async def serves(server):
    return (await ask(server.url("delayed.rpy?delay=0"))).code == 200


@pytest_twisted.ensureDeferred
async def test_one_port_three_processes(server):
    assert "3 processes serve" in server.output
    asked = [ensureDeferred(ask(server.url("delayed.rpy?delay=1"))) for _ in range(60)]
    assert {answer.code for answer in await gatherResults(asked)} == {200}
    assert len(children(server)) == 3
    assert all("127.0.0.1" in line for line in server.output.splitlines() if "http://" in line)


@pytest_twisted.ensureDeferred
async def test_a_worker_that_dies_is_replaced_and_the_port_is_never_without_one(server):
    assert await serves(server)
    victim, *others = sorted(children(server))
    os.kill(victim, signal.SIGKILL)

    async def replaced():
        assert await serves(server)  # in the meantime, too
        return len(children(server) - {victim}) == 3

    await until(replaced)
    assert set(others) < children(server)
    assert re.search(r"worker \d ended, .*signal 9.*: it starts again in 0.1 s", server.output)


@pytest_twisted.ensureDeferred
async def test_one_that_dies_again_and_again_is_started_ever_more_seldom(server):
    def first():
        return [pid for pid in children(server) if number(pid) == 1]

    for pause in ("0.1", "0.2", "0.4", "0.8"):
        (victim,) = await until(first)
        os.kill(victim, signal.SIGKILL)
        said = f"worker 1 ended, {ENDED}: it starts again in {pause} s"
        await until(lambda said=said: said in server.output)
    assert await serves(server)


ENDED = "A process has ended with a probable error condition: process ended by signal 9."


def number(pid):
    """Return which worker the process is; None if it is not one yet, or no more."""
    told = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    tasks = [each for each in told if each.startswith(b"TARRY_WORKER=")]
    return json.loads(tasks[0].partition(b"=")[2])["number"] if tasks else None


@pytest_twisted.ensureDeferred
async def test_all_are_drained_on_a_signal(server):
    asked = [ensureDeferred(ask(server.url("delayed.rpy?delay=1.5"))) for _ in range(30)]
    assert await serves(server)
    workers = children(server)
    await ask(server.url("delayed.rpy?delay=0.5"))  # by then all of them have arrived
    server.process.send_signal(signal.SIGTERM)
    assert {answer.code for answer in await gatherResults(asked)} == {200}
    assert server.end() == 0
    assert running(workers) == set()
    assert "Traceback" not in server.output


@pytest_twisted.ensureDeferred
async def test_when_the_parent_is_killed_the_workers_stop(server):
    assert await serves(server)
    workers = children(server)
    assert len(workers) == 3
    server.process.kill()
    await until(lambda: not running(workers))


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AssertionError, match=rf"cannot listen on 127.0.0.1:{port} "):
            Server([*TARRY[:-1], f"--port={port}", "--workers", "2"])


@pytest_twisted.ensureDeferred
async def test_the_access_log_of_all_is_one_file(tmp_path, serve):
    file = tmp_path / "access.log"
    server = serve([*TARRY, "--workers", "2", "--access-log", file])
    for n in range(20):
        await ask(server.url(f"delayed.rpy?delay=0&key={n}"))
    os.replace(file, tmp_path / "old.log")
    server.process.send_signal(signal.SIGHUP)
    await until(file.exists)
    assert server.stop() == 0
    lines = (tmp_path / "old.log").read_text() + file.read_text()
    assert sorted(re.findall(r"key=(\d+) HTTP/1.1\" 200 137 ", lines), key=int) == [
        str(n) for n in range(20)
    ]
