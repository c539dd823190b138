"""Turn the raw figures of scripts/bench into medians, ratios, verdicts and tables.

A run is one measurement of one server: a dictionary with "round", "scenario", "server" and figures
by name, None where there is none; also "pending" where a scenario has steps. A failed request is
infinitely late (math.inf).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from rich.table import Table
from scenarios import AIMS, Aim, Scenario

Run = dict[str, Any]
BUSY = 0.8  # of a core: a load generator that uses more may be the limit itself
FAILURES = {  # the load generator's names for what went wrong, in words
    "status": "not 200",
    "closed": "closed early",
    "length": "of the wrong length",
    "early": "too early",
    "timeout": "not answered",
    "starved": "not sent, as no connection was free",
}
ROOM = 2.0  # a server that does next to nothing should be better than the best by this factor


def parse_output(line: str) -> dict[str, float | None]:
    """Return the load generator's name=value pairs; None for a value that is not a number.

    >>> parse_output("sent=3 p99=inf max=nan")
    {'sent': 3.0, 'p99': inf, 'max': None}
    """
    found = {name: float(value) for name, value in re.findall(r"(\w+)=(\S+)", line)}
    return {name: None if math.isnan(value) else value for name, value in found.items()}


def padded(script: str, page: bytes, lines: int = 150) -> str:
    """Return an .rpy with its PAGE replaced by *page*, and comments that make it *lines* lines."""
    text, replaced = re.subn(
        r'^PAGE = b""".*?"""$', lambda _: f"PAGE = {page!r}", script, flags=re.DOTALL | re.MULTILINE
    )
    if replaced != 1:
        raise ValueError('the script has no PAGE = b"""...""" to replace')
    head, last, tail = text.rpartition("\nresource = ")
    if not last:
        raise ValueError("the script has no line that begins with: resource =")
    missing = lines - len(text.splitlines())
    if missing < 0:
        raise ValueError(f"the script has {lines - missing} lines, more than {lines}")
    return head + "\n# one more line, for a script of common length" * missing + last + tail


def complaint(log: str) -> str:
    """Return the line of a server's log that says why it ended: the last with an error, or any."""
    lines = [line.strip() for line in log.splitlines() if line.strip()] or [""]
    return ([line for line in lines if "error" in line.lower()] or lines)[-1]


def at(runs: Iterable[Run], step: int) -> list[Run]:
    """Return the runs with that many pending."""
    return [run for run in runs if run.get("pending") == step]


def values(runs: Iterable[Run], scenario: str, server: str, metric: str) -> dict[int, float]:
    """Return the metric by round."""
    return {
        run["round"]: run[metric]
        for run in runs
        if (run["scenario"], run["server"]) == (scenario, server) and run.get(metric) is not None
    }


def failures(runs: Iterable[Run], scenario: str, server: str) -> dict[str, int]:
    """Return how often each kind of failure happened, in all rounds."""
    about = [run for run in runs if (run["scenario"], run["server"]) == (scenario, server)]
    counts = {kind: int(sum(run.get(kind) or 0 for run in about)) for kind in FAILURES}
    return {FAILURES[kind]: count for kind, count in counts.items() if count}


def ratios(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    """Return ours / theirs for each round where that is a number; infinite lateness is none."""
    both = [(ours[n], theirs[n]) for n in sorted(ours.keys() & theirs.keys())]
    return [our / their for our, their in both if 0 < their < math.inf and our >= 0]


def ratio(runs: Sequence[Run], scenario: str, metric: str, server: str) -> float | None:
    """Return the median of the rounds' ratios tarry / *server*."""
    found = ratios(*(values(runs, scenario, each, metric) for each in ("tarry", server)))
    return median(found) if found else None


def verdict(aim: Aim, runs: Sequence[Run]) -> tuple[float | None, str]:
    """Return the ratio, and what it means: reached, not reached, or not measured."""
    got = ratio(runs, aim.scenario, aim.metric, aim.against)
    if got is None:
        return None, "not measured"
    if lost := sum(failures(runs, aim.scenario, "tarry").values()):
        return got, f"not reached: {lost:,} failed"
    reached = got >= aim.bound if aim.sign == ">=" else got <= aim.bound
    return got, "reached" if reached else "not reached"


def figure(value: float | None) -> str:
    """Return a number in few characters.

    >>> [figure(x) for x in (23456.7, 99.96, 4.321, 0.05, math.inf, None)]
    ['23,457', '100', '4.3', '0.05', 'never', '\N{EN DASH}']
    """
    if value is None:
        return "\N{EN DASH}"
    if math.isinf(value):
        return "never"
    return f"{value:,.{0 if value >= 99.5 else 1 if value >= 1 else 2}f}"


def spread(found: Sequence[float]) -> str:
    """Return the median, followed by (least-greatest)."""
    if len(found) < 2:
        return figure(found[0] if found else None)
    return f"{figure(median(found))} ({figure(min(found))}\N{EN DASH}{figure(max(found))})"


def scenario_table(scenario: Scenario, runs: Sequence[Run], labels: dict[str, str]) -> Table:
    """Return a table with a row for each of the scenario's servers."""
    if scenario.steps:
        return growth_table(scenario, runs, labels)
    runs = [run for run in runs if run["scenario"] == scenario.name]
    lost = {server: failures(runs, scenario.name, server) for server in scenario.servers}
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True, min_width=20)
    for _, heading in scenario.columns:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("tarry/it", justify="right", no_wrap=True)
    if any(lost.values()):
        table.add_column("failed", justify="right", no_wrap=True)
    loaded = any(run.get("cpu") is not None for run in runs)
    if loaded:
        table.add_column("load", justify="right", no_wrap=True)
    for server in (each for each in labels if each in scenario.servers):
        if not any(run["server"] == server for run in runs):
            # in the column that is widest
            said = ["not measured" * (name == scenario.metric) for name, _ in scenario.columns]
            table.add_row(labels[server], *said, style="dim")
            continue
        row = [labels[server]]
        for name, _ in scenario.columns:
            found = list(values(runs, scenario.name, server, name).values())
            few = found if name == scenario.metric else [median(found)] if found else []
            row.append(spread(few))
        ours = server in ("tarry", "ceiling")
        row.append("" if ours else figure(ratio(runs, scenario.name, scenario.metric, server)))
        if any(lost.values()):
            row.append(f"[red]{count:,}[/]" if (count := sum(lost[server].values())) else "")
        if loaded:
            cpu = max(values(runs, scenario.name, server, "cpu").values(), default=0)
            row.append(f"{cpu:.0%}{'!' if cpu > BUSY and server != 'ceiling' else ''}")
        table.add_row(*row, style={"tarry": "green", "ceiling": "dim"}.get(server))
    return table


