"""Load scripts as Twisted does, but compile each version of a file once.

A script that calls neither `cache()` nor `recache()` is executed for every request. One that calls either
has declared its resource reusable: it is loaded once and kept until the file changes. A file's version is
its time of modification, its size and its inode, looked up at each request: so the first request after an
edit has the new script, however the editor wrote it, and requests in flight end on the old one.
"""

from __future__ import annotations

import os
from types import CodeType
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import resource, static
from twisted.web.iweb import IRequest
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from tarry.errors import error_line

log = Logger()

Version = tuple[int, int, int, int]


class ScriptError(Exception):
    """Why a script can't be served: one line with the file and the line number."""


@implementer(resource.IResource)
class Broken:
    """Stands in for a script that can't be loaded; says why."""

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
        return error_line(request, 500, self.line)


class Scripts:
    """The scripts of a site: their code, and the resources of those that are kept."""

    def __init__(self, registry: static.Registry, reactor: Any = None) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self.registry, self.reactor = registry, reactor
        self._versions: dict[str, Version | None] = {}  # in this turn
        self._code: dict[str, tuple[Version, CodeType]] = {}
        self._early: set[str] = set()  # those whose text has the word
        self._kept: dict[str, tuple[Version, Any]] = {}
        self._told: dict[str, Version] = {}  # versions whose fault has been logged

    def version(self, path: str) -> Version | None:
        """Return the version of the file now; None if there is none. Checked once per reactor turn.

        That is enough: what is read in this turn had arrived when it began, so an edit that a client
        made before it sent its request is one that a look in the turn sees.
        """
        if path in self._versions:
            return self._versions[path]
        try:
            version = version_of(os.stat(path))
        except OSError:
            version = None
        self._versions[path] = version
        if len(self._versions) == 1:
            self.reactor.callLater(0, self._versions.clear)
        return version

    def resource(self, path: str, version: Version) -> Any:
        """Return the resource of the script at *path*, whose file is now at *version*."""
        kept = self._kept.get(path)
        if kept is not None and kept[0] == version:
            return kept[1]
        failure = None
        try:
            return self._load(path, version)
        except ScriptError as error:
            line = str(error)
        except SyntaxError as error:
            failure = Failure()
            line = f"{path}:{error.lineno or 1}: {error.msg}"
        except FileNotFoundError:
            return None
        except Exception as error:
            failure = Failure()
            where = place(error, path)
            where = f"{path}:1" if where == path else where  # nothing of it ran
            line = f"{where}: {type(error).__name__}: {error}".splitlines()[0]
        if self._told.get(path) != version:
            self._told[path] = version
            if failure is None:
                log.error("{line}", line=line)
            else:
                log.failure("{line}", failure=failure, line=line)
        return Broken(f"{os.path.basename(line)}", failure)

    def answers_early(self, path: str, version: Version) -> bool:
        """Return whether the script's resource has `early = True`.

        A script that is not kept is executed for this; but only one whose text has the word.
        """
        if path not in self._code:
            self.resource(path, version)
        return path in self._early and getattr(self.resource(path, version), "early", False) is True

    def _load(self, path: str, version: Version) -> Any:
        code = self._code.get(path)
        if code is None or code[0] != version:
            with open(path, "rb") as file:
                version = version_of(os.fstat(file.fileno()))
                source = file.read()
            code = (version, compile(source, path, "exec", dont_inherit=True))
            (self._early.add if b"early" in source else self._early.discard)(path)
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


def place(error: BaseException, path: str) -> str:
    """Return path:line where *error* was raised: the innermost line of *path*, or of any script."""
    found, trace = "", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name == path or (not path and name.endswith(".rpy")):
            found = f"{name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found or path


def version_of(status: os.stat_result) -> Version:
    """Return what changes when a file is edited, or replaced by a new one."""
    return (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
