"""The site: what is served, within which limits, and every connection there is.

A connection, whatever it speaks, is in `connections` from its first moment until its socket is closed.
Each has `deadline`, `busy`, `overdue`, `look` and `loseConnection`; one sweep a second ends what is
overdue, in place of a timer for each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from twisted.web import http, server
from twisted.web.resource import getChildForRequest

from tarry.errors import Refused, whole_response
from tarry.http1 import HTTP1
from tarry.ledger import Ledger
from tarry.limits import Limits
from tarry.origins import Origins
from tarry.request import Request
from tarry.script_directory import ScriptDirectory

if TYPE_CHECKING:
    from tarry.access_log import AccessLog

MAX_REFUSING = 10  # connections over the limit that are read on; further ones are closed at once
SWEEP = 1.0  # seconds from one look at all connections to the next
monotonic = time.monotonic


class Site(server.Site):
    """A site that knows its connections, and what may be asked of it."""

    requestFactory: Any = Request
    opening: Callable[[Site], Protocol] = HTTP1  # what a connection begins with

    def __init__(
        self,
        resource: Any,
        limits: Limits,
        ledger: Ledger,
        access_log: AccessLog | None = None,
        reactor: Any = None,
        origins: Origins | None = None,
    ) -> None:
        super().__init__(resource, timeout=limits.idle_seconds, reactor=reactor)
        self.limits, self.ledger, self.access_log = limits, ledger, access_log
        self.origins = origins or Origins()
        self.connections: set[Any] = set()
        self.draining = False
        self.refusing = 0  # connections over the limit
        self._body_files = 0
        self._sweeping: LoopingCall | None = None
        self._date_of, self._date = 0, b""

    def buildProtocol(self, addr: Any) -> Any:
        if len(self.connections) + self._body_files >= self.limits.connections:
            return TooMany(self, self.limits.connections)
        return self.opening(self)

    def take_descriptor(self) -> None:
        """Count a file that holds a body. Raises Refused if there are as many as may be."""
        if len(self.connections) + self._body_files >= self.limits.connections:
            raise Refused(
                503, "too many connections and uploads: try again later", ("Retry-After", "1")
            )
        self._body_files += 1

    def release_descriptor(self) -> None:
        self._body_files -= 1

    def getResourceFor(self, request: Any) -> Any:
        request.sitepath = list(request.prepath)
        return getChildForRequest(self.resource, request)

    def answers_early(self, request: Any) -> bool:
        """Return whether *request* is for a script that answers before the body is in."""
        return isinstance(self.resource, ScriptDirectory) and self.resource.answers_early(
            request.path
        )

    def date(self) -> bytes:
        """Return the value of a Date header, which is made once a second."""
        now = int(time.time())
        if now != self._date_of:
            self._date_of, self._date = now, http.datetimeToString(now)
        return self._date

    def log(self, request: Any) -> None:
        """Not when a response is finished, but when it has ended, however: see Request._end."""

    def startFactory(self) -> None:
        super().startFactory()
        self._sweeping = LoopingCall(self.sweep)
        self._sweeping.clock = self.reactor
        self._sweeping.start(SWEEP, now=False)

    def stopFactory(self) -> None:
        if self._sweeping is not None:
            self._sweeping.stop()
            self._sweeping = None
        super().stopFactory()

    def sweep(self) -> None:
        """End what is overdue."""
        now = monotonic()
        for connection in list(self.connections):
            if connection.deadline < now:
                connection.overdue()
            else:
                connection.look()
        if self.access_log is not None:
            self.access_log.flush()

    def drain(self) -> None:
        """From now on each connection ends with the response that is under way, if one is.

        Call it until there are no connections: on HTTP/2 responses end, but not connections.
        """
        self.draining = True
        for connection in list(self.connections):
            if connection.busy():
                connection.persistent = False
            else:
                connection.loseConnection()  # once it has sent what it has to send

    def abort(self, why: str) -> None:
        """Abort whatever is still under way."""
        for entry in self.ledger.pending.values():
            entry.detail = why
        for connection in list(self.connections):
            connection.abortConnection()


class TooMany(Protocol):
    """Refuses a connection over the limit; reads on for a moment, so that the client gets the answer."""

    transport: Any

    def __init__(self, site: Site, limit: int) -> None:
        self.site, self.limit = site, limit
        self._abort: Any = None

    def connectionMade(self) -> None:
        refused = Refused(
            503, f"{self.limit} connections are open: try again later", ("Retry-After", "1")
        )
        Request(self).refused_unread(refused)
        self.transport.write(whole_response(refused))
        close = getattr(self.transport, "loseWriteConnection", None)
        if close is None or self.site.refusing >= MAX_REFUSING:
            self.transport.loseConnection()
            return
        close()
        self.site.refusing += 1
        self._abort = self.site.reactor.callLater(1, self.transport.abortConnection)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._abort is not None:
            self.site.refusing -= 1
            if self._abort.active():
                self._abort.cancel()

    def getPeer(self) -> Any:
        return self.transport.getPeer()

    def getHost(self) -> Any:
        return self.transport.getHost()
