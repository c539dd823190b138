"""Print scripts to the terminal: a table of summaries, or one manual. All text is escaped."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tarry.script_docs import Group, Manual
from tarry.terminal import printable


def print_summaries(groups: Iterable[Group], prefix: str = "") -> None:
    """Print names, each after *prefix*, and summaries, with a heading for each group."""
    console, groups = Console(highlight=False), list(groups)
    longest = max((len(printable(one.name)) for each in groups for one in each.manuals), default=0)
    for number, group in enumerate(groups):
        if group.title:
            console.print("\n" * (number > 0) + f"[bold]{group.title}:[/bold]")
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(min_width=min(longest + len(prefix), 40))
        for manual in group.manuals:
            table.add_row(_text(f"{prefix}{manual.name}", "cyan"), _text(manual.summary))
        _print_indented(console, table)


def print_manual(manual: Manual) -> None:
    """Print what a script does, its requests, parameters and answers, and commands to try."""
    console = Console(highlight=False)
    console.print(_text(manual.name, "bold"), _text(f" {manual.summary}"))
    if manual.requests:
        console.print()
        _print_lines(console, manual.requests)
    if manual.parameters:
        table = Table.grid(padding=(0, 2, 0, 0))
        for each in manual.parameters:
            default = "" if each.default == "-" else f"default {each.default}"
            rest = map(_text, (each.meaning, each.range, default))
            table.add_row(_text(each.name, "cyan"), *rest)
        console.print()
        _print_indented(console, table)
    for title, words in manual.sections.items():
        console.print()
        console.print(_text(f"{title}:", "bold"), _text(words))
    if manual.commands:
        console.print("\n[bold]Try it:[/bold]")
        _print_lines(console, (f"$ {command}" for command in manual.commands))


def _text(words: str, style: str = "") -> Text:
    return Text(printable(words), style=style, overflow="fold")


def _print_indented(console: Console, table: Table) -> None:
    console.print(Padding(table, (0, 0, 0, 2), expand=False))


def _print_lines(console: Console, lines: Iterable[str]) -> None:
    """Print lines to be copied, which therefore are not wrapped."""
    for line in lines:
        console.print(_text(f"  {line}"), soft_wrap=True)
