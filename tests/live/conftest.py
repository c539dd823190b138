"""Real servers in processes of their own: plain `twistd web`, and `tarry serve`."""

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

RPY = Path(__file__).parents[2] / "rpy"
BIN = Path(sys.executable).parent
HANG = 30  # seconds after which something that should happen is taken to never happen

# Twisted's listen queue is 50 long by itself: of a thousand that come at once, some would be reset.
LISTEN = "--listen=tcp:0:interface=127.0.0.1:backlog=4096"
PLAIN = [BIN / "twistd", "-n", "--pidfile=", "web", LISTEN]
TARRY = [BIN / "tarry", "serve", "--port=0"]


class Server:
    """A server process, what it has said so far, and the port it said it listens on."""

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
        """Send a signal and wait for the end; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.end()

    def end(self):
        """Wait for the end; returns the exit code."""
        try:
            code = self.process.wait(HANG)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self._reader.join(HANG)
        self.process.stdout.close()
        return code


@pytest.fixture(scope="module", params=["twistd web", "tarry serve"])
def server(request):
    """The collection, served by plain Twisted and by the launcher."""
    command = [*PLAIN, f"--path={RPY}"] if request.param == "twistd web" else [*TARRY, RPY]
    server = Server(command)
    server.plain = request.param == "twistd web"
    yield server
    server.stop()


class Answer:
    """A whole answer, with what client and server measured, in seconds."""

    def __init__(self, response, body, took):
        self.code, self.headers, self.body, self.took = response.code, response.headers, body, took

    def header(self, name):
        return self.headers.getRawHeaders(name, [None])[0]

    @property
    def measured(self):
        return float(re.search(r"dur=([\d.]+)", self.header("Server-Timing"))[1]) / 1000


class EnoughError(Exception):
    """What a test's *received* raises once it has seen enough: that closes the connection."""


async def ask(url, method="GET", received=None, **options):
    """Ask, on a connection of its own; *received* is told of each piece as it comes."""
    pieces = []
    began = time.monotonic()
    response = await treq.request(method, url, persistent=False, unbuffered=True, **options)
    await treq.collect(response, received or pieces.append)
    return Answer(response, b"".join(pieces), time.monotonic() - began)


async def until(fact, patience=HANG):
    """Ask for *fact*, a function or coroutine function, until it is true; returns it."""
    give_up = time.monotonic() + patience
    while time.monotonic() < give_up:
        told = fact()
        told = await told if hasattr(told, "__await__") or isinstance(told, Deferred) else told
        if told:
            return told
        await deferLater(reactor, 0.02)
    raise AssertionError(f"never came true: {fact}")


def more(client, size=65536):
    """What comes next on the socket *client*, which must not be its end."""
    piece = client.recv(size)
    assert piece
    return piece


def rest(client, patience=HANG):
    """All that comes on the socket *client*, and how it ends: FIN, RST, or silence."""
    client.settimeout(patience)
    got = b""
    try:
        while piece := client.recv(65536):
            got += piece
    except ConnectionResetError:
        return got, "RST"
    except TimeoutError:
        return got, "silence"
    return got, "FIN"
