"""RPY2xx: what a render method returns is neither bytes nor NOT_DONE_YET; RPY3xx: disconnects."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator

from tarry.checks.findings import Problem
from tarry.checks.flow import Finishing, before, reaches_end
from tarry.checks.source import Function, Script, own

LATER = "start it with Deferred.fromCoroutine(…), and return NOT_DONE_YET"
DEFERREDS = re.compile(
    r"twisted\.internet\.(defer\.(Deferred|Deferred\.fromCoroutine|DeferredList|ensureDeferred"
    r"|execute|fail|gatherResults|maybeDeferred|succeed)|task\.(deferLater|react)"
    r"|threads\.deferToThread(Pool)?|utils\.getProcess\w+)|treq\.(get|post|put|patch|delete|request)"
)
CHAINED = {"addBoth", "addCallback", "addCallbacks", "addErrback", "addTimeout"}
NAMES = {
    ast.Dict: "a dict", ast.DictComp: "a dict", ast.List: "a list", ast.ListComp: "a list",
    ast.Set: "a set", ast.SetComp: "a set", ast.Tuple: "a tuple", ast.Lambda: "a function",
    ast.GeneratorExp: "a generator", ast.Compare: "True or False",
}  # fmt: skip


def _is_decorated(function: Function, name: str) -> bool:
    return any(ast.unparse(one).rpartition(".")[2] == name for one in function.decorator_list)


def _is_generator(function: Function) -> bool:
    return any(isinstance(node, ast.Yield | ast.YieldFrom) for node in own(function))


def _never_renders(function: Function) -> str:
    """Return what calling it gives instead of a body, as a coroutine; "" for a plain function."""
    if _is_decorated(function, "inlineCallbacks"):
        return "a Deferred (inlineCallbacks)"
    if function.decorator_list:
        return ""  # which may make a plain function of it
    if isinstance(function, ast.AsyncFunctionDef):
        return "a coroutine (async def)"
    return "a generator (yield)" if _is_generator(function) else ""


def kind(script: Script, function: ast.AST) -> Iterator[Problem]:
    """RPY201: a render method is a coroutine or a generator, which Twisted does not run."""
    if script.is_render(function) and (what := _never_renders(function)):
        yield function, f"{function.name} returns {what}, which Twisted does not await", LATER


def value(script: Script, function: ast.AST) -> Iterator[Problem]:
    """RPY202: a render method returns what is neither bytes nor NOT_DONE_YET."""
    if not script.is_render(function) or function.decorator_list or _never_renders(function):
        return
    remedy = "return bytes, or NOT_DONE_YET and finish the request later"
    for part in own(function):
        if isinstance(part, ast.Return):
            for one in _branches(part):
                if what := _not_bytes(script, one):
                    yield part, f"{function.name} returns {what}", remedy
                    break
    if reaches_end(function.body):
        yield function, f"{function.name} may end without a return, so it returns None", remedy


def _branches(statement: ast.Return) -> list[ast.expr | None]:
    """Return the expression that a `return` has; both of `return a if condition else b`."""
    value = statement.value
    return [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]


def _not_bytes(script: Script, node: ast.AST | None) -> str:
    """Return what an expression is, if that is surely neither bytes nor str; else ""."""
    node = script.meaning(node)
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr not in CHAINED:
            break
        node = script.meaning(node.func.value)
    if node is None or (isinstance(node, ast.Constant) and node.value is None):
        return "None"
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | float | complex):
        return repr(node.value)
    if isinstance(node, ast.Call):
        if DEFERREDS.fullmatch(script.dotted(node.func)):
            return "a Deferred"
        for function, _ in script.functions(node.func):
            if isinstance(node.func, ast.Name) and function.name == "__init__":
                return ""  # an instance, of whatever class
            if what := _never_renders(function):
                return f"{what} from {function.name}()"
            returns = any(isinstance(one, ast.Return) and one.value for one in own(function))
            if not returns and not function.decorator_list and reaches_end(function.body):
                return f"what {function.name}() returns, which is None"
            break
    return NAMES.get(type(node), "")


def after_finish(script: Script, function: ast.AST) -> Iterator[Problem]:
    """RPY203: a body is returned although the response was finished: Twisted writes it, and fails."""
    if not script.is_render(function) or function.decorator_list:
        return
    finishing = Finishing(script)
    for part in own(function):
        match part:
            case ast.Return(value=ast.Constant(value=bytes())) if finishing.by(
                before(script, part)
            ):
                problem = f"{function.name} returns a body after the response was finished"
                yield part, problem, "return NOT_DONE_YET, or leave finish() to Twisted"


def disconnect(script: Script, owner: ast.ClassDef) -> Iterator[Problem]:
    """RPY301: work goes on for a client that has disconnected, and then finish() fails."""
    if _notices(script, owner):
        return
    finishing = Finishing(script)
    for node in ast.walk(owner):
        if not isinstance(node, ast.Return) or finishing.by(before(script, node)):
            continue
        if any(script.dotted(one).endswith(".NOT_DONE_YET") for one in _branches(node)):
            problem = "NOT_DONE_YET is returned, and nothing notices when the client disconnects"
            yield node, problem, "call request.notifyFinish(), and cancel the work when it fails"


def _notices(script: Script, owner: ast.AST) -> bool:
    """Whether a class, or what it uses of the script, has notifyFinish or registers a producer, or
    passes the request to another package, which may do so."""
    reached = [owner]
    for place in reached:
        for node in ast.walk(place):
            if isinstance(node, ast.Attribute):
                if node.attr in ("notifyFinish", "registerProducer", "beginFileTransfer"):
                    return True
            elif isinstance(node, ast.Call) and _passed_on(script, node):
                return True
            elif isinstance(node, ast.Name) and script.binder(node) is script.module:
                for one in script.bindings(node):
                    if isinstance(one, Function | ast.ClassDef) and one not in reached:
                        reached.append(one)
    return False


def _passed_on(script: Script, call: ast.Call) -> bool:
    name = script.dotted(call.func)
    package = name.partition(".")[0]
    if re.fullmatch(r"twisted\.web\.static\.\w+Producer", name):
        return True
    known = {*sys.stdlib_module_names, "builtins", "twisted", ""}
    return package not in known and any(script.is_request(one) for one in call.args)
