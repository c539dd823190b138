"""The service of `tarry serve` and `twistd tarry`: what `twistd web` builds, with a safer start.

All options of `twistd web` are options here. What differs: the folder is a plain argument, the
bundled collection by default; the port is bound on the loopback interface only; and what is wrong
with an option is said in one line before anything starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import cast

from twisted.application.service import IService, MultiService
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.python.usage import UsageError
from twisted.web import static, tap
from zope.interface import implementer

from tarry import collection

PORT = 8080
INTERFACE = "127.0.0.1"


class Options(tap.Options):
    """The options of `twistd web`, and: [DIR], --port, --interface."""

    synopsis = "[options] [DIR]"
    longdesc = "Serve a folder of .rpy scripts; without DIR, the bundled collection."

    def __init__(self) -> None:
        super().__init__()
        self["interface"] = None
        self.opt_path(str(collection()))
        self._default = self["root"]

    def opt_port(self, port: str) -> None:
        """Port to listen on, 0 to 65535; 0 takes a free one. [default: 8080]"""
        if not (port.isascii() and port.isdigit() and int(port) <= 65535):
            raise UsageError(f"--port {port!r} is not allowed: give a whole number from 0 to 65535")
        self["port"] = int(port)

    opt_p = opt_port

    def opt_interface(self, interface: str) -> None:
        """Address to listen on. [default: 127.0.0.1, which only this machine can reach]"""
        self["interface"] = interface

    def opt_listen(self, port: str) -> None:
        """Endpoint to listen on, instead of --port and --interface; may be given more than once."""
        try:
            serverFromString(reactor, port)
        except Exception as wrong:  # each kind of endpoint raises what it likes
            raise UsageError(
                f"--listen {port!r} is no endpoint ({wrong}): "
                "give one like tcp:8080:interface=127.0.0.1 or unix:/run/tarry.sock"
            ) from None
        super().opt_listen(port)

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
        self["root"] = self["root"].createSimilarFile(os.path.abspath(folder))

    def postOptions(self) -> None:
        """Turn --port and --interface into the endpoint that `twistd web` understands."""
        port, self["port"] = self["port"], None
        if self["ports"] and (port is not None or self["interface"] is not None):
            raise UsageError("--listen says all: leave out --port and --interface")
        if not self["ports"] and not self["personal"]:
            where = quoteStringArgument(self["interface"] or INTERFACE)
            self["ports"] = [f"tcp:{PORT if port is None else port}:interface={where}"]
        super().postOptions()

    def folder(self) -> str | None:
        """The folder that is served, or None where something else is."""
        return self["root"].path if isinstance(self["root"], static.File) else None

    def plain(self) -> list[str]:
        """The command of plain Twisted that serves the same folder on the same endpoints."""
        path = self.folder() or ""
        here = os.path.relpath(path)
        path = path if here.startswith("..") else here
        return ["twistd", "-n", "web", *(f"--listen={p}" for p in self["ports"]), f"--path={path}"]


@implementer(IStreamServerEndpoint)
class Listening:
    """An endpoint that remembers the port it got, so that port 0 can be told."""

    def __init__(self, endpoint: IStreamServerEndpoint) -> None:
        self.endpoint = endpoint
        self.port: IListeningPort | None = None

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        def keep(port: IListeningPort) -> IListeningPort:
            self.port = port
            return port

        return self.endpoint.listen(factory).addCallback(keep)


def makeService(options: Options) -> MultiService:
    """What `twistd web` makes of the same options."""
    service = cast(MultiService, tap.makeService(options))
    for child in _endpoint_services(service):
        child.endpoint = Listening(child.endpoint)  # type: ignore[attr-defined]
    return service


def ports(service: MultiService) -> list[IListeningPort]:
    """The ports that *service*, made here and started, listens on."""
    return [child.endpoint.port for child in _endpoint_services(service)]  # type: ignore[attr-defined]


def _endpoint_services(service: MultiService) -> Iterator[IService]:
    return (child for child in service if hasattr(child, "endpoint"))
