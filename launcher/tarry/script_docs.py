"""Read the manual that an `.rpy` file has as its docstring, without running the file.

The docstring has a fixed shape. Any part may be missing, since any folder can be listed:

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
import configparser
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tarry import collection

ORDER = Path(__file__).with_name("collection.ini")


@dataclass(frozen=True)
class Parameter:
    """One row of the table. `range` and `default` are the words in it."""

    name: str
    meaning: str
    range: str
    default: str


@dataclass(frozen=True)
class Manual:
    """A script's manual. `name` is the path below the listed folder, as it is in a URL."""

    name: str
    path: Path
    summary: str = ""
    requests: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    sections: dict[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Manuals under one title, which is empty if the scripts of a folder have no groups."""

    title: str
    manuals: tuple[Manual, ...]


def scripts(folder: Path) -> list[Path]:
    """Return every `.rpy` below *folder*, sorted by name. Hidden folders are left out."""
    return sorted(
        path
        for path in folder.rglob("*.rpy")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )


def manuals(folder: Path) -> list[Manual]:
    """Return the manuals of all scripts below *folder*, sorted by name."""
    return [read(path, path.relative_to(folder).as_posix()) for path in scripts(folder)]


def groups(folder: Path) -> list[Group]:
    """Return the manuals of *folder* by group: of the bundled scripts, in the order of learning.

    Other folders, which have no such order, are one group without a title, sorted by name.
    """
    found = manuals(folder)
    if folder.resolve() != collection().resolve():
        return [Group("", tuple(found))] if found else []
    return arrange(found, order())


def order() -> dict[str, list[str]]:
    """Return the names of the bundled scripts, in the order of learning, by title of the group."""
    parser = configparser.ConfigParser(allow_no_value=True)
    parser.read_string(ORDER.read_text(encoding="utf-8"))
    return {title: [f"{name}.rpy" for name in parser[title]] for title in parser.sections()}


def arrange(found: Sequence[Manual], names: dict[str, list[str]]) -> list[Group]:
    """Return manuals in the order of *names*, by title; those not in it come last, as "Others"."""
    known = {manual.name: manual for manual in found}
    arranged = [
        Group(title, tuple(known.pop(name) for name in wanted if name in known))
        for title, wanted in names.items()
    ]
    return [group for group in (*arranged, Group("Others", tuple(known.values()))) if group.manuals]


def read(path: Path, name: str) -> Manual:
    """Return the manual of the script at *path*; an empty one if Python can't parse the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = ast.get_docstring(ast.parse(path.read_bytes())) or ""
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: depth
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