def growth_table(scenario: Scenario, runs: Sequence[Run], labels: dict[str, str]) -> Table:
    """Return a table with a column for each number pending: medians, and ratios to the others."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column(f"{scenario.unit(scenario.metric)}, by number pending", no_wrap=True)
    for step in scenario.steps:
        table.add_column(f"{step:,}", justify="right", no_wrap=True, min_width=7)
    measured = [run["server"] for run in runs if run["scenario"] == scenario.name]
    shown = [server for server in labels if server in scenario.servers]
    for server in shown:
        if server not in measured:
            table.add_row(labels[server], "not measured", style="dim")
            continue
        found = [growth(scenario, runs, server, step) for step in scenario.steps]
        row = [figure(median(each) if each else None) for each in found]
        table.add_row(labels[server], *row, style="green" if server == "tarry" else None)
    for server in shown if "tarry" in measured else ():
        if server != "tarry" and server in measured:
            steps = (at(runs, step) for step in scenario.steps)
            row = [figure(ratio(each, scenario.name, scenario.metric, server)) for each in steps]
            table.add_row(f"tarry / {labels[server]}", *row)
    return table


def growth(scenario: Scenario, runs: Sequence[Run], server: str, step: int) -> list[float]:
    """Return the scenario's metric at one number pending, of all rounds."""
    return list(values(at(runs, step), scenario.name, server, scenario.metric).values())


def aims(
    shown: Sequence[Scenario], runs: Sequence[Run], labels: dict[str, str]
) -> list[tuple[str, str, str, str, str]]:
    """Return title, label, bound, ratio and verdict for each aim about these scenarios."""
    names = [scenario.name for scenario in shown]
    rows = []
    for aim in (aim for aim in AIMS if aim.scenario in names):
        got, said = verdict(aim, runs)
        sign = "\N{GREATER-THAN OR EQUAL TO}" if aim.sign == ">=" else "\N{LESS-THAN OR EQUAL TO}"
        bound = f"{sign} {aim.bound:g}"
        rows.append((aim.title, labels[aim.against], bound, figure(got), said))
    return rows


def aims_table(
    shown: Sequence[Scenario], runs: Sequence[Run], labels: dict[str, str], judged: bool
) -> Table:
    """Return a table of what is aimed at, and how close this run came."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading, side in (("", "left"), ("against", "left"), ("aim", "right"), ("got", "right")):
        table.add_column(heading, justify=side, no_wrap=True)
    table.add_column("")
    for *row, said in aims(shown, runs, labels):
        colour = {"reached": "green", "not measured": "dim"}.get(said, "red")
        if not judged and said != "not measured":
            colour, said = "dim", "not judged"
        table.add_row(*row, f"[{colour}]{said}[/]")
    return table


def doubts(shown: Sequence[Scenario], runs: Sequence[Run], labels: dict[str, str]) -> list[str]:
    """Say whether the load generator or the machine was a limit; "!" marks where it may have been.

    There are two signs: how much of its core the generator used, and what it measures at the C
    responder, a server that does next to nothing.
    """
    used = [r for r in runs if r.get("cpu") is not None and r["server"] != "ceiling"]
    if not used:
        return []
    most = max(used, key=lambda run: run["cpu"])
    lines = [
        "Is the load generator the limit? It used "
        f"{most['cpu']:.0%} of its core at most ({most['scenario']}, {labels[most['server']]}; "
        f"above {BUSY:.0%}: marked !)."
    ]
    for scenario in shown:
        found = {
            server: median(each)
            for server in scenario.servers
            if (each := values(runs, scenario.name, server, scenario.metric).values())
        }
        top, more = found.pop("ceiling", 0.0), scenario.metric == "rate"
        best = (max if more else min)(found.values(), default=math.inf)
        if not (0 < top < math.inf and 0 < best < math.inf):
            continue
        times = top / best if more else best / top
        better = "as fast as" if more else "less late than"
        warning = "" if times >= ROOM else " ! close: small differences mean nothing"
        lines.append(
            f"  {scenario.name}: the C responder is {figure(times)} x {better} "
            f"the best ({figure(top)} {scenario.unit(scenario.metric)}){warning}"
        )
    return lines
