"""What scripts/bench measures, and which ratios it aims at."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    """One kind of load, and the figures to show for it."""

    name: str
    title: str
    metric: str  # the column that says most: its spread and its ratio are shown
    columns: tuple[tuple[str, str], ...]  # figures to show: name, heading with unit
    servers: tuple[str, ...]
    mode: str  # of the load generator; empty: no load
    load: dict[str, float]  # options of the load generator
    drawn: tuple[str, ...] = ()  # figures to draw besides the metric
    steps: tuple[int, ...] = ()  # measured once for each of these numbers of connections

    @property
    def connections(self) -> int:
        return int(self.load.get("connections", 1))

    def unit(self, metric: str) -> str:
        """Return the heading of one of the columns."""
        return dict(self.columns)[metric]

    def at(self, step: int) -> Scenario:
        """Return the scenario with *step* connections."""
        return dataclasses.replace(self, load={**self.load, "connections": step})


@dataclass(frozen=True)
class Aim:
    """What the ratio tarry / *against* of one figure of a scenario is meant to be."""

    title: str
    scenario: str
    metric: str
    against: str
    sign: str  # ">=" or "<="
    bound: float


AIMS = (
    Aim("processor time per request", "requests", "processor", "aiohttp", "<=", 1.0),
    Aim("requests/s, a 150-line script", "requests", "rate", "twistd", ">=", 20),
    Aim("requests/s, ledger on", "requests", "rate", "tarry-unledgered", ">=", 0.9),
    Aim("burst of 8,000: p99 lateness", "burst-8000", "p99", "go-httpbin", "<=", 1.0),
    Aim("open loop: p99 lateness", "open", "p99", "go-httpbin", "<=", 1.5),
    Aim("open loop: p99 lateness", "open", "p99", "tarry-plain", "<=", 0.1),
    Aim("streams: p99 chunk lateness", "streams", "p99", "go-httpbin", "<=", 1.5),
    Aim("memory per pending request", "memory", "memory", "aiohttp", "<=", 0.7),
)

OVERLOADING = ("burst-8000", "open", "streams", "memory")  # take plain twistd 10 to 20 s each
GROWTH = ("growth-memory", "growth-lateness")
FEW_ROUNDS = 2  # for what takes long


def due(scenario: str, server: str, number: int) -> bool:
    """Tell whether a server is measured in this round: in all, or in the first if it takes long."""
    if scenario in GROWTH or (server == "twistd" and scenario in OVERLOADING):
        return number <= FEW_ROUNDS
    return server != "ceiling" or number == 1


def scenarios(quick: bool) -> list[Scenario]:
    """Return all scenarios, with small numbers for --quick."""

    def size(full: float, small: float) -> float:
        return small if quick else full

    main = ("twistd", "tarry", "aiohttp", "starlette", "go-httpbin")
    every, unledgered = (*main, "ceiling"), (*main, "tarry-unledgered")
    compared = ("tarry", "aiohttp", "go-httpbin")
    lateness = (("p50", "p50 ms"), ("p99", "p99 ms"), ("max", "max ms"))
    wait, some, many = size(3, 0.3), size(1000, 200), size(8000, 600)
    asked, delay, streams, chunks = size(3000, 400), size(1, 0.5), size(2000, 200), size(40, 10)
    steps = (100, 200, 400) if quick else (1000, 2000, 4000, 8000, 16000)
    return [
        Scenario("start", "Process start to first answer",
                 "start", (("start", "ms"),), main, "", {}),
        Scenario("requests", "Requests/s: 50 connections, keep-alive, delay 0",
                 "rate", (("rate", "requests/s"), ("processor", "CPU \N{MICRO SIGN}s"),
                          ("p99", "p99 ms")),
                 (*every, "tarry-unledgered", "tarry-logged"), "closed",
                 {"connections": 50, "delay": 0, "warm": size(0.5, 0.2), "seconds": size(2, 0.5)},
                 drawn=("processor",)),
        Scenario("burst-1000", f"Burst: {some:,.0f} at once, delay {wait:g} s",
                 "p99", lateness, main, "burst", {"connections": some, "delay": wait}),
        Scenario("burst-8000", f"Burst: {many:,.0f} at once, delay {wait:g} s",
                 "p99", lateness, every, "burst", {"connections": many, "delay": wait}),
        Scenario("open", f"Open loop: Poisson arrivals, {asked:,.0f}/s, delay {delay:g} s",
                 "p99", lateness, (*every, "tarry-plain"), "open",
                 {"connections": 2 * asked, "delay": delay, "rate": asked, "seconds": size(4, 1)}),
        Scenario("streams", f"Streams: {streams:,.0f}, 10 chunks/s each, for {chunks / 10:g} s",
                 "p99", lateness, every, "streams",
                 {"connections": streams, "interval": 0.1, "count": chunks,
                  "spread": size(1, 0.3)}),
        Scenario("memory", f"Memory per pending request, {many:,.0f} pending",
                 "memory", (("memory", "KB"),), unledgered, "hold",
                 {"connections": many, "delay": 600}),
        Scenario("growth-memory",
                 f"Growth: memory per request, {steps[0]:,} to {steps[-1]:,} pending",
                 "memory", (("memory", "KB"),), compared, "hold", {"delay": 600}, steps=steps),
        Scenario("growth-lateness",
                 f"Growth: burst of {steps[0]:,} to {steps[-1]:,}, delay {wait:g} s",
                 "p99", (("p99", "p99 ms"),), compared, "burst", {"delay": wait}, steps=steps),
    ]  # fmt: skip
