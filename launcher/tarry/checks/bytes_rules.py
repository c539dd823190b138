"""RPY1xx: a str where Twisted takes or gives bytes."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tarry.checks.findings import Problem
from tarry.checks.source import Script, own

BYTES = 'bytes, b"…" or "…".encode()'
TEXT_METHODS = {"format", "format_map", "join", "lower", "replace", "strip", "title", "upper"}
TEXT_MAKERS = {"builtins.str", "builtins.repr", "json.dumps", "html.escape"}
ATTRIBUTES = {"method", "uri", "path", "clientproto"}  # of a request, all bytes
TAKES_BYTES = {  # the position of the argument, and its name
    "putChild": (0, "path"),
    "setResponseCode": (1, "message"),
    "getCookie": (0, "key"),
}


def is_text(script: Script, node: ast.AST | None, names: bool = True) -> bool:
    """Whether an expression is written as a str, in one branch at least. A name is one if all it
    is given is written as a str; what is added to it later does not change that."""
    match node:
        case ast.Constant(value=str()) | ast.JoinedStr():
            return True
        case ast.BinOp(op=ast.Add() | ast.Mult()):
            return is_text(script, node.left, names) or is_text(script, node.right, names)
        case ast.BinOp(op=ast.Mod()):
            return is_text(script, node.left, names)
        case ast.IfExp():
            return is_text(script, node.body, names) or is_text(script, node.orelse, names)
        case ast.BoolOp():
            return any(is_text(script, one, names) for one in node.values)
        case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in TEXT_METHODS:
            return is_text(script, value, names)
        case ast.Call():
            return script.dotted(node.func) in TEXT_MAKERS
        case ast.Name() if names:
            given = [one for one in script.bindings(node) if not _grows(one, node.id)]
            return bool(given) and all(
                isinstance(one, ast.expr) and is_text(script, one, names=False) for one in given
            )
    return False


def _grows(given: object, name: str) -> bool:
    """Whether this is `name += …` or `name = name + …`."""
    match given:
        case ast.AugAssign():
            return True
        case ast.BinOp(op=ast.Add(), left=ast.Name(id=left)):
            return left == name
    return False


def is_bytes(script: Script, node: ast.AST | None) -> bool:
    """Whether an expression is a part of the request that is bytes."""
    match script.meaning(node):
        case ast.Attribute(value=request, attr=attr) if attr in ATTRIBUTES:
            return script.is_request(request)
        case ast.Subscript(value=ast.Attribute(value=request, attr="postpath" | "prepath")):
            return script.is_request(request)
        case ast.Subscript(value=ast.Subscript(value=values)):
            return _is_args(script, values)
        case ast.Subscript(value=ast.Call(func=ast.Attribute(value=values, attr="get"))):
            return _is_args(script, values)
        case ast.Call(func=ast.Attribute(value=ast.Attribute(value=request, attr="content"))):
            return script.is_request(request)
    return False


def _is_args(script: Script, node: ast.AST | None) -> bool:
    match script.meaning(node):
        case ast.Attribute(value=request, attr="args"):
            return script.is_request(request)
    return False


def _holds_bytes(script: Script, node: ast.AST | None) -> bool:
    """Whether `"x" in node` looks for a str among bytes."""
    match script.meaning(node):
        case ast.Attribute(value=request, attr="postpath" | "prepath"):
            return script.is_request(request)
        case ast.Subscript(value=values) if _is_args(script, values):
            return True
    return _is_args(script, node) or is_bytes(script, node)


def response(script: Script, node: ast.AST) -> Iterator[Problem]:
    """RPY101: the response is a str. It fails in a timer, after the headers were sent."""
    if isinstance(node, ast.Call):
        match node:
            case ast.Call(func=ast.Attribute(value=request, attr="write")):
                given = [*node.args, *(keyword.value for keyword in node.keywords)]
                if script.is_request(request) and given and is_text(script, given[0]):
                    what = ast.unparse(node.func)
                    yield node, f"{what} is given a str", f"give it {BYTES}"
    elif script.is_render(node) and not node.decorator_list:
        for part in own(node):
            if isinstance(part, ast.Return) and is_text(script, part.value):
                yield part, f"{node.name} returns a str", f"return {BYTES}"


def argument(script: Script, call: ast.Call) -> Iterator[Problem]:
    """RPY102: a str is passed where Twisted takes bytes."""
    name = script.dotted(call.func)
    if name == "twisted.web.static.Data":
        position, keyword, name = 0, "data", "Data"
    elif isinstance(call.func, ast.Attribute) and call.func.attr in TAKES_BYTES:
        name = call.func.attr
        position, keyword = TAKES_BYTES[name]
        if name != "putChild" and not script.is_request(call.func.value):
            return
    else:
        return
    given = [each.value for each in call.keywords if each.arg == keyword]
    if any(is_text(script, one) for one in [*call.args[position : position + 1], *given]):
        yield call, f"{name} is given a str for {keyword}", f"give it {BYTES}"


def comparison(script: Script, node: ast.AST) -> Iterator[Problem]:
    """RPY103: a str is looked for in what the request has as bytes, and is never found."""
    found: ast.AST | None = None
    match node:
        case ast.Subscript(value=value, slice=key) if is_text(script, key):
            found = value if _is_args(script, value) else None
        case ast.Call(func=ast.Attribute(value=value, attr="get" | "pop" | "setdefault")) if (
            _is_args(script, value)
        ):
            found = value if node.args and is_text(script, node.args[0]) else None
        case ast.Call(func=ast.Attribute(value=value, attr=attr)) if is_bytes(script, value):
            given = attr not in ("decode", "hex") and any(is_text(script, x) for x in node.args)
            found = value if given else None
        case ast.Compare():
            found = _compared(script, node)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            for one, other in ((left, right), (right, left)):
                if is_bytes(script, one) and is_text(script, other):
                    found = one
        case ast.Match(subject=subject, cases=cases) if is_bytes(script, subject):
            for case in cases:
                for part in ast.walk(case.pattern):
                    if isinstance(part, ast.MatchValue) and is_text(script, part.value):
                        what = ast.unparse(subject)
                        yield part, f"{what} is bytes, which no str is equal to", f"match {BYTES}"
    if found is not None:
        yield node, f"{ast.unparse(found)} has bytes, and this is a str", f"use {BYTES}"


def _compared(script: Script, node: ast.Compare) -> ast.AST | None:
    """Return what the request has, if it is compared with a str."""
    left = node.left
    for operator, right in zip(node.ops, node.comparators, strict=True):
        if isinstance(operator, ast.In | ast.NotIn):
            if is_text(script, left) and _holds_bytes(script, right):
                return right
            several = script.meaning(right)
            if is_bytes(script, left) and isinstance(several, ast.Tuple | ast.List | ast.Set):
                if any(is_text(script, one) for one in several.elts):
                    return left
            elif is_bytes(script, left) and is_text(script, right):
                return left
        else:
            for one, other in ((left, right), (right, left)):
                if is_bytes(script, one) and is_text(script, other):
                    return one
        left = right
    return None
