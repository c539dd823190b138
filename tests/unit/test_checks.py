"""`tarry check`: each rule against a table of scripts, and any text at all without a traceback.

A line of a script that ends in "#! text" is one that has to be found, for a reason with that text in
it; and no other line is.
"""

import ast
import copy
import os
import tempfile
from pathlib import Path
from textwrap import dedent, indent
from unittest import mock

import pytest
import twisted
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tarry import checks, collection
from tarry.checks import Finding, check

SEED = Path(__file__).parents[1] / "data" / "seed" / "seed.rpy"
HEAD = """\
from twisted.internet import reactor
from twisted.web import server
from twisted.web.resource import Resource
"""


def findings(folder, source):
    """What is wrong with one script, as pairs of line and text."""
    path = folder / "script.rpy"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    scripts, found = check([path])
    assert scripts == [path]
    assert all(str(one).startswith(f"{path}:{one.line}: ") for one in found)
    assert all(len(str(one).splitlines()) == 1 for one in found)
    return [(one.line, str(one).partition(f":{one.line}: ")[2]) for one in found]


def expect(folder, source):
    """Exactly the marked lines are found, for the reasons that they are marked with."""
    found = findings(folder, source)
    marks = [
        (number, mark.strip())
        for number, line in enumerate(source.splitlines(), 1)
        for mark in line.split("#!")[1:]
    ]
    assert [line for line, _ in found] == [line for line, _ in marks], found
    for (_, text), (_, mark) in zip(found, marks, strict=True):
        assert mark in f": {text}"


def resource(body, rest=""):
    """A script whose Resource has this body."""
    body = indent(dedent(body).strip("\n"), "    ")
    return f"{HEAD}{dedent(rest)}\nclass R(Resource):\n{body}\n\nresource = R()\n"


def render(body, rest=""):
    """A script whose render_GET has this body."""
    body = indent(dedent(body).strip("\n"), "    ")
    return resource(f"def render_GET(self, request):\n{body}", rest)


# The scripts that are there already


def test_the_seed_has_two_mistakes():
    scripts, (text, forgets) = check([SEED])
    assert scripts == [SEED]
    assert str(text) == (
        f'{SEED}:7: request.write is given a str: give it bytes, b"…" or "…".encode()'
    )
    assert (forgets.path, forgets.line) == (SEED, 12)
    assert "NOT_DONE_YET" in forgets.problem
    assert "request.notifyFinish()" in forgets.remedy
    assert "cancel the timer" in forgets.remedy


def test_the_seed_as_its_page_has_it_with_no_break_spaces(tmp_path):
    [(line, text)] = findings(tmp_path, SEED.read_text().replace("    ", " \xa0 \xa0"))
    assert line == 6
    assert "syntax error, invalid non-printable character U+00A0" in text


def test_the_collection_has_none():
    scripts, found = check([collection()])
    assert scripts == sorted(collection().glob("*.rpy")) != []
    assert found == []


# Loading


@pytest.mark.parametrize(
    ("source", "line", "text"),
    [
        ("x = 1\nx = = 2\n", 2, "syntax error, invalid syntax: correct it"),
        ("x = 1\nreturn x\n", 2, "'return' outside function"),
        (b"x = 1\n\nx = '\0'\n", 3, "null bytes"),
        (b"x = 1\nx = '\xff'\n", 2, "can't decode byte 0xff"),
        (b"# coding: nonsense\n", 1, "unknown encoding: nonsense"),
        ("x = " + "-" * 100_000 + "1", 1, "syntax error, "),
        ("x = " + "(" * 1000, 1, "nested parentheses"),
        ("", 1, "nothing is assigned to resource: let it end with resource = …"),
        ("resources = 1\n", 1, "nothing is assigned to resource"),
        ("resource = None\n", 1, "resource is no IResource but NoneType"),
        (f"{HEAD}resource = Resource\n", 4, "resource is no IResource but class Resource"),
        (
            f"{HEAD}resource = 1\nresource = ''\ndef f():\n    resource = 1\n",
            5,
            "resource is no IResource but str",
        ),
        ("def f():\n    1 / 0\n\nf()\n", 2, "loading it raises ZeroDivisionError: division by"),
        ("import json\n\njson.loads('')\n", 3, "loading it raises JSONDecodeError: "),
        ("\nimport no_such_module\n", 2, "loading it raises ModuleNotFoundError: "),
        ("raise ValueError\n", 1, "loading it raises ValueError: correct it"),
        ("raise ValueError('two\\nlines')\n", 1, "loading it raises ValueError: two: correct"),
        ("\nraise SystemExit(3)\n", 2, "loading it raises SystemExit: 3"),
        ("def f():\n    f()\nf()\n", 2, "loading it raises RecursionError"),
        ("class E(Exception):\n    __str__ = None\nraise E\n", 3, "loading it raises E: "),
        (
            "class R:\n    def __conform__(self, _):\n        1 / 0\nresource = R()\n",
            3,
            "loading it raises ZeroDivisionError",
        ),
    ],
)
def test_a_script_that_does_not_load(tmp_path, source, line, text):
    [(where, what)] = findings(tmp_path, source)
    assert where == line
    assert text in what


