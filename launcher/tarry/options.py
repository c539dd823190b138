"""The options of `tarry serve`: those of `twistd web`, and those of limits, ledger and shutdown.

What is wrong with an option is said in one line before anything starts.
"""

from __future__ import annotations

import contextlib
import getopt
import os
import re
import resource
import sys
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.python.usage import UsageError
from twisted.web import script, static, tap

from tarry import collection, ledger
from tarry.limits import Limits
from tarry.origins import Origins
from tarry.script_directory import ScriptDirectory
from tarry.workers import WorkerConfig

PORT = 8080
INTERFACE = "127.0.0.1"
RESERVE = 100  # descriptors kept for files


def whole(name: str, low: int, high: int) -> Callable[[str], int]:
    """Return a function that parses option *name*, a whole number from *low* to *high*."""

    def read(text: str) -> int:
        if text.isascii() and text.isdigit() and low <= int(text[:20]) <= high:
            return int(text)
        raise UsageError(
            f"--{name} {text!r} is not allowed: give a whole number from {low} to {high}"
        )

    return read


def seconds(name: str, low: float, high: float) -> Callable[[str], float]:
    """Return a function that parses option *name*, seconds from *low* to *high*."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if low <= value <= high:
            return value
        raise UsageError(
            f"--{name} {text!r} is not allowed: give seconds, from {low:g} to {high:g}"
        )

    return read


LIMITS = Limits()


class Options(tap.Options):
    """The options of `twistd web`, and those of tarry."""

    synopsis = "[options] [DIR]"
    longdesc = "Serve a folder of .rpy scripts; without DIR, the bundled collection."
    optParameters: list[object] = [  # noqa: RUF012  # usage.Options reads it of the class
        ["access-log", None, None, "File for the access log, in combined format."],
        ["ledger", None, ledger.MAX_ENTRIES, "Ended requests that the ledger keeps, 0 to 1000000.",
         whole("ledger", 0, 1_000_000)],
        ["grace", None, 10.0, "Seconds that requests in flight have when it stops, 0 to 3600.",
         seconds("grace", 0, 3600)],
        ["header-seconds", None, LIMITS.header_seconds,
         "Seconds for a request line and headers, 0.1 to 3600; then 408.",
         seconds("header-seconds", 0.1, 3600)],
        ["idle-seconds", None, LIMITS.idle_seconds,
         "Seconds that a connection may idle, or a body pause, 0.1 to 86400.",
         seconds("idle-seconds", 0.1, 86_400)],
        ["header-bytes", None, LIMITS.header_bytes,
         "Bytes of request line and headers, 100 to 1000000; more: 431.",
         whole("header-bytes", 100, 1_000_000)],
        ["body-bytes", None, LIMITS.body_bytes,
         "Bytes of a request's body, 0 to 10000000000; more: 413.",
         whole("body-bytes", 0, 10_000_000_000)],
        ["form-bytes", None, LIMITS.form_bytes,
         "Bytes of a form that is parsed for a script, 0 to 10000000; more: 413.",
         whole("form-bytes", 0, 10_000_000)],
        ["pending", None, LIMITS.pending,
         "Requests that are not answered yet, 1 to 1000000; more: 503.", whole("pending", 1, 1_000_000)],
        ["connections", None, None,
         f"Open connections, 1 to 1000000; more: 503. [default: the limit of descriptors, less {RESERVE}]",
         whole("connections", 1, 1_000_000)],
        ["workers", None, 1,
         "Processes that serve, 1 to 64; each has a ledger and scripts' state of its own.",
         whole("workers", 1, 64)],
        ["gc", None, "idle", "Garbage collection: idle (when nothing is pending) or python (its default)."],
    ]  # fmt: skip
    optFlags: list[list[Any]] = [  # noqa: RUF012
        ["listing", None, "Show what is in a folder that has no index."],
        ["quiet", "q", "No access log on the terminal."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["interface"] = self["certificate"] = None
        self["hosts"], self["origins"] = [], []
        self.opt_path(str(collection()))
        self._default = self["root"]

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse as Twisted does, but allow options after DIR too."""
        given = list(sys.argv[1:] if options is None else options)
        self.arguments = given
        with contextlib.suppress(getopt.GetoptError):  # the next line says so
            found, rest = getopt.gnu_getopt(given, self.shortOpt, self.longOpt)
            given = []
            for name, value in found:
                long = name.startswith("--") and f"{name[2:]}=" in self.longOpt
                given += [f"{name}={value}"] if long else [name, value] if value else [name]
            given += ["--", *rest]
        super().parseOptions(given)

    def opt_path(self, path: str) -> None:
        """A folder or file to serve, like DIR."""
        self["root"] = ScriptDirectory(os.path.abspath(path))
        self["root"].processors = {".rpy": script.ResourceScript}

    def opt_port(self, port: str) -> None:
        """Port to listen on, 0 to 65535; 0 takes a free one. [default: 8080]"""
        self["port"] = whole("port", 0, 65535)(port)

    opt_p = opt_port

    def opt_https(self) -> None:  # type: ignore[override]  # a flag here, a deprecated port there
        """Serve HTTPS, with HTTP/2, by a certificate made for this run. Needs tarry[tls]."""
        if WorkerConfig.given() is not None:
            return  # a worker's parent has made one
        try:
            from tarry.certificate import Certificate

            self["certificate"] = Certificate()
        except ImportError as missing:
            raise UsageError(
                f"--https needs more, {missing.name} is missing: pip install 'tarry[tls]'"
            ) from None

    def opt_interface(self, interface: str) -> None:
        """Address to listen on. [default: 127.0.0.1, which only this machine can reach]"""
        self["interface"] = interface

    def opt_listen(self, port: str) -> None:
        """Endpoint to listen on, instead of --port and --interface; may be given more than once."""
        try:
            serverFromString(reactor, port)
        except Exception as error:  # each kind of endpoint raises its own
            raise UsageError(
                f"--listen {port!r} is no endpoint ({error}): "
                "give one like tcp:8080:interface=127.0.0.1 or unix:/run/tarry.sock"
            ) from None
        super().opt_listen(port)

    def opt_host(self, name: str) -> None:
        """A Host that is answered on a loopback interface, besides localhost and the like."""
        self["hosts"].append(name)

    def opt_origin(self, origin: str) -> None:
        """An origin, like http://localhost:5173, whose pages may send POST and other unsafe requests."""
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?# ]+", origin, re.IGNORECASE):
            raise UsageError(
                f"--origin {origin!r} is no origin: give one like http://localhost:5173"
            )
        self["origins"].append(origin)

    def parseArgs(self, folder: str | None = None) -> None:
        """Take DIR, the folder to serve."""
        if folder is None:
            return
        if self["root"] is not self._default:
            raise UsageError(f"DIR ({folder}) and an option that says what to serve: give only one")
        if not os.path.exists(folder):
            raise UsageError(f"there is no folder {folder!r}: give one that holds .rpy files")
        if not os.path.isdir(folder):
            raise UsageError(f"{folder!r} is not a folder: give the one that it is in")
        if not os.access(folder, os.R_OK | os.X_OK):
            raise UsageError(f"the folder {folder!r} may not be read: change its mode, or the user")
        given = self["root"]
        self.opt_path(folder)
        for name in ("processors", "ignoredExts", "defaultType"):  # from options before DIR
            setattr(self["root"], name, getattr(given, name))

    def postOptions(self) -> None:
        """Turn --port and --interface into the endpoint that `twistd web` understands."""
        port, self["port"] = self["port"], None
        if (task := WorkerConfig.given()) is not None:
            self["ports"], self["interface"], port = task.endpoints, None, None
        if self["ports"] and (port is not None or self["interface"] is not None):
            raise UsageError("--listen says all: leave out --port and --interface")
        if not self["ports"] and not self["personal"]:
            where = quoteStringArgument(self["interface"] or INTERFACE)
            number, made = PORT if port is None else port, self["certificate"]
            self["ports"] = [f"tcp:{number}:interface={where}"]
            if made is not None:
                key, chain = (
                    quoteStringArgument(str(made.key)),
                    quoteStringArgument(str(made.chain)),
                )
                self["ports"] = [f"ssl:{number}:interface={where}:privateKey={key}:certKey={chain}"]
        elif self["certificate"] is not None:
            raise UsageError("--listen says all: give it an ssl: endpoint instead of --https")
        if self["gc"] not in ("idle", "python"):
            raise UsageError(f"--gc {self['gc']!r} is not allowed: give idle or python")
        kinds = {port.partition(":")[0] for port in self["ports"]}
        if self["workers"] > 1 and kinds - {"tcp", "tcp6", "ssl"}:
            raise UsageError("--workers share a tcp: or ssl: endpoint: give --listen such a one")
        if isinstance(self["root"], ScriptDirectory):
            self["root"].listing = bool(self["listing"])
        self["access-log"] = self["access-log"] or self["logfile"]
        self["logfile"] = None
        super().postOptions()

    def limits(self) -> Limits:
        """Return the limits that the options and the process's descriptors set."""
        names = (
            "header-seconds", "idle-seconds", "header-bytes", "body-bytes", "form-bytes", "pending",
        )  # fmt: skip
        given: dict[str, Any] = {name.replace("-", "_"): self[name] for name in names}
        most = max(1, descriptors() - RESERVE)
        return Limits(connections=self["connections"] or most, **given)

    def allowed(self) -> Origins:
        """Return who may ask, besides pages of this server."""
        return Origins(self["hosts"], self["origins"])

    def folder(self) -> str | None:
        """Return the folder that is served; None if it isn't a folder."""
        return self["root"].path if isinstance(self["root"], static.File) else None

    def twistd_command(self) -> list[str]:
        """Return the plain Twisted command that serves the same folder on the same endpoints."""
        path = self.folder() or ""
        here = os.path.relpath(path)
        path = path if here.startswith("..") else here
        return ["twistd", "-n", "web", *(f"--listen={p}" for p in self["ports"]), f"--path={path}"]


def descriptors() -> int:
    """Raise this process's limit of open descriptors to its hard limit; return the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1_048_576 if hard == resource.RLIM_INFINITY else hard
    if soft != most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most
