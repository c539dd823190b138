"""The server under attack, in a process of its own, and the probe beside it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path

from wire import Connection, Response, WrongError, connect, trust_all

HERE = Path(__file__).resolve().parent
RPY = HERE.parents[1] / "rpy"
BINARIES = Path(sys.executable).parent
START = 20.0  # seconds for a server to start, and to stop

# A script that parses the body as a form. Plain Twisted parses it before it calls any script.
FORM = """
from twisted.web.resource import Resource
recache()
class Form(Resource):
    isLeaf = True
    def render_POST(self, request):
        return b"%d" % len(request.args)
resource = Form()
"""


def pin(core: int) -> None:
    """Keep this process on one core, where there are two."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[core]})


class Target:
    """One server with its folder. `port` is where it listens."""

    def __init__(
        self, plain: bool, short: bool, options: list[str], descriptors: int = 4096,
        files: Callable[[Path], None] | None = None,
    ) -> None:  # fmt: skip
        self.plain, self.short, self.tls = plain, short, "--https" in options
        self.probe: Probe | None = None  # once it runs
        self.size = 0.0  # MB of memory before the attack
        self.folder = Path(tempfile.mkdtemp(prefix="attack-"))
        for path in RPY.glob("*.rpy"):
            shutil.copy(path, self.folder)
        (self.folder / "form.rpy").write_text(FORM)
        (self.folder / "plain.txt").write_bytes(b"0123456789" * 1000)
        if files:
            files(self.folder)
        listen = "--listen=tcp:0:interface=127.0.0.1:backlog=4096"
        command = [BINARIES / "tarry", "serve", "--port=0", "--quiet", *options, self.folder]
        if plain:
            command = [
                BINARIES / "twistd",
                "-n",
                "--pidfile=",
                "web",
                listen,
                f"--path={self.folder}",
            ]
        self.output, self.port, ready = "", 0, threading.Event()
        self.process = subprocess.Popen(
            ["bash", "-c", f'ulimit -n {descriptors}; exec "$@"', "bash", *map(str, command)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1"}, preexec_fn=lambda: pin(0),
        )  # fmt: skip

        def read() -> None:
            for line in self.process.stdout or ():
                self.output += line
                started = re.search(r"Site starting on (\d+)|https?://[^ ]*:(\d+)/", line)
                if started and not self.port:
                    self.port = int(started[1] or started[2])
                if "Site starting on" in line or "Stop it with" in line:
                    ready.set()
            ready.set()

        self.reader = threading.Thread(target=read, daemon=True)
        self.reader.start()
        try:
            ready.wait(START)
        except BaseException:  # Ctrl-C
            self.stop()
            raise
        if not self.port:
            self.stop()
            raise WrongError(f"the server did not start: {self.output[-500:]}")

    def begin(self) -> None:
        """Measure from now on: an attack calls this when what it needs is in place."""
        self.probe.report()
        with contextlib.suppress(OSError):  # so that the peak is that of the attack
            Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        self.size = self.memory()

    async def connect(self, room: int = 0) -> Connection:
        return await connect(self.port, "http/1.1" if self.tls else "", room)

    async def http2(self) -> Connection:
        return await connect(self.port, "h2")

    async def ask(self, data: bytes, method: str = "GET") -> Response:
        """Send *data* on a connection of its own; return the response."""
        client = await self.connect()
        try:
            await client.send(data)
            return await client.response(method)
        except OSError:
            return Response(end="RST")
        finally:
            client.close()

    def memory(self, name: str = "VmRSS") -> float:
        """Return the resident memory in MB, or with VmHWM the most there ever was."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> str:
        """Stop it with SIGTERM; return what was wrong with how it ended."""
        wrong = ""
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(START)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            wrong = f"SIGTERM did not stop it in {START:g} s"
        self.reader.join(START)
        self.process.stdout.close()
        for pem in re.findall(r"--cacert (\S+)", self.output):
            shutil.rmtree(Path(pem).parent, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        return wrong


class Probe:
    """The process that repeats a request of 0.2 s beside the attack."""

    def __init__(self, target: Target) -> None:
        command = [
            sys.executable,
            HERE / "probe.py",
            str(target.port),
            *(["tls"] if target.tls else []),
        ]
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            preexec_fn=lambda: pin(-1),
        )  # fmt: skip
        if not json.loads(self.process.stdout.readline() or "{}").get("answers"):
            self.stop()
            raise WrongError("the server answers nobody, even before the attack")

    def report(self) -> dict[str, float]:
        """Return what it measured since the last report."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def stop(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(START)
        self.process.stdout.close()


def answers(target: Target) -> str:
    """Return what is wrong with the answer to an ordinary request; "" if nothing is."""
    if target.tls:
        client = HTTPSConnection(
            "127.0.0.1", target.port, timeout=10, context=trust_all("http/1.1")
        )
    else:
        client = HTTPConnection("127.0.0.1", target.port, timeout=10)
    try:
        client.request("GET", "/delayed.rpy?delay=0")
        status = client.getresponse().status
        return "" if status == 200 else f"afterwards a request gets {status}"
    except (OSError, HTTPException) as error:
        return f"afterwards a request fails: {error!r}"
    finally:
        client.close()
