"""jittered.rpy in virtual time, and what it draws."""

import json
import math
import os
import subprocess
import sys

import pytest

from .conftest import RPY

SCRIPT = "jittered.rpy"

# The first draws of seed 7, on every machine and in every version: people's tests depend on them.
DRAWN = {
    "uniform": [1.327438, 0.607596, 0.895485],
    "normal": [1.472044, 0.380293, 0.867475],
    "lognormal": [1.414879, 0.474873, 0.772962],
    "exponential": [1.756997, 0.113836, 0.503329],
}

# The share of draws below x for a mean of 2 and a spread of 0.5, not by the formulas of the script.
SHARES = {
    "uniform": lambda x: x - 1.5,
    "normal": lambda x: math.erfc((2 - x) / 0.5 / math.sqrt(2)) / 2,
    "lognormal": lambda x: math.erfc((math.log(2 / x) - 0.125) / 0.5 / math.sqrt(2)) / 2,
    "exponential": lambda x: 1 - math.exp(-x / 2),
}


def told(asked):
    asked.script.advance(60)
    return asked.json()


def test_it_waits_as_long_as_it_has_drawn(script):
    asked = script.get("?key=a&seed=7")
    script.advance(1.327)
    assert asked.response is None
    script.advance(0.000438)
    assert asked.json() == {
        "key": "a", "seed": 7, "n": 1, "distribution": "uniform",
        "drawn": 1.327438, "wait": 1.327438, "waited": 1.327438,
    }  # fmt: skip
    assert asked.header("Server-Timing") == "wait;dur=1327.438"
    assert script.idle()


@pytest.mark.parametrize("name", DRAWN)
def test_a_seed_has_the_same_draws_on_every_machine(script, name):
    query = f"?distribution={name}&seed=7"
    assert [told(script.get(query))["drawn"] for _ in range(3)] == DRAWN[name]
    assert told(script.get(f"{query}&key=other&n=3"))["drawn"] == DRAWN[name][2]


def test_a_seed_has_the_same_draws_in_every_process():
    code = """import sys
from twisted.web.script import ResourceScript
from twisted.web.static import Registry
known = type(ResourceScript(sys.argv[1], Registry())).render_GET.__globals__
for name, quantile in known["QUANTILES"].items():
    _, median, spread = known["parse_distribution"]({"distribution": name})
    draws = [quantile(known["uniform"](7, n), median, spread) for n in (1, 2, 3)]
    print([round(each, 6) for each in draws])
"""
    command = [sys.executable, "-c", code, str(RPY / SCRIPT)]
    env = {**os.environ, "PYTHONHASHSEED": "12345"}
    lines = subprocess.run(command, env=env, capture_output=True, check=True).stdout.splitlines()
    assert list(map(json.loads, lines)) == list(DRAWN.values())


@pytest.mark.parametrize("name", DRAWN)
def test_the_draws_have_the_distribution_wanted(script, name):
    """A Kolmogorov-Smirnov test at the 1 % level. The seed is fixed, so the result is too."""
    uniform, quantile = script.globals["uniform"], script.globals["QUANTILES"][name]
    params = {"distribution": name, "mean": "2", "spread": "0.5"}
    _, median, spread = script.globals["parse_distribution"](params)
    draws = sorted(quantile(uniform(1, n), median, spread) for n in range(1, 2001))
    off = max(
        max((n + 1) / 2000 - SHARES[name](x), SHARES[name](x) - n / 2000)
        for n, x in enumerate(draws)
    )
    assert off < 1.63 / math.sqrt(2000)
    assert math.isclose(SHARES[name](median), 0.5)


