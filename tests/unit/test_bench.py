"""scripts/bench without its servers: arithmetic, verdicts, tables, options, load generator."""

import contextlib
import importlib
import io
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console
from twisted.web.resource import Resource
from twisted.web.script import ResourceScript
from twisted.web.static import Registry

ROOT = Path(__file__).parents[2]
DELAYED = (ROOT / "rpy" / "delayed.rpy").read_text()


MODULES = ("bench", "figures", "measuring", "picture", "scenarios", "servers")


@pytest.fixture(scope="module")
def modules():
    """Import the modules as the program itself does."""
    sys.path.insert(0, str(ROOT / "scripts" / "bench.d"))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
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


@pytest.fixture
def scenarios(modules):
    return modules["scenarios"]


@pytest.fixture
def measuring(modules):
    return modules["measuring"]


def runs(server, *found, scenario="open", metric="p99", **more):
    """Return one run a round."""
    return [
        {"round": n, "scenario": scenario, "server": server, metric: value, **more}
        for n, value in enumerate(found, 1)
    ]


def scenario(scenarios, name="open", quick=False):
    return next(each for each in scenarios.scenarios(quick) if each.name == name)


def aim(scenarios, name, metric, against):
    wanted = (name, metric, against)
    return next(a for a in scenarios.AIMS if (a.scenario, a.metric, a.against) == wanted)


# The script that is served


def test_the_served_script_is_150_lines_with_the_page_and_still_runs(servers, figures, tmp_path):
    text = figures.padded(DELAYED, servers.PAGE)
    assert len(text.splitlines()) == 150
    assert len(servers.PAGE) == 53
    assert text.endswith("\nresource = Delayed()\n")
    served = tmp_path / "delayed.rpy"
    served.write_text(text)
    resource = ResourceScript(str(served), Registry())
    assert isinstance(resource, Resource)
    assert resource.render_GET.__func__.__globals__["PAGE"] == servers.PAGE


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


def test_the_comparison_servers_serve_the_same_page(servers):
    for name in ("aiohttp_server.py", "starlette_server.py"):
        source = (ROOT / "scripts" / "bench.d" / name).read_text()
        assert f"PAGE = b{json.dumps(servers.PAGE.decode())}\n" in source


# What the load generator prints


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


def test_a_failure_of_ours_is_an_infinite_ratio(figures):
    assert figures.ratios({1: math.inf}, {1: 10.0}) == [math.inf]


def test_the_ratio_is_the_median_of_ratios_not_the_ratio_of_medians(figures):
    found = runs("tarry", 10, 20, 90) + runs("aiohttp", 20, 100, 100)
    assert figures.ratio(found, "open", "p99", "aiohttp") == 0.5  # of 0.5, 0.2, 0.9


def test_a_round_without_a_figure_is_left_out(figures):
    found = runs("tarry", 10, None, 30) + runs("aiohttp", 20, 20, 20)
    assert figures.ratio(found, "open", "p99", "aiohttp") == 1.0  # of 0.5, 1.5
    assert figures.ratio(found, "open", "p99", "twistd") is None
    assert figures.ratio(found, "open", "max", "aiohttp") is None


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
    ("ours", "said"),
    [(149, "reached"), (150, "reached"), (151, "not reached"), (math.inf, "not r")],
)
def test_a_lateness_aim(scenarios, figures, ours, said):
    found = runs("tarry", ours) + runs("go-httpbin", 100)
    got, verdict = figures.verdict(aim(scenarios, "open", "p99", "go-httpbin"), found)
    assert verdict.startswith(said)
    assert got == ours / 100


@pytest.mark.parametrize(
    ("ours", "said"), [(1999, "not reached"), (2000, "reached"), (2001, "reached")]
)
def test_a_throughput_aim(scenarios, figures, ours, said):
    about = {"scenario": "requests", "metric": "rate"}
    found = runs("tarry", ours, **about) + runs("twistd", 100, **about)
    wanted = aim(scenarios, "requests", "rate", "twistd")
    assert figures.verdict(wanted, found) == (ours / 100, said)


def test_one_scenario_has_aims_about_different_figures(scenarios, figures):
    found = [
        {"round": 1, "scenario": "requests", "server": "tarry", "rate": 50.0, "processor": 90.0},
        {
            "round": 1,
            "scenario": "requests",
            "server": "aiohttp",
            "rate": 100.0,
            "processor": 100.0,
        },
    ]
    wanted = aim(scenarios, "requests", "processor", "aiohttp")
    assert figures.verdict(wanted, found) == (0.9, "reached")  # though the rate is half of it
    found[0]["processor"] = 101.0
    assert figures.verdict(wanted, found) == (1.01, "not reached")


