"""What scripts/bench makes of its raw figures: medians, ratios, verdicts, tables and a picture.

A run is one measurement of one server: a dictionary with "round", "scenario", "server" and figures
by name, None where there is none. A request that failed is late without end (math.inf).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

Run = dict[str, Any]
BUSY = 0.8  # of a core: from here on the load generator may be what limits
FAILURES = {  # as the load generator names them: what they are
    "status": "not 200",
    "closed": "closed early",
    "length": "of wrong length",
    "early": "before their time",
    "timeout": "not answered",
    "starved": "not sent, as no connection was free",
}
ROOM = 2.0  # times that a server that does nothing is to be better than the best


@dataclass(frozen=True)
class Scenario:
    """One thing to measure, and which of its figures says most."""

    name: str
    title: str
    metric: str  # one of the columns
    columns: tuple[tuple[str, str], ...]  # figures to show: name, heading with unit
    servers: tuple[str, ...]
    mode: str  # of the load generator; none: no load
    path: str
    load: dict[str, float]  # its options

    @property
    def unit(self) -> str:
        return dict(self.columns)[self.metric]

    @property
    def connections(self) -> int:
        return int(self.load.get("connections", 1))


@dataclass(frozen=True)
class Aim:
    """What the ratio tarry / *against* of a scenario's metric is to be."""

    title: str
    scenario: str
    against: str
    sign: str  # ">=" or "<="
    bound: float
    unless: float | None = None  # the bound where tarry runs without httptools


AIMS = (
    Aim("requests/s, a 150-line script", "requests", "twistd", ">=", 15),
    Aim("requests/s", "requests", "aiohttp", ">=", 1.0, unless=0.8),
    Aim("requests/s, ledger on", "requests", "tarry-unledgered", ">=", 0.9),
    Aim("burst of 8,000: p99 lateness", "burst-8000", "aiohttp", "<=", 0.6),
    Aim("open loop: p99 lateness", "open", "aiohttp", "<=", 0.2),
    Aim("open loop: p99 lateness", "open", "tarry-plain", "<=", 0.1),
    Aim("streams: p99 chunk lateness", "streams", "aiohttp", "<=", 1.0),
    Aim("memory per pending request", "memory", "aiohttp", "<=", 1.0),
)


def parse_output(line: str) -> dict[str, float | None]:
    """The load generator's name=value pairs; what is no number there is None.

    >>> parse_output("sent=3 p99=inf max=nan")
    {'sent': 3.0, 'p99': inf, 'max': None}
    """
    found = {name: float(value) for name, value in re.findall(r"(\w+)=(\S+)", line)}
    return {name: None if math.isnan(value) else value for name, value in found.items()}


def padded(script: str, page: bytes, lines: int = 150) -> str:
    """The text of an .rpy with its PAGE replaced by *page*, and exactly *lines* lines long."""
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


def values(runs: Iterable[Run], scenario: str, server: str, metric: str) -> dict[int, float]:
    """The metric by round."""
    return {
        run["round"]: run[metric]
        for run in runs
        if (run["scenario"], run["server"]) == (scenario, server) and run.get(metric) is not None
    }


def total(runs: Iterable[Run], scenario: str, server: str, name: str) -> int:
    """The sum over all rounds."""
    return int(sum(values(runs, scenario, server, name).values()))


def failures(runs: Iterable[Run], scenario: str, server: str) -> dict[str, int]:
    """How often what went wrong, in all rounds."""
    counts = {kind: total(runs, scenario, server, kind) for kind in FAILURES}
    return {FAILURES[kind]: count for kind, count in counts.items() if count}


