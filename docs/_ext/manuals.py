"""A Sphinx extension: writes docs/reference/ from the manuals in the scripts, before each build."""

import re
from collections.abc import Sequence
from pathlib import Path

from tarry.script_docs import Manual, arrange, manuals, order

ROOT = Path(__file__).parents[2]
MADE = ROOT / "docs" / "reference"
PROMISES = """\
## What all scripts promise

A script's page says only what is special about it. All of this holds as well, unless the page says
otherwise.

- **Parameters** come in the query string, each at most once, with at most 1000 characters. Seconds
  may have decimals: `delay=0.5`. A flag is `?show` or `?show=1`. Parameters with the same name mean
  the same thing everywhere.
- **`key`** is accepted by every script. It names the state that requests share, such as a queue or
  a channel. Where there's no such state, it is a label for finding the request in the
  [ledger](../server.md).
- **Bad input** gets 400 and one line of text: what is wrong, what was given, what is allowed.
  Values are never adjusted silently. Unknown and repeated parameters are errors too.
- **Other methods** than those a page shows get 405 or 501. HEAD works wherever GET does.
- **Headers**: `Content-Type` with a charset for text, `Cache-Control: no-store` and
  `X-Content-Type-Options: nosniff`. `Server-Timing` reports waits as they were measured, in
  milliseconds.
- **If the client disconnects**, everything that was done for it is cancelled at once, and one log
  line says so.
- **If the client reads slowly**, a stream pauses. It never fills the server's memory.
- **If a script fails**, the log says why. The client gets a 500 with one line of text. If part of
  the response has been sent, the connection is aborted, so that the part can't pass for the whole.
- **On a public site** scripts are safe to serve. Nothing a client sends comes back as markup, or
  reaches a shell, a file name or another host. Everything a client can tie up or leave behind has a
  limit, which is a constant at the top of the file.
- **State** is kept in the process that serves the script. Behind a load balancer, send all requests
  with the same `key` to the same process.
"""


def plain(text: str) -> str:
    """Return *text* with Markdown's special characters escaped; what it quotes becomes code."""
    parts = text.split('"')
    parts[::2] = [re.sub(r"([\\`*_<>|\[\]])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def overview(found: Sequence[Manual]) -> str:
    """Return a table with a row for each script, linked to its page."""
    text = row("script", "what it does", "parameters, with their defaults") + row(*["---"] * 3)
    for manual in found:
        given = [f"{p.name}={p.default}".removesuffix("=-") for p in manual.parameters]
        link = f"[`{manual.name}`]({manual.name.removesuffix('.rpy')}.md)"
        text += row(link, plain(manual.summary), " ".join(f"`{each}`" for each in given))
    return text


def overviews(found: list[Manual]) -> str:
    """Return a table for each group, in the order of learning."""
    groups = arrange(found, order())
    return "\n".join(f"{group.title}:\n\n{overview(group.manuals)}" for group in groups)


def page(manual: Manual) -> str:
    """Return the reference page of one script."""
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
        "# The scripts\n\nEach page is made from the manual at the top of the script.\n\n"
        f"{overviews(found)}\n{PROMISES}\n```{{toctree}}\n:hidden:\n\n{names}```\n"
    )


def write(app):
    """Write the pages, before Sphinx looks for them."""
    found = manuals(ROOT / "rpy")
    made = {manual.name.removesuffix(".rpy") + ".md": page(manual) for manual in found}
    made["index.md"] = index(found)
    MADE.mkdir(exist_ok=True)
    for stale in set(MADE.iterdir()) - {MADE / name for name in made}:
        stale.unlink()
    for name, text in made.items():
        if not (MADE / name).exists() or (MADE / name).read_text() != text:
            (MADE / name).write_text(text)  # Sphinx reads a page again only if it has changed


def setup(app):
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
