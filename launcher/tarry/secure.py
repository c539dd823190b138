"""TLS: a certificate for this machine, and HTTP/2 for clients that choose it.

Needs the extra `tarry[tls]`. Where HTTP/2 differs from Twisted's on purpose: a connection does not idle
while a request is pending, so long waits last; a client that resets its stream stops the producer, so
nothing spins; and a script that aborts its stream is told of the end, as it is on HTTP/1.1.
"""

from __future__ import annotations

import atexit
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h2.errors import ErrorCodes
from twisted.internet.error import ConnectionAborted
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web._http2 import H2Connection  # the only way in, also for Twisted's own http module

from tarry.http1 import HTTP1
from tarry.limits import NEVER
from tarry.request import peer_name

if TYPE_CHECKING:
    from tarry.site import Site


class Multiplexed(H2Connection):
    """HTTP/2 on one connection."""

    site: Any
    transport: Any
    deadline = NEVER
    persistent = 1
    peer_name: str

    _leaving = False

    def busy(self) -> bool:
        return bool(self.streams)

    def connectionMade(self) -> None:
        self.peer_name = peer_name(self.transport.getPeer())
        self.site.connections.add(self)
        super().connectionMade()

    def connectionLost(
        self, reason: Failure = connectionDone, _cancelTimeouts: bool = True
    ) -> None:
        self.site.connections.discard(self)
        super().connectionLost(reason, _cancelTimeouts)

    def setTimeout(self, period: float | None) -> None:
        self.deadline = NEVER if period is None else time.monotonic() + period

    def resetTimeout(self) -> None:
        self.deadline = time.monotonic() + self.site.limits.idle_seconds

    def look(self) -> None:
        """Nothing to see."""

    def abortConnection(self) -> None:
        self.transport.abortConnection()

    def overdue(self) -> None:
        if self.streams:
            self.resetTimeout()  # it is for the server to say something; keep-alive finds the dead
        else:
            self.deadline = NEVER
            self.timeoutConnection()
            self.transport.unregisterProducer()  # for which TLS would wait with its end

    def loseConnection(self) -> None:
        """Say that no more requests are taken, and close."""
        if not self._leaving:
            self._leaving = True
            self.conn.close_connection()
            self.transport.write(self.conn.data_to_send())
            self.transport.loseConnection()
        if not self.streams:
            self.transport.unregisterProducer()  # as above

    # Twisted goes on trying to send on a stream whose window is used up, turn after turn. Here such a
    # stream is blocked, until something comes that gives it a window again.

    def _sendPrioritisedData(self, *arguments: Any) -> None:
        super()._sendPrioritisedData(*arguments)
        for number in self._waiting():
            if self.conn.local_flow_control_window(number) <= 0:
                self.priority.block(number)

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        ready = [n for n in self._waiting() if self.conn.local_flow_control_window(n) > 0]
        for number in ready:
            self.priority.unblock(number)
        if ready and self._sendingDeferred is not None:
            sending, self._sendingDeferred = self._sendingDeferred, None
            sending.callback(None)

    def _waiting(self) -> list[int]:
        """The streams that have data to send next, and not their end."""
        queues = self._outboundStreamQueues
        return [n for n in self.streams if queues.get(n) and isinstance(queues[n][0], bytes)]

    def abortRequest(self, streamID: int) -> None:
        stream = self.streams.get(streamID)
        # Twisted resets with NO_ERROR, which clients take for a whole response.
        self.conn.reset_stream(streamID, ErrorCodes.INTERNAL_ERROR)
        if self._tryToWriteControlData():
            self._requestDone(streamID)
        if stream is not None:
            self._reactor.callLater(0, stream.connectionLost, Failure(ConnectionAborted()))


class Negotiating(Protocol):
    """A TLS connection, until its first bytes: then it is known which HTTP the client chose."""

    transport: Any

    def __init__(self, site: Site) -> None:
        self.site = site
        self.channel: Any = None
        self.deadline = NEVER

    def connectionMade(self) -> None:
        self.deadline = time.monotonic() + self.site.limits.header_seconds
        self.site.connections.add(self)

    def look(self) -> None:
        """Nothing to see."""

    def abortConnection(self) -> None:
        self.transport.abortConnection()

    def overdue(self) -> None:
        self.transport.abortConnection()

    def busy(self) -> bool:
        return False

    def loseConnection(self) -> None:
        self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        if self.channel is None:
            self.site.connections.discard(self)
            if getattr(self.transport, "negotiatedProtocol", None) == b"h2":
                self.channel = Multiplexed()
                self.channel.factory = self.channel.site = self.site
                self.channel.requestFactory = self.site.requestFactory
                self.channel.makeConnection(self.transport)
                self.transport.registerProducer(self.channel, True)
            else:
                self.channel = HTTP1(self.site)
                self.channel.makeConnection(self.transport)
        self.channel.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.site.connections.discard(self)
        if self.channel is not None:
            self.channel.connectionLost(reason)


class Certificate:
    """A certificate for localhost, of an authority of its own: files that go with the process."""

    def __init__(self) -> None:
        import trustme

        temporary = tempfile.TemporaryDirectory(prefix="tarry-")
        atexit.register(temporary.cleanup)
        folder = Path(temporary.name)
        authority = trustme.CA()
        issued = authority.issue_cert("localhost", "127.0.0.1", "::1")
        self.authority = folder / "authority.pem"
        self.key, self.chain = folder / "key.pem", folder / "chain.pem"
        authority.cert_pem.write_to_path(self.authority)
        issued.private_key_pem.write_to_path(self.key)
        for pem in issued.cert_chain_pems:
            pem.write_to_path(self.chain, append=True)
