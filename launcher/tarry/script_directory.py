"""A folder of `.rpy` scripts and static files, as Twisted's `File`, made fast and safe.

What is never shown is the source of anything: see `hidden`. How scripts are loaded: see script_loader.
"""

from __future__ import annotations

import os
import stat
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.python.filepath import InsecurePath
from twisted.web import static
from twisted.web.iweb import IRequest
from twisted.web.script import ResourceScript

from tarry.errors import error_line
from tarry.script_loader import Scripts, Version, version_of

# What Twisted's File would show as text, or run although it's no .rpy.
SOURCES = {".py", ".pyc", ".pyo", ".pyw", ".pyi", ".epy", ".cgi", ".swp", ".swo", ".swn", ".swx"}

MAX_RANGES = 16  # of a file, in one request


def hidden(name: str) -> bool:
    """Return whether a file of this *name* is never served: dotfiles, sources, editors' leftovers."""
    lower = name.lower()
    return (
        (name.startswith(".") and name != ".well-known")
        or name.endswith("~")
        or os.path.splitext(lower)[1] in SOURCES
        or (".rpy" in lower and not name.endswith(".rpy"))
    )


class ScriptDirectory(static.File):
    """A served folder, or a file in it. *listing*: whether folders show what is in them."""

    def __init__(self, path: str, *arguments: Any, **options: Any) -> None:
        super().__init__(path, *arguments, **options)
        self.top = os.path.realpath(path)
        self.scripts = Scripts(self.registry)
        self.listing = False
        self.safe: dict[tuple[str, bytes], tuple[str, Version]] = {}  # scripts that may run

    def createSimilarFile(self, path: str) -> ScriptDirectory:
        similar: ScriptDirectory = super().createSimilarFile(path)
        similar.top, similar.scripts, similar.safe = self.top, self.scripts, self.safe
        similar.listing = self.listing
        return similar

    def getChild(self, path: bytes, request: IRequest) -> Any:
        """Return the script or file named *path*. What must not be served is not found."""
        known = self.safe.get((self.path, path))
        if known is not None and self.scripts.version(known[0]) == known[1]:
            return self.scripts.resource(*known) or self.childNotFound
        if path == b"":
            return self._index(request)
        try:
            name = path.decode("utf-8")
            file = self.child(name).path
            status = os.stat(file)
        except (UnicodeDecodeError, ValueError, OSError, InsecurePath):
            return self._by_other_name(path, request)
        regular = stat.S_ISREG(status.st_mode)  # opening a FIFO would block the server
        folder = stat.S_ISDIR(status.st_mode) and not name.endswith(".rpy")
        if not (regular or folder) or self._hidden(name) or not self._inside(file):
            return self.childNotFound
        runs = self.processors.get(".rpy") is ResourceScript  # unless --processor says otherwise
        if runs and name.endswith(".rpy"):
            version = version_of(status)
            self.safe[self.path, path] = (file, version)
            return self.scripts.resource(file, version) or self.childNotFound
        return super().getChild(path, request)

    def render_GET(self, request: Any) -> Any:
        """Send the file, or the ranges of it that are asked for: not over MAX_RANGES, each by itself
        little to ask and much to send."""
        asked = request.getHeader(b"range") or b""
        if asked.count(b",") >= MAX_RANGES:
            request.setHeader(b"Content-Range", b"bytes */%d" % self.getsize())
            return error_line(request, 416, f"over {MAX_RANGES} ranges: ask for fewer")
        return super().render_GET(request)

    render_HEAD = render_GET

    def answers_early(self, path: bytes) -> bool:
        """Return whether *path*, of a URL, is that of a script that answers before the body is in."""
        folder: Any = self
        for name in map(unquote_to_bytes, path[1:].split(b"/")):
            known = folder.safe.get((folder.path, name))
            if known is None and isinstance(found := folder.getChild(name, None), ScriptDirectory):
                folder = found
                continue
            known = folder.safe.get((folder.path, name))
            return known is not None and self.scripts.answers_early(*known)
        return False

    def _by_other_name(self, path: bytes, request: IRequest) -> Any:
        """Return a file that --ignore-ext finds under another name; it's checked like any."""
        if not self.ignoredExts:
            return self.childNotFound
        try:
            other = self.child(path.decode("utf-8")).siblingExtensionSearch(*self.ignoredExts)
        except (UnicodeDecodeError, ValueError, InsecurePath):
            return self.childNotFound
        if other is None or not other.exists():
            return self.childNotFound
        return self.getChild(other.basename().encode(), request)

    def _index(self, request: IRequest) -> Any:
        for name in self.indexNames:
            if os.path.isfile(os.path.join(self.path, name)):
                return self.getChild(name.encode(), request)
        return self.directoryListing() if self.listing and self.isdir() else self.childNotFound

    def listNames(self) -> list[str]:
        return [name for name in super().listNames() if not self._hidden(name)]

    def _hidden(self, name: str) -> bool:
        """Return whether *name* is hidden, and no --processor says what to do with it."""
        return hidden(name) and os.path.splitext(name)[1] not in self.processors

    def _inside(self, file: str) -> bool:
        """Return whether *file* is below the served folder, and not a link to something hidden."""
        real = os.path.realpath(file)
        below = real == self.top or real.startswith(self.top.rstrip(os.sep) + os.sep)
        script = os.path.splitext(file)[1] == ".rpy"
        same_kind = script == (os.path.splitext(real)[1] == ".rpy")
        parts = real[len(self.top) :].split(os.sep)
        return below and same_kind and not any(map(self._hidden, filter(None, parts)))
