"""The service of `tarry serve`: what `twistd web` makes of the options, with tarry's site on each port.

The site keeps a ledger, has limits, and ends with a grace period.
"""

from __future__ import annotations

import sys
from typing import Any, cast

from twisted.application.service import MultiService
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.web import server, tap
from zope.interface import implementer

from tarry import ledger
from tarry.access_log import AccessLog
from tarry.gc_policy import IdleCollector
from tarry.options import Options
from tarry.shutdown import GracefulShutdown
from tarry.site import Site
from tarry.sockets import tune
from tarry.workers import ParentMonitor, Supervisor, WorkerConfig, adopted


@implementer(IStreamServerEndpoint)
class Listening:
    """An endpoint that tunes its port, and remembers it: for port 0, the number is in there."""

    def __init__(self, endpoint: IStreamServerEndpoint, secure: bool) -> None:
        self.endpoint, self.secure = endpoint, secure
        self.port: IListeningPort | None = None

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        def keep(port: IListeningPort) -> IListeningPort:
            self.port = tune(port, reactor)
            if self.secure:
                from tarry.tls import answer_plain_http

                answer_plain_http(port)
            return port

        return self.endpoint.listen(factory).addCallback(keep)


class Web(MultiService):
    """The service of `twistd web` for the same options, with tarry's site on each endpoint."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options
        self.ledger = ledger.Ledger(options["ledger"])
        self.listening: list[Listening] = []
        self.sites: list[Site] = []
        self._file = options["access-log"]
        made = cast(MultiService, tap.makeService(options))
        config = WorkerConfig.given()
        for index, (child, where) in enumerate(zip(list(made), options["ports"], strict=False)):
            if hasattr(child, "endpoint") and isinstance(child.factory, server.Site):
                if config is not None:
                    child.endpoint = adopted(reactor, config, index)
                secure = where.partition(":")[0] not in ("tcp", "tcp6", "unix", "systemd", "fd")
                child.endpoint = Listening(child.endpoint, secure)
                self.listening.append(child.endpoint)
                child.factory = self._site(child.factory, secure)
        made.setServiceParent(self)
        for site in self.sites:
            grace = GracefulShutdown(site, options["grace"], sys.stderr.isatty(), reactor)
            grace.setServiceParent(self)

    def _site(self, given: server.Site, secure: bool) -> Site:
        site = Site(
            given.resource, self.options.limits(), self.ledger, origins=self.options.allowed()
        )
        if secure:
            from tarry.tls import Negotiating

            site.opening = Negotiating
        site.displayTracebacks = given.displayTracebacks
        self.sites.append(site)
        return site

    def startService(self) -> None:
        if WorkerConfig.given() is not None:
            self.parent = ParentMonitor(reactor)
        self.reopen()
        super().startService()
        if self.options["gc"] == "idle":
            IdleCollector(self.ledger, reactor).start()

    def stopService(self) -> Any:
        def written(result: Any) -> Any:
            for site in self.sites:
                if site.access_log is not None:
                    site.access_log.flush()
            return result

        return super().stopService().addBoth(written)

    def reopen(self) -> None:
        """Open the access log, or open it again after its file was moved away."""
        log = None
        if self._file:
            log = AccessLog(open(self._file, "a", encoding="ascii"))  # noqa: SIM115  # kept open
        elif not self.options["quiet"]:
            log = AccessLog(sys.stdout, watched=sys.stdout.isatty())
        for site in self.sites:
            old, site.access_log = site.access_log, log
            if old is not None and self._file:
                old.close()
            elif old is not None:
                old.flush()

    def ports(self) -> list[IListeningPort]:
        """Return the listening ports, once the service has started."""
        return [each.port for each in self.listening if each.port is not None]


def makeService(options: Options) -> Web | Supervisor:
    """Return the service of `twistd tarry`."""
    if options["workers"] > 1 and WorkerConfig.given() is None:
        made = options["certificate"]
        inherited = () if made is None else made.descriptors
        return Supervisor(
            options["ports"], options["workers"], options.arguments, reactor, inherited
        )
    return Web(options)
