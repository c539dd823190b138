"""Measure `tarry serve` beside plain twistd, aiohttp and Starlette on uvicorn, in one run."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import platform
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import figures
from figures import Run, Scenario
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from servers import LABELS, NOTES, Server, servers, version

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGE = b"<html><body>Sorry to keep you waiting.</body></html>\n"
QUICKEST = "/delayed.rpy?delay=0"
START_LIMIT = 20.0  # seconds for a server to give its first answer
LOAD_LIMIT = 120.0  # seconds for the load generator, a hang guard
SPARE = 200  # descriptors that a server needs besides its connections
OVERLOADING = ("burst-8000", "open", "streams", "memory")  # take plain twistd 10 to 20 s each
LIBRARIES = ("tarry", "Twisted", "aiohttp", "starlette", "uvicorn", "uvloop", "httptools")

HELP = """\
Starts plain `twistd web`, `tarry serve` (also with the collector's plain settings and without
the ledger, where it has options for these), aiohttp, and Starlette on uvicorn, one process each
on the first core, the load generator (C, compiled at the start) on the last, all on 127.0.0.1.
Each serves the same 53-byte page after a delay; twistd and tarry from a script of 150 lines.
They are measured in turn, round by round, each time in a fresh process.

scenarios:
{scenarios}

Lateness is what an answer, or a line of a stream, took beyond its delay, as the client sees it.
An answer that failed is late without end. Ratios are taken within a round; tables show their
medians, and the least and the greatest of the measured values. "load" is what the generator
used of its core at most; a minimal server in C shows what it can do at all. That one is
measured in the first round only, and plain twistd in the first two where it is overloaded
({overloading}).

takes {full}; with --quick {quick}.
writes result.json (all raw figures) and result.svg into build/bench.
exits 0 if something was measured, 1 if nothing, 2 on wrong usage; Ctrl-C leaves nothing running.
"""
DURATION = {"full": "2 to 3 minutes a round, 9 to 12 minutes in all", "quick": "30 to 60 s"}


class UnmeasuredError(Exception):
    """Says why something could not be measured."""


@dataclass(frozen=True)
class Bench:
    """What all measurements share."""

    work: Path  # a temporary folder
    load: Path  # the load generator
    server_core: int
    load_core: int


def scenarios(quick: bool) -> list[Scenario]:
    """What there is to measure, in small for --quick; numbers are requests, seconds, 1/s."""

    def size(full: float, small: float) -> float:
        return small if quick else full

    main = ("twistd", "tarry", "aiohttp", "starlette")
    every, unledgered = (*main, "ceiling"), (*main, "tarry-unledgered")
    lateness = (("p50", "p50 ms"), ("p99", "p99 ms"), ("max", "max ms"))
    wait, some, many = size(3, 0.3), size(1000, 200), size(8000, 600)
    asked, delay, streams, lines = size(3000, 400), size(1, 0.5), size(2000, 200), size(40, 10)
    page, stream = "/delayed.rpy?delay={:g}", "/streamed.rpy?interval=0.1&count={:g}"
    return [
        Scenario("start", "Process start to first answer",
                 "start", (("start", "ms"),), main, "", "", {}),
        Scenario("requests", "Requests/s: 50 connections, keep-alive, delay 0",
                 "rate", (("rate", "requests/s"), ("p99", "p99 ms")),
                 (*every, "tarry-unledgered", "tarry-logged"), "closed", QUICKEST,
                 {"connections": 50, "warm": size(0.5, 0.2), "seconds": size(2, 0.5)}),
        Scenario("burst-1000", f"Burst: {some:,.0f} at once, delay {wait:g} s",
                 "p99", lateness, main, "burst", page.format(wait),
                 {"connections": some, "delay": wait}),
        Scenario("burst-8000", f"Burst: {many:,.0f} at once, delay {wait:g} s",
                 "p99", lateness, every, "burst", page.format(wait),
                 {"connections": many, "delay": wait}),
        Scenario("open", f"Open loop: Poisson arrivals, {asked:,.0f}/s, delay {delay:g} s",
                 "p99", lateness, (*every, "tarry-plain"), "open", page.format(delay),
                 {"connections": 2 * asked, "delay": delay, "rate": asked, "seconds": size(4, 1)}),
        Scenario("streams", f"Streams: {streams:,.0f}, 10 chunks/s each, for {lines / 10:g} s",
                 "p99", lateness, every, "streams", stream.format(lines),
                 {"connections": streams, "interval": 0.1, "count": lines, "spread": size(1, 0.3)}),
        Scenario("memory", f"Memory per pending request, {many:,.0f} pending",
                 "memory", (("memory", "KB"),), unledgered, "hold", page.format(600),
                 {"connections": many}),
    ]  # fmt: skip


def compile_load(folder: Path) -> Path:
    """Compile the load generator. UnmeasuredError if that cannot be done."""
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
    """The folder that twistd and tarry serve: made from the collection's own scripts."""
    site = folder / "site"
    site.mkdir()
    script = (ROOT / "rpy" / "delayed.rpy").read_text()
    (site / "delayed.rpy").write_text(figures.padded(script, PAGE))
    shutil.copy(ROOT / "rpy" / "streamed.rpy", site)
    return site


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def pinned(bench: Bench, core: int, command: Sequence[str], **options: object) -> Iterator:
    """A process on that core, which is killed at the end (and when this program dies)."""
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
    """Start the server; gives its process id, its port, and the ms until its first answer."""
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
            while not answers(port):
                if process.poll() is not None:
                    last = log.read_text(errors="replace").strip().splitlines()[-1:]
                    raise UnmeasuredError(f"it ended at once: {''.join(last)[:200]}")
                if time.perf_counter() - began > START_LIMIT:
                    raise UnmeasuredError(f"no answer within {START_LIMIT:g} s of its start")
                time.sleep(0.002)
            yield process.pid, port, (time.perf_counter() - began) * 1000


