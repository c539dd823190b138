"""The servers that scripts/bench measures: how each is started, and which paths it has."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BINARIES = Path(sys.executable).parent  # the environment's programs
PAGE = b"<html><body>Sorry to keep you waiting.</body></html>\n"
LABELS = {  # in the order in which they are measured
    "twistd": "plain twistd web",
    "tarry": "tarry serve",
    "tarry-plain": "tarry, Python's gc",
    "tarry-unledgered": "tarry, ledger off",
    "tarry-logged": "tarry, access log",
    "aiohttp": "aiohttp",
    "starlette": "Starlette on uvicorn",
    "go-httpbin": "go-httpbin",
    "ceiling": "C responder (limit)",
}
BACKLOG = 4096  # opening connections is not measured, but a short backlog would make it slow
NOTES = (
    "Plain twistd always writes an access log, here to a file. tarry with an access log has its "
    "own row; the others write none.",
    "aiohttp runs on asyncio's own event loop, uvicorn on uvloop and httptools.",
    "go-httpbin runs with GOMAXPROCS=1. It serves its own pages: /delay, a JSON document, and "
    "/drip, chunks of one byte.",
    "The C responder is measured in the first round only. The growth scenarios, and plain twistd "
    "where it is overloaded, are measured in the first two. Ratios are of the rounds that both "
    "servers have.",
)


@dataclass(frozen=True)
class Server:
    """How to start one server, and what to ask it for."""

    command: tuple[str, ...] = ()  # {port} stands for the port
    why: str = ""  # why it cannot be started
    page: str = "/delayed.rpy?delay={delay:g}"
    stream: str = "/streamed.rpy?interval={interval:g}&count={count:g}"
    body: bytes | None = PAGE  # of every page; None: its own, of any length
    chunk: int = 0  # bytes in a chunk of its streams; 0: a chunk is a line

    def path(self, load: Mapping[str, float]) -> str:
        """Return the path and query for a load generator's options: a stream if they have a count.

        >>> Server().path({"delay": 0.5})
        '/delayed.rpy?delay=0.5'
        """
        if "count" not in load:
            return self.page.format(**load)
        return self.stream.format(duration=load["interval"] * (load["count"] - 1), **load)


def version(package: str) -> str | None:
    """Return the installed version."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def go_httpbin_version(binary: Path) -> str | None:
    """Return the version that go-httpbin prints; None if it is too old for that option."""
    done = subprocess.run([binary, "-version"], capture_output=True, text=True, timeout=20)
    return None if done.returncode else done.stdout.partition("\n")[0].rpartition(" ")[2]


def missing(*packages: str) -> str:
    """Return a sentence that names those that are not installed; empty if all are."""
    absent = [name for name in packages if version(name) is None]
    return f"not installed: {', '.join(absent)} (extra 'bench')" if absent else ""


def go_httpbin(binary: Path | None) -> Server:
    """Return go-httpbin, with its timeouts and limits out of the way, and without its log."""
    if binary is None:
        return Server(why="name its binary with --go-httpbin PATH")
    command = ["/usr/bin/env", "GOMAXPROCS=1", str(binary), "-host", "127.0.0.1"]
    command += ["-port", "{port}", "-log-level", "OFF", "-max-duration", "1h"]
    # these count from the moment a connection is opened, which is long before it is used
    command += ["-srv-read-timeout", "1h", "-srv-read-header-timeout", "1h"]
    return Server(
        tuple(command),
        page="/delay/{delay:g}s",
        # its /sse would drift: it pauses after each event, while /drip keeps to a schedule
        stream="/drip?delay=0s&duration={duration:g}s&numbytes={count:g}",
        body=None,
        chunk=1,
    )


def servers(work: Path, site: Path, load: Path, binary: Path | None = None) -> dict[str, Server]:
    """Return all servers of LABELS, also those that cannot be started; *binary* is go-httpbin."""
    program = BINARIES / "tarry"
    absent = "" if program.exists() else "no tarry"

    def tarry(*options: str) -> Server:
        return Server((str(program), "serve", "--port", "{port}", *options, str(site)), absent)

    twistd = BINARIES / "twistd"
    plain = [str(twistd), "-n", "--pidfile=", "web", "--listen"]
    plain += [f"tcp:{{port}}:interface=127.0.0.1:backlog={BACKLOG}", "--path", str(site)]
    uvicorn = [sys.executable, "-m", "uvicorn", "starlette_server:app", "--app-dir", str(HERE)]
    uvicorn += ["--port", "{port}", "--loop", "uvloop", "--http", "httptools"]
    uvicorn += ["--backlog", str(BACKLOG)]
    uvicorn += ["--no-access-log", "--log-level", "warning", "--timeout-keep-alive", "75"]
    lacks = missing("starlette", "uvicorn", "uvloop", "httptools")
    page = str(HERE / "aiohttp_server.py")
    return {
        "twistd": Server(tuple(plain), "" if twistd.exists() else "no twistd"),
        "tarry": tarry("--quiet"),
        "tarry-plain": tarry("--quiet", "--gc", "python"),
        "tarry-unledgered": tarry("--quiet", "--ledger", "0"),
        "tarry-logged": tarry("--access-log", str(work / "access.log")),
        "aiohttp": Server((sys.executable, page, "{port}", str(BACKLOG)), missing("aiohttp")),
        "starlette": Server(tuple(uvicorn), lacks),
        "go-httpbin": go_httpbin(binary),
        "ceiling": Server((str(load), "serve", "port={port}")),
    }
