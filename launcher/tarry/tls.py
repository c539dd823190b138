"""TLS connections: which HTTP the client chose, and a word to those that do not speak TLS.

Needs the extra `tarry[tls]`. The client chooses in the TLS handshake (ALPN), so what speaks on a connection
is known when its first bytes come.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure

from tarry.errors import Refused, whole_response
from tarry.http1 import HTTP1
from tarry.limits import LINGER, NEVER

if TYPE_CHECKING:
    from tarry.site import Site

monotonic = time.monotonic


class Negotiating(Protocol):
    """A TLS connection until its first bytes. Then HTTP/1 or HTTP/2 speaks on it."""

    transport: Any

    def __init__(self, site: Site) -> None:
        self.factory = self.site = site
        self.deadline = NEVER
        self._chosen: Any = None
        self._refused = False  # it is plain HTTP

    def connectionMade(self) -> None:
        self.deadline = monotonic() + self.site.limits.header_seconds
        self.site.connections.add(self)

    def dataReceived(self, data: bytes) -> None:
        if self._chosen is None:
            self._chosen = self._choose()
            self.site.connections.discard(self)
            self._chosen.makeConnection(self.transport)
        self._chosen.dataReceived(data)

    def _choose(self) -> Any:
        if getattr(self.transport, "negotiatedProtocol", None) != b"h2":
            return HTTP1(self.site)
        from tarry.http2 import HTTP2

        return HTTP2(self.site)

    def received_plain(self, below: Any) -> None:
        """Answer a request in plain HTTP on *below*, the transport that carries TLS."""
        refused = Refused(400, "this port speaks TLS: use https:// in place of http://")
        request = self.site.requestFactory(self)
        request.uri = b""
        request.refused_unread(refused)
        below.write(whole_response(refused))
        self.deadline = monotonic() + LINGER
        # Closing while the client still sends would make the kernel drop what it has not read.
        below.loseWriteConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._chosen is None:
            self.site.connections.discard(self)
        else:
            self._chosen.connectionLost(reason)

    # What requests and the site ask of every connection.

    def getPeer(self) -> Any:
        return self.transport.getPeer()

    def getHost(self) -> Any:
        return self.transport.getHost()

    def busy(self) -> bool:
        return False

    def loseConnection(self) -> None:
        self.transport.loseConnection()

    def abortConnection(self) -> None:
        self.transport.abortConnection()

    overdue = abortConnection

    def look(self) -> None:
        """Nothing to see."""


class TLS(BufferingTLSTransport):
    """TLS on one connection, which looks at the first byte: a handshake does not begin with a letter."""

    _begun = False
    _plain = False

    def dataReceived(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            if data[:1].isalpha() and isinstance(self.wrappedProtocol, Negotiating):
                self._plain = True
                self.wrappedProtocol.received_plain(self.transport)
        if not self._plain:
            super().dataReceived(data)


def answer_plain_http(port: IListeningPort) -> None:
    """Have *port* answer plain HTTP with one line, if TLS is what it speaks."""
    factory = getattr(port, "factory", None)
    if isinstance(factory, TLSMemoryBIOFactory):
        factory.protocol = TLS
