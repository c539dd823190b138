"""scripts/bench, what needs no servers: arithmetic, verdicts, parsing, and the script it serves."""

import importlib
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from twisted.web.resource import Resource
from twisted.web.script import ResourceScript
from twisted.web.static import Registry

ROOT = Path(__file__).parents[2]
DELAYED = (ROOT / "rpy" / "delayed.rpy").read_text()


@pytest.fixture(scope="module")
def modules():
    """bench, figures and servers, imported as the program itself imports them."""
    sys.path.insert(0, str(ROOT / "scripts" / "bench.d"))
    try:
        yield {name: importlib.import_module(name) for name in ("bench", "figures", "servers")}
    finally:
        sys.path.remove(str(ROOT / "scripts" / "bench.d"))


@pytest.fixture
def bench(modules):
    return modules["bench"]


@pytest.fixture
def figures(modules):
    return modules["figures"]


@pytest.fixture
def servers(modules):
    return modules["servers"]


def runs(server, *found, scenario="open", metric="p99", **more):
    """One run a round."""
    return [
        {"round": n, "scenario": scenario, "server": server, metric: value, **more}
        for n, value in enumerate(found, 1)
    ]


def scenario(bench, name="open"):
    return next(each for each in bench.scenarios(quick=False) if each.name == name)


def aim(figures, name, against):
    return next(a for a in figures.AIMS if (a.scenario, a.against) == (name, against))


# The script that is served


def test_the_served_script_is_150_lines_with_the_page_and_still_runs(bench, figures, tmp_path):
    text = figures.padded(DELAYED, bench.PAGE)
    assert len(text.splitlines()) == 150
    assert len(bench.PAGE) == 53
    assert text.endswith("\nresource = Delayed()\n")
    served = tmp_path / "delayed.rpy"
    served.write_text(text)
    resource = ResourceScript(str(served), Registry())
    assert isinstance(resource, Resource)
    assert resource.render_GET.__func__.__globals__["PAGE"] == bench.PAGE


def test_padding_adds_comments_and_replaces_the_page_and_nothing_else(figures):
    kept = [
        line
        for line in figures.padded(DELAYED, b"x").splitlines()
        if line != "# one more line, for a script of common length"
    ]
    page = re.search(r'^PAGE = b""".*?"""\n', DELAYED, re.DOTALL | re.MULTILINE)[0]
    assert kept == DELAYED.replace(page, "PAGE = b'x'\n").splitlines()


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("resource = 1\n", "no PAGE"),
        ('PAGE = b"""x"""\n', "no line that begins with: resource"),
        ('PAGE = b"""x"""\n' + "#\n" * 150 + "resource = 1\n", "152 lines, more than 150"),
    ],
)
def test_a_script_that_cannot_be_padded_is_refused(figures, script, complaint):
    with pytest.raises(ValueError, match=complaint):
        figures.padded(script, b"x")


def test_the_comparison_servers_serve_the_same_page(bench):
    for name in ("aiohttp_server.py", "starlette_server.py"):
        source = (ROOT / "scripts" / "bench.d" / name).read_text()
        assert f"PAGE = b{json.dumps(bench.PAGE.decode())}\n" in source


# What the load generator says


def test_output_is_parsed(figures):
    line = "sent=100 failed=0 rate=4211.5 p50=0.513 p99=inf max=nan cpu=0.453\n"
    assert figures.parse_output(line) == {
        "sent": 100,
        "failed": 0,
        "rate": 4211.5,
        "p50": 0.513,
        "p99": math.inf,
        "max": None,
        "cpu": 0.453,
    }


def test_what_is_no_output_is_no_figure(figures):
    assert figures.parse_output("") == {}


# Arithmetic


def test_ratios_are_taken_within_a_round(figures):
    assert figures.ratios({1: 10.0, 2: 30.0, 3: 5.0}, {2: 10.0, 1: 20.0, 4: 1.0}) == [0.5, 3.0]