def answers(port: int) -> bool:
    """Whether a server is there; UnmeasuredError if it gives something else than the page."""
    connection = HTTPConnection("127.0.0.1", port, timeout=START_LIMIT)
    try:
        connection.request("GET", QUICKEST, headers={"Connection": "close"})
        response = connection.getresponse()
        body = response.read()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    if response.status != 200 or body != PAGE:
        raise UnmeasuredError(f"it answers {response.status} with {len(body)} bytes, not the page")
    return True


def measure(
    bench: Bench, scenario: Scenario, name: str, server: Server, seed: int
) -> dict[str, float | None]:
    """One run of one scenario against a fresh process."""
    if server.why:
        raise UnmeasuredError(server.why)
    with running(bench, server) as (pid, port, start):
        if not scenario.mode:
            return {"start": start}
        options = {**scenario.load, "port": port, "path": scenario.path, "seed": seed}
        if scenario.mode != "streams":
            options["length"] = len(PAGE)
        command = [str(bench.load), scenario.mode, *(f"{k}={v}" for k, v in options.items())]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        resident = memory(pid)
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
        found |= figures.parse_output(said)
        if scenario.mode == "hold":
            found["cpu"] = None
        if name.startswith("tarry"):
            maps = Path(f"/proc/{pid}/maps")
            found["httptools"] = float(maps.exists() and "httptools" in maps.read_text())
        return found


def memory(pid: int) -> int:
    """A process's resident set, in bytes."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * int(re.search(r"^Rss:\s+(\d+)", rollup, re.MULTILINE)[1])


def settle(pid: int, limit: float = 30.0) -> None:
    """Wait until the process has used next to no processor time for 0.4 s."""
    used, end = -100, time.monotonic() + limit
    while time.monotonic() < end:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        before, used = used, int(fields[11]) + int(fields[12])  # user and system, in ticks
        if used - before <= 1:
            return
        time.sleep(0.4)
    raise UnmeasuredError(f"it was still reading {limit:g} s after the last request")


def cores() -> tuple[int, int]:
    """The server's core and the load generator's: the same if there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def raise_limit() -> int:
    """Raise the limit of open files to the hard one, for what is started too."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def environment() -> dict[str, object]:
    """What the figures depend on."""
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": found[1] if found else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": {name: version(name) for name in LIBRARIES},
        "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "load average": os.getloadavg()[0],
    }


def due(scenario: str, server: str, number: int) -> bool:
    """Whether a server is measured in this round; one that takes long is, in the first few."""
    if server == "twistd" and scenario in OVERLOADING:
        return number <= 2
    return server != "ceiling" or number == 1


def run_all(
    bench: Bench, wanted: Sequence[Scenario], known: dict[str, Server], rounds: int, out: Console
) -> tuple[list[Run], dict[str, str]]:
    """All runs, in turn; and what could not be measured, with the reason."""
    runs: list[Run] = []
    missing: dict[str, str] = {}
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    plan = [
        (number, scenario, name)
        for number in range(1, rounds + 1)
        for scenario in wanted
        for name in LABELS
        if name in scenario.servers and due(scenario.name, name, number)
    ]
    words = TextColumn("{task.description}", markup=False)
    columns = (words, BarColumn(None), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=out, refresh_per_second=2, transient=True, disable=not out.is_terminal
    ) as bar:
        task = bar.add_task("", total=len(plan))
        for step, (number, scenario, name) in enumerate(plan, 1):
            what = f"{scenario.name}, {LABELS[name]}"
            bar.update(task, description=f"round {number}: {what:32}", completed=step - 1)
            try:
                if what in missing:
                    raise UnmeasuredError(missing[what])
                if scenario.connections + SPARE > descriptors:
                    raise UnmeasuredError(f"the hard limit of open files is only {descriptors}")
                began = time.monotonic()
                run = measure(bench, scenario, name, known[name], seed=number)
                took = {"took": round(time.monotonic() - began, 2)}  # seconds
                runs.append(
                    {"round": number, "scenario": scenario.name, "server": name, **run, **took}
                )
                said = f"{scenario.unit} {figures.figure(run[scenario.metric])}"
                said += "".join(f", {run[n]:.0f} {n}" for n in ("failed", "starved") if run.get(n))
            except UnmeasuredError as why:
                missing[what] = said = str(why)
            if not out.is_terminal:
                out.print(f"{step}/{len(plan)} round {number}: {what}: {said}", soft_wrap=True)
    return runs, missing


def without_infinity(value: object) -> object:
    """For JSON, which has no infinity: null is lateness without end, where requests failed."""
    if isinstance(value, dict):
        return {key: without_infinity(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_infinity(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(folder: Path, result: dict[str, object], shown: Sequence[Scenario]) -> list[str]:
    """Write result.json and result.svg; gives the lines that say so."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(without_infinity(result), indent=1, allow_nan=False)
    (folder / "result.json").write_text(text + "\n")
    said = [f"raw figures: {folder / 'result.json'}"]
    if version("matplotlib") is None:
        return [*said, "no picture: matplotlib is not installed (extra 'bench')"]
    place = result["environment"]
    foot = f"rounds: {result['options']['rounds']}{', --quick' * result['options']['quick']}; "
    foot += f"{place['cpu']}, {place['cores']} cores; {place['python']}; "
    foot += ", ".join(f"{name} {number}" for name, number in place["libraries"].items())
    figures.picture(folder / "result.svg", shown, result["runs"], LABELS, foot)
    return [*said, f"picture: {folder / 'result.svg'}"]


