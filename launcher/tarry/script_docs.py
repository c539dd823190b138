"""Reads the manual that an `.rpy` file has as its docstring, without running the file.

The fixed shape, of which every part may be missing (anybody's scripts can be listed):

    One sentence.

        GET /name.rpy?…                          request lines, indented

    Parameters:

        name   meaning       range      default  columns two or more spaces apart
        delay  wait (s)      0 to 3600  5        "-" for no default

    Answer: what comes back                      headed paragraphs: Answer, Errors, Client leaves …

    Try it:

        $ a command
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Parameter:
    """One row of the table: what `range` allows and `default` stands for is said in words."""

    name: str
    meaning: str
    range: str
    default: str


@dataclass(frozen=True)
class Manual:
    """A script's manual. `name` is the path below the listed folder, as it stands in a URL."""

    name: str
    path: Path
    summary: str = ""
    requests: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    sections: dict[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()


def scripts(folder: Path) -> list[Path]:
    """Every `.rpy` below *folder*, hidden folders left out, in the order of their names."""
    return sorted(
        path
        for path in folder.rglob("*.rpy")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )


def manuals(folder: Path) -> list[Manual]:
    """The manuals of all scripts below *folder*."""
    return [read(path, path.relative_to(folder).as_posix()) for path in scripts(folder)]


def read(path: Path, name: str) -> Manual:
    """The manual of the script at *path*; one that cannot be read or parsed has an empty one."""
    try:
        text = ast.get_docstring(ast.parse(path.read_bytes())) or ""
    except (OSError, SyntaxError, ValueError):
        text = ""
    summary, _, rest = text.partition("\n\n")
    parts = re.split(r"^([A-Z][a-z ]+):(?=\s)", f"{rest}\n", flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    table = _indented(sections.pop("Parameters", ""))
    commands = _indented(sections.pop("Try it", ""))
    return Manual(
        name=name,
        path=path,
        summary=" ".join(summary.split()),
        requests=tuple(_indented(parts[0])),
        parameters=tuple(Parameter(*row) for row in map(_columns, table[1:]) if len(row) == 4),
        sections={title: " ".join(block.split()) for title, block in sections.items()},
        commands=tuple(line.removeprefix("$ ") for line in commands),
    )


def _indented(block: str) -> list[str]:
    return [line.strip() for line in block.splitlines() if line.startswith("    ")]


def _columns(row: str) -> list[str]:
    return re.split(r"\s{2,}", row)
