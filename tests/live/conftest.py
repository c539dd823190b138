"""Real servers in processes of their own: plain `twistd web`, and `tarry serve`."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.live.sockets import HANG, more, rest  # noqa: F401  # tests import these from here, too

RPY = Path(__file__).parents[2] / "rpy"
BIN = Path(sys.executable).parent

# Twisted's default listen queue is 50 long: of a thousand clients at once, some would be reset.
LISTEN = "--listen=tcp:0:interface=127.0.0.1:backlog=4096"
PLAIN = [BIN / "twistd", "-n", "--pidfile=", "web", LISTEN]
TARRY = [BIN / "tarry", "serve", "--port=0"]


class Server:
    """A server process, its output so far, and the port that the output names."""

    def __init__(self, command, folder=None, env=None):
        self.process = subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        )  # fmt: skip
        self.output, self.port, self._said = "", None, threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._said.wait(HANG)
        if self.port is None:
            self.stop()
            raise AssertionError(f"no address from {command}:\n{self.output}")

    def _read(self):
        for line in self.process.stdout:
            self.output += line
            started = re.search(r"Site starting on (\d+)|https?://[^ ]*:(\d+)/", line)
            if started and self.port is None:
                self.port = int(started[1] or started[2])
            if "Site starting on" in line or "Stop it with" in line:
                self._said.set()
        self._said.set()

    def url(self, path=""):
        return f"http://127.0.0.1:{self.port}/{path}"

    def stop(self, number=signal.SIGTERM):
        """Send a signal and wait for the end; return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.end()

    def end(self):
        """Wait for the end; return the exit code."""
        try:
            code = self.process.wait(HANG)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self._reader.join(HANG)
        self.process.stdout.close()
        return code


def resident(process):
    """Return the memory that *process* has in use, in bytes."""
    with open(f"/proc/{process.pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def worked(process):
    """Return how many clock ticks *process* has computed for."""
    with open(f"/proc/{process.pid}/stat") as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:13]))


@pytest.fixture(scope="module", params=["twistd web", "tarry serve"])
def server(request):
    """The collection, served by plain Twisted and by the launcher."""
    command = [*PLAIN, f"--path={RPY}"] if request.param == "twistd web" else [*TARRY, RPY]
    server = Server(command)
    server.plain = request.param == "twistd web"
    yield server
    server.stop()


@pytest.fixture
def serve():
    """A function like `Server`. Each server that it starts is stopped at the test's end."""
    with contextlib.ExitStack() as started:

        def start(*arguments):
            server = Server(*arguments)
            started.callback(server.stop, signal.SIGKILL)
            return server

        yield start


@pytest.fixture
def site(serve, tmp_path, request):
    """`tarry serve` with a folder of its own, `site.folder`; a test's parameter is its options."""
    for name in ("ledger.rpy", "delayed.rpy", "streamed.rpy"):
        (tmp_path / name).write_bytes((RPY / name).read_bytes())
    server = serve([*TARRY, *getattr(request, "param", []), tmp_path])
    server.folder = tmp_path
    return server


PAGE = """
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
recache()
class Page(Resource):
    isLeaf = True
    def render_{method}(self, request):
        {body}
resource = Page()
"""


def page(body, method="GET"):
    """Return the source of a script; *body* is the body of its `render_GET`."""
    return PAGE.format(body=body, method=method)


def put(site, name, body, method="GET"):
    """Write such a script into the folder of *site*."""
    (site.folder / name).write_text(page(body, method))


async def entries(site, **about):
    """Return the ledger's entries that match *about*: key, path, outcome, since."""
    query = "&".join(f"{name}={value}" for name, value in about.items())
    return json.loads((await ask(site.url(f"ledger.rpy?{query}"))).body)


async def serves_on(site):
    """Assert that the server still answers."""
    assert (await ask(site.url("delayed.rpy?delay=0"))).code == 200


class Answer:
    """A whole response, with what client and server measured, in seconds."""

    def __init__(self, response, body, took):
        self.code, self.headers, self.body, self.took = response.code, response.headers, body, took

    def header(self, name):
        return self.headers.getRawHeaders(name, [None])[0]

    @property
    def measured(self):
        return float(re.search(r"dur=([\d.]+)", self.header("Server-Timing"))[1]) / 1000


class EnoughError(Exception):
    """Raised by a test's *received* once it has seen enough: that closes the connection."""


async def ask(url, method="GET", received=None, **options):
    """Send a request on a connection of its own; *received* is called with each piece of the body."""
    pieces = []
    began = time.monotonic()
    response = await treq.request(method, url, persistent=False, unbuffered=True, **options)
    await treq.collect(response, received or pieces.append)
    return Answer(response, b"".join(pieces), time.monotonic() - began)


async def until(fact, patience=HANG):
    """Call *fact*, a function or coroutine function, until its result is true; return that."""
    give_up = time.monotonic() + patience
    while time.monotonic() < give_up:
        told = fact()
        told = await told if hasattr(told, "__await__") or isinstance(told, Deferred) else told
        if told:
            return told
        await deferLater(reactor, 0.02)
    raise AssertionError(f"never came true: {fact}")
