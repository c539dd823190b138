"""The servers that scripts/bench measures, and how each is started."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
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
    "aiohttp": "aiohttp",
    "starlette": "Starlette on uvicorn",
    "ceiling": "C responder (limit)",
}
BACKLOG = 4096  # the same for all: opening connections is not measured, but would take long
NOTES = (
    "twistd writes its access log as it does by itself, into a file; tarry {log}; aiohttp and "
    "uvicorn write none, which is in their favour.",
    "aiohttp runs on asyncio's own loop, uvicorn on uvloop and httptools.",
    "The C responder is measured in the first round only, and plain twistd in the first two where "
    "it is overloaded: their ratios are of those rounds.",
)


@dataclass(frozen=True)
class Server:
    """How to start one server; *why* says why it cannot be."""

    command: tuple[str, ...] = ()  # {port} stands for the port
    why: str = ""


def has_option(help_text: str, option: str) -> bool:
    """Whether a program's --help names the option."""
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", help_text) is not None


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


def serve_help() -> tuple[str, str]:
    """What `tarry serve --help` says, and why it says nothing."""
    asked = [str(BINARIES / "tarry"), "serve", "--help"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as wrong:
        return "", f"`tarry serve --help` fails: {wrong}"
    return done.stdout, ""


def servers(work: Path, site: Path, load: Path) -> tuple[dict[str, Server], str]:
    """All servers of LABELS, also those that cannot be started; what tarry does with its log."""
    help_text, why = serve_help()
    tarry = [str(BINARIES / "tarry"), "serve", "--port", "{port}"]
    log = "does so too"
    if has_option(help_text, "--access-log"):
        tarry += ["--access-log", str(work / "access.log")]
        log = "likewise, by --access-log"

    def variant(option: str, value: str) -> Server:
        reason = why or ("" if has_option(help_text, option) else f"`tarry serve` has no {option}")
        return Server((*tarry, option, value, str(site)), reason)

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
        "tarry": Server((*tarry, str(site)), why),
        "tarry-plain": variant("--collector", "plain"),
        "tarry-unledgered": variant("--ledger", "0"),
        "aiohttp": Server((sys.executable, page, "{port}", str(BACKLOG)), missing("aiohttp")),
        "starlette": Server(tuple(uvicorn), lacks),
        "ceiling": Server((str(load), "serve", "port={port}")),
    }, log
