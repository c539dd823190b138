"""RPY4xx: calls that block the one thread in which all clients are served; RPY6xx: leaks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tarry.checks.findings import Problem
from tarry.checks.source import Function, Script, own

AWAIT = "use reactor.callLater, or await deferLater"
PROCESS = "use reactor.spawnProcess, or await getProcessOutput"
THREAD = "run it in a thread, with deferToThread"
COROUTINE = "Twisted's reactor runs already: use Deferred.fromCoroutine"
WAITS = {
    r"time\.sleep": AWAIT,
    r"os\.(system|popen)|subprocess\.(run|call|check_call|check_output|getoutput)": PROCESS,
    r".*\.communicate": PROCESS,
    r"asyncio\.run|.*\.run_until_complete": COROUTINE,
    r"twisted\.internet\.reactor\.run": "leave it out: the reactor runs already",
    r"twisted\.internet\.threads\.blockingCallFromThread": "await the Deferred instead",
    r"builtins\.input|socket\.create_connection|urllib\.request\.urlopen"
    r"|(requests|httpx)\.(get|head|post|put|patch|delete|options|request|stream)": THREAD,
}
READS = {
    r"builtins\.open|io\.open|sqlite3\.connect|.*\.(read|write)_(text|bytes)": THREAD,
}
IN_THE_REACTOR = {  # a function passed to one of these runs in the reactor's thread
    "addBoth", "addCallback", "addCallbacks", "addErrback", "callFromThread", "callLater",
    "callWhenRunning", "deferLater", "LoopingCall", "maybeDeferred",
}  # fmt: skip
OUTLIVES_A_REQUEST = re.compile(
    r"twisted\.python\.threadpool\.ThreadPool|threading\.(Thread|Timer)|multiprocessing\.Process"
    r"|concurrent\.futures\.(\w+\.)*(Thread|Process)PoolExecutor|subprocess\.Popen"
    r"|twisted\.internet\.task\.LoopingCall|twisted\.enterprise\.adbapi\.ConnectionPool"
    r"|twisted\.web\.client\.HTTPConnectionPool|twisted\.application\.internet\.TimerService"
    r"|twisted\.internet\.reactor\.(callLater|listen\w+|connect\w+|spawnProcess"
    r"|addSystemEventTrigger|callInThread)"
)


def in_a_request(script: Script, tree: ast.Module) -> Iterator[Problem]:
    """RPY401: a call in a render method, or in what it runs, keeps all other clients waiting."""
    roots: list[ast.AST] = [
        node for node in script.nodes if script.is_render(node) or script.is_get_child(node)
    ]
    for call in _calls(script, roots):
        for name, remedy in _matches(script, call, {**WAITS, **READS}):
            yield call, f"{name}() keeps all other clients waiting", remedy


def at_module_level(script: Script, tree: ast.Module) -> Iterator[Problem]:
    """RPY402: the same at module level, where it happens at each request. To read a small file
    there is fine: Twisted reads the script itself each time."""
    for call in _calls(script, _module_level(tree)):
        for name, remedy in _matches(script, call, WAITS):
            problem = f"{name}() at module level keeps all clients waiting at each request"
            yield call, problem, remedy


def leak(script: Script, tree: ast.Module) -> Iterator[Problem]:
    """RPY601: a thread, timer or connection is made at module level, so again at each request."""
    kept = min(
        (
            node.lineno
            for node in own(tree)
            if isinstance(node, ast.Call) and script.dotted(node.func) == "builtins.cache"
        ),
        default=None,
    )
    for part in _module_level(tree):
        if kept is None or getattr(part, "lineno", 0) < kept:
            for call in _calls(script, [part]):
                name = script.dotted(call.func)
                if OUTLIVES_A_REQUEST.fullmatch(name):
                    short = ".".join(name.split(".")[-2:])
                    yield (
                        call,
                        f"{short}() at module level is called again at each request",
                        "call cache() above it, so that the resource is made once",
                    )


def _module_level(tree: ast.Module) -> list[ast.AST]:
    """Return the statements that run when the script is loaded, those of class bodies too."""
    found: list[ast.AST] = []
    blocks: list[list[ast.stmt]] = [tree.body]
    for block in blocks:
        for statement in block:
            if isinstance(statement, ast.ClassDef):
                blocks.append(statement.body)
            elif not isinstance(statement, Function) and not _by_hand(statement):
                found.append(statement)
    return found


def _by_hand(statement: ast.stmt) -> bool:
    """Whether this is `if __name__ == "__main__":`, which no server runs."""
    names = ast.walk(statement.test) if isinstance(statement, ast.If) else ()
    return any(isinstance(node, ast.Name) and node.id == "__name__" for node in names)


def _calls(script: Script, roots: list[ast.AST]) -> Iterator[ast.Call]:
    """Yield the calls in *roots*, and in the script's functions that run because of them."""
    reached: list[ast.AST] = list(roots)
    for place in reached:
        nodes = own(place) if isinstance(place, Function | ast.Lambda) else _all(place)
        for node in nodes:
            if isinstance(node, ast.Call):
                yield node
                name = script.dotted(node.func).rpartition(".")[2]
                name = getattr(node.func, "attr", name)
                passed = node.args if name in IN_THE_REACTOR else []
                for one in (node.func, *passed):
                    found = [function for function, _ in script.functions(one)]
                    found += [one] if isinstance(one, ast.Lambda) else []  # type: ignore[list-item]
                    reached += [each for each in found if each not in reached]


def _all(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a statement and the nodes in it, less the bodies of functions and classes."""
    holder = ast.Module(body=[node], type_ignores=[])  # type: ignore[list-item]
    return own(holder)


def _matches(script: Script, call: ast.Call, patterns: dict[str, str]) -> Iterator[tuple[str, str]]:
    name = script.dotted(call.func) or f".{getattr(call.func, 'attr', '')}"
    if isinstance(script.parent.get(call), ast.Await):
        return  # a coroutine of the same name
    for pattern, remedy in patterns.items():
        if re.fullmatch(pattern, name):
            yield name.removeprefix("builtins."), remedy