@pytest.mark.parametrize("theirs", [0.0, -1.0, math.inf])
def test_a_ratio_to_no_proper_number_is_none(figures, theirs):
    assert figures.ratios({1: 10.0}, {1: theirs}) == []


def test_our_failure_is_no_good_ratio(figures):
    assert figures.ratios({1: math.inf}, {1: 10.0}) == [math.inf]


def test_the_ratio_is_the_median_of_ratios_not_the_ratio_of_medians(bench, figures):
    found = runs("tarry", 10, 20, 90) + runs("aiohttp", 20, 100, 100)
    assert figures.ratio(found, scenario(bench), "aiohttp") == 0.5  # of 0.5, 0.2, 0.9


def test_a_round_without_a_figure_is_left_out(bench, figures):
    found = runs("tarry", 10, None, 30) + runs("aiohttp", 20, 20, 20)
    assert figures.ratio(found, scenario(bench), "aiohttp") == 1.0  # of 0.5, 1.5
    assert figures.ratio(found, scenario(bench), "twistd") is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(23456.7, "23,457"), (99.6, "100"), (4.321, "4.3"), (0.054, "0.05"), (-0.2, "-0.20"),
     (math.inf, "never"), (None, "\N{EN DASH}")],
)  # fmt: skip
def test_figures_are_short(figures, value, text):
    assert figures.figure(value) == text


def test_spread(figures):
    assert figures.spread([300, 100, 200]) == "200 (100\N{EN DASH}300)"
    assert figures.spread([5.0]) == "5.0"
    assert figures.spread([]) == "\N{EN DASH}"


# Verdicts


@pytest.mark.parametrize(
    ("ours", "said"), [(19, "reached"), (20, "reached"), (21, "not reached"), (math.inf, "not r")]
)
def test_a_lateness_aim(bench, figures, ours, said):
    found = runs("tarry", ours) + runs("aiohttp", 100)
    got, verdict = figures.verdict(aim(figures, "open", "aiohttp"), scenario(bench), found)
    assert verdict.startswith(said)
    assert got == ours / 100


@pytest.mark.parametrize(
    ("ours", "httptools", "bound", "said"),
    [(79, 0, 0.8, "not reached"), (80, 0, 0.8, "reached"),
     (99, 1, 1.0, "not reached"), (100, 1, 1.0, "reached")],
)  # fmt: skip
def test_a_throughput_aim_whose_bound_depends_on_the_parser(
    bench, figures, ours, httptools, bound, said
):
    about = {"scenario": "requests", "metric": "rate"}
    found = runs("tarry", ours, httptools=httptools, **about) + runs("aiohttp", 100, **about)
    wanted = aim(figures, "requests", "aiohttp")
    assert figures.bound(wanted, found) == bound
    assert figures.verdict(wanted, scenario(bench, "requests"), found)[1] == said


@pytest.mark.parametrize("name", ["status", "closed", "length", "early", "timeout", "starved"])
def test_who_fails_requests_reaches_nothing(bench, figures, name):
    found = runs("tarry", 1, 1, **{name: 2}) + runs("aiohttp", 100, 100)
    wanted = aim(figures, "open", "aiohttp")
    assert figures.verdict(wanted, scenario(bench), found) == (0.01, "not reached: 4 failed")


def test_what_was_not_measured_has_no_verdict(bench, figures):
    wanted = aim(figures, "open", "aiohttp")
    assert figures.verdict(wanted, scenario(bench), []) == (None, "not measured")
    assert figures.verdict(wanted, scenario(bench), runs("tarry", 1)) == (None, "not measured")


def test_every_aim_is_about_what_is_measured(bench, figures, servers):
    for each in figures.AIMS:
        measured = scenario(bench, each.scenario).servers
        assert {"tarry", each.against} <= set(measured) <= set(servers.LABELS)


def test_failures_are_counted_by_kind_over_all_rounds(figures):
    found = runs("tarry", 1, 1, status=2, closed=0) + runs("aiohttp", 1, status=5)
    assert figures.failures(found, "open", "tarry") == {"not 200": 4}