def test_requests_are_numbered_by_key_when_they_arrive(script):
    asked = [script.get(f"?seed=7&key={key}") for key in "aba"]
    assert [told(each)["n"] for each in asked] == [1, 1, 2]
    assert told(script.get("?seed=8&key=a&n=9"))["n"] == 9
    assert told(script.get("?seed=8&key=a"))["n"] == 3
    assert script.get("?key=a", "DELETE").json() == {"key": "a", "forgotten": 3}
    assert script.get("?key=a", "DELETE").json() == {"key": "a", "forgotten": 0}
    assert told(script.get("?seed=7&key=a"))["n"] == 1
    assert script.get("?n=1", "DELETE").code == 400


def test_without_a_seed_one_is_drawn_and_returned(script):
    first = [told(script.get("?key=a")) for _ in range(3)]
    assert len({each["seed"] for each in first}) == 1
    again = [told(script.get(f"?key=b&seed={first[0]['seed']}")) for _ in range(3)]
    assert [each["drawn"] for each in again] == [each["drawn"] for each in first]
    assert told(script.get("?key=c"))["seed"] != first[0]["seed"]
    script.get("?key=a", "DELETE")
    assert told(script.get("?key=a"))["seed"] != first[0]["seed"]


def test_waits_are_cut_and_the_draw_is_returned(script):
    above, below = script.get("?seed=7&n=1&most=1"), script.get("?seed=7&n=2&mean=0&spread=1")
    script.advance(0)
    assert below.json()["drawn"] < 0
    assert (below.json()["wait"], below.json()["waited"]) == (0, 0)
    script.advance(1)
    assert (above.json()["drawn"], above.json()["wait"], above.json()["waited"]) == (1.327438, 1, 1)


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("?mean=1&median=1", "mean and median"),
        ("?distribution=lognormal&spread=11", "spread '11'"),
        ("?distribution=pareto", "distribution 'pareto'"),
    ],
)
def test_a_refused_request_takes_no_number(script, query, word):
    asked = script.get(query)
    assert asked.code == 400
    assert word in asked.body.decode()
    assert "give" in asked.body.decode()
    assert told(script.get())["n"] == 1


def test_uniform_numbers_are_between_0_and_1_but_neither(script):
    assert script.globals["uniform"](7, 1) * 2**49 % 2 == 1  # in the middle of its 2**-48


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("u", [0.5 / 2**48, 1 - 0.5 / 2**48])
def test_no_draw_is_infinite(script, monkeypatch, name, u):
    monkeypatch.setitem(type(script.resource).wait.__globals__, "uniform", lambda seed, n: u)
    for query in (f"median=3600&spread={3600 if name in ('uniform', 'normal') else 10}", "mean=0"):
        asked = told(script.get(f"?distribution={name}&{query}"))
        assert math.isfinite(asked["drawn"])
        assert 0 <= asked["wait"] <= 60


def test_a_disconnect_leaves_nothing_behind(script, logged):
    script.get("?key=a").leave()
    assert script.idle()
    assert "the client disconnected" in logged()
    assert told(script.get("?key=a"))["n"] == 2


def test_keys_are_bounded(script):
    script.resource.draws.limit = 3
    for key in "abcd":
        told(script.get(f"?key={key}"))
    assert list(script.resource.draws.states) == ["b", "c", "d"]


@pytest.mark.parametrize(("query", "spread"), [
    ("mean=0.2", 0.1), ("median=3", 1.5), ("mean=0", 0), ("", 0.5),
    ("distribution=lognormal&mean=0.2", 0.5), ("mean=0.00001", 0.000005),
])  # fmt: skip
def test_the_default_spread_fits_the_mean(script, query, spread):
    spelled = script.get(f"?seed=7&n=3&{query}&spread={spread:f}")
    left_out = script.get(f"?seed=7&n=3&{query}")
    script.advance(60)
    assert left_out.json()["drawn"] == spelled.json()["drawn"] >= 0


def test_below_itself_it_has_no_page(script):
    asked = script.get("/setup.bat?key=a")
    assert (asked.code, asked.body) == (404, b"no such page: request jittered.rpy itself\n")
