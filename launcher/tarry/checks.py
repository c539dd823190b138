"""What `tarry check` finds wrong with `.rpy` scripts, before a client does.

A script is loaded the way Twisted loads it, which shows whether it works at all. What goes wrong
only later, as a timer runs or a client leaves, is read off its source: no request is ever made.
"""

import ast
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import accumulate, pairwise
from pathlib import Path
from traceback import walk_tb
from typing import TypeGuard

from twisted import __version__
from twisted.application.service import IServiceCollection, MultiService
from twisted.python.reflect import safe_str
from twisted.web import script, server, static
from twisted.web.resource import IResource

Trap = tuple[int, str, str]  # line, problem, remedy: a Finding whose path goes without saying
Function = ast.FunctionDef | ast.AsyncFunctionDef
Scoped = Function | ast.Lambda | ast.ClassDef
Binding = ast.AST | str | None  # what a name is given: by a node, by an import, by who knows what

LEFTOVER = re.compile(r"\.rpy([~#]|\.(bak|old|orig|rej|save|sw[a-p]|tmp))$", re.IGNORECASE)
TEXT_METHODS = {"format", "format_map", "join", "lower", "replace", "strip", "title", "upper"}
TEXT_MAKERS = {"builtins.str", "builtins.repr", "json.dumps", "html.escape"}
BYTES = 'bytes, b"…" or "…".encode()'
BLOCKING = {
    r"time\.sleep": "use reactor.callLater, or await deferLater",
    r"os\.(system|popen)|subprocess\.(run|call|check_call|check_output|getoutput)": (
        "use reactor.spawnProcess"
    ),
    r"builtins\.(open|input)|io\.open|sqlite3\.connect|socket\.create_connection"
    r"|urllib\.request\.urlopen|.*\.(read|write)_(text|bytes)"
    r"|(requests|httpx)\.(get|head|post|put|patch|delete|options|request|stream)": (
        "run it in a thread, with deferToThread"
    ),
}


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is wrong, where it is, and what to do about it."""

    path: Path
    line: int
    problem: str
    remedy: str

    def __str__(self) -> str:
        text = f"{self.path}:{self.line}: {self.problem}: {self.remedy}"
        # names and messages come from the script, and must break neither the line nor the terminal
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def check(paths: Iterable[Path]) -> tuple[list[Path], list[Finding]]:
    """The scripts looked at, and what is wrong, sorted. A folder stands for all below it, a file
    for itself. Scripts are loaded, which runs them: they have to be ones that you would serve."""
    scripts: set[Path] = set()
    findings: set[Finding] = set()
    for path in paths:
        if not os.path.isdir(path):  # which, unlike Path's, takes a closed door for a no
            scripts.add(path)
            continue
        files, errors = below(path)
        findings.update(Finding(Path(error.filename), *unreadable(error)) for error in errors)
        scripts.update(file for file in files if file.suffix == ".rpy")
        if any(file.suffix.lower() == ".rpy" for file in files):
            findings.update(Finding(file, *trap) for file in files for trap in exposed(file))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is worth saying becomes a finding
        for path in scripts:
            findings.update(Finding(path, *trap) for trap in examine(path))
    return sorted(scripts), sorted(findings)


def below(folder: Path) -> tuple[list[Path], list[OSError]]:
    """The files in a folder and its subfolders, less what tools keep there for themselves."""
    files: list[Path] = []
    errors: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=errors.append):
        folders[:] = [name for name in folders if name[0] != "." and name != "__pycache__"]
        files += [Path(parent, name) for name in names]
    return files, errors


def unreadable(error: OSError) -> Trap:
    return 1, f"cannot be read, {error.strerror}", "put that right, or take it away"


def exposed(file: Path) -> Iterator[Trap]:
    """Twisted runs what ends in exactly ".rpy": anything else it sends to whoever asks."""
    suffix = file.suffix.lower()
    if suffix == ".rpy" != file.suffix:
        yield 1, f"twistd web serves {file.suffix} as source", f"rename it to {file.stem}.rpy"
    elif suffix == ".py" or LEFTOVER.search(file.name):
        yield 1, "twistd web serves this file as source", "move it out of the served folder"


def examine(path: Path) -> Iterator[Trap]:
    """All that is wrong with one script."""
    try:
        if path.exists() and not path.is_file():  # to read a pipe could take for ever
            raise OSError(0, "it is not a file")
        content = path.read_bytes()
    except OSError as error:
        yield unreadable(error)
        return
    try:
        tree = ast.parse(content, str(path))
        compile(content, str(path), "exec")  # sees a stray "return", too
    except Exception as error:  # mostly SyntaxError, but also RecursionError, MemoryError
        before, null, _ = content.partition(b"\0")  # of which Python says no line
        line = before.count(b"\n") + 1 if null else getattr(error, "lineno", None) or 1
        message = getattr(error, "msg", None) or f"{type(error).__name__} {error}"
        yield line, f"syntax error, {message}", "correct it, nothing in the script runs until then"
        return
    told: set[int] = set()
    try:
        source = Source(tree)
        for trap in obsolete(source):
            told.add(trap[0])
            yield trap
        for rule in (texts, forgetful, blocking):
            yield from rule(source)
    except RecursionError:
        yield 1, "an expression is too deep to be looked through", "give names to its parts"
    yield from load(path, tree, told)


def load(path: Path, tree: ast.Module, told: set[int]) -> Iterator[Trap]:
    """Run a script as Twisted does for each request, and see what it leaves in *resource*.
    *told* are the lines with names that Twisted has not: that they raise is no news."""
    registry = static.Registry()
    registry.setComponent(IServiceCollection, MultiService())  # as under twistd
    names = [node for node in own(tree) if isinstance(node, ast.Name)]
    line = max((node.lineno for node in names if node.id == "resource"), default=1)
    remedy = "let it end with resource = …, an instance of a Resource class"
    try:
        found = script.ResourceScript(str(path), registry)
        if found is script.noRsrc:
            yield 1, "nothing is assigned to resource", remedy
        elif IResource(found, None) is None:
            what = f"class {found.__name__}" if isinstance(found, type) else type(found).__name__
            yield line, f"resource is no IResource but {what}", remedy
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a script that calls sys.exit() does not end twistd either
        steps = walk_tb(error.__traceback__)
        line = ([n for frame, n in steps if frame.f_code.co_filename == str(path)] or [1])[-1]
        if line not in told or not isinstance(error, ImportError | AttributeError):
            said = safe_str(error).partition("\n")[0]
            message = f"{type(error).__name__}: {said}" if said else type(error).__name__
            yield line, f"loading it raises {message}", "correct it, each request fails until then"


def own(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when *node* does, outer before inner. What is inside of functions and
    classes in it is left out: that may run later, or in a thread."""
    body = getattr(node, "body", [])
    waiting = list(body) if isinstance(body, list) else [body]
    for part in waiting:
        yield part
        if not isinstance(part, Scoped):
            waiting += ast.iter_child_nodes(part)


