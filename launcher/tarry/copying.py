"""`tarry copy`: copy bundled scripts into a site, all or none, and never overwrite unasked."""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from tarry import collection


def copy(names: Sequence[str], destination: Path, *, force: bool) -> list[tuple[Path, bool]]:
    """Copy the scripts *names*, with or without `.rpy`, into the folder *destination*.

    Returns each target, and whether it was written (False: it was there with the same text).
    Raises ClickException before anything is copied if a name is unknown, *destination* is no
    folder, or a target is there with another text and *force* is not given.
    """
    sources = [find(name) for name in names]
    if not destination.is_dir():
        raise click.ClickException(
            f"there is no folder {str(destination)!r} to copy to: the last argument is the folder; "
            "make it first"
        )
    targets = [destination / source.name for source in sources]
    same = [
        t.is_file() and t.read_bytes() == s.read_bytes()
        for s, t in zip(sources, targets, strict=True)
    ]
    in_the_way = [
        str(t) for t, equal in zip(targets, same, strict=True) if os.path.lexists(t) and not equal
    ]
    if in_the_way and not force:
        raise click.ClickException(
            f"nothing copied, because {', '.join(in_the_way)} would be overwritten: "
            "move it away, or give --force"
        )
    for source, target, equal in zip(sources, targets, same, strict=True):
        if not equal:
            _replace(source, target)
    return [(target, not equal) for target, equal in zip(targets, same, strict=True)]


def known() -> dict[str, Path]:
    """Return the bundled scripts by name, without `.rpy`."""
    return {path.stem: path for path in sorted(collection().glob("*.rpy"))}


def find(name: str, kind: str = "script") -> Path:
    """Return the bundled script *name*, with or without `.rpy`.

    Raises ClickException if there is none: that there is no such *kind*, and the nearest name.
    """
    stem, bundled = Path(name).name.removesuffix(".rpy"), known()
    if stem not in bundled:
        near = difflib.get_close_matches(stem.lower(), bundled, n=1)
        guess = f": did you mean {near[0]}?" if near else ""
        raise click.ClickException(f"there is no {kind} {name!r}{guess} (all: tarry list)")
    return bundled[stem]


def _replace(source: Path, target: Path) -> None:
    """Put the whole file in place at once: a running server never sees a part of it."""
    handle, unfinished = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file, source.open("rb") as original:
            shutil.copyfileobj(original, file)
        os.chmod(unfinished, 0o644)
        os.replace(unfinished, target)
    except OSError as error:
        os.unlink(unfinished)
        raise click.ClickException(f"cannot write {target}: {error.strerror}") from None
