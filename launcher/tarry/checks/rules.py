"""The table of rules: a code, what it says in one line, and the function that looks at a node.

docs/checks.md has a section for each. To add a rule, write the function, add a row here and a
section there: tests/unit/test_checks_page.py keeps them in step and runs the examples.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tarry.checks import blocking_rules, bytes_rules, name_rules, render_rules
from tarry.checks.findings import Problem
from tarry.checks.source import Script

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


class Rule(NamedTuple):
    """One rule. `look` is called with the script and each node of the types in `nodes`, and yields
    problems. The first rules have none: files.py and loading.py find those."""

    code: str
    title: str
    nodes: tuple[type[ast.AST], ...] = ()
    look: Callable[[Script, Any], Iterator[Problem]] | None = None


RULES = [
    Rule("RPY001", "the file cannot be read"),
    Rule("RPY002", "the file is not valid Python"),
    Rule("RPY003", "loading the script raises an exception"),
    Rule("RPY004", "loading the script does not end, or ends the server"),
    Rule("RPY005", "nothing that can be served is assigned to resource"),
    Rule("RPY006", "a file is served as source"),
    Rule("RPY101", "a str is the response", (ast.Call, *FUNCTION), bytes_rules.response),
    Rule("RPY102", "a str is passed where Twisted takes bytes", (ast.Call,), bytes_rules.argument),
    Rule("RPY103", "a str is compared with bytes of the request",
         (ast.Subscript, ast.Call, ast.Compare, ast.BinOp, ast.Match), bytes_rules.comparison),
    Rule("RPY201", "a render method is a coroutine or generator", FUNCTION, render_rules.kind),
    Rule("RPY202", "a render method returns something else than bytes", FUNCTION, render_rules.value),
    Rule("RPY203", "a body is returned after finish()", FUNCTION, render_rules.after_finish),
    Rule("RPY301", "nothing notices when the client disconnects",
         (ast.ClassDef,), render_rules.disconnect),
    Rule("RPY401", "a call blocks while a request is served",
         (ast.Module,), blocking_rules.in_a_request),
    Rule("RPY402", "a call blocks at module level", (ast.Module,), blocking_rules.at_module_level),
    Rule("RPY501", "Twisted does not have this name", (ast.Module,), name_rules.missing),
    Rule("RPY502", "Twisted deprecates this name", (ast.Module,), name_rules.deprecated),
    Rule("RPY503", "Python does not have this name", (ast.Module,), name_rules.standard_library),
    Rule("RPY601", "a thread, timer or connection is made at each request",
         (ast.Module,), blocking_rules.leak),
]  # fmt: skip


def problems(script: Script) -> Iterator[tuple[str, ast.AST, str, str]]:
    """Yield what the rules find in a script: code, node, problem and remedy."""
    looks = defaultdict(list)
    for rule in RULES:
        for kind in rule.nodes:
            looks[kind].append(rule)
    for node in script.nodes:
        for rule in looks.get(type(node), ()):
            if rule.look:
                for where, problem, remedy in rule.look(script, node):
                    yield rule.code, where, problem, remedy