def report(out: Console, result: dict, shown: Sequence[Scenario]) -> None:
    """Print all tables, and what was left out."""
    runs, quick = result["runs"], result["options"]["quick"]
    for scenario in shown:
        if any(run["scenario"] == scenario.name for run in runs):
            out.print(f"\n[bold]{scenario.title}")
            out.print(figures.scenario_table(scenario, runs, LABELS))
        for server in scenario.servers:
            for what, count in figures.failures(runs, scenario.name, server).items():
                out.print(f"{LABELS[server]}: {count:,} {what}", style="red")
    out.print("\n[bold]Aims: ratios tarry serve / other, in one run")
    out.print(figures.aims_table(shown, runs, LABELS, judged=not quick))
    if quick:
        out.print("--quick: small counts and one round, which is no ground for a verdict.")
    out.print()
    for what, why in result["not measured"].items():
        out.print(f"could not be measured: {what}: {why}", style="yellow", markup=False)
    for line in figures.doubts(shown, runs, LABELS):
        out.print(line, style="yellow" if " ! " in line else None)
    for note in NOTES:
        out.print(note, style="dim")


def arguments(given: Sequence[str]) -> argparse.Namespace:
    known = scenarios(quick=False)
    listed = "\n".join(f"  {each.name:11} {each.title}" for each in known)
    parser = argparse.ArgumentParser(
        "scripts/bench",
        description=__doc__,
        epilog=HELP.format(scenarios=listed, overloading=", ".join(OVERLOADING), **DURATION),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="1 to 100 (default: 5)")
    parser.add_argument(
        "--quick", action="store_true", help="one round, small counts: does it run?"
    )
    names, folder = [each.name for each in known], ROOT / "build" / "bench"
    once = "this one alone; may be given several times"
    place = "for result.json and result.svg (default: build/bench)"
    parser.add_argument("--only", action="append", choices=names, metavar="SCENARIO", help=once)
    parser.add_argument("--output", type=Path, default=folder, metavar="DIR", help=place)
    asked = parser.parse_args(given)
    asked.rounds = asked.rounds if asked.rounds is not None else 1 if asked.quick else 5
    if not 1 <= asked.rounds <= 100:
        parser.error("--rounds: give a whole number from 1 to 100")
    return asked


def stop(number: int, _: object) -> None:
    """End as the signal asks; what was started is ended on the way out."""
    print("stopped; nothing is left running", file=sys.stderr)
    sys.exit(128 + number)


def main(given: Sequence[str]) -> int:
    """Measure, print, write."""
    asked, out = arguments(given), Console(highlight=False)
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, stop)
    raise_limit()
    server_core, load_core = cores()
    place = environment()
    wanted = [s for s in scenarios(asked.quick) if not asked.only or s.name in asked.only]
    out.print(f"{place['cpu']}, {place['cores']} cores, Linux {place['kernel']}, {place['python']}")
    if server_core == load_core:
        out.print(
            "Only one core: servers and load share it, which spoils every figure.", style="red"
        )
    elif place["load average"] > 0.5:
        out.print(f"This machine is busy already (load {place['load average']:.1f}).", style="red")
    with tempfile.TemporaryDirectory(prefix="tarry-bench-") as folder:
        work = Path(folder)
        bench = Bench(work, compile_load(work), server_core, load_core)
        os.sched_setaffinity(0, {load_core})
        known = servers(work, make_site(work), bench.load)
        runs, missing = run_all(bench, wanted, known, asked.rounds, out)
    options = {"rounds": asked.rounds, "quick": asked.quick}
    result = {"environment": place, "options": options,
              "scenarios": [dataclasses.asdict(each) for each in wanted],
              "runs": runs, "not measured": missing}  # fmt: skip
    report(out, result, wanted)
    for line in write(asked.output, result, wanted):
        out.print(line, soft_wrap=True)
    return 0 if runs else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (UnmeasuredError, ValueError) as wrong:
        sys.exit(f"bench: {wrong}")