@pytest.mark.parametrize("name", ["status", "closed", "length", "early", "timeout", "starved"])
def test_a_server_that_fails_requests_reaches_nothing(scenarios, figures, name):
    found = runs("tarry", 1, 1, **{name: 2}) + runs("go-httpbin", 100, 100)
    wanted = aim(scenarios, "open", "p99", "go-httpbin")
    assert figures.verdict(wanted, found) == (0.01, "not reached: 4 failed")


def test_what_was_not_measured_has_no_verdict(scenarios, figures):
    wanted = aim(scenarios, "open", "p99", "go-httpbin")
    assert figures.verdict(wanted, []) == (None, "not measured")
    assert figures.verdict(wanted, runs("tarry", 1)) == (None, "not measured")


def test_every_aim_is_about_what_is_measured(scenarios, servers):
    for each in scenarios.AIMS:
        about = scenario(scenarios, each.scenario)
        assert {"tarry", each.against} <= set(about.servers) <= set(servers.LABELS)
        assert each.metric in dict(about.columns)


def test_failures_are_counted_by_kind_over_all_rounds(figures):
    found = runs("tarry", 1, 1, status=2, closed=0) + runs("aiohttp", 1, status=5)
    assert figures.failures(found, "open", "tarry") == {"not 200": 4}


# Whether the generator limits


def test_failures_are_counted_over_all_steps(figures):
    found = [
        *runs("tarry", 1, scenario="growth-lateness", pending=1000, status=2),
        *runs("tarry", 1, scenario="growth-lateness", pending=2000, status=3),
    ]
    assert figures.failures(found, "growth-lateness", "tarry") == {"not 200": 5}


def test_a_busy_generator_and_a_near_limit_are_marked(scenarios, figures, servers):
    found = runs("tarry", 10, cpu=0.1) + runs("aiohttp", 50, cpu=0.85) + runs("ceiling", 6, cpu=1)
    used, near = figures.doubts([scenario(scenarios)], found, servers.LABELS)
    assert "85% of its core at most (open, aiohttp" in used
    assert "the C responder is 1.7 x less late than the best (6.0 p99 ms) !" in near
    found = runs("tarry", 10, cpu=0.1) + runs("ceiling", 1, cpu=1)
    assert " ! " not in figures.doubts([scenario(scenarios)], found, servers.LABELS)[1]


# Tables


def everything(scenarios, value=12345.6, without=()):
    """Return figures as wide as they come, for all that is measured, in two rounds."""
    return [
        {"round": n, "scenario": each.name, "server": server, "closed": 3000, "starved": 12000,
         "cpu": 0.99, **({"pending": step} if step else {}),
         **{name: value + n * 1000 for name, _ in each.columns}}
        for each in scenarios.scenarios(quick=False) for step in each.steps or (0,)
        for server in each.servers if server not in without for n in (1, 2)
    ]  # fmt: skip


def printed(bench, scenarios, found, missing=()):
    console = Console(width=80, file=io.StringIO())
    result = {"runs": found, "options": {"quick": False}, "not measured": dict(missing)}
    bench.report(console, result, scenarios.scenarios(quick=False))
    return console.file.getvalue()


