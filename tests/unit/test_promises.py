"""What every script of the collection promises, whatever it does."""

import ast
import random
import re
import urllib.parse

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from tarry.script_docs import read

from . import conftest
from .conftest import RPY

SCRIPTS = sorted(path.name for path in RPY.glob("*.rpy"))
# Answers without a wait, if it is not asked for one.
AT_ONCE = {"websocket.rpy", "idleclose.rpy", "job.rpy", "ledger.rpy", "steps.rpy", "chat.rpy"}
A_SCORE = {"steps.rpy"}  # parameters are steps, which may come again, and depend on each other
# What it waits for are connections, processes, threads: the attribute by which it gets them.
NOT_IN_VIRTUAL_TIME = {"proxied.rpy": "agent", "subprocess.rpy": "spawn", "threaded.rpy": "pool"}


class Outside:
    """What is not in virtual time: it is asked for something, and nothing ever comes of it."""

    started = True

    def __init__(self):
        self.asked = []

    def __call__(self, *arguments):
        self.asked.append([each for each in arguments if isinstance(each, bytes | list | float)])
        return Deferred()

    request = callInThreadWithCallback = __call__


class Script(conftest.Script):
    def __init__(self, path):
        super().__init__(path)
        self.outside = Outside()
        if path.name in NOT_IN_VIRTUAL_TIME:
            setattr(self.resource, NOT_IN_VIRTUAL_TIME[path.name], self.outside)


def bad_values(parameter):
    """Values that a parameter of this range must refuse."""
    numbers = re.fullmatch(r"(\d+) to (\d+)", parameter.range)
    if numbers:
        low, high = map(int, numbers.groups())
        yield from [
            "x",
            "",
            "nan",
            "inf",
            "-inf",
            "-1",
            "1e2",
            "0x1",
            "1_0",
            " 1",
            "\u0661",
            str(high + 1),
        ]
        yield from ["1" * 400, "9" * 5000, "1\r\nX: y", "%00"]
        if low:
            yield str(low - 1)
        if "." not in parameter.default and parameter.name == "count":
            yield "1.5"
    elif ", " in parameter.range:
        yield from ["x", parameter.range, "<script>"]
    elif parameter.range == "any text":
        yield "a" * 1001
    elif parameter.range in ("one of these", "an outcome", "flag"):
        yield from ["x", "Left", "2", "<script>"]


def of_get(manual):
    """The parameters that GET takes: the meaning of others begins with their method."""
    return [p for p in manual.parameters if not re.match("[A-Z]+: ", p.meaning)]


def every_bad_query():
    for name in SCRIPTS:
        manual = read(RPY / name, name)
        assert manual.parameters, name
        for parameter in manual.parameters:
            for value in bad_values(parameter):
                yield name, f"?{parameter.name}={urllib.parse.quote(value)}", parameter.name
            if name in A_SCORE:
                continue
            good = {"-": "1" if parameter.range == "flag" else "a"}.get(
                parameter.default, parameter.default
            )
            yield name, f"?{parameter.name}={good}&{parameter.name}={good}", parameter.name
        yield name, "?unheard=1", "unheard"
        yield name, "?<b>=1", "<b>"
        yield name, "?unheard", "unheard"


@pytest.mark.parametrize(("name", "query", "word"), list(every_bad_query()))
def test_bad_input_gets_one_plain_line(name, query, word):
    script = Script(RPY / name)
    asked = script.get(query)
    assert (asked.code, asked.done) == (400, True)
    assert asked.header("Content-Type") == "text/plain; charset=utf-8"
    assert asked.header("X-Content-Type-Options") == "nosniff"
    line = asked.body.decode()
    assert line.endswith("\n")
    assert len(line.splitlines()) == 1
    assert line[:-1].isprintable()
    assert len(line) < 200
    assert word in line
    assert "give" in line
    assert script.idle()


ANYTHING = st.text(st.characters(codec="utf-8"), max_size=60).map(urllib.parse.quote_plus)
NEARLY = st.text("delaycountinrvshow=&;%+.0123456789-e", max_size=40)


@given(name=st.sampled_from(SCRIPTS), query=ANYTHING | NEARLY)
@settings(max_examples=200, deadline=None)
def test_any_query_is_answered_or_refused(name, query):
    script = Script(RPY / name)
    asked = script.get(f"?{query}")
    script.advance(0)
    if asked.response is None and asked.failure is None:
        assert not script.idle() or script.outside.asked  # accepted: it waits for its time
    elif asked.response:
        assert asked.code != 500


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_defaults_of_the_manual_are_the_script_s(name):
    """Asked with its defaults spelled out, a script does what it does without a query."""
    if name in AT_ONCE:
        assert Script(RPY / name).get().code in (200, 426)  # 426: not for a plain GET
        return
    manual = read(RPY / name, name)
    spelled = "&".join(f"{p.name}={p.default}" for p in of_get(manual) if p.default != "-")
    calls = []
    for query in ("", f"?{spelled}"):
        random.seed(1)  # for what is drawn afresh
        script = Script(RPY / name)
        script.get(query)
        timers = [round(call.getTime(), 6) for call in script.clock.getDelayedCalls()]
        calls.append(timers + script.outside.asked)
    assert calls[0] == calls[1] != []


@pytest.mark.parametrize("name", sorted({*SCRIPTS} - A_SCORE))
def test_the_limits_of_the_manual_are_allowed(name):
    manual = read(RPY / name, name)
    for parameter in of_get(manual):
        for limit in re.findall(r"\d+", parameter.range):
            script = Script(RPY / name)
            asked = script.get(f"?{parameter.name}={limit}")
            assert asked.response is None or asked.code != 400, (parameter.name, limit, asked.body)


def methods(name):
    """The methods that a script's manual names; what takes GET takes HEAD."""
    return {"HEAD", *(request.split()[0] for request in read(RPY / name, name).requests)}


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(("method", "code"), [("POST", 405), ("PUT", 501), ("BREW", 501)])
def test_other_methods(name, method, code):
    if method in methods(name):
        return
    asked = Script(RPY / name).get(method=method)
    assert asked.code == code
    if code == 405:
        assert set(asked.header("Allow").split(", ")) == methods(name)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_file_stands_alone(name):
    """Nothing but the standard library and what Twisted brings; the last line is the resource."""
    import sys

    tree = ast.parse((RPY / name).read_text())
    for node in ast.walk(tree):
        modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module]
        for module in modules:
            top = module.split(".")[0]
            assert top in sys.stdlib_module_names | {"twisted", "zope"}, module
    assert ast.unparse(tree.body[-1]).startswith("resource = ")


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_manual_has_the_fixed_shape(name):
    manual = read(RPY / name, name)
    assert 0 < len(manual.summary) <= 58  # beside the name it fits a line of 80
    assert manual.summary.endswith(".")
    assert all(f"/{name}" in request for request in manual.requests)
    assert {"Answer", "Errors", "Client leaves"} <= set(manual.sections)
    assert manual.commands[0] in ("twistd -n web --path .", "tarry serve")
    assert any(command.startswith("curl ") for command in manual.commands)
    assert "key" in [parameter.name for parameter in manual.parameters]
    text = (RPY / name).read_text().partition("Parameters:\n\n")[2].partition("\n\n")[0]
    assert len(manual.parameters) == len(text.splitlines()) - 1, "a row has not four columns"
