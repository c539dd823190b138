"""Draw the figures of scripts/bench: a panel for each scenario, and the ratios in words."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from figures import Run, aims, failures, figure, growth, values
from scenarios import Scenario

GREEN, BLUE, ORANGE, GREY, RED = "#1b7f3b", "#4a6fa5", "#b8651b", "#999999", "#b00020"
GROWTH_COLOURS = {"tarry": GREEN, "aiohttp": BLUE, "go-httpbin": ORANGE}


def picture(
    path: Path, shown: Sequence[Scenario], runs: Sequence[Run], labels: dict[str, str], foot: str
) -> None:
    """Draw all panels into one SVG file. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"font.size": 9, "svg.hashsalt": "tarry", "axes.titlesize": 10})
    from matplotlib import pyplot

    panels = [(each, metric) for each in shown for metric in (each.metric, *each.drawn)]
    rows = math.ceil((len(panels) + 1) / 2)
    page, axes = pyplot.subplots(rows, 2, figsize=(11, 0.9 + 2.3 * rows), squeeze=False)
    for axis, (scenario, metric) in zip(axes.flat, panels, strict=False):
        if scenario.steps:
            growth_panel(axis, scenario, runs, labels)
        else:
            panel(axis, scenario, metric, runs, labels)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    words(axes.flat[len(panels)], aims(shown, runs, labels))
    page.suptitle("tarry serve beside others, one process on one core each", fontsize=13)
    page.text(0.01, 0.006, textwrap.fill(foot, 150), fontsize=8, color="#555555")
    page.tight_layout(rect=(0, 0.03, 1, 0.99), h_pad=1.6)
    page.savefig(path, metadata={"Date": None})
    pyplot.close(page)


def words(axis: Any, rows: Sequence[tuple[str, str, str, str, str]]) -> None:
    """Write the ratios, one a line."""
    axis.set_title("Ratios tarry serve / other", loc="left", fontweight="bold")
    for line, (title, against, limit, got, _) in enumerate(rows):
        y = 0.93 - 0.125 * line
        axis.text(0, y, f"{title} / {against}", fontsize=8, transform=axis.transAxes)
        axis.text(0.86, y, got, fontsize=8, ha="right", transform=axis.transAxes)
        axis.text(0.89, y, f"aim {limit}", fontsize=8, transform=axis.transAxes, color="#555555")


def panel(
    axis: Any, scenario: Scenario, metric: str, runs: Sequence[Run], labels: dict[str, str]
) -> None:
    """Draw one figure of a scenario: a row for each server, a tick for each round, the median.

    Lateness is on a logarithmic axis, where bars would mislead: it has a line and a dot instead.
    """
    rate, late = metric == "rate", metric == "p99"
    found = {s: list(values(runs, scenario.name, s, metric).values()) for s in labels}
    ceiling = found.pop("ceiling") if rate else []  # far off to the right: said in words instead
    found = {server: each for server, each in found.items() if each}
    drawn = [x for each in found.values() for x in each if 0 < x < math.inf] or [1.0]
    for y, (server, each) in enumerate(found.items()):
        colour = {"tarry": GREEN, "ceiling": GREY}.get(server, BLUE)
        middle, finite = median(each), [x for x in each if x < math.inf]
        if late:
            axis.plot(finite, [y] * len(finite), "-", color=colour, lw=2, alpha=0.5)
            axis.plot(middle, y, "o", color=colour, ms=6)
        else:
            axis.barh(y, middle, height=0.62, color=colour, alpha=0.55)
        axis.plot(finite, [y] * len(finite), "|", color=colour if late else "black", ms=7)
        lost = sum(failures(runs, scenario.name, server).values())
        text = figure(middle) + (f"  ({lost:,} failed)" if lost else "")
        place, colour = max(finite, default=min(drawn)), RED if lost else "black"
        axis.annotate(
            text, (place, y), (7, 0), textcoords="offset points", va="center", color=colour
        )
    axis.set_yticks(range(len(found)), [labels[server] for server in found])
    axis.set_ylim(len(found) - 0.4, -0.6)
    title = "Processor time per request, same load" if metric == "processor" else scenario.title
    axis.set_title(title, loc="left", fontweight="bold")
    if late:
        axis.set_xscale("log")
        wordy = any(failures(runs, scenario.name, server) for server in found)
        axis.set_xlim(min(drawn) / 2, max(drawn) * (90 if wordy else 12))
    else:
        axis.set_xlim(0, max(drawn) * 1.3)
        axis.locator_params(axis="x", nbins=6)
    plain_figures(axis.xaxis)
    meaning = f"{described(scenario, metric)}; {'more' if rate else 'less'} is better"
    meaning += f"; C responder: {figure(ceiling[0])}" if ceiling else ""
    axis.set_xlabel(meaning, fontsize=8)
    tidy(axis, "x")


def growth_panel(
    axis: Any, scenario: Scenario, runs: Sequence[Run], labels: dict[str, str]
) -> None:
    """Draw how a scenario's metric grows with the number pending: a line for each server."""
    for server in (each for each in labels if each in scenario.servers):
        each = {step: growth(scenario, runs, server, step) for step in scenario.steps}
        middle = {step: median(found) for step, found in each.items() if found}
        middle = {step: value for step, value in middle.items() if value < math.inf}
        colour = GROWTH_COLOURS.get(server, GREY)
        lost = sum(failures(runs, scenario.name, server).values())
        if any(each.values()):
            label = labels[server] + (f" ({lost:,} failed)" if lost else "")
            axis.plot(middle.keys(), middle.values(), "o-", color=colour, ms=5, label=label)
        for step, found in each.items():
            finite = [x for x in found if x < math.inf]
            axis.plot([step] * len(finite), finite, "_", color=colour, ms=9)
    axis.set_title(scenario.title, loc="left", fontweight="bold")
    axis.set_xscale("log", base=2)
    axis.set_xticks(scenario.steps, [f"{step:,}" for step in scenario.steps])
    axis.minorticks_off()
    if scenario.metric == "p99":
        axis.set_yscale("log")
        axis.set_ylim(top=axis.get_ylim()[1] * 3)  # leaves room for the legend
        plain_figures(axis.yaxis)
    else:
        axis.set_ylim(0, axis.get_ylim()[1] * 1.25)
    axis.set_xlabel("requests pending (logarithmic); less is better", fontsize=8)
    axis.set_ylabel(described(scenario, scenario.metric), fontsize=8)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="upper left", ncols=3, fontsize=8, frameon=False)
    tidy(axis, "y")


def described(scenario: Scenario, metric: str) -> str:
    """Return an axis's figure and unit, in words."""
    if metric == "p99":
        return "p99 lateness, ms (logarithmic)"
    if metric == "processor":
        return "\N{MICRO SIGN}s of the server's user and system time"
    return scenario.unit(metric)


def plain_figures(scale: Any) -> None:
    """Label a scale with 1,000 rather than 10^3."""
    scale.set_minor_formatter(lambda *_: "")
    scale.set_major_formatter(lambda x, _: f"{x:,.10g}")


def tidy(axis: Any, direction: str) -> None:
    """Leave out the frame, and draw a light grid behind the data."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis=direction, color="#dddddd", lw=0.6)
    axis.set_axisbelow(True)
