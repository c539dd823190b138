"""Makes the reference pages and the README's table from the manuals that stand in the scripts.

As a Sphinx extension it writes docs/reference/ before a build; run as a program it brings README.md
up to date.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from tarry.script_docs import Manual, arrange, manuals, order

ROOT = Path(__file__).parents[2]
MADE = ROOT / "docs" / "reference"
MARKED = re.compile(r"(?<=<!-- scripts:begin -->\n).*(?=<!-- scripts:end -->)", re.DOTALL)


def plain(text: str) -> str:
    """*text* so that Markdown takes nothing in it for markup; what it quotes is code."""
    parts = text.split('"')
    parts[::2] = [re.sub(r"([\\`*_<>|\[\]])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def overview(found: Sequence[Manual], folder: str, suffix: str) -> str:
    """A row a script; each is linked to *folder*, name and *suffix*."""
    text = row("script", "what it does", "parameters, with their defaults") + row(*["---"] * 3)
    for manual in found:
        given = [f"{p.name}={p.default}".removesuffix("=-") for p in manual.parameters]
        link = f"[`{manual.name}`]({folder}{manual.name.removesuffix('.rpy')}{suffix})"
        text += row(link, plain(manual.summary), " ".join(f"`{each}`" for each in given))
    return text


def overviews(found: list[Manual], folder: str, suffix: str) -> str:
    """A table for each group, in the order of learning."""
    tables = [
        f"{group.title}:\n\n{overview(group.manuals, folder, suffix)}"
        for group in arrange(found, order())
    ]
    return "\n".join(tables)


def page(manual: Manual) -> str:
    """The reference page of one script."""
    text = f"# {manual.name}\n\n{plain(manual.summary)}\n\n"
    text += "```text\n" + "".join(f"{line}\n" for line in manual.requests) + "```\n\n"
    text += row("parameter", "meaning", "range", "default") + row(*["---"] * 4)
    for p in manual.parameters:
        default = "" if p.default == "-" else f"`{p.default}`"
        text += row(f"`{p.name}`", plain(p.meaning), plain(p.range), default)
    for title, words in manual.sections.items():
        text += f"\n**{title}:** {plain(words)}\n"
    serve, *ask = [f"$ {command}\n" for command in manual.commands]
    text += f"\n## Try it\n\nIn the folder of the file:\n\n```console\n{serve}```\n\n"
    text += f"In a second terminal:\n\n```console\n{''.join(ask)}```\n"
    source = f"```{{literalinclude}} /../rpy/{manual.name}\n:language: python\n```\n"
    return text + f"\n## The file\n\n{source}"


def index(found: list[Manual]) -> str:
    ordered = [manual for group in arrange(found, order()) for manual in group.manuals]
    names = "".join(f"{manual.name.removesuffix('.rpy')}\n" for manual in ordered)
    return (
        "# The scripts\n\nMade from the manual at the top of each file.\n\n"
        f"{overviews(found, '', '.md')}\n```{{toctree}}\n:hidden:\n\n{names}```\n"
    )


def readme(text: str) -> str:
    """The README *text* with its tables made anew."""
    return MARKED.sub(lambda _: overviews(manuals(ROOT / "rpy"), "rpy/", ".rpy"), text)


def write(app):
    """Make the pages, before Sphinx looks for them."""
    found = manuals(ROOT / "rpy")
    made = {manual.name.removesuffix(".rpy") + ".md": page(manual) for manual in found}
    made["index.md"] = index(found)
    MADE.mkdir(exist_ok=True)
    for stale in set(MADE.iterdir()) - {MADE / name for name in made}:
        stale.unlink()
    for name, text in made.items():
        if not (MADE / name).exists() or (MADE / name).read_text() != text:
            (MADE / name).write_text(text)  # only then, so that Sphinx reads no page twice


def setup(app):
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(readme(path.read_text()))
