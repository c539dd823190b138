"""Measure `tarry serve` beside plain twistd, aiohttp, Starlette on uvicorn and go-httpbin."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import figures
import picture
from figures import Run
from measuring import ROOT, Bench, UnmeasuredError, compile_load, make_site, measure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from scenarios import OVERLOADING, Scenario, due, scenarios
from servers import LABELS, NOTES, Server, go_httpbin_version, servers, version

SPARE = 200  # descriptors that a server needs besides its connections
LIBRARIES = ("tarry", "Twisted", "aiohttp", "starlette", "uvicorn", "uvloop", "httptools")

HELP = """\
Each server is one process on the first core: plain `twistd web`, `tarry serve` (also with the
ledger off, with an access log, and with Python's own garbage collection), aiohttp, Starlette on
uvicorn, and go-httpbin if --go-httpbin names its binary (2.21 or newer). The load generator, a C
program compiled at the start, runs on the last core. Everything stays on 127.0.0.1.

All serve the same 53-byte page after a delay, twistd and tarry from a script of 150 lines. Only
go-httpbin has its own: /delay and /drip. The servers take turns, round by round, each time in a
fresh process.

scenarios:
{scenarios}

Lateness is the time that an answer, or a chunk of a stream, took beyond its delay, as the client
sees it. A failed request counts as infinitely late. "CPU µs" is the server's processor time, user
and system, divided by the number of its answers. Ratios are taken within a round. Tables show
medians, with the least and the greatest measured values. "load" is the most the generator used of
its core; a minimal server in C shows what the generator is capable of. That one is measured in
the first round only. The growth scenarios, and plain twistd where it is overloaded
({overloading}), are measured in the first two.

takes {full};
with --quick {quick}.
writes result.json (all raw figures) and result.svg into build/bench.
exits 0 if something was measured, 1 if nothing, 2 on wrong usage; Ctrl-C leaves nothing running.
"""
DURATION = {
    "full": "about 3 minutes a round, 2 more in the first two, 15 to 20 minutes in all",
    "quick": "1 to 2 minutes",
}


def cores() -> tuple[int, int]:
    """Return the server's core and the load generator's: the same if there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def raise_limit() -> int:
    """Raise the limit of open files to the hard one, also for the processes started here."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def environment(go_httpbin: Path | None) -> dict[str, object]:
    """Return what the figures depend on."""
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    libraries = {name: version(name) for name in LIBRARIES}
    if go_httpbin:
        libraries["go-httpbin"] = go_httpbin_version(go_httpbin)
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": found[1] if found else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": libraries,
        "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "load average": os.getloadavg()[0],
    }


def planned(
    wanted: Sequence[Scenario], known: dict[str, Server], rounds: int
) -> list[tuple[int, Scenario, str]]:
    """Return all runs in order: round, scenario (at one of its steps), server."""
    return [
        (number, scenario.at(step) if step else scenario, name)
        for number in range(1, rounds + 1)
        for scenario in wanted
        for step in scenario.steps or (0,)
        for name in LABELS
        if name in scenario.servers and not known[name].why and due(scenario.name, name, number)
    ]


def run_all(
    bench: Bench, wanted: Sequence[Scenario], known: dict[str, Server], rounds: int, out: Console
) -> tuple[list[Run], dict[str, str]]:
    """Measure everything in turn; return the runs, and why the rest could not be measured."""
    runs: list[Run] = []
    missing = {
        LABELS[name]: server.why
        for name, server in known.items()
        if server.why and any(name in scenario.servers for scenario in wanted)
    }
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    plan = planned(wanted, known, rounds)
    words = TextColumn("{task.description}", markup=False)
    columns = (words, BarColumn(None), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=out, refresh_per_second=2, transient=True, disable=not out.is_terminal
    ) as bar:
        task = bar.add_task("", total=len(plan))
        for step, (number, scenario, name) in enumerate(plan, 1):
            pending = {"pending": scenario.connections} if scenario.steps else {}
            what = f"{scenario.name}, {LABELS[name]}"
            what += f", {scenario.connections:,} pending" if pending else ""
            bar.update(task, description=f"round {number}: {what:32}", completed=step - 1)
            try:
                if what in missing:
                    raise UnmeasuredError(missing[what])
                if scenario.connections + SPARE > descriptors:
                    raise UnmeasuredError(f"the hard limit of open files is only {descriptors}")
                began = time.monotonic()
                run = measure(bench, scenario, known[name], seed=number)
                about = {"round": number, "scenario": scenario.name, "server": name, **pending}
                took = {"took": round(time.monotonic() - began, 2)}  # seconds
                runs.append({**about, **run, **took})
                said = f"{scenario.unit(scenario.metric)} {figures.figure(run[scenario.metric])}"
                said += "".join(f", {run[n]:.0f} {n}" for n in ("failed", "starved") if run.get(n))
            except UnmeasuredError as why:
                missing[what] = said = str(why)
            if not out.is_terminal:
                out.print(f"{step}/{len(plan)} round {number}: {what}: {said}", soft_wrap=True)
    return runs, missing


def without_infinity(value: object) -> object:
    """Return a value for JSON, which has no infinity: null is lateness where requests failed."""
    if isinstance(value, dict):
        return {key: without_infinity(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_infinity(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(folder: Path, result: dict[str, object], shown: Sequence[Scenario]) -> list[str]:
    """Write result.json and result.svg; return the lines that say so."""
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
    picture.picture(folder / "result.svg", shown, result["runs"], LABELS, foot)
    return [*said, f"picture: {folder / 'result.svg'}"]


def unmeasured(missing: dict[str, str]) -> list[str]:
    """Return a line for each reason, with all that could not be measured because of it."""
    reasons = dict.fromkeys(missing.values())
    return [
        f"not measured: {'; '.join(what for what in missing if missing[what] == why)}: {why}"
        for why in reasons
    ]


def report(out: Console, result: dict, shown: Sequence[Scenario]) -> None:
    """Print all tables, and what could not be measured."""
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
        out.print("--quick: small counts and one round are too little for a verdict.")
    out.print()
    for line in unmeasured(result["not measured"]):
        out.print(line, style="yellow", markup=False)
    for line in figures.doubts(shown, runs, LABELS):
        out.print(line, style="yellow" if " ! " in line else None)
    for note in NOTES:
        out.print(note, style="dim")


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; exits on wrong usage."""
    known = scenarios(quick=False)
    listed = "\n".join(f"  {each.name:15} {each.title}" for each in known)
    about = {"scenarios": listed, "overloading": ", ".join(OVERLOADING)}
    parser = argparse.ArgumentParser(
        "scripts/bench",
        description=__doc__,
        epilog=HELP.format(**about, **DURATION),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="1 to 100 (default: 5)")
    parser.add_argument(
        "--quick", action="store_true", help="one round with small counts, to see whether it runs"
    )
    names, folder = [each.name for each in known], ROOT / "build" / "bench"
    once = "measure only this one; may be given more than once"
    place = "for result.json and result.svg (default: build/bench)"
    peer = "go-httpbin's binary; without it, go-httpbin is not measured"
    parser.add_argument("--only", action="append", choices=names, metavar="SCENARIO", help=once)
    parser.add_argument("--go-httpbin", type=Path, metavar="PATH", help=peer)
    parser.add_argument("--output", type=Path, default=folder, metavar="DIR", help=place)
    asked = parser.parse_args(given)
    asked.rounds = asked.rounds if asked.rounds is not None else 1 if asked.quick else 5
    if not 1 <= asked.rounds <= 100:
        parser.error(f"--rounds: invalid number {asked.rounds}: give one from 1 to 100")
    if asked.go_httpbin:
        if not shutil.which(asked.go_httpbin.absolute()):
            parser.error(f"--go-httpbin: no program at {asked.go_httpbin}: give its binary's path")
        asked.go_httpbin = asked.go_httpbin.absolute()
    return asked


def stop(number: int, _: object) -> None:
    """Exit on a signal; the processes started here are killed on the way out."""
    print("stopped; nothing is left running", file=sys.stderr)
    sys.exit(128 + number)


def main(given: Sequence[str]) -> int:
    """Measure, print, write."""
    asked, out = arguments(given), Console(highlight=False)
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, stop)
    raise_limit()
    server_core, load_core = cores()
    place = environment(asked.go_httpbin)
    wanted = [s for s in scenarios(asked.quick) if not asked.only or s.name in asked.only]
    out.print(f"{place['cpu']}, {place['cores']} cores, Linux {place['kernel']}, {place['python']}")
    if server_core == load_core:
        out.print(
            "There is only one core: servers and load share it, so no figure is reliable.",
            style="red",
        )
    elif place["load average"] > 0.5:
        out.print(f"This machine is busy already (load {place['load average']:.1f}).", style="red")
    with tempfile.TemporaryDirectory(prefix="tarry-bench-") as folder:
        work = Path(folder)
        bench = Bench(work, compile_load(work), server_core, load_core)
        os.sched_setaffinity(0, {load_core})
        known = servers(work, make_site(work), bench.load, asked.go_httpbin)
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