def parameter(function: ast.AST, index: int) -> str | None:
    """The name of a positional one."""
    names = [one.arg for one in function.args.args] if isinstance(function, Function) else []
    return names[index] if index < len(names) else None


class Scope:
    """The names that a module, class or function binds: its own "open" is not Python's."""

    def __init__(self, node: ast.AST, outer: "Scope | None") -> None:
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
                case ast.Global() | ast.Nonlocal():  # not its own: anybody may change it
                    scope: Scope | None = self
                    while scope:
                        for name in part.names:
                            scope.bound[name].append(None)
                        scope = scope.outer


class Source:
    """A script's tree, and what the names in it stand for."""

    def __init__(self, tree: ast.Module) -> None:
        self.nodes = list(ast.walk(tree))
        self.module = Scope(tree, None)
        self.scope: dict[ast.AST, Scope] = {tree: self.module}
        self.known: dict[tuple[Scope, str], bool] = {}
        for node in self.nodes:  # outer before inner
            scope = self.scope[node]
            for child in ast.iter_child_nodes(node):
                self.scope[child] = Scope(child, scope) if isinstance(child, Scoped) else scope

    def binder(self, name: ast.Name) -> Scope | None:
        """The scope that binds a name, None for Python itself."""
        scope: Scope | None = self.scope[name]
        while scope and name.id not in scope.bound:
            scope = scope.outer
            while scope and isinstance(scope.node, ast.ClassDef):  # methods do not see its names
                scope = scope.outer
        return scope

    def dotted(self, node: ast.AST | None) -> str:
        """The full name of what is imported or built in, as "time.sleep"; "" for all else."""
        if isinstance(node, ast.Attribute):
            base = self.dotted(node.value)
            return base and f"{base}.{node.attr}"
        if isinstance(node, ast.Name):
            binder = self.binder(node)
            found = binder.bound[node.id] if binder else [f"builtins.{node.id}"]
            if isinstance(found[0], str) and all(isinstance(one, str) for one in found):
                return found[0]
        return ""

    def is_text(self, node: Binding, grown: str = "") -> bool:
        """Whether an expression gives a str, in one case at least. A name does if all it is ever
        given is a str, not counting where it is merely *grown*, as in page = page + more."""
        match node:
            case ast.Constant(value=str()) | ast.JoinedStr() | ast.AugAssign():
                return True
            case ast.BinOp(op=ast.Add() | ast.Mult()):
                return self.is_text(node.left, grown) or self.is_text(node.right, grown)
            case ast.BinOp(op=ast.Mod()):
                return self.is_text(node.left, grown)
            case ast.IfExp():
                return self.is_text(node.body, grown) or self.is_text(node.orelse, grown)
            case ast.BoolOp():
                return any(self.is_text(one, grown) for one in node.values)
            case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in TEXT_METHODS:
                return self.is_text(value, grown)
            case ast.Call():
                return self.dotted(node.func) in TEXT_MAKERS
            case ast.Name() if binder := self.binder(node):
                key = binder, node.id
                if key not in self.known:
                    self.known[key] = False  # for as long as nobody knows, as in a = b; b = a
                    given = binder.bound[node.id]
                    self.known[key] = all(self.is_text(one, node.id) for one in given)
                return node.id == grown or self.known[key]
        return False

    def is_render(self, node: ast.AST) -> TypeGuard[Function]:
        """Whether Twisted calls this for a request; a template's render_title is another thing."""
        owner = self.scope[node].outer
        if not isinstance(node, Function) or not owner or not isinstance(owner.node, ast.ClassDef):
            return False
        if node.name == "render":
            return any(ast.unparse(base).endswith("Resource") for base in owner.node.bases)
        return re.fullmatch("render_[A-Z]+", node.name) is not None

    def asked(self, node: ast.AST) -> str:
        """Which method a call calls, if on the request; "" for all else."""
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            return ""
        receiver = node.func.value
        known = "request" in (getattr(receiver, "id", ""), getattr(receiver, "attr", ""))
        if isinstance(receiver, ast.Name) and (binder := self.binder(receiver)) and not known:
            known = self.is_render(binder.node) and parameter(binder.node, 1) == receiver.id
        return node.func.attr if known else ""

    def callees(self, function: Function, call: ast.Call) -> list[Function]:
        """The script's own functions that a call in one of them runs: f(…), or self.f(…)."""
        func, scope = call.func, self.scope[function].outer
        if isinstance(func, ast.Name) and self.binder(func) is self.module:
            found = self.module.bound[func.id]
        elif (
            isinstance(func, ast.Attribute)
            and ast.unparse(func.value) == parameter(function, 0)
            and scope
            and isinstance(scope.node, ast.ClassDef)
        ):
            found = scope.bound.get(func.attr, [])
        else:
            return []
        return [one for one in found if isinstance(one, Function)]