def ratios(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    """Round by round, ours / theirs, where that is a number; lateness without end is none."""
    both = [(ours[n], theirs[n]) for n in sorted(ours.keys() & theirs.keys())]
    return [our / their for our, their in both if 0 < their < math.inf and our >= 0]


def ratio(runs: Sequence[Run], scenario: Scenario, server: str) -> float | None:
    """The median of the rounds' ratios tarry / *server*."""
    of = (values(runs, scenario.name, each, scenario.metric) for each in ("tarry", server))
    found = ratios(*of)
    return median(found) if found else None


def bound(aim: Aim, runs: Sequence[Run]) -> float:
    """The aim's bound; which one, where there are two, is read off the measured process."""
    fast = values(runs, aim.scenario, "tarry", "httptools")
    return aim.bound if aim.unless is None or any(fast.values()) else aim.unless


def verdict(aim: Aim, scenario: Scenario, runs: Sequence[Run]) -> tuple[float | None, str]:
    """The ratio, and what it means: reached, not reached, or not measured."""
    got = ratio(runs, scenario, aim.against)
    if got is None:
        return None, "not measured"
    if lost := sum(failures(runs, aim.scenario, "tarry").values()):
        return got, f"not reached: {lost:,} failed"
    limit = bound(aim, runs)
    return got, "reached" if (got >= limit if aim.sign == ">=" else got <= limit) else "not reached"


def figure(value: float | None) -> str:
    """A number in few characters.

    >>> [figure(x) for x in (23456.7, 99.96, 4.321, 0.05, math.inf, None)]
    ['23,457', '100', '4.3', '0.05', 'never', '\N{EN DASH}']
    """
    if value is None:
        return "\N{EN DASH}"
    if math.isinf(value):
        return "never"
    return f"{value:,.{0 if value >= 99.5 else 1 if value >= 1 else 2}f}"


def spread(found: Sequence[float]) -> str:
    """The median, and (least to greatest) in brackets behind it."""
    if len(found) < 2:
        return figure(found[0] if found else None)
    return f"{figure(median(found))} ({figure(min(found))}\N{EN DASH}{figure(max(found))})"


def scenario_table(scenario: Scenario, runs: Sequence[Run], labels: dict[str, str]) -> Table:
    """One row for each server that was measured."""
    runs = [run for run in runs if run["scenario"] == scenario.name]
    shown = [server for server in labels if any(run["server"] == server for run in runs)]
    lost = {server: failures(runs, scenario.name, server) for server in shown}
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
    for server in shown:
        row = [labels[server]]
        for name, _ in scenario.columns:
            found = list(values(runs, scenario.name, server, name).values())
            few = found if name == scenario.metric else [median(found)] if found else []
            row.append(spread(few))
        row.append("" if server in ("tarry", "ceiling") else figure(ratio(runs, scenario, server)))
        if any(lost.values()):
            row.append(f"[red]{count:,}[/]" if (count := sum(lost[server].values())) else "")
        if loaded:
            cpu = max(values(runs, scenario.name, server, "cpu").values(), default=0)
            row.append(f"{cpu:.0%}{'!' if cpu > BUSY and server != 'ceiling' else ''}")
        table.add_row(*row, style={"tarry": "green", "ceiling": "dim"}.get(server))
    return table


def aims(
    scenarios: Sequence[Scenario], runs: Sequence[Run], labels: dict[str, str]
) -> list[tuple[str, str, str, str, str]]:
    """For each aim about these scenarios: what, against what, the bound, the ratio, the verdict."""
    by_name = {scenario.name: scenario for scenario in scenarios}
    rows = []
    for aim in (aim for aim in AIMS if aim.scenario in by_name):
        got, said = verdict(aim, by_name[aim.scenario], runs)
        sign = "\N{GREATER-THAN OR EQUAL TO}" if aim.sign == ">=" else "\N{LESS-THAN OR EQUAL TO}"
        title, limit = aim.title, bound(aim, runs)
        if aim.unless is not None and got is not None:
            title += f", with{'out' if limit == aim.unless else ''} httptools"
        rows.append((title, labels[aim.against], f"{sign} {limit:g}", figure(got), said))
    return rows


def aims_table(
    scenarios: Sequence[Scenario], runs: Sequence[Run], labels: dict[str, str], judged: bool
) -> Table:
    """What is aimed at, and how far this run got."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading, side in (("", "left"), ("against", "left"), ("aim", "right"), ("got", "right")):
        table.add_column(heading, justify=side, no_wrap=True)
    table.add_column("")
    for *row, said in aims(scenarios, runs, labels):
        colour = {"reached": "green", "not measured": "dim"}.get(said, "red")
        if not judged and said != "not measured":
            colour, said = "dim", "not judged"
        table.add_row(*row, f"[{colour}]{said}[/]")
    return table


def doubts(scenarios: Sequence[Scenario], runs: Sequence[Run], labels: dict[str, str]) -> list[str]:
    """Whether the load generator or the machine limited anything: "!" stands where they may have.

    Two grounds: what the generator used of its core, and what it measures at the C responder, a
    server that does next to nothing.
    """
    used = [r for r in runs if r.get("cpu") is not None and r["server"] != "ceiling"]
    if not used:
        return []
    most = max(used, key=lambda run: run["cpu"])
    lines = [
        "Is the load generator what limits? It used "
        f"{most['cpu']:.0%} of its core at most ({most['scenario']}, {labels[most['server']]}; "
        f"above {BUSY:.0%}: marked !)."
    ]
    for scenario in scenarios:
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
        warning = "" if times >= ROOM else " ! near: small differences mean nothing"
        lines.append(
            f"  {scenario.name}: the C responder is {figure(times)} x {better} "
            f"the best ({figure(top)} {scenario.unit}){warning}"
        )
    return lines


def picture(
    path: Path,
    scenarios: Sequence[Scenario],
    runs: Sequence[Run],
    labels: dict[str, str],
    foot: str,
) -> None:
    """Small multiples: a panel for each scenario, a dot for each round, a bar to the median.

    Needs matplotlib; lateness is on a logarithmic axis and has no bars, which would mislead there.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"font.size": 9, "svg.hashsalt": "tarry", "axes.titlesize": 10})
    from matplotlib import pyplot

    rows = math.ceil((len(scenarios) + 1) / 2)
    page, axes = pyplot.subplots(rows, 2, figsize=(11, 0.9 + 2.2 * rows), squeeze=False)
    for axis, scenario in zip(axes.flat, scenarios, strict=False):
        panel(axis, scenario, runs, labels)
    for axis in axes.flat[len(scenarios) :]:
        axis.set_axis_off()
    wordy = axes.flat[len(scenarios)]
    wordy.set_title("Ratios tarry serve / other", loc="left", fontweight="bold")
    for line, (title, against, limit, got, _) in enumerate(aims(scenarios, runs, labels)):
        y = 0.93 - 0.125 * line
        wordy.text(0, y, f"{title} / {against}", fontsize=8, transform=wordy.transAxes)
        wordy.text(0.9, y, got, fontsize=8, ha="right", transform=wordy.transAxes)
        wordy.text(0.93, y, f"aim {limit}", fontsize=8, transform=wordy.transAxes, color="#555555")
    page.suptitle("tarry serve beside others, one process on one core each", fontsize=13)
    page.text(0.01, 0.006, foot, fontsize=8, color="#555555")
    page.tight_layout(rect=(0, 0.02, 1, 1), h_pad=1.6)
    page.savefig(path, metadata={"Date": None})
    pyplot.close(page)