def test_everything_fits_80_columns_and_no_figure_is_cut(bench, scenarios, servers):
    text = printed(bench, scenarios, everything(scenarios))
    assert max(map(len, text.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for label in servers.LABELS.values():
        assert label in text


def test_a_server_that_was_not_measured_says_so_in_every_table(bench, scenarios):
    found = everything(scenarios, without=("go-httpbin",))
    rows = [
        line
        for line in printed(bench, scenarios, found).splitlines()
        if line.startswith("go-httpbin   ")
    ]
    about = [each for each in scenarios.scenarios(quick=False) if "go-httpbin" in each.servers]
    assert len(rows) == len(about)
    assert {" ".join(line.split()) for line in rows} == {"go-httpbin not measured"}


def test_all_that_could_not_be_measured_for_one_reason_is_in_one_line(bench):
    missing = {
        "open, aiohttp": "no answer",
        "go-httpbin": "no binary",
        "memory, aiohttp": "no answer",
    }
    assert bench.unmeasured(missing) == [
        "not measured: open, aiohttp; memory, aiohttp: no answer",
        "not measured: go-httpbin: no binary",
    ]


def test_growth_is_a_row_of_medians_for_each_server_and_of_ratios(scenarios, figures, servers):
    about = scenario(scenarios, "growth-memory")
    found = [
        {"round": n, "scenario": about.name, "server": server, "pending": step, "memory": kilobytes}
        for step in about.steps
        for server, rounds in {"tarry": (4, 6), "aiohttp": (10, 10)}.items()
        for n, kilobytes in enumerate(rounds, 1)
    ]
    console = Console(width=80, file=io.StringIO())
    console.print(figures.scenario_table(about, found, servers.LABELS))
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert lines == [
        ["KB,", "by", "number", "pending", "1,000", "2,000", "4,000", "8,000", "16,000"],
        ["tarry", "serve", *["5.0"] * 5],
        ["aiohttp", *["10.0"] * 5],
        ["go-httpbin", "not", "measured"],
        ["tarry", "/", "aiohttp", *["0.50"] * 5],
    ]


def test_the_picture_has_a_panel_for_each_scenario_and_the_number_pending(
    modules, scenarios, servers, tmp_path
):
    matplotlib = pytest.importorskip("matplotlib")
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text as text
        shown, path = scenarios.scenarios(quick=False), tmp_path / "result.svg"
        found = everything(scenarios, without=("go-httpbin",))
        modules["picture"].picture(path, shown, found, servers.LABELS, "foot")
    drawn = path.read_text()
    for each in shown:
        assert each.title in drawn
    assert "Processor time per request" in drawn
    assert "requests pending" in drawn
    assert ">16,000<" in drawn


def test_json_has_no_infinity(bench):
    value = {"p99": math.inf, "list": [1.5, {"max": -math.inf}, "inf", None]}
    expected = {"p99": None, "list": [1.5, {"max": None}, "inf", None]}
    assert bench.without_infinity(value) == expected


# Which rounds


def test_what_takes_long_is_measured_in_the_first_rounds_only(scenarios):
    def rounds(scenario, server):
        return [number for number in range(1, 6) if scenarios.due(scenario, server, number)]

    assert rounds("open", "tarry") == rounds("requests", "twistd") == [1, 2, 3, 4, 5]
    assert rounds("open", "twistd") == rounds("growth-memory", "tarry") == [1, 2]
    assert rounds("requests", "ceiling") == [1]
    names = {each.name for each in scenarios.scenarios(quick=False)}
    assert {*scenarios.OVERLOADING, *scenarios.GROWTH} < names


def test_growth_is_measured_at_each_step(bench, scenarios, servers):
    known = dict.fromkeys(servers.LABELS, servers.Server())
    known["go-httpbin"] = servers.Server(why="no binary")
    plan = bench.planned([scenario(scenarios, "growth-lateness")], known, rounds=3)
    assert [(number, each.connections, server) for number, each, server in plan] == [
        (number, step, server)
        for number in (1, 2)
        for step in (1000, 2000, 4000, 8000, 16000)
        for server in ("tarry", "aiohttp")
    ]


# What the servers are asked for


@pytest.mark.parametrize("quick", [False, True])
def test_go_httpbin_is_asked_for_the_same_delays_and_as_many_chunks(scenarios, servers, quick):
    peer = servers.go_httpbin(Path("/go-httpbin"))
    for each in scenarios.scenarios(quick):
        ours, theirs = (
            servers.Server().path(each.load or {"delay": 0}),
            peer.path(each.load or {"delay": 0}),
        )
        if each.mode == "streams":
            count, interval = each.load["count"], each.load["interval"]
            assert ours == f"/streamed.rpy?interval={interval:g}&count={count:g}"
            # the last chunk comes at the end of the duration
            assert (
                theirs == f"/drip?delay=0s&duration={interval * (count - 1):g}s&numbytes={count:g}"
            )
        else:
            delay = each.load.get("delay", 0)
            assert (ours, theirs) == (f"/delayed.rpy?delay={delay:g}", f"/delay/{delay:g}s")


def test_only_go_httpbin_may_have_a_page_of_any_length(scenarios, servers, measuring):
    about = scenario(scenarios, "burst-1000")
    ours = measuring.options(about, servers.Server(), 80, seed=1)
    theirs = measuring.options(about, servers.go_httpbin(Path("/go-httpbin")), 80, seed=1)
    assert "length=53" in ours
    assert not [option for option in theirs if option.startswith("length=")]
    assert {"path=/delayed.rpy?delay=3"} == set(ours) - set(theirs) - {"length=53"}


def test_go_httpbin_has_one_processor_and_is_only_started_if_its_binary_is_named(servers):
    assert "--go-httpbin PATH" in servers.go_httpbin(None).why
    peer = servers.go_httpbin(Path("/some/go-httpbin"))
    assert peer.command[:3] == ("/usr/bin/env", "GOMAXPROCS=1", "/some/go-httpbin")
    assert not peer.why


@pytest.mark.parametrize(
    ("log", "complaint"),
    [
        ("error: no such flag: -x\n\nUsage:\n  -host", "error: no such flag: -x"),
        ("Traceback:\n  File x\nOSError: port taken\n", "OSError: port taken"),
        ("starting\nstopped\n\n", "stopped"),
        ("", ""),
    ],
)
def test_what_ended_a_server_is_found_in_its_log(figures, log, complaint):
    assert figures.complaint(log) == complaint


def test_processor_time_is_read_from_proc(measuring):
    before = measuring.processor_ticks(os.getpid())
    while measuring.processor_ticks(os.getpid()) == before:
        pass  # uses processor time until it is seen


# Options


def test_rounds(bench):
    assert bench.arguments([]).rounds == 5
    assert bench.arguments(["--quick"]).rounds == 1
    assert bench.arguments(["--quick", "--rounds", "2"]).rounds == 2


@pytest.mark.parametrize(
    "given",
    [
        ["--rounds", "0"],
        ["--rounds", "x"],
        ["--only", "nothing"],
        ["--go-httpbin", "/nothing/there"],
        ["--go-httpbin", "."],
        ["more"],
    ],
)
def test_wrong_usage_is_refused(bench, given, capsys):
    with pytest.raises(SystemExit, match="2"):
        bench.arguments(given)
    assert "usage: scripts/bench" in capsys.readouterr().err


def test_the_path_of_go_httpbin_is_made_absolute(bench, monkeypatch, tmp_path):
    binary = tmp_path / "go-httpbin"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert bench.arguments(["--go-httpbin", "go-httpbin"]).go_httpbin == binary
    assert bench.arguments([]).go_httpbin is None


def test_help_names_every_scenario_and_how_long_it_takes(bench, scenarios, capsys):
    with pytest.raises(SystemExit, match="0"):
        bench.arguments(["--help"])
    said = capsys.readouterr().out
    for each in scenarios.scenarios(quick=False):
        assert f"  {each.name} " in said
    assert "minutes" in said
    assert max(map(len, said.splitlines())) <= 100


# The load generator


@pytest.fixture(scope="module")
def load(modules, tmp_path_factory):
    if not any(shutil.which(name) for name in ("gcc", "cc", "clang")):
        pytest.skip("there is no C compiler")
    return modules["measuring"].compile_load(tmp_path_factory.mktemp("load"))


def test_without_a_compiler_one_line_says_so(measuring, monkeypatch, tmp_path):
    monkeypatch.setattr(measuring.shutil, "which", lambda name: None)
    with pytest.raises(measuring.UnmeasuredError, match="a C compiler is needed: install gcc"):
        measuring.compile_load(tmp_path)


@pytest.mark.parametrize("option", ["rate", "colour=red", ""])
def test_the_load_generator_refuses_what_it_does_not_know(load, option):
    done = subprocess.run([load, "burst", option], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert f"there is no option {option}" in done.stderr


def generate(load, figures, response, *options):
    """Run the load generator against a server that sends these bytes to its one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            peer, _ = listening.accept()
            with peer:
                received = b""
                while not received.endswith(b"\r\n\r\n"):
                    received += peer.recv(4096)
                peer.sendall(response)
                with contextlib.suppress(ConnectionResetError):
                    peer.recv(1)  # returns when the generator closes the connection

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        port = listening.getsockname()[1]
        command = [load, *options, f"port={port}", "path=/"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        serving.join(30)
    return figures.parse_output(done.stdout)


LINES = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab\nc\n\r\n2\r\nd\n\r\n0\r\n\r\n"
)
BYTES = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n***"


@pytest.mark.parametrize(
    ("response", "chunk", "count", "failed"),
    [
        (LINES, 0, 3, 0),
        (LINES, 0, 2, 1),
        (LINES, 0, 4, 1),
        (BYTES, 1, 3, 0),
        (BYTES, 1, 2, 1),
        (BYTES, 1, 4, 1),
        (BYTES, 0, 3, 1),
    ],
)
def test_a_chunk_of_a_stream_is_a_line_or_a_number_of_bytes(
    load, figures, response, chunk, count, failed
):
    found = generate(load, figures, response, "streams", f"count={count}", f"chunk={chunk}")
    assert (found["failed"], found["length"]) == (failed, failed)
    assert found["completed"] == found["answered"] == 1 - failed


@pytest.mark.parametrize(("length", "failed"), [(0, 0), (3, 0), (4, 1)])
def test_a_body_has_a_given_length_or_any(load, figures, length, failed):
    found = generate(load, figures, BYTES, "burst", f"length={length}")
    assert (found["completed"], found["length"]) == (1 - failed, failed)
