"""Which files to check, and what is wrong with one before it is run: RPY001, RPY002, RPY006."""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from tarry.checks import rules
from tarry.checks.findings import Finding, silenced
from tarry.checks.source import Function, Script

LEFTOVER = re.compile(r"\.rpy([~#]|\.(bak|old|orig|rej|save|sw[a-p]|tmp))$", re.IGNORECASE)
SPACES = "replace each with a plain space: code copied from a web page often has them"


def below(folder: Path) -> tuple[list[Path], list[OSError]]:
    """Return the files in a folder and its subfolders, less those that tools keep there."""
    files: list[Path] = []
    errors: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=errors.append):
        folders[:] = [name for name in folders if name[0] != "." and name != "__pycache__"]
        files += [Path(parent, name) for name in names]
    return files, errors


def unreadable(path: Path, error: OSError) -> Finding:
    return Finding(path, 1, "RPY001", f"cannot be read, {error.strerror}", "repair or remove it")


def exposed(file: Path) -> Iterator[Finding]:
    """Twisted runs files that end in exactly `.rpy`, and sends any other as it is."""
    suffix = file.suffix.lower()
    problem, remedy = "", ""
    if suffix == ".rpy" != file.suffix:
        problem = f"twistd web serves {file.suffix} files as source"
        remedy = f"rename it to {file.stem}.rpy"
    elif suffix == ".py" or LEFTOVER.search(file.name):
        problem = "twistd web serves this file as source"
        remedy = "move it out of the served folder"
    if problem and not silenced("RPY006", _first_line(file)):
        yield Finding(file, 1, "RPY006", problem, remedy)


def _first_line(file: Path) -> list[str]:
    try:
        if file.is_file():
            with file.open(encoding="utf-8", errors="replace") as text:
                return [text.readline(1000)]
    except OSError:
        pass
    return []


class Checked:
    """One script: what its source shows, and whether it is worth loading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree: ast.Module | None = None  # None: don't load it
        self.lines: list[str] = []
        self.findings: list[Finding] = []
        try:
            if path.exists() and not path.is_file():  # reading a pipe may never end
                raise OSError(0, "it is not a file")
            content = path.read_bytes()
        except OSError as error:
            self.findings.append(unreadable(path, error))
            return
        self.lines = content.decode("utf-8", "replace").splitlines()
        self._look(content)

    def add(self, code: str, first: int, problem: str, remedy: str, last: int = 0) -> None:
        """Add a finding, unless a `# noqa` on its lines, *first* to *last*, is for it."""
        if not silenced(code, self.lines[first - 1 : max(first, last)]):
            self.findings.append(Finding(self.path, first, code, problem, remedy))

    def _look(self, content: bytes) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(content, str(self.path))
                compile(content, str(self.path), "exec")  # refuses a stray "return", too
        except (RecursionError, MemoryError):
            self.add("RPY002", 1, "an expression is nested too deeply for Python", "split it up")
            return
        except (SyntaxError, ValueError) as error:
            self._syntax_error(content, error)
            return
        self.tree = tree
        try:
            for code, node, problem, remedy in rules.problems(Script(tree)):
                first = getattr(node, "lineno", 1)
                block = isinstance(node, Function | ast.ClassDef)
                last = first if block else getattr(node, "end_lineno", first)
                self.add(code, first, problem, remedy, last)
        except RecursionError:
            self.add("RPY002", 1, "an expression is nested too deeply to be checked", "split it up")

    def _syntax_error(self, content: bytes, error: SyntaxError | ValueError) -> None:
        start, null, _ = content.partition(b"\0")  # for which Python names no line
        line = start.count(b"\n") + 1 if null else getattr(error, "lineno", None) or 1
        message = getattr(error, "msg", None) or str(error)
        remedy = "correct it: nothing in the script runs until then"
        if "U+00A0" in message:
            message, remedy = "no-break spaces (U+00A0) where spaces should be", SPACES
        self.add("RPY002", line, f"syntax error, {message}", remedy)
