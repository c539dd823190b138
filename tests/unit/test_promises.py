"""What every script promises, whatever it does: one test per promise, run for each script.

A test tries many inputs, and reports all that went wrong, not only the first.
"""

import ast
import itertools
import random
import re
import sys
import urllib.parse

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from tarry.script_docs import order, read

from . import conftest
from .conftest import RPY

SCRIPTS = sorted(path.name for path in RPY.glob("*.rpy"))
LESSONS = order()["Lessons"]
every_script = pytest.mark.parametrize("name", SCRIPTS)

# These answer without a wait if they are not asked for one.
AT_ONCE = {"websocket.rpy", "idleclose.rpy", "job.rpy", "ledger.rpy", "steps.rpy", "chat.rpy"}
# The parameters of these are steps, which may be repeated and depend on each other.
STEPS = {"steps.rpy"}
# These wait for connections, processes or threads, which they get from the attribute named here.
NOT_IN_VIRTUAL_TIME = {"proxied.rpy": "agent", "subprocess.rpy": "spawn", "threaded.rpy": "pool"}


class Outside:
    """What is not in virtual time: it takes every call, and none of them ever ends."""

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


# Parameters


def bad_values(parameter):
    """Yield values that a parameter with this range must refuse."""
    numbers = re.fullmatch(r"(\d+) to (\d+)", parameter.range)
    if numbers:
        low, high = map(int, numbers.groups())
        yield from ["x", "", "nan", "inf", "-inf", "-1", "1e2", "0x1", "1_0", " 1", "\u0661"]
        yield from [str(high + 1), "1" * 400, "9" * 5000, "1\r\nX: y", "%00"]
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
    """Return the parameters that GET takes: the meaning of others begins with their method."""
    return [p for p in manual.parameters if not re.match("[A-Z]+: ", p.meaning)]


def bad_queries(name):
    """Yield queries that the script must refuse, each with a word that the error must contain."""
    manual = read(RPY / name, name)
    for parameter in manual.parameters:
        for value in bad_values(parameter):
            yield f"?{parameter.name}={urllib.parse.quote(value)}", parameter.name
        if name not in STEPS:
            good = "1" if parameter.range == "flag" else "a"
            good = good if parameter.default == "-" else parameter.default
            yield f"?{parameter.name}={good}&{parameter.name}={good}", parameter.name
    yield "?unheard=1", "unheard"
    yield "?<b>=1", "<b>"
    yield "?unheard", "unheard"


def wrong_with_error(word, code, content_type, body):
    """Return what is wrong with the answer to a bad query; "" if nothing is.

    The promise: 400 with one line that names what is wrong, and says what to give instead.
    """
    line = body.decode()
    facts = {
        "not 400": code == 400,
        "not plain text": content_type == "text/plain; charset=utf-8",
        "not one line": line.endswith("\n") and len(line.splitlines()) == 1,
        "not printable": line[:-1].isprintable(),
        "too long": len(line) < 200,
        f"{word} is not named": word in line,
        "what is allowed is not said": "give " in line,
    }
    return ", ".join(problem for problem, right in facts.items() if not right)


@every_script
def test_bad_input_gets_one_plain_line(name):
    manual, problems = read(RPY / name, name), []
    assert manual.parameters
    for query, word in bad_queries(name):
        script = Script(RPY / name)
        asked = script.get(query)
        if not asked.done:
            problems.append(f"{query[:80]}: not refused")
            continue
        problem = wrong_with_error(word, asked.code, asked.header("Content-Type"), asked.body)
        if asked.header("X-Content-Type-Options") != "nosniff" or not script.idle():
            problem += " without nosniff, or something is left over"
        if problem:
            problems.append(f"{query[:80]}: {problem}: {asked.code} {asked.body[:200]}")
    assert not problems, "\n".join(problems)


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


@every_script
def test_the_defaults_of_the_manual_are_the_script_s(name):
    """A script does the same without a query as with its defaults spelled out."""
    if name in AT_ONCE:
        assert Script(RPY / name).get().code in (200, 426)  # 426: not for a plain GET
        return
    manual = read(RPY / name, name)
    spelled = "&".join(f"{p.name}={p.default}" for p in of_get(manual) if p.default != "-")
    calls = []
    for query in ("", f"?{spelled}"):
        random.seed(1)  # for scripts that draw at random
        script = Script(RPY / name)
        script.get(query)
        timers = [round(call.getTime(), 6) for call in script.clock.getDelayedCalls()]
        calls.append(timers + script.outside.asked)
    assert calls[0] == calls[1] != []


@pytest.mark.parametrize("name", sorted({*SCRIPTS} - STEPS))
def test_the_limits_of_the_manual_are_allowed(name):
    refused = []
    for parameter in of_get(read(RPY / name, name)):
        for limit in re.findall(r"\d+", parameter.range):
            asked = Script(RPY / name).get(f"?{parameter.name}={limit}")
            if asked.response is not None and asked.code == 400:
                refused.append(f"{parameter.name}={limit}: {asked.body}")
    assert not refused, "\n".join(refused)


