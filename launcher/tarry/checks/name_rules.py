"""RPY5xx: names that Twisted or Python no longer has, or soon won't."""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import accumulate

from twisted import __version__
from twisted.web import server

from tarry.checks.findings import Problem
from tarry.checks.source import Script

SUCCESSOR = "look for its successor in Twisted's news"
REMOVED = {  # modules that Python once had: the version without them, and what to use
    **dict.fromkeys(("asynchat", "asyncore", "smtpd"), ("3.12", "use Twisted's own protocols")),
    "distutils": ("3.12", "use setuptools, or packaging"),
    "imp": ("3.12", "use importlib"),
    "cgi": ("3.13", "use request.args, urllib.parse.parse_qs or html.escape"),
    "cgitb": ("3.13", "use twisted.logger"),
    "crypt": ("3.13", "use hashlib.scrypt"),
    "imghdr": ("3.13", "use mimetypes"),
    "sndhdr": ("3.13", "use mimetypes"),
    "pipes": ("3.13", "use shlex.quote"),
    "telnetlib": ("3.13", "use twisted.conch.telnet"),
    **dict.fromkeys(("nntplib", "uu", "xdrlib", "nis", "spwd", "audioop", "chunk", "mailcap"),
                    ("3.13", "do without it")),
    "BaseHTTPServer": ("3.0", "use http.server"),
    "ConfigParser": ("3.0", "use configparser"),
    "Cookie": ("3.0", "use http.cookies"),
    "HTMLParser": ("3.0", "use html.parser"),
    "Queue": ("3.0", "use queue"),
    "StringIO": ("3.0", "use io.StringIO or io.BytesIO"),
    "cStringIO": ("3.0", "use io.StringIO or io.BytesIO"),
    "cPickle": ("3.0", "use pickle"),
    "commands": ("3.0", "use subprocess"),
    "httplib": ("3.0", "use http.client"),
    "md5": ("3.0", "use hashlib"),
    "sha": ("3.0", "use hashlib"),
    "thread": ("3.0", "use threading"),
    "urllib2": ("3.0", "use urllib.request"),
    "urlparse": ("3.0", "use urllib.parse"),
}  # fmt: skip
BUILTINS = {  # that Python 2 had
    "basestring": "str", "execfile": "runpy.run_path", "long": "int", "raw_input": "input",
    "reduce": "functools.reduce", "unichr": "chr", "unicode": "str", "xrange": "range",
}  # fmt: skip
OF_DICTS = {"has_key": "in", "iteritems": "items", "iterkeys": "keys", "itervalues": "values"}
NOT_IMPORTED = re.compile(
    r"twisted\.internet\.\w*reactor\b.*"  # to import it is to install it: the program decides
    r"|(antigravity|this|idlelib|turtle\w*|lib2to3|test)\b.*"  # these do something when imported
)


def missing(script: Script, tree: ast.Module) -> Iterator[Problem]:
    """RPY501: a name that the installed Twisted does not have."""
    for node, name in _names(script):
        if name.startswith("twisted.") and verdict(name) == ("", ""):
            version = __version__.rpartition(".")[0]
            yield node, f"Twisted {version} has no {name}", SUCCESSOR


def deprecated(script: Script, tree: ast.Module) -> Iterator[Problem]:
    """RPY502: a name that Twisted deprecates."""
    for node, name in _names(script):
        told = verdict(name) if name.startswith("twisted.") else None
        if told and told != ("", ""):
            yield node, *told
    for node in _nodes(script):
        match node:
            case ast.Call(func=ast.Attribute(value=request, attr=attr)):
                if script.is_request(request):
                    told = deprecation(f"request.{attr}", getattr(server.Request, attr, None))
                    if told:
                        yield node, *told


