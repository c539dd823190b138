"""Makes the reference pages and the README's table from the manuals that stand in the scripts.

As a Sphinx extension it writes docs/reference/ before a build; run as a program it brings README.md
up to date.
"""

import re
from pathlib import Path

from tarry.manual import Manual, manuals

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


def overview(found: list[Manual], folder: str, suffix: str) -> str:
    """A row a script; each is linked to *folder*, name and *suffix*."""
    text = row("script", "what it does", "parameters, with their defaults") + row(*["---"] * 3)
    for manual in found:
        given = [f"{p.name}={p.default}".removesuffix("=-") for p in manual.parameters]
        link = f"[`{manual.name}`]({folder}{manual.name.removesuffix('.rpy')}{suffix})"
        text += row(link, plain(manual.summary), " ".join(f"`{each}`" for each in given))
    return text


def overviews(found: list[Manual], folder: str, suffix: str) -> str:
    """A table of the lessons, which the headings of the tutorial name, in its order; and one of all
    others."""
    pages = [(ROOT / "docs" / name).read_text() for name in ("tutorial.md", "lessons.md")]
    order = re.findall(r"^## .*`(\w+\.rpy)`$", "".join(pages), re.MULTILINE)
    lessons = sorted((m for m in found if m.name in order), key=lambda m: order.index(m.name))
    others = [m for m in found if m.name not in order]
    text = f"Lessons, in the order of the tutorial:\n\n{overview(lessons, folder, suffix)}\n"
    return f"{text}Instruments, to test clients with:\n\n{overview(others, folder, suffix)}"


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
    names = "".join(f"{manual.name.removesuffix('.rpy')}\n" for manual in found)
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
