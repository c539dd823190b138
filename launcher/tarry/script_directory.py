"""A folder of `.rpy` scripts and static files, as Twisted's `File`, made fast and safe.

Twisted's contract for scripts stays. One that calls neither `cache()` nor `recache()` is executed for
every request, but from code that is compiled once per version of the file. One that calls either has
declared its resource reusable: it is loaded once and kept until the file changes. A file's version is
its time of modification, its size and its inode, asked for at each request: so the first request after
an edit has the new script, however the editor wrote it, and requests in flight end on the old one.

What is never shown is the source of anything: see `hidden`.
"""

from __future__ import annotations

import os
import stat
from types import CodeType
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.filepath import InsecurePath
from twisted.web import resource, static
from twisted.web.iweb import IRequest
from twisted.web.script import ResourceScript
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

log = Logger()

Version = tuple[int, int, int, int]

# What would be shown as text, or run though it is no .rpy, if Twisted's File had its way.
SOURCES = {".py", ".pyc", ".pyo", ".pyw", ".pyi", ".epy", ".cgi", ".swp", ".swo", ".swn", ".swx"}

MAX_RANGES = 16  # of a file, in one request


def hidden(name: str) -> bool:
    """Whether a file of this *name* is never served: dotfiles, sources, leftovers of editors."""
    lower = name.lower()
    return (
        name.startswith(".")
        or name.endswith("~")
        or os.path.splitext(lower)[1] in SOURCES
        or (".rpy" in lower and not name.endswith(".rpy"))
    )


def plain(request: Any, code: int, line: str) -> int:
    """Answer *request* with one line of plain text."""
    request.setResponseCode(code)
    request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
    request.setHeader(b"Cache-Control", b"no-store")
    request.setHeader(b"X-Content-Type-Options", b"nosniff")
    body = f"{line}\n".encode()
    request.setHeader(b"Content-Length", b"%d" % len(body))
    request.write(body)
    request.finish()
    return NOT_DONE_YET


class ScriptError(Exception):
    """Why a script cannot serve: one line, that names the file and the line in it."""


@implementer(resource.IResource)
class Broken:
    """Stands in for a script that cannot be loaded, and says why."""

    isLeaf = True
    server = None

    def __init__(self, line: str, failure: Failure | None) -> None:
        self.line, self.failure = line, failure

    def getChildWithDefault(self, name: bytes, request: IRequest) -> Broken:
        return self

    def putChild(self, path: bytes, child: resource.IResource) -> None:
        raise NotImplementedError("a broken script has no children")

    def render(self, request: Any) -> int:
        request.fault = self.line  # for the ledger
        if request.site.displayTracebacks and self.failure is not None:
            request.processingFailed(self.failure)
            return NOT_DONE_YET
        return plain(request, 500, self.line)