def standard_library(script: Script, tree: ast.Module) -> Iterator[Problem]:
    """RPY503: a name that Python's standard library does not have, or has no longer."""
    for node, name in _names(script):
        top = name.partition(".")[0]
        if top in REMOVED:
            version, remedy = REMOVED[top]
            if isinstance(node, ast.Import | ast.ImportFrom) and name == top:
                yield node, f"Python {version} and newer have no module {top}", remedy
        elif top in sys.stdlib_module_names and verdict(name) == ("", ""):
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            yield node, f"Python {version} has no {name}", "look for its successor in Python's news"
    for node in _nodes(script):
        match node:
            case ast.Name(ctx=ast.Load(), id=name) if name in BUILTINS:
                if script.binder(node) is None:
                    yield node, f"Python 3 has no {name}", f"use {BUILTINS[name]}"
            case ast.Call(func=ast.Attribute(value=ast.Attribute(value=request, attr="args"))):
                attr = getattr(node.func, "attr", "")
                if attr in OF_DICTS and script.is_request(request):
                    yield node, f"Python 3's dicts have no {attr}", f"use {OF_DICTS[attr]}"


def _nodes(script: Script) -> Iterator[ast.AST]:
    """Yield the script's nodes, except in a `try` that catches the error of a missing name: that
    suits both older and newer versions."""
    expected: set[ast.AST] = set()
    for node in script.nodes:
        if isinstance(node, ast.Try):
            caught = " ".join(ast.unparse(one.type) for one in node.handlers if one.type)
            if re.search(r"\b(Import|ModuleNotFound|Attribute|Name)Error\b", caught):
                expected.update(ast.walk(node))
    return (node for node in script.nodes if node not in expected)


def _names(script: Script) -> Iterator[tuple[ast.AST, str]]:
    """Yield each full name that is imported or used, and where."""
    for node in _nodes(script):
        if isinstance(node, ast.Import | ast.ImportFrom):
            if isinstance(node, ast.ImportFrom) and node.level:
                continue
            module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            full: set[str] = set()
            for alias in node.names:  # of "twisted.web.http": itself, "twisted.web", "twisted"
                full.update(accumulate(f"{module}{alias.name}".split("."), "{}.{}".format))
            yield from ((node, name) for name in sorted(full))
        elif isinstance(node, ast.Attribute):
            name = script.dotted(node)
            if not name.startswith("builtins."):
                yield node, name


@cache
def verdict(name: str) -> tuple[str, str] | None:
    """Return problem and remedy of a deprecated name, ("", "") for one that is missing from its
    module, None for a good one. None also if the module is missing: that is told by itself."""
    module, _, attribute = name.rpartition(".")
    if not module or attribute == "*" or NOT_IMPORTED.fullmatch(name):
        return None
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("ignore")
        try:
            holder = import_module(module)
            if hasattr(holder, "__path__") and find_spec(name):
                import_module(name)
        except Exception:  # or it needs a package that is not here: loading will show
            return None
        warnings.simplefilter("always", DeprecationWarning)
        try:
            for each in ("__name__", attribute):  # Twisted does not warn right after __path__
                found = getattr(holder, each)
        except (AttributeError, ImportError):
            return "", ""
    if not name.startswith("twisted."):
        return None
    return advice(str(heard[0].message)) if heard else deprecation(name, found)


def deprecation(name: str, found: object) -> tuple[str, str] | None:
    """Return problem and remedy if a docstring says, as Twisted's do, that it is deprecated."""
    note = re.search(
        r"^\s*(Deprecated in Twisted \d.*?)(\n\s*\n|\Z)", str(found.__doc__), re.M | re.S
    )
    return advice(f"{name} was d{note[1][1:]}") if note else None


def advice(text: str) -> tuple[str, str]:
    """Return Twisted's own words, as problem and remedy."""
    text = re.sub(r"\b[A-Z]\{(.*?)\}", r"\1", " ".join(text.split())).removesuffix(".")
    problem, remedy = [*re.split("[;:] ", text, maxsplit=1), "leave it out"][:2]
    return problem, remedy
