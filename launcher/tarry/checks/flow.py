"""Paths through a function: whether its end can be reached, and what every path does."""

from __future__ import annotations

import ast
from collections.abc import Callable

from tarry.checks.source import Function, Scoped, Script

TRY = (ast.Try, getattr(ast, "TryStar", ast.Try))  # Python 3.10 has no "except*"


def reaches_end(block: list[ast.stmt]) -> bool:
    """Whether control can reach the end of a block."""
    return all(passes(statement) for statement in block)


def passes(statement: ast.stmt) -> bool:
    """Whether control can go on after a statement. In doubt it can't, except after loops."""
    match statement:
        case ast.Return() | ast.Raise() | ast.Break() | ast.Continue():
            return False
        case ast.If(test=test, body=body, orelse=orelse):
            if isinstance(test, ast.Constant) and test.value is True:
                return reaches_end(body)
            return reaches_end(body) or reaches_end(orelse)
        case ast.With(body=body) | ast.AsyncWith(body=body):
            return reaches_end(body)
        case ast.While(test=ast.Constant(value=value), body=body) if value:
            return any(isinstance(node, ast.Break) for one in body for node in ast.walk(one))
        case ast.Match(cases=cases):
            last = cases[-1]
            total = last.guard is None and isinstance(last.pattern, ast.MatchAs)
            exhaustive = total and getattr(last.pattern, "pattern", None) is None
            return not exhaustive or any(reaches_end(case.body) for case in cases)
    if isinstance(statement, TRY):
        handlers = any(reaches_end(handler.body) for handler in statement.handlers)
        tried = reaches_end(statement.body + statement.orelse)
        return reaches_end(statement.finalbody) and (tried or handlers)
    return True


def always(block: list[ast.stmt], does: Callable[[ast.stmt], bool]) -> bool:
    """Whether every path to the end of a block has a statement that *does* it. The path around an
    `if` without `else` does not count: `if not request.finished: request.finish()` finishes."""
    return any(_always(statement, does) for statement in block)


def _always(statement: ast.stmt, does: Callable[[ast.stmt], bool]) -> bool:
    if isinstance(statement, TRY):
        branches = [statement.body + statement.orelse, *(one.body for one in statement.handlers)]
        if always(statement.finalbody, does):
            return True
    else:
        match statement:
            case ast.If(body=body, orelse=orelse):
                branches = [body, orelse]
            case ast.Match(cases=cases):
                branches = [case.body for case in cases]
            case ast.With(body=body) | ast.AsyncWith(body=body):
                branches = [body]
            case _:
                return does(statement)
    branches = [branch for branch in branches if branch and reaches_end(branch)]
    return bool(branches) and all(always(branch, does) for branch in branches)


def before(script: Script, node: ast.stmt) -> list[ast.stmt]:
    """Return the statements that have run when a statement of a function is reached."""
    found: list[ast.stmt] = []
    place: ast.AST = node
    while not isinstance(place, Scoped | ast.Module):
        outer = script.parent[place]
        for _, block in ast.iter_fields(outer):
            if isinstance(block, list) and place in block:
                found += block[: block.index(place)]
        place = outer
    return found


class Finishing:
    """Which calls finish the response before they return."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.helpers: dict[Function, bool] = {}

    def by(self, statements: list[ast.stmt]) -> bool:
        """Whether the response is finished once these statements have run."""
        return always(statements, self._finishes)

    def _finishes(self, statement: ast.stmt) -> bool:
        waiting: list[ast.AST] = [statement]
        for node in waiting:
            if isinstance(node, ast.Call) and self._call(node):
                return True
            if not isinstance(node, Scoped):
                waiting += ast.iter_child_nodes(node)
        return False

    def _call(self, call: ast.Call) -> bool:
        if helpers := self.script.functions(call.func):
            return all(self._helper(one) for one, _ in helpers)
        if isinstance(call.func, ast.Attribute):
            if call.func.attr == "finish":
                return True
            if call.func.attr in ("render", "processingFailed"):
                return self.script.is_request(call.func.value)  # it finishes what a child returns
        return self.script.dotted(call.func).endswith("renderElement")

    def _helper(self, function: Function) -> bool:
        if function not in self.helpers:
            self.helpers[function] = False  # while it is looked at: it may call itself
            plain = isinstance(function, ast.FunctionDef)  # a coroutine only begins when called
            self.helpers[function] = plain and self.by(function.body)
        return self.helpers[function]