# Whether the generator limits


def test_a_busy_generator_and_a_near_limit_are_marked(bench, figures, servers):
    found = runs("tarry", 10, cpu=0.1) + runs("aiohttp", 50, cpu=0.85) + runs("ceiling", 6, cpu=1)
    used, near = figures.doubts([scenario(bench)], found, servers.LABELS)
    assert "85% of its core at most (open, aiohttp" in used
    assert "the C responder is 1.7 x less late than the best (6.0 p99 ms) !" in near
    found = runs("tarry", 10, cpu=0.1) + runs("ceiling", 1, cpu=1)
    assert " ! " not in figures.doubts([scenario(bench)], found, servers.LABELS)[1]


# Tables


def everything(bench, value=12345.6):
    """Figures as wide as they come, for all that is measured, in two rounds."""
    return [
        {"round": n, "scenario": each.name, "server": server, "closed": 3000, "starved": 12000,
         "cpu": 0.99, **{name: value + n * 1000 for name, _ in each.columns}}
        for each in bench.scenarios(quick=False) for server in each.servers for n in (1, 2)
    ]  # fmt: skip


def test_everything_fits_80_columns_and_no_figure_is_cut(bench, figures, servers):
    console = Console(width=80, file=io.StringIO())
    result = {"runs": everything(bench), "options": {"quick": False}, "not measured": {}}
    bench.report(console, result, bench.scenarios(quick=False))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for label in servers.LABELS.values():
        assert label in text


def test_json_has_no_infinity(bench):
    value = {"p99": math.inf, "list": [1.5, {"max": -math.inf}, "inf", None]}
    expected = {"p99": None, "list": [1.5, {"max": None}, "inf", None]}
    assert bench.without_infinity(value) == expected


# Which rounds


def test_most_are_measured_in_every_round_and_who_takes_long_in_the_first(bench):
    def rounds(scenario, server):
        return [number for number in range(1, 6) if bench.due(scenario, server, number)]

    assert rounds("open", "tarry") == rounds("requests", "twistd") == [1, 2, 3, 4, 5]
    assert rounds("open", "twistd") == [1, 2]
    assert rounds("requests", "ceiling") == [1]
    assert set(bench.OVERLOADING) < {each.name for each in bench.scenarios(quick=False)}


# Options


def test_rounds(bench):
    assert bench.arguments([]).rounds == 5
    assert bench.arguments(["--quick"]).rounds == 1
    assert bench.arguments(["--quick", "--rounds", "2"]).rounds == 2


@pytest.mark.parametrize(
    "given", [["--rounds", "0"], ["--rounds", "x"], ["--only", "nothing"], ["more"]]
)
def test_wrong_usage_is_refused(bench, given, capsys):
    with pytest.raises(SystemExit, match="2"):
        bench.arguments(given)
    assert "usage: scripts/bench" in capsys.readouterr().err


def test_help_names_every_scenario_and_how_long_it_takes(bench, capsys):
    with pytest.raises(SystemExit, match="0"):
        bench.arguments(["--help"])
    said = capsys.readouterr().out
    for each in bench.scenarios(quick=False):
        assert f"  {each.name} " in said
    assert "minutes" in said
    assert max(map(len, said.splitlines())) <= 100


def test_without_a_compiler_one_line_says_so(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench.shutil, "which", lambda name: None)
    with pytest.raises(bench.UnmeasuredError, match="a C compiler is needed: install gcc"):
        bench.compile_load(tmp_path)


@pytest.mark.parametrize("option", ["rate", "colour=red", ""])
def test_the_load_generator_refuses_what_it_does_not_know(bench, tmp_path, option):
    if not any(bench.shutil.which(name) for name in ("gcc", "cc", "clang")):
        pytest.skip("there is no C compiler")
    load = bench.compile_load(tmp_path)
    done = subprocess.run([load, "burst", option], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert f"there is no option {option}" in done.stderr
