"""A script's syntax tree and its names: what binds each, and which of them is the request."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import TypeGuard

Function = ast.FunctionDef | ast.AsyncFunctionDef
Scoped = Function | ast.Lambda | ast.ClassDef
Binding = ast.AST | str | None  # what a name is given: by a node, by an import, by something else

MAX_DOTS = 20  # in the full name of anything
RESULT_FIRST = {"addCallback", "addErrback", "addBoth"}  # they call f(result, *arguments)


def own(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that run when *node* does, outer before inner.

    The bodies of functions and classes in it are left out: they may run later, or in a thread.
    """
    body = getattr(node, "body", [])
    waiting = list(body) if isinstance(body, list) else [body]
    for part in waiting:
        yield part
        if not isinstance(part, Scoped):
            waiting += ast.iter_child_nodes(part)


def parameter(function: ast.AST, index: int) -> str | None:
    """Return the name of a function's positional parameter, None if it has none there."""
    names = [one.arg for one in function.args.args] if isinstance(function, Function) else []
    return names[index] if index < len(names) else None


class Scope:
    """The names that a module, class or function binds: its own `open` is not Python's."""

    def __init__(self, node: ast.AST, outer: Scope | None) -> None:
        self.node, self.outer = node, outer
        self.bound: dict[str, list[Binding]] = defaultdict(list)
        values: dict[ast.AST, Binding] = {}
        given = ast.walk(node.args) if isinstance(node, Function | ast.Lambda) else ()
        for part in (*given, *own(node)):
            match part:
                case ast.arg():
                    self.bound[part.arg].append(None)
                case ast.Import():
                    for alias in part.names:
                        name = alias.asname or alias.name.partition(".")[0]
                        self.bound[name].append(alias.name if alias.asname else name)
                case ast.ImportFrom():
                    for alias in part.names:
                        self.bound[alias.asname or alias.name].append(f"{part.module}.{alias.name}")
                case ast.Assign():
                    values.update(dict.fromkeys(part.targets, part.value))
                case ast.AnnAssign() | ast.NamedExpr():
                    values[part.target] = part.value
                case ast.AugAssign():
                    values[part.target] = part
                case ast.Name(ctx=ast.Store() | ast.Del()):
                    self.bound[part.id].append(values.get(part))
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    self.bound[part.name].append(part)
                case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                    self.bound[name].append(None)
                case ast.Global() | ast.Nonlocal():  # any function may assign to it
                    scope: Scope | None = self
                    while scope:
                        for name in part.names:
                            scope.bound[name].append(None)
                        scope = scope.outer


