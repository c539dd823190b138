"""What every connection has, whichever HTTP it speaks: its place in the site's books, and its end.

The socket is what is accounted for. `released` is called once, when it is closed, whatever protocol speaks
on it by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet import interfaces
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from tarry.limits import NEVER
from tarry.origins import is_loopback
from tarry.request import peer_name
from tarry.sockets import socket_below

if TYPE_CHECKING:
    from tarry.site import Site


class Accounted(Protocol):
    """A connection in the books of its site."""

    site: Site
    transport: Any
    deadline = NEVER  # monotonic time at which the client is overdue
    _reason: Failure | None = None  # why the connection was lost

    def connectionMade(self) -> None:
        self._peer, self._host = self.transport.getPeer(), self.transport.getHost()
        self.peer_name = peer_name(self._peer)
        self.loopback = is_loopback(getattr(self._host, "host", ""))
        self.socket = socket_below(self.transport)
        if self.socket is not None:
            self.socket.ended = self.released
        if interfaces.ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.site.connections.add(self)
        self.transport.registerProducer(self, True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.socket is None:
            self.released("", reason)
        else:
            self._reason = reason  # `released` follows at once

    def released(self, how: str, reason: Failure | None = None) -> None:
        """The socket is closed; *how* is FIN or RST if the client closed it."""
        raise NotImplementedError

    def getPeer(self) -> Any:
        return self._peer

    def getHost(self) -> Any:
        return self._host

    def isSecure(self) -> bool:
        return interfaces.ISSLTransport(self.transport, None) is not None