def panel(axis: Any, scenario: Scenario, runs: Sequence[Run], labels: dict[str, str]) -> None:
    """One scenario: a row for each server, a tick for each round, the median in figures."""
    rate, late = scenario.metric == "rate", scenario.metric == "p99"
    found = {s: list(values(runs, scenario.name, s, scenario.metric).values()) for s in labels}
    ceiling = found.pop("ceiling") if rate else []  # far off to the right: said in words instead
    found = {server: each for server, each in found.items() if each}
    drawn = [x for each in found.values() for x in each if 0 < x < math.inf] or [1.0]
    for y, (server, each) in enumerate(found.items()):
        colour = {"tarry": "#1b7f3b", "ceiling": "#999999"}.get(server, "#4a6fa5")
        middle, finite = median(each), [x for x in each if x < math.inf]
        if late:
            axis.plot(finite, [y] * len(finite), "-", color=colour, lw=2, alpha=0.5)
            axis.plot(middle, y, "o", color=colour, ms=6)
        else:
            axis.barh(y, middle, height=0.62, color=colour, alpha=0.55)
        axis.plot(finite, [y] * len(finite), "|", color=colour if late else "black", ms=7)
        lost = sum(failures(runs, scenario.name, server).values())
        text = figure(middle) + (f"  ({lost:,} failed)" if lost else "")
        place, colour = max(finite, default=min(drawn)), "#b00020" if lost else "black"
        axis.annotate(
            text, (place, y), (7, 0), textcoords="offset points", va="center", color=colour
        )
    axis.set_yticks(range(len(found)), [labels[server] for server in found])
    axis.set_ylim(len(found) - 0.4, -0.6)
    axis.set_title(scenario.title, loc="left", fontweight="bold")
    if late:
        axis.set_xscale("log")
        wordy = any(failures(runs, scenario.name, server) for server in found)
        axis.set_xlim(min(drawn) / 2, max(drawn) * (90 if wordy else 12))
    else:
        axis.set_xlim(0, max(drawn) * 1.3)
        axis.locator_params(axis="x", nbins=6)
    axis.xaxis.set_minor_formatter(lambda *_: "")
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:,.10g}")
    unit = f"{scenario.metric} lateness, ms (logarithmic)" if late else scenario.unit
    meaning = f"{unit}; {'more' if rate else 'less'} is better"
    meaning += f"; C responder: {figure(ceiling[0])}" if ceiling else ""
    axis.set_xlabel(meaning, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", color="#dddddd", lw=0.6)
    axis.set_axisbelow(True)