def texts(source: Source) -> Iterator[Trap]:
    """A str where Twisted takes bytes: TypeError, in a timer after the headers have gone out."""
    for node in source.nodes:
        if isinstance(node, ast.Call) and source.asked(node) == "write":
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            if given and source.is_text(given[0]):
                yield node.lineno, f"{ast.unparse(node.func)} is given a str", f"give it {BYTES}"
        elif source.is_render(node):
            for part in own(node):
                if isinstance(part, ast.Return) and source.is_text(part.value):
                    yield part.lineno, f"{node.name} returns a str", f"return {BYTES}"


def forgetful(source: Source) -> Iterator[Trap]:
    """Work that goes on for a client who has left, and then fails: finish() raises."""
    over = set()  # where finish() was called just before, nothing goes on
    for node in source.nodes:
        for _, block in ast.iter_fields(node):
            for before, after in pairwise(block if isinstance(block, list) else ()):
                match before:
                    case ast.Expr(value=ast.Call(func=ast.Attribute(attr="finish"))):
                        over.add(after)
    for owner in source.nodes:
        if isinstance(owner, ast.ClassDef) and not notices(source, owner):
            for node in ast.walk(owner):
                if isinstance(node, ast.Return) and node not in over:
                    either = (getattr(node.value, side, node.value) for side in ("body", "orelse"))
                    if any(source.dotted(one).endswith(".NOT_DONE_YET") for one in either):
                        yield (
                            node.lineno,
                            "NOT_DONE_YET is returned, and nothing notices if the client leaves",
                            "call request.notifyFinish(), and cancel the timer when it fires",
                        )


