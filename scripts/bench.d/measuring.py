"""One measurement: start a server on one core, put load on it from another, read the figures."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import figures
from scenarios import Scenario
from servers import PAGE, Server

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
START_LIMIT = 20.0  # seconds for a server to give its first answer
LOAD_LIMIT = 120.0  # seconds for the load generator, a hang guard
TICKS = os.sysconf("SC_CLK_TCK")  # per second, the unit of processor time in /proc


class UnmeasuredError(Exception):
    """Says why something could not be measured."""


@dataclass(frozen=True)
class Bench:
    """What all measurements share."""

    work: Path  # a temporary folder
    load: Path  # the load generator
    server_core: int
    load_core: int


def compile_load(folder: Path) -> Path:
    """Compile the load generator. UnmeasuredError if that is not possible."""
    candidates = (os.environ.get("CC"), "gcc", "cc", "clang")
    compiler = next((name for name in candidates if name and shutil.which(name)), None)
    if compiler is None:
        raise UnmeasuredError("a C compiler is needed: install gcc, or set CC")
    target = folder / "load"
    command = [compiler, "-O2", "-o", str(target), str(HERE / "load.c"), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise UnmeasuredError(f"{compiler} cannot compile load.c:\n{done.stderr}")
    return target


def make_site(folder: Path) -> Path:
    """Make the folder that twistd and tarry serve, from the collection's own scripts."""
    site = folder / "site"
    site.mkdir()
    script = (ROOT / "rpy" / "delayed.rpy").read_text()
    (site / "delayed.rpy").write_text(figures.padded(script, PAGE))
    shutil.copy(ROOT / "rpy" / "streamed.rpy", site)
    return site


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def pinned(bench: Bench, core: int, command: Sequence[str], **options: object) -> Iterator:
    """Run a process on that core; it is killed at the end, and when this program dies."""
    whole = [str(bench.load), "pin", str(core), *command]
    process = subprocess.Popen(whole, cwd=bench.work, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()


@contextlib.contextmanager
def running(bench: Bench, server: Server) -> Iterator[tuple[int, int, float]]:
    """Run the server; yield its process id, its port, and the ms until its first answer."""
    port, log = free_port(), bench.work / "server.log"
    command = [part.replace("{port}", str(port)) for part in server.command]
    with open(log, "wb") as out:
        began = time.perf_counter()
        with pinned(
            bench,
            bench.server_core,
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        ) as process:
            while not answers(server, port):
                if process.poll() is not None:
                    last = figures.complaint(log.read_text(errors="replace"))
                    raise UnmeasuredError(f"it ended at once: {last[:200]}")
                if time.perf_counter() - began > START_LIMIT:
                    raise UnmeasuredError(f"no answer within {START_LIMIT:g} s of its start")
                time.sleep(0.002)
            yield process.pid, port, (time.perf_counter() - began) * 1000


def answers(server: Server, port: int) -> bool:
    """Tell whether the server is up; UnmeasuredError if it serves anything but its page."""
    connection = HTTPConnection("127.0.0.1", port, timeout=START_LIMIT)
    try:
        connection.request("GET", server.path({"delay": 0}), headers={"Connection": "close"})
        response = connection.getresponse()
        body = response.read()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    if response.status != 200 or body != (server.body or body):
        raise UnmeasuredError(f"it answers {response.status} with {len(body)} bytes, not the page")
    return True


def options(scenario: Scenario, server: Server, port: int, seed: int) -> list[str]:
    """Return the load generator's mode and options for this scenario at this server."""
    found = {**scenario.load, "port": port, "path": server.path(scenario.load), "seed": seed}
    if scenario.mode == "streams":
        found["chunk"] = server.chunk
    elif server.body:
        found["length"] = len(server.body)
    return [scenario.mode, *(f"{name}={value}" for name, value in found.items())]


def measure(bench: Bench, scenario: Scenario, server: Server, seed: int) -> dict[str, float | None]:
    """Return the figures of one run of one scenario, against a fresh process."""
    with running(bench, server) as (pid, port, start):
        if not scenario.mode:
            return {"start": start}
        command = [str(bench.load), *options(scenario, server, port, seed)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        resident, used = memory(pid), processor_ticks(pid)
        found = {}
        with pinned(bench, bench.load_core, command, text=True, **pipes) as process:
            if scenario.mode == "hold":
                process.stdout.readline()  # all are sent
                settle(pid)
                found["memory"] = (memory(pid) - resident) / scenario.connections / 1024
            try:
                said, wrong = process.communicate(timeout=LOAD_LIMIT)
            except subprocess.TimeoutExpired:
                raise UnmeasuredError("the load generator did not end") from None
        if process.returncode:
            raise UnmeasuredError(f"the load generator failed: {wrong.strip()[-200:]}")
        used = processor_ticks(pid) - used
        found |= figures.parse_output(said)
        if scenario.mode == "hold":
            found["cpu"] = None
        if scenario.mode == "closed" and found["completed"]:
            found["processor"] = used / TICKS * 1e6 / found["completed"]
        return found


def memory(pid: int) -> int:
    """Return a process's resident set, in bytes. UnmeasuredError if it has ended."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Rss:\s+(\d+)", rollup, re.MULTILINE)
    if found is None:  # it has ended, and waits for us to take note
        raise UnmeasuredError("the server ended under the load")
    return 1024 * int(found[1])


def processor_ticks(pid: int) -> int:
    """Return the processor time that a process has used, user and system, in ticks."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    fields = stat.rpartition(")")[2].split()  # the name, in brackets, may contain spaces
    return int(fields[11]) + int(fields[12])  # utime and stime of proc(5)


def settle(pid: int, limit: float = 30.0) -> None:
    """Wait until the process has used next to no processor time for 0.4 s."""
    used, end = -100, time.monotonic() + limit
    while time.monotonic() < end:
        before, used = used, processor_ticks(pid)
        if used - before <= 1:
            return
        time.sleep(0.4)
    raise UnmeasuredError(f"it was still reading {limit:g} s after the last request")
