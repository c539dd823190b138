"""The commands of `tarry`: words and options over the modules that do the work."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

import click
from rich.console import Console

from tarry import __version__, collection, copying
from tarry.terminal import printable

ANY_PATH = click.Path(exists=True, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tarry")
def main() -> None:
    """Responses that take their time: Twisted .rpy scripts to read, copy and test against.

    \b
    Examples:
      tarry serve                        the collection on 127.0.0.1:8080
      tarry list                         what there is
      tarry list delayed                 one script's manual
      tarry copy delayed streamed site/  two scripts into a site of yours
      tarry check site/                  what is wrong with its scripts
      tarry fetch 'delayed.rpy?delay=2' 'delayed.rpy?delay=1'
    """


class ServeCommand(click.Command):
    """Shows click's help, then Twisted's list of options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from tarry.options import Options

        _, _, options = Options().getUsage(width=80).partition("Options:\n")
        formatter.write("\nOptions, which are those of `twistd web`, and a few:\n")
        formatter.write(
            "      --print-command       Print the twistd command that this is, and end.\n"
        )
        for line in options.partition("\n\n")[0].splitlines():
            formatter.write(f"{line[:28]}{' '.join(line[28:].split())}\n")


@main.command(cls=ServeCommand, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", metavar="[DIR]", nargs=-1, type=click.UNPROCESSED)
def serve(arguments: tuple[str, ...]) -> None:
    """Serve a folder of .rpy scripts and static files; without DIR, the bundled collection.

    \b
    Examples:
      tarry serve
      tarry serve --port 9000 site/
      tarry serve --listen tcp:0:interface=127.0.0.1
    """
    from tarry import serving

    given = list(arguments)
    if "--print-command" in given:
        given.remove("--print-command")
        click.echo(serving.command(given))
    else:
        serving.serve(given)


@main.command(name="list")
@click.argument("what", metavar="[NAME|DIR]", required=False)
@click.option("--json", "as_json", is_flag=True, help="For programs: everything, as JSON.")
def list_scripts(what: str | None, as_json: bool) -> None:
    """List the bundled scripts, or those of DIR; or show the manual of one, with all parameters.

    \b
    Examples:
      tarry list
      tarry list delayed
      tarry list site/ --json
      tarry list site/report.rpy
    """
    from tarry import listing, script_docs

    manual = None
    if what is None or os.path.isdir(what):
        folder = collection() if what is None else Path(what)
        groups = script_docs.groups(folder)
        if not groups and not as_json:
            raise click.ClickException(f"there is no .rpy file in {what}: try another folder")
    else:
        path = Path(what) if os.path.isfile(what) else copying.find(what, "script or folder")
        manual = script_docs.read(path, path.name)
        groups = [script_docs.Group("", (manual,))]
    if as_json:
        rows = [
            {**dataclasses.asdict(each), "path": str(each.path), "group": group.title}
            for group in groups
            for each in group.manuals
        ]
        click.echo(json.dumps(rows, indent=2))
    elif manual:
        listing.print_manual(manual)
    else:
        listing.print_summaries(groups)
        if what is None:
            click.echo("\ntarry list NAME shows the manual of one, with all parameters.")


@main.command()
@click.argument("names", nargs=-1, metavar="NAME…")
@click.argument("destination", type=click.Path(path_type=Path), metavar="DEST")
@click.option("--force", is_flag=True, help="Overwrite what is there.")
def copy(names: tuple[str, ...], destination: Path, force: bool) -> None:
    """Copy bundled scripts into the folder DEST; each runs there on Twisted alone.

    \b
    Examples:
      tarry copy delayed site/
      tarry copy delayed streamed cancellable site/ --force
    """
    if not names:
        example = "give one or more names and then the folder, as in: tarry copy delayed {}"
        if destination.name.removesuffix(".rpy") in copying.known():
            raise click.UsageError(f"the destination is missing: {example.format('site/')}")
        raise click.UsageError(f"the name of a script is missing: {example.format(destination)}")
    for target, written in copying.copy(names, destination, force=force):
        click.echo(printable(str(target)) + ("" if written else " (was there already, the same)"))


@main.command()
@click.argument("paths", metavar="[DIR…]", nargs=-1, type=ANY_PATH)
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=10.0,
              show_default=True, help="Seconds that loading one script may take.")  # fmt: skip
def check(paths: tuple[Path, ...], timeout: float) -> None:
    """Load every .rpy in DIR and report what is wrong, or will go wrong once it is served.

    \b
    Without DIR, the bundled scripts. Exits 1 if anything is wrong.
    "# noqa: RPY101" at the end of a line silences a finding there.
    Examples:
      tarry check site/
      tarry check site/report.rpy
    """
    from tarry.checks import check as check_scripts

    scripts, findings = check_scripts(paths or [collection()], timeout)
    for finding in findings:
        click.echo(str(finding))
    checked = "1 script" if len(scripts) == 1 else f"{len(scripts)} scripts"
    wrong = "1 finding" if len(findings) == 1 else f"{len(findings) or 'no'} findings"
    click.echo(f"{checked} checked: {wrong}", err=True)
    sys.exit(1 if findings else 0)


@main.command()
@click.argument("urls", nargs=-1, required=True, metavar="URL…")
@click.option("--base", default="http://127.0.0.1:8080/", show_default=True, envvar="TARRY_BASE",
              help="The server of URLs without a host (or TARRY_BASE).")  # fmt: skip
@click.option("-n", "--times", type=click.IntRange(1, 1000), default=1, show_default=True,
              help="Request each this many times.")  # fmt: skip
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=60.0, show_default=True,
              help="Seconds to wait for the headers of a response.")  # fmt: skip
def fetch(urls: tuple[str, ...], base: str, times: int, timeout: float) -> None:
    """Request all URLs at once and show how long each took.

    Exits 1 if one got no answer.

    \b
    Examples:
      tarry fetch 'delayed.rpy?delay=2' 'delayed.rpy?delay=1'
      tarry fetch -n 20 'delayed.rpy?delay=1'
    """
    from twisted.internet.defer import ensureDeferred
    from twisted.internet.task import react

    from tarry import fetching

    if "://" not in base:
        base = f"http://{base}/"

    async def run() -> None:
        done = await fetching.fetch(urls, base, times, timeout)
        Console(highlight=False).print(fetching.table(done, base))
        if any(each.last is None for each in done):
            if all(each.status == "no server" for each in done):
                click.echo("Error: nothing listens there: start it with 'tarry serve'", err=True)
            raise SystemExit(1)

    react(lambda reactor: ensureDeferred(run()))
