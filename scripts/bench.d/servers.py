"""The servers that scripts/bench measures, and how each is started."""

from __future__ import annotations

import importlib.metadata
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BINARIES = Path(sys.executable).parent  # the environment's programs
LABELS = {  # in the order in which they are measured
    "twistd": "plain twistd web",
    "tarry": "tarry serve",
    "tarry-plain": "tarry, plain gc",
    "tarry-unledgered": "tarry, ledger off",
    "tarry-logged": "tarry, access log",
    "aiohttp": "aiohttp",
    "starlette": "Starlette on uvicorn",
    "ceiling": "C responder (limit)",
}
BACKLOG = 4096  # the same for all: opening connections is not measured, but would take long
NOTES = (
    "Only plain twistd writes an access log, which it does by itself, into a file; what tarry's "
    "costs stands in a row of its own.",
    "aiohttp runs on asyncio's own loop, uvicorn on uvloop and httptools.",
    "The C responder is measured in the first round only, and plain twistd in the first two where "
    "it is overloaded: their ratios are of those rounds.",
)


@dataclass(frozen=True)
class Server:
    """How to start one server; *why* says why it cannot be."""

    command: tuple[str, ...] = ()  # {port} stands for the port
    why: str = ""


def version(package: str) -> str | None:
    """The installed version."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing(*packages: str) -> str:
    """Which of these are not installed, in words; nothing if all are."""
    absent = [name for name in packages if version(name) is None]
    return f"not installed: {', '.join(absent)} (extra 'bench')" if absent else ""


def servers(work: Path, site: Path, load: Path) -> dict[str, Server]:
    """All servers of LABELS, also those that cannot be started."""
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
        "ceiling": Server((str(load), "serve", "port={port}")),
    }
