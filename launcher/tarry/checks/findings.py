"""What a rule found, and whether a `# noqa` comment beside it says that it's meant."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tarry.terminal import printable

Problem = tuple[ast.AST, str, str]  # what a rule yields: where, what is wrong, what to do

NOQA = re.compile(r"#\s*noqa\b(?::\s*(?P<codes>[A-Z]+\d+(?:[,\s]+[A-Z]+\d+)*))?", re.IGNORECASE)


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is wrong, where it is, and what to do about it."""

    path: Path
    line: int
    code: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return printable(f"{self.path}:{self.line}: {self.code} {self.problem}: {self.remedy}")


def silenced(code: str, lines: Iterable[str]) -> bool:
    """Whether one of these lines has a bare `# noqa`, or one that lists *code*."""
    for line in lines:
        for comment in NOQA.finditer(line):
            codes = comment["codes"]
            if codes is None or code in re.split(r"[,\s]+", codes.upper()):
                return True
    return False