def notices(source: Source, owner: ast.AST) -> bool:
    """Whether a class, or what it uses of the script's functions and classes, has notifyFinish."""
    reached = [owner]
    for place in reached:
        for node in ast.walk(place):
            if isinstance(node, ast.Attribute) and node.attr == "notifyFinish":
                return True
            if isinstance(node, ast.Name) and source.binder(node) is source.module:
                for one in source.module.bound[node.id]:
                    if isinstance(one, Function | ast.ClassDef) and one not in reached:
                        reached.append(one)
    return False


def blocking(source: Source) -> Iterator[Trap]:
    """Calls that hold up the one thread in which all clients are served."""
    reached: list[Function] = [node for node in source.nodes if source.is_render(node)]
    for function in reached:
        for call in own(function):
            if isinstance(call, ast.Call):
                reached += [one for one in source.callees(function, call) if one not in reached]
                name = source.dotted(call.func) or f".{getattr(call.func, 'attr', '')}"
                for pattern, remedy in BLOCKING.items():
                    if re.fullmatch(pattern, name):
                        short = name.removeprefix("builtins.")
                        yield call.lineno, f"{short}() keeps all other clients waiting", remedy


def obsolete(source: Source) -> Iterator[Trap]:
    """What the Twisted that is installed here has no longer, or not for long."""
    expected: set[ast.AST] = set()  # what a script tries, to suit an older or newer Twisted
    for node in source.nodes:
        if isinstance(node, ast.Try):
            caught = " ".join(ast.unparse(one.type) for one in node.handlers if one.type)
            if re.search(r"\b(Import|ModuleNotFound|Attribute)Error\b", caught):
                expected.update(ast.walk(node))
    for node in source.nodes:
        names: list[str] = []
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:  # for "twisted.web.http": itself, "twisted.web" and "twisted"
                names += accumulate(f"{module}{alias.name}".split("."), "{}.{}".format)
        elif isinstance(node, ast.Attribute):
            names = [source.dotted(node)]
        told = [verdict(name) for name in names if node not in expected]
        if method := source.asked(node):
            told.append(deprecation(f"request.{method}", getattr(server.Request, method, None)))
        for trap in filter(None, told):
            yield getattr(node, "lineno", 1), *trap


@cache
def verdict(name: str) -> tuple[str, str] | None:
    """Problem and remedy if a dotted name is missing from its Twisted module, or deprecated.
    Nothing is said if the module itself is missing: that is told where the module is named."""
    module, _, attribute = name.rpartition(".")
    if not name.startswith("twisted.") or attribute == "*":
        return None
    if name.startswith("twisted.internet.reactor"):
        return None  # to import the reactor is to install it, which is for the program to choose
    try:
        holder = import_module(module)
        if hasattr(holder, "__path__") and find_spec(name):
            import_module(name)
    except Exception:  # or it needs a package that is not here: loading will show
        return None
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", DeprecationWarning)
        try:
            for each in ("__name__", attribute):  # Twisted does not warn right after __path__
                found = getattr(holder, each)
        except (AttributeError, ImportError):
            version = __version__.rpartition(".")[0]
            return f"Twisted {version} has no {name}", "look for its successor in Twisted's news"
    return advice(str(heard[0].message)) if heard else deprecation(name, found)


def deprecation(name: str, found: object) -> tuple[str, str] | None:
    """Problem and remedy if a docstring says, as Twisted's do, that the thing is deprecated."""
    note = re.search(
        r"^\s*(Deprecated in Twisted \d.*?)(\n\s*\n|\Z)", str(found.__doc__), re.M | re.S
    )
    return advice(f"{name} was d{note[1][1:]}") if note else None


def advice(text: str) -> tuple[str, str]:
    """Twisted's own words, as problem and remedy."""
    text = re.sub(r"\b[A-Z]\{(.*?)\}", r"\1", " ".join(text.split())).removesuffix(".")
    problem, remedy = [*re.split("[;:] ", text, maxsplit=1), "leave it out"][:2]
    return problem, remedy