class Script:
    """A script's tree, and what the names in it stand for."""

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self.nodes = list(ast.walk(tree))
        self.module = Scope(tree, None)
        self.scope: dict[ast.AST, Scope] = {tree: self.module}
        self.parent: dict[ast.AST, ast.AST] = {}
        for node in self.nodes:  # outer before inner
            scope = self.scope[node]
            for child in ast.iter_child_nodes(node):
                self.parent[child] = node
                self.scope[child] = Scope(child, scope) if isinstance(child, Scoped) else scope
        self.request_names: set[tuple[Scope, str]] = set()
        self.request_attributes: set[str] = {"request"}
        self._find_requests()

    def binder(self, name: ast.Name) -> Scope | None:
        """Return the scope that binds a name, None for Python itself."""
        scope: Scope | None = self.scope[name]
        while scope and name.id not in scope.bound:
            scope = scope.outer
            while scope and isinstance(scope.node, ast.ClassDef):  # methods do not see its names
                scope = scope.outer
        return scope

    def bindings(self, name: ast.Name) -> list[Binding]:
        """Return all that a name is ever given in the scope that binds it."""
        binder = self.binder(name)
        return binder.bound[name.id] if binder else []

    def meaning(self, node: ast.AST | None) -> ast.AST | None:
        """Return the expression that a name is short for, if it is given only one; else *node*."""
        if isinstance(node, ast.Name):
            match self.bindings(node):
                case [ast.expr() as value]:
                    return value
        return node

    def dotted(self, node: ast.AST | None) -> str:
        """Return the full name of what is imported or built in, as `time.sleep`; else ""."""
        attributes = ""
        while isinstance(node, ast.Attribute) and attributes.count(".") < MAX_DOTS:
            attributes = f".{node.attr}{attributes}"
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        found = self.bindings(node) if self.binder(node) else [f"builtins.{node.id}"]
        if isinstance(found[0], str) and all(isinstance(one, str) for one in found):
            return found[0] + attributes
        return ""

    def method(self, owner: ast.AST, name: str, depth: int = 5) -> list[Function]:
        """Return the methods that a class, or a base of it in this script, has by this name."""
        found = [one for one in self.scope[owner].bound.get(name, ()) if isinstance(one, Function)]
        if not found and isinstance(owner, ast.ClassDef) and depth:
            for base in owner.bases:
                for one in self.bindings(base) if isinstance(base, ast.Name) else ():
                    if isinstance(one, ast.ClassDef):
                        found += self.method(one, name, depth - 1)
        return found

    def functions(self, node: ast.AST) -> list[tuple[Function, int]]:
        """Return the script's own functions that an expression names: f, self.f, or C for its
        `__init__`. Each comes with how many parameters are taken before the arguments: `self`."""
        if isinstance(node, ast.Name):
            found: list[tuple[Function, int]] = []
            for one in self.bindings(node):
                if isinstance(one, Function):
                    found.append((one, 0))
                elif isinstance(one, ast.ClassDef):
                    found += [(each, 1) for each in self.method(one, "__init__")]
            return found
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            binder = self.binder(node.value)
            if binder and binder.outer and parameter(binder.node, 0) == node.value.id:
                owner = binder.outer.node
                if isinstance(owner, ast.ClassDef):
                    return [(one, 1) for one in self.method(owner, node.attr)]
        return []

    def is_resource(self, owner: ast.AST, depth: int = 5) -> bool:
        """Whether a class derives from one whose name ends in `Resource`."""
        if not isinstance(owner, ast.ClassDef) or not depth:
            return False
        for base in owner.bases:
            name = base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
            if name.endswith("Resource") or self.dotted(base).endswith("Resource"):
                return True
            for one in self.bindings(base) if isinstance(base, ast.Name) else ():
                if isinstance(one, ast.ClassDef) and self.is_resource(one, depth - 1):
                    return True
        return False

    def is_render(self, node: ast.AST) -> TypeGuard[Function]:
        """Whether Twisted calls this for a request; a template's `render_title` is not that."""
        outer = self.scope[node].outer
        if not isinstance(node, Function) or not outer or not isinstance(outer.node, ast.ClassDef):
            return False
        if node.name == "render":
            return self.is_resource(outer.node)
        return re.fullmatch("render_[A-Z]+", node.name) is not None

    def is_get_child(self, node: ast.AST) -> TypeGuard[Function]:
        """Whether Twisted calls this to find the resource for a request."""
        outer = self.scope[node].outer
        return (
            isinstance(node, Function)
            and node.name in ("getChild", "getChildWithDefault")
            and outer is not None
            and self.is_resource(outer.node)
        )

    def is_request(self, node: ast.AST) -> bool:
        """Whether an expression is the request, by whatever name."""
        if isinstance(node, ast.Attribute):
            return node.attr in self.request_attributes
        if not isinstance(node, ast.Name):
            return False
        binder = self.binder(node)
        if binder and (binder, node.id) in self.request_names:
            return True
        return node.id == "request" and self.dotted(node) in ("", "builtins.request")

    def _find_requests(self) -> None:
        """Follow the request from where Twisted passes it, through calls and assignments."""
        for node in self.nodes:
            index = 1 if self.is_render(node) else 2 if self.is_get_child(node) else 0
            if index and (name := parameter(node, index)):
                self.request_names.add((self.scope[node], name))
        unknown = [(node, given) for node in self.nodes for given in _given(node)]
        while found := [(node, given) for node, given in unknown if self.is_request(given)]:
            unknown = [each for each in unknown if each not in found]
            for node, given in found:
                if isinstance(node, ast.Call):
                    self.request_names.update(self._receivers(node, given))
                elif isinstance(node, ast.Assign):
                    for target in node.targets:
                        if isinstance(target, ast.Name):
                            self.request_names.add((self.scope[target], target.id))
                        elif isinstance(target, ast.Attribute):
                            self.request_attributes.add(target.attr)

    def _receivers(self, call: ast.Call, given: ast.expr) -> Iterator[tuple[Scope, str]]:
        """Yield the parameters that an argument of a call becomes: in f(given), or of f in
        callLater(1, f, given), d.addCallback(f, given) and the like."""
        index = call.args.index(given)
        direct = [(one, index + taken) for one, taken in self.functions(call.func)]
        first = int(getattr(call.func, "attr", "") in RESULT_FIRST)
        for place, argument in enumerate(call.args[:index]):
            for one, taken in self.functions(argument):
                direct.append((one, index - place - 1 + taken + first))
        for function, position in direct:
            if name := parameter(function, position):
                yield self.scope[function], name


def _given(node: ast.AST) -> list[ast.expr]:
    """Return the names and attributes that a call or an assignment hands on."""
    values = node.args if isinstance(node, ast.Call) else []
    if isinstance(node, ast.Assign):
        values = [node.value]
    return [one for one in values if isinstance(one, ast.Name | ast.Attribute)]