# Requests


def methods(name):
    """Return the methods that a script's manual names. A script that takes GET takes HEAD."""
    return {"HEAD", *(request.split()[0] for request in read(RPY / name, name).requests)}


@every_script
def test_other_methods_are_refused(name):
    for method, code in {"POST": 405, "PUT": 501, "BREW": 501}.items():
        if method in methods(name):
            continue
        asked = Script(RPY / name).get(method=method)
        assert asked.code == code, method
        if code == 405:
            assert set(asked.header("Allow").split(", ")) == methods(name)


SUB_PATHS = {"chat.rpy"}  # the client adds /v1/chat/completions to the URL it is given
ECHO = "tarry-echo"


@pytest.mark.parametrize("name", sorted({*SCRIPTS} - SUB_PATHS))
def test_what_the_client_sent_is_not_a_download_with_the_client_s_name(name):
    """A script whose body repeats text from the query has nothing below itself.

    Otherwise /x.rpy/setup.bat?key=... is a download from the site with the client's name and bytes.
    """
    manual = read(RPY / name, name)
    shown = [request.split()[1].partition("?")[2] for request in manual.requests]
    shown = ["", *(query for query in shown if not re.search(r"\d{7}", query))]  # no huge bodies
    texts = [p.name for p in of_get(manual) if p.range == "any text"]
    for begin, text in itertools.product(shown, texts):
        pairs = [pair for pair in begin.split("&") if pair and pair.partition("=")[0] != text]
        query = "?" + "&".join([*pairs, f"{text}={ECHO}"])
        script = Script(RPY / name)
        asked = script.get(query)
        for _ in range(30):
            script.advance(1)
        if asked.response and asked.code == 200 and ECHO.encode() in asked.body:
            below = Script(RPY / name).get(query, below="/setup.bat")
            assert (below.code, below.body.count(b"\n")) == (404, 1), query
            assert ECHO.encode() not in below.body


# The file


def tree(name):
    return ast.parse((RPY / name).read_text())


@every_script
def test_a_file_stands_alone(name):
    """It imports the standard library and Twisted; the last line is the resource."""
    for node in ast.walk(tree(name)):
        modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module]
        for module in modules:
            top = module.split(".")[0]
            assert top in sys.stdlib_module_names | {"twisted", "zope"}, module
    assert ast.unparse(tree(name).body[-1]).startswith("resource = ")
    assert (RPY / name).read_text().splitlines()[-1].startswith("resource = ")


@every_script
def test_the_first_screen_has_the_first_class(name):
    """The first class, or the coroutine with the lesson, begins by line 50."""
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    first = next(node for node in tree(name).body if isinstance(node, kinds))
    assert first.lineno <= 50
    assert not isinstance(first, ast.FunctionDef), f"{first.name} is before the lesson"


@every_script
def test_the_class_is_named_after_the_file(name):
    classes = {node.name.lower() for node in tree(name).body if isinstance(node, ast.ClassDef)}
    assert name.removesuffix(".rpy") in classes
    assert f'Logger(namespace="rpy.{name.removesuffix(".rpy")}")' in (RPY / name).read_text()


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_ends_by_line_100(name):
    """Its resource is the lesson, with what stands before it."""
    (resource,) = (
        node for node in tree(name).body
        if isinstance(node, ast.ClassDef) and node.name.lower() == name.removesuffix(".rpy")
    )  # fmt: skip
    assert resource.end_lineno <= 100


@every_script
def test_a_file_is_short(name):
    assert len((RPY / name).read_text().splitlines()) < (200 if name in LESSONS else 301)


@every_script
def test_no_private_attribute_of_another_object_is_used(name):
    """They may change in any version of Twisted, and a script is meant to be copied."""
    private = [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Attribute)
        and re.match("_[a-z]", node.attr)
        and ast.unparse(node.value) not in ("self", "cls")
    ]
    private += [
        f"line {node.lineno}: {alias.name}"
        for node in ast.walk(tree(name))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name.startswith("_") or "._" in node.module
    ]
    assert not private, "\n".join(private)


@every_script
def test_the_manual_has_the_fixed_shape(name):
    manual = read(RPY / name, name)
    assert 0 < len(manual.summary) <= 58  # beside the name it fits a line of 80
    assert manual.summary.endswith(".")
    assert all(f"/{name}" in request for request in manual.requests)
    assert {"Answer", "Errors", "Client leaves"} <= set(manual.sections)
    assert manual.commands[0] in ("twistd -n web --path .", "tarry serve")
    assert any("curl " in command for command in manual.commands)
    assert "key" in [parameter.name for parameter in manual.parameters]
    text = (RPY / name).read_text().partition("Parameters:\n\n")[2].partition("\n\n")[0]
    assert len(manual.parameters) == len(text.splitlines()) - 1, "a row has not four columns"