@pytest.mark.parametrize(
    "before",
    [
        "",
        "cache()\nrecache()\nassert registry and __file__",
        "from twisted.application.service import IServiceCollection, Service\n"
        "Service().setServiceParent(registry.getComponent(IServiceCollection))",
        "import warnings\nwarnings.warn('not an error')\nx = '\\d' is ''",
        "# coding: latin-1\nx = '\xff'",
        "\ufeff",
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_script_that_loads(tmp_path, before, newline):
    source = f"{before}\n{HEAD}resource = Resource()\n".replace("\n", newline)
    assert findings(tmp_path, source) == []


def test_what_does_not_parse_is_not_run(tmp_path):
    assert findings(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w')\nx = = 1\n")
    assert not (tmp_path / "ran").exists()


def test_control_c_ends_it_all(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        findings(tmp_path, "raise KeyboardInterrupt")


def test_what_cannot_be_read(tmp_path):
    (tmp_path / "closed.rpy").write_text(SEED.read_text())
    (tmp_path / "dangling.rpy").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.rpy")
    names = ["closed.rpy", "dangling.rpy", "missing.rpy", "pipe.rpy"]
    read_bytes = Path.read_bytes

    def read(path):  # for root no file is closed
        if path.name == "closed.rpy":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    with mock.patch.object(Path, "read_bytes", read):
        scripts, found = check([tmp_path, *(tmp_path / name for name in names)])
    assert scripts == [tmp_path / name for name in names]
    nothing, remedy = "No such file or directory", "put that right, or take it away"
    assert found == [
        Finding(tmp_path / name, 1, f"cannot be read, {why}", remedy)
        for name, why in zip(
            names, ["Permission denied", nothing, nothing, "it is not a file"], strict=True
        )
    ]


def test_a_file_in_a_folder_that_cannot_be_entered():
    path = Path("closed", "x.rpy")
    denied = PermissionError(13, "Permission denied")
    with (
        mock.patch("os.stat", side_effect=denied),
        mock.patch.object(Path, "stat", side_effect=denied),  # has its own in Python 3.10
    ):
        scripts, [found] = check([path])
    assert scripts == [path]
    assert str(found).startswith(f"{path}:1: cannot be read, Permission denied: ")


def test_a_folder_that_cannot_be_read(tmp_path):
    denied = PermissionError(13, "Permission denied", str(tmp_path / "closed"))
    with mock.patch("os.scandir", side_effect=denied):
        scripts, found = check([tmp_path])
    assert scripts == []
    assert [(one.path, one.problem) for one in found] == [
        (tmp_path / "closed", "cannot be read, Permission denied")
    ]


# A str for bytes


@pytest.mark.parametrize(
    "given",
    [
        '"text"',
        'f"{self}"',
        '"a" + self.b',
        'self.a + "b"',
        '"%s" % self',
        '"{}".format(self)',
        '"".join(self)',
        '"-" * 70',
        '"a{}".format(1).strip() + self.b',
        '"a" if self.b else b"c"',
        'self.a or "b"',
        'data="text"',
        "PAGE",
        "PAGE % self",
        "PAGE.format(self)",
        "str(self)",
        "json.dumps(self)",
        "quote(self)",
    ],
)
def test_write_of_a_str(tmp_path, given):
    rest = 'import json\nfrom html import escape as quote\nPAGE = "<p>%s"'
    source = f"request.write({given})  #! request.write is given a str: give it bytes\nreturn b''"
    expect(tmp_path, render(source, rest))


@pytest.mark.parametrize(
    "given",
    [
        'b"text"',
        '"text".encode()',
        'f"{self}".encode("ascii")',
        '("a" + self.b).encode()',
        'b"%s" % "a"',
        'b", ".join(self.all)',
        "PAGE",
        "PAGE % self.a",
        "TEXT.encode()",
        "CHANGED",
        "self.page",
        'self["page"]',
        'self("page")',
        'self.get("a", "b")',
        "bytes(self)",
        "str(self)",
        'self if self == "a" else b"b"',
        "",
        "*self.all",
    ],
)
def test_write_of_bytes_or_who_knows_what(tmp_path, given):
    rest = """
        PAGE, TEXT, CHANGED = b"<p>%s", "<p>", ""
        CHANGED = ""
        def change():
            global CHANGED
            CHANGED = b"<p>"
        def str(thing):
            return b"<p>"
    """
    expect(tmp_path, render(f"request.write({given})\nreturn b''", rest))


@pytest.mark.parametrize(
    "body",
    [
        'page = "a"\nrequest.write(page)  #! a str',
        'page: str = "a"\nrequest.write(page)  #! a str',
        'page = ""\nfor one in self.all:\n    page += one\nrequest.write(page)  #! a str',
        'page = ""\npage = page + self.more\nrequest.write(page)  #! a str',
        'if page := "a":\n    request.write(page)  #! a str',
        'def later():\n    request.write(page)  #! a str\npage = "a"',
        'request.write(  #! a str\n    "a"\n)',
        'request.write("a"); request.write("b")  #! a str',
        'self.request.write("a")  #! self.request.write is given a str',
        'return "a"  #! render_GET returns a str: return bytes',
        'if self.x:\n    return "a"  #! a str\nreturn f"b"  #! a str',
        'page = "a"\nreturn page  #! a str',
        'page = "a"\npage = page.encode()\nrequest.write(page)\nreturn page',
        'page = ""\npage = self.load()\nrequest.write(page)\nreturn page',
        'for page in "a", b"b":\n    request.write(page)',
        'try:\n    page = "a"\nexcept OSError as page:\n    request.write(page)',
        'match self.x:\n    case {"a": page}:\n        request.write(page)\npage = "a"',
        'page = ""\ndef more():\n    nonlocal page\n    page += b""\nrequest.write(page)',
        "a = b\nb = a\nrequest.write(a)",
        'with self.x as page:\n    request.write(page)\npage = "a"',
        'def text():\n    return "a"\nreturn text().encode()',
        'self.file.write("a")\nrequest.setHeader("a", "b")',
        "return",
    ],
)
def test_a_str_by_way_of_names_and_returns(tmp_path, body):
    expect(tmp_path, render(body))


@pytest.mark.parametrize(
    "body",
    [
        'def render_PUT(self, req):\n    req.write("a")  #! req.write is given a str',
        'def render_GET(self, r):\n    def f():\n        r.write("a")  #! r.write is given a str',
        'def later(self, request):\n    request.write("a")  #! request.write is given a str',
        'async def later(self, request):\n    request.write("a")  #! request.write is given',
        'def render(self, request):\n    return "a"  #! render returns a str',
        'def later(self, req):\n    req.write("a")\n    return "a"',
        'def render_GET(self, r):\n    def f(r):\n        r.write("a")',
        'def render_title(self, request, tag):\n    return "for a template"',
        'page = "a"\ndef render_GET(self, request):\n    return page',
    ],
)
def test_what_is_the_request_and_what_renders(tmp_path, body):
    rest = 'class Page:\n    def render(self, name):\n        return f"<p>{name}"'
    expect(tmp_path, resource(body, rest))


# Nobody notices that the client leaves

HELPERS = """
def unused(request):
    request.notifyFinish()
class Job:
    def __init__(self, request):
        self.done = request.notifyFinish()
def indirect(request):
    return Job(request)
def refuse(request):
    request.finish()
    return server.NOT_DONE_YET
"""


@pytest.mark.parametrize(
    "body",
    [
        "reactor.callLater(5, self.later, request)\nreturn server.NOT_DONE_YET  #! notifyFinish",
        "from twisted.web.server import NOT_DONE_YET\nreturn NOT_DONE_YET  #! notifyFinish",
        "from twisted.web.server import NOT_DONE_YET as WAIT\nreturn WAIT  #! notifyFinish",
        "from twisted.web import server as web\nreturn web.NOT_DONE_YET  #! notifyFinish",
        "import twisted.web.server as web\nreturn web.NOT_DONE_YET  #! cancel the timer",
        "import twisted.web.server\nreturn twisted.web.server.NOT_DONE_YET  #! notifyFinish",
        'return server.NOT_DONE_YET if self.x else b""  #! notifyFinish',
        'return b"" if self.x else server.NOT_DONE_YET  #! notifyFinish',
        'if self.x:\n    return server.NOT_DONE_YET  #! client leaves\nreturn b""',
        "def inner():\n    return server.NOT_DONE_YET  #! client leaves\nreturn inner()",
        "if self.x:\n    return refuse(request)\nreturn server.NOT_DONE_YET  #! client leaves",
        "self.unused = Job = self.indirect\nJob()\nreturn server.NOT_DONE_YET  #! client leaves",
        "request.finish\nreturn server.NOT_DONE_YET  #! client leaves",
        "request.notifyFinish().addBoth(self.left)\nreturn server.NOT_DONE_YET",
        "Job(request)\nreturn server.NOT_DONE_YET",
        "indirect(request)\nreturn server.NOT_DONE_YET",
        "reactor.callLater(1, indirect, request)\nreturn server.NOT_DONE_YET",
        "return refuse(request)",
        "request.write(b'')\nrequest.finish()\nreturn server.NOT_DONE_YET",
        "NOT_DONE_YET = b''\nreturn NOT_DONE_YET",
        "return 1",
        "return",
    ],
)
def test_not_done_yet(tmp_path, body):
    expect(tmp_path, render(body, HELPERS))


def test_each_class_notices_for_itself_or_by_its_base(tmp_path):
    rest = """
        class Base(Resource):
            def watch(self, request):
                request.notifyFinish()
        class Child(Base):
            def render_GET(self, request):
                self.watch(request)
                return server.NOT_DONE_YET
        class Other(Resource):
            def later(self, request):
                return server.NOT_DONE_YET  #! client leaves
    """
    expect(tmp_path, render("return b''", rest))


# Calls that block


@pytest.mark.parametrize(
    ("rest", "call", "text"),
    [
        ("import time", "time.sleep(1)", "time.sleep() keeps all other clients waiting: "),
        ("import time as t", "t.sleep(1)", "reactor.callLater, or await deferLater"),
        ("from time import sleep", "sleep(1)", "time.sleep() "),
        ("from time import sleep as nap", "nap(1)", "time.sleep() "),
        (
            "",
            "open('x')",
            ": open() keeps all other clients waiting: run it in a thread, with defer",
        ),
        ("", "input()", "deferToThread"),
        ("import io", "io.open('x')", "deferToThread"),
        ("import os", "os.system('x')", "os.system() keeps all other clients waiting: use reac"),
        ("import os", "os.popen('x')", "reactor.spawnProcess"),
        ("import subprocess as s", "s.run('x')", "subprocess.run() "),
        ("from subprocess import call", "call('x')", "reactor.spawnProcess"),
        ("from subprocess import check_call", "check_call('x')", "reactor.spawnProcess"),
        ("from subprocess import check_output", "check_output('x')", "reactor.spawnProcess"),
        ("from subprocess import getoutput", "getoutput('x')", "reactor.spawnProcess"),
        ("import urllib.request", "urllib.request.urlopen('x')", "deferToThread"),
        ("from urllib.request import urlopen", "urlopen('x')", "urllib.request.urlopen() "),
        ("from urllib import request as u", "u.urlopen('x')", "urllib.request.urlopen() "),
        ("import socket", "socket.create_connection(self)", "deferToThread"),
        ("import sqlite3", "sqlite3.connect('x')", "deferToThread"),
        ("from pathlib import Path", "Path('x').read_text()", ".read_text() "),
        ("", "self.path.write_text('x')", "deferToThread"),
        ("", "self.path.read_bytes()", "deferToThread"),
        ("", "(self.path / 'x').write_bytes(b'')", "deferToThread"),
    ],
)
def test_a_call_that_blocks(tmp_path, rest, call, text):
    body = f"with self.x:\n    return [{call}  #! {text}\n    for one in self.all]"
    expect(tmp_path, render(body, rest))


@pytest.mark.parametrize("name", ["requests.get", "requests.post", "httpx.request", "httpx.stream"])
def test_a_client_that_blocks_and_need_not_be_installed(tmp_path, name):
    expect(tmp_path, render(f"import {name.split('.')[0]}\n{name}('x')  #! {name}() keeps"))


@pytest.mark.parametrize(
    ("body", "in_method", "in_function"),
    [
        ("self.a(request)", "#! time.sleep()", ""),
        ("self.b(request)", "#! time.sleep()", ""),
        ("helper()", "", "#! time.sleep()"),
        ("sleep(1); sleep(2)  #! time.sleep()", "", ""),
        ("if self.x:\n    sleep(1)  #! time.sleep()\nsleep(1)  #! time.sleep()", "", ""),
        ("deferToThread(sleep, 1)", "", ""),
        ("deferToThread(self.a, request)", "", ""),
        ("reactor.callLater(1, helper)", "", ""),
        ("def work():\n    sleep(1)\ndeferToThread(work)", "", ""),
        ("deferToThread(lambda: sleep(1))", "", ""),
        ("sleep = self.sleep\nsleep(1)", "", ""),
        ("open = self.open\nopen('x')", "", ""),
        ("stop(self)", "", ""),
        ("self.open('x')\nself.time.sleep(1)\nrequest.run()\nrequest.a()", "", ""),
    ],
)
def test_where_blocking_counts(tmp_path, body, in_method, in_function):
    rest = f"""
        from time import sleep
        from twisted.internet.threads import deferToThread
        def helper():
            sleep(1)  {in_function}
        def stop(work):
            work.helper()
        def render_GET(self, request):
            sleep(1)
    """
    methods = f"""
    def a(self, request):
        if self.c(): return self.b(request)
    def b(self, request):
        return self.a(request)
    def c(self):
        sleep(1)  {in_method}
    def render_title(self, request, tag):
        sleep(1)
    """
    expect(
        tmp_path,
        resource(
            f"def render_GET(self, request):\n{indent(body, '    ')}\n    return b''\n"
            + dedent(methods),
            rest,
        ),
    )


# Names that Twisted has no longer, or not for long


@pytest.mark.parametrize(
    "body",
    [
        "from twisted.web.resource import NoResource  #! use twisted.web.pages.notFound instead",
        "from twisted.web.resource import NoResource as N  #! was deprecated in Twisted 22.10.0",
        "from twisted.web import resource\nresource.NoResource  #! twisted.web.resource.NoResource",
        "import twisted.web.resource\ntwisted.web.resource.NoResource()  #! was deprecated in",
        "import twisted.web.resource as r\nclass P(r.ErrorPage):  #! twisted.web.pages.errorPage\n"
        "    pass",
        "from twisted.web.http import HTTPClient  #! Use twisted.web.client.Agent instead",
        "from twisted.python import url  #! twisted.python.url was deprecated in Twisted 17.5.0: ",
        "from twisted.python.url import URL  #! Please use hyperlink from PyPI instead",
        "import twisted.python.url  #! twisted.python.url was deprecated",
        "from twisted.internet.defer import returnValue  #! please use standard return",
        "from twisted.web.static import addSlash  #! was deprecated in Twisted 16.0.0: leave it",
        "from twisted.web.client import getPage  #! VERSION has no twisted.web.client.getPage: ",
        "from twisted.web.client import (  #! has no twisted.web.client.getPage\n"
        "    Agent,\n    getPage,\n)",
        "from twisted.web import client\nclient.getPage(b'')  #! has no twisted.web.client.getPage",
        "from twisted.web import woven  #! VERSION has no twisted.web.woven",
        "import twisted.web.woven.page  #! VERSION has no twisted.web.woven: look for",
        "from twisted.web.woven.page import Page  #! VERSION has no twisted.web.woven: look for",
        "request.getClientIP()  #! request.getClientIP was deprecated in Twisted 18.4.0: please",
        "self.request.getClientIP()  #! please use getClientAddress instead",
        "request.getClientAddress()\nrequest.noSuchThing()\nself.getClientIP()",
        "from twisted.internet import reactor\nreactor.callLater(1, print)\nreactor.noSuchThing",
        "import twisted.internet.reactor\ntwisted.internet.reactor.stop",
        "from twisted.web import server, http as h\nserver.Site\nh.OK\nserver.Site.noSuchThing",
        "import twisted\ntwisted.version",
        "from twisted.web import vhost\nimport twisted.web.rewrite",
        "from . import nothing\nfrom .woven import nothing",
        "def f(server):\n    return server.noSuchThing",
        "from twisted.web import server\nserver = self.server\nserver.noSuchThing",
        "import no_such_module\nno_such_module.twisted.web.woven",
    ],
)
def test_names_in_twisted(tmp_path, body):
    """In a function, as loading would meet a missing one first."""
    version = twisted.__version__.rpartition(".")[0]
    expect(tmp_path, render(body.replace("VERSION", f"Twisted {version}")))


def test_a_name_that_is_missing_is_told_once_though_loading_fails_of_it(tmp_path):
    expect(tmp_path, "from twisted.web.client import getPage  #! has no twisted.web.client.getPage")
    expect(
        tmp_path, "from twisted.web import client\nclient.getPage(b'')  #! has no twisted.web.cl"
    )
    expect(tmp_path, "import twisted.web.woven.page  #! has no twisted.web.woven")
    expect(
        tmp_path,
        "from twisted.web.resource import NoResource; 1 / 0  #! loading it raises #! deprecated",
    )


def test_a_notice_ends_with_its_paragraph():
    def old():
        """
        Do it.

        Deprecated in Twisted 1.2.3; use
        L{new} instead.

        @return: nothing
        """

    assert checks.deprecation("old", old) == (
        "old was deprecated in Twisted 1.2.3",
        "use new instead",
    )
    assert checks.deprecation("new", None) is None


def test_import_of_all_there_is(tmp_path):
    later = "def later(self, request):\n    return NOT_DONE_YET  #! client leaves"
    expect(tmp_path, resource(later, "from twisted.web.server import *"))


@pytest.mark.parametrize("error", ["ImportError", "(OSError, ImportError)"])
def test_a_script_may_suit_two_twisteds(tmp_path, error):
    rest = f"""
        try:
            from twisted.web.client import getPage
        except {error}:
            from twisted.web.resource import NoResource
        try:
            server.noSuchThing
        except AttributeError:
            pass
        try:
            from twisted.web.resource import NoResource  #! deprecated
        except ValueError:
            pass
    """
    expect(tmp_path, render("pass", rest))


def test_only_twisted_is_imported_to_look_at_names(tmp_path):
    """And of Twisted not what another package is needed for: that is not missing from Twisted."""
    asked = []

    def importing(name):
        asked.append(name)
        raise ImportError(name)

    checks.verdict.cache_clear()
    with mock.patch.object(checks, "import_module", importing):
        expect(tmp_path, render("import json.decoder, xml.dom\nfrom twisted.web import server"))
    checks.verdict.cache_clear()
    assert asked
    assert all(name.partition(".")[0] == "twisted" for name in asked)


# Files beside scripts


def test_files_beside_scripts(tmp_path):
    site = tmp_path / "site"
    wrong = {
        "helper.py": "move it out of the served folder",
        "sub/deep/helper.py": "move it out of the served folder",
        "sub/UP.RPY": "rename it to UP.rpy",
        "sub/up.Rpy": "rename it to up.rpy",
        "x.rpy~": "move it out of the served folder",
        "#x.rpy#": "move it out of the served folder",
        "x.rpy.bak": "move it out of the served folder",
        "x.rpy.orig": "move it out of the served folder",
        ".x.rpy.swp": "move it out of the served folder",
    }
    right = ["page.html", "sub/data.json", "sub/py", "notes.rpy.md"]
    hidden = [".git/x.rpy", ".git/x.py", "sub/__pycache__/x.py", "sub/.venv/lib/x.rpy~"]
    for name in [*wrong, *right, *hidden]:
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("syntax error")
    for name in ["a.rpy", "sub/deep/b.rpy"]:
        (site / name).write_text(f"{HEAD}resource = Resource()\n")
    scripts, found = check([site])
    assert scripts == [site / "a.rpy", site / "sub/deep/b.rpy"]
    assert [one.path for one in found] == sorted(site / name for name in wrong)
    for one in found:
        assert one.line == 1
        assert one.remedy == wrong[str(one.path.relative_to(site))]
        assert "as source" in one.problem


def test_a_folder_without_scripts_is_nobodys_site(tmp_path):
    (tmp_path / "helper.py").write_text("syntax error")
    assert check([tmp_path]) == ([], [])


def test_a_file_stands_for_itself_and_nothing_is_told_twice(tmp_path):
    (tmp_path / "helper.py").write_text("x = 1\n")
    path = tmp_path / "x.rpy"
    path.write_text("x = = 1\n")
    (tmp_path / "y.rpy").write_text("1 / 0\n")
    scripts, found = check([path, path])
    assert scripts == [path]
    assert [one.path for one in found] == [path]
    scripts, found = check([tmp_path / "y.rpy", tmp_path, path, tmp_path])
    assert scripts == [path, tmp_path / "y.rpy"]
    assert [one.path.name for one in found] == ["helper.py", "x.rpy", "y.rpy"]
    assert found == sorted(found)


def test_nothing_to_check():
    assert check([]) == ([], [])


def test_what_is_nested_too_deeply_is_still_loaded(tmp_path):
    with mock.patch.object(checks, "Source", side_effect=RecursionError):
        found = findings(tmp_path, "1 / 0")
    assert [text.partition(": ")[0] for _, text in found] == [
        "an expression is too deep to be looked through",
        "loading it raises ZeroDivisionError",
    ]


def test_a_finding_is_one_line_whatever_is_in_it():
    finding = Finding(Path("a\nb\udcff.rpy"), 3, "\x1b[31mred\r", "ü\u2028…")
    assert str(finding) == r"a\nb\udcff.rpy:3: \x1b[31mred\r: ü\u2028…"


# Any text at all

WORDS = """
    "a" b"" f"{x}" PAGE import from as try: except ImportError lambda x: nonlocal global request.write(
    = := += % * @ ... [ ] { } for in if else match case with async await yield while class def return
    twisted.web.resource NoResource time sleep open self, request. .finish() render_GET( NOT_DONE_YET
    resource ; : \\ # \0 \xa0 \ud800 1e999 0777 """
WORDS = [*WORDS.split(), *SEED.read_text().split(), *HELPERS.splitlines(True), "\n", "\n    ", "\t"]


def never_loaded(*_):
    return iter(())


def checked(source):
    """check() one script without running it, and have a Finding or none, but no traceback."""
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(checks, "load", never_loaded),
    ):
        return findings(Path(folder), source)


@settings(deadline=None)
@given(st.text() | st.binary())
@example(b"\xff\xfe")
@example("x" + ".x" * 3000)
@example("x = " + "+".join(["x"] * 900))
@example("class C:\n  def render_GET(self, r):\n    r.write(" + "+".join(["x"] * 900) + ")")
@example("class C:\n  def render_GET(self, r):\n    r" + ".a()" * 900 + "\n    r.write('')")
@example("def f():\n" + "".join(f"  x{n} = x{n + 1} + x{n + 1}\n" for n in range(100)) + "  x0")
def test_any_text(source):
    checked(source if isinstance(source, bytes) else source.encode("utf-8", "surrogatepass"))


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_any_words(source):
    checked(source.encode("utf-8", "surrogatepass"))


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_change_to_the_seed(data):
    """Nodes of its tree in each other's places: valid to the parser, or nearly."""
    tree = ast.parse(f"{SEED.read_text()}{HELPERS}")
    for _ in range(data.draw(st.integers(1, 5))):
        expressions = [node for node in ast.walk(tree) if isinstance(node, ast.expr)]
        statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
        node = data.draw(st.sampled_from([*expressions, *statements]))
        other = data.draw(st.sampled_from(expressions if node in expressions else statements))
        node.__class__, node.__dict__ = other.__class__, copy.deepcopy(other.__dict__)
    checked(ast.unparse(tree))