class Scripts:
    """The scripts of a site: their code, and the resources of those that may be kept."""

    def __init__(self, registry: static.Registry, reactor: Any = None) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self.registry, self.reactor = registry, reactor
        self._looked: dict[str, Version | None] = {}  # in this turn
        self._code: dict[str, tuple[Version, CodeType]] = {}
        self._kept: dict[str, tuple[Version, Any]] = {}
        self._told: dict[str, Version] = {}  # versions whose fault has been logged

    def look(self, path: str) -> Version | None:
        """The version of the file now; None if there is none. Looked up once in a reactor's turn.

        That is enough: what is read in this turn had arrived when it began, so an edit that a client
        made before it sent its request is one that a look in the turn sees.
        """
        if path in self._looked:
            return self._looked[path]
        try:
            version = version_of(os.stat(path))
        except OSError:
            version = None
        self._looked[path] = version
        if len(self._looked) == 1:
            self.reactor.callLater(0, self._looked.clear)
        return version

    def resource(self, path: str, version: Version) -> Any:
        """The resource of the script at *path*, whose file is now at *version*."""
        kept = self._kept.get(path)
        if kept is not None and kept[0] == version:
            return kept[1]
        failure = None
        try:
            return self._load(path, version)
        except ScriptError as wrong:
            line = str(wrong)
        except SyntaxError as wrong:
            failure = Failure()
            line = f"{path}:{wrong.lineno or 1}: {wrong.msg}"
        except FileNotFoundError:
            return None
        except Exception as wrong:
            failure = Failure()
            where = place(wrong, path)
            where = f"{path}:1" if where == path else where  # nothing of it ran
            line = f"{where}: {type(wrong).__name__}: {wrong}".splitlines()[0]
        if self._told.get(path) != version:
            self._told[path] = version
            if failure is None:
                log.error("{line}", line=line)
            else:
                log.failure("{line}", failure=failure, line=line)
        return Broken(f"{os.path.basename(line)}", failure)

    def _load(self, path: str, version: Version) -> Any:
        code = self._code.get(path)
        if code is None or code[0] != version:
            with open(path, "rb") as file:
                version = version_of(os.fstat(file.fileno()))
                code = (version, compile(file.read(), path, "exec", dont_inherit=True))
            self._code[path] = code
            self._kept.pop(path, None)
        reusable = False

        def reuse() -> None:
            nonlocal reusable
            reusable = True

        scope = {
            "__file__": path,
            "resource": None,
            "registry": self.registry,
            "cache": reuse,
            "recache": reuse,
        }
        exec(code[1], scope, scope)  # noqa: S102  # this is what an .rpy is for
        made = scope["resource"]
        if made is None:
            raise ScriptError(f"{path}:1: no resource: let the script end with 'resource = …'")
        if not resource.IResource.providedBy(made):
            raise ScriptError(
                f"{path}:1: resource is a {type(made).__name__}: it must be a Resource"
            )
        if reusable:
            self._kept[path] = (code[0], made)
            self.registry.cachePath(path, made)
        return made


def place(wrong: BaseException, path: str) -> str:
    """path:line where *wrong* was raised: the innermost line of *path*, or of any script."""
    found, trace = "", wrong.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name == path or (not path and name.endswith(".rpy")):
            found = f"{name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found or path


def version_of(status: os.stat_result) -> Version:
    """What changes when a file is edited, also when an editor puts a new file in its place."""
    return (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)


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
        """The script or file named *path*; all that must not be served is not found."""
        known = self.safe.get((self.path, path))
        if known is not None and self.scripts.look(known[0]) == known[1]:
            return self.scripts.resource(*known) or self.childNotFound
        if path == b"":
            return self._index(request)
        try:
            name = path.decode("utf-8")
            file = self.child(name).path
            status = os.stat(file)
        except (UnicodeDecodeError, ValueError, OSError, InsecurePath):
            return self._by_other_name(path, request)
        regular = stat.S_ISREG(status.st_mode)  # a FIFO would hold up everybody who opens it
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
            return plain(request, 416, f"over {MAX_RANGES} ranges: ask for fewer")
        return super().render_GET(request)

    render_HEAD = render_GET

    def _by_other_name(self, path: bytes, request: IRequest) -> Any:
        """A file that --ignore-ext finds under another name; what it finds is checked like any."""
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
        """Whether a file of this *name* is not served, unless --processor says what to do with it."""
        return hidden(name) and os.path.splitext(name)[1] not in self.processors

    def _inside(self, file: str) -> bool:
        """Whether *file* is below the served folder, and no link to what must not be served."""
        real = os.path.realpath(file)
        below = real == self.top or real.startswith(self.top.rstrip(os.sep) + os.sep)
        script = os.path.splitext(file)[1] == ".rpy"
        same_kind = script == (os.path.splitext(real)[1] == ".rpy")
        parts = real[len(self.top) :].split(os.sep)
        return below and same_kind and not any(map(self._hidden, filter(None, parts)))
