"""A connection of HTTP/1: its writes, its backpressure, its end, and another protocol in its place.

Whatever speaks on the socket in the end, a WebSocket or a protocol that a script put in place by taking the
transport over, `released` ends the requests that were under way. See accounting.py.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from tarry.accounting import Accounted
from tarry.errors import Refused
from tarry.limits import NEVER
from tarry.producers import PullProducer
from tarry.request import Request
from tarry.websockets import Watched

if TYPE_CHECKING:
    from twisted.web.http_headers import Headers

    from tarry.site import Site

PIECE = 512  # bytes of what was read ahead that another protocol gets at a time
MAX_AHEAD = 16_384  # bytes read behind a request that is being answered, to notice a disconnect


class Connection(Accounted):
    """One connection of HTTP/1, as its requests and the site see it."""

    persistent = True  # whether a further request may follow

    def __init__(self, site: Site) -> None:
        self.factory = self.site = site
        # In order of arrival. Not a deque: an empty one takes 600 bytes.
        self.queue: list[Request | Refused] = []
        self.receiving: Request | None = None  # the last: its headers are in, its body is not
        self.answering: Request | None = None  # the first of the queue, once it is rendered
        self.refusing = False  # nothing more is read from it
        self._ahead: list[bytes] = []  # received, but not parsed yet
        self._ahead_bytes = 0
        self._paused = False  # nothing is read, because enough is read ahead
        self._own = 0  # bytes of responses that were written
        self._held = b""  # headers of the response that wait for its first byte
        self._producer: Any = None  # of the response
        self._full = False  # the client does not read what there is to send

    def released(self, how: str, reason: Failure | None = None) -> None:
        """The socket is closed; *how* is FIN or RST if the client closed it."""
        reason = reason or self._reason or connectionDone
        self.site.connections.discard(self)
        self.deadline = NEVER
        queue, self.queue, self.answering = self.queue, [], None
        for each in queue:
            if isinstance(each, Request):
                each.connectionLost(reason, how)

    def setTimeout(self, period: float | None) -> None:
        """End the connection if nothing comes within *period* seconds; None: however long it takes."""
        self.deadline = NEVER if period is None else time.monotonic() + period

    def loseConnection(self) -> None:
        """Close once all that was written has been sent."""
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def abortConnection(self) -> None:
        (self.transport or self.socket).abortConnection()  # type: ignore[union-attr]  # one is there

    # Writing.

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """Send a status line and headers: those of a response together with what is written next,
        those of a 1xx at once."""
        interim = code.startswith(b"1")
        early = self.answering is not None and not self.answering.complete
        if not interim and (not self.persistent or self.site.draining or early):
            headers.setRawHeaders(b"Connection", [b"close"])
        lines = [b"%b %b %b\r\n" % (version, code, reason)]
        for name, values in headers.getAllRawHeaders():
            for value in values:
                lines.append(b"%b: %b\r\n" % (name, value))  # noqa: PERF401  # it is faster so
        lines.append(b"\r\n")
        self._held = b"".join(lines)
        if interim:
            self.write(b"")

    def write(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        if data:
            self._own += len(data)
            self.transport.write(data)

    def raw_bytes(self) -> int:
        """Return how many bytes scripts wrote to the socket itself, past the response."""
        own = self.socket is not None and self.transport in (self.socket, None)
        return self.socket.written - self._own if own else 0  # type: ignore[union-attr]

    def writeSequence(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    # Backpressure: the transport calls the last two, as the client reads or does not.

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self._producer is not None:
            raise RuntimeError(f"cannot register {producer}: {self._producer} is registered")
        self._producer = producer if streaming else PullProducer(producer, self.site.reactor)
        if self._full:
            self._producer.pauseProducing()

    def unregisterProducer(self) -> None:
        producer, self._producer = self._producer, None
        if isinstance(producer, PullProducer):
            producer.stop()

    def stopProducing(self) -> None:
        if self._producer is not None:
            self._producer.stopProducing()

    def pauseProducing(self) -> None:
        self._set_full(True)
        if self._producer is not None:
            self._producer.pauseProducing()
        if self.answering is None:
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self._set_full(False)
        if self._producer is not None:
            self._producer.resumeProducing()
        if self.answering is None and not self._paused:
            self.transport.resumeProducing()

    def _set_full(self, full: bool) -> None:
        self._full = full
        if self.answering is not None:
            self.answering.entry.stalled = full

    def pause_reading(self) -> None:
        if not self._paused:
            self._paused = True
            self.transport.pauseProducing()

    def resume_reading(self) -> None:
        if self._paused and self._ahead_bytes <= MAX_AHEAD:
            self._paused = False
            if not self._full or self.receiving is not None:
                self.transport.resumeProducing()

    # What the site asks of every connection, besides `overdue` and `loseConnection`.

    def busy(self) -> bool:
        """Whether a request is being received or answered."""
        return bool(self.queue) and not self.refusing

    def look(self) -> None:
        """Notice a client that is gone, while nothing is read from it."""
        if self._ahead_bytes > MAX_AHEAD and self.socket is not None and self.socket.client_gone():
            self.transport.abortConnection()

    # Another protocol.

    def hand_over(self, protocol: Any, data: bytes) -> None:
        """Give the connection to *protocol*, which keeps the books from now on, and to it *data*."""
        self.site.connections.discard(self)
        self.transport.unregisterProducer()
        self.dataReceived = protocol.dataReceived  # type: ignore[method-assign]
        self.connectionLost = protocol.connectionLost  # type: ignore[method-assign]
        protocol.makeConnection(self.transport)
        protocol.dataReceived(data)

    def _protocolUpgradeForWebsockets(self, protocol: Any) -> None:
        """Give the connection to *protocol*. Twisted's WebSocketResource calls this."""
        if self.answering is None:
            raise RuntimeError("no request is being answered that could be upgraded")
        watched = Watched(self.transport, protocol, self.answering.entry)
        self.answering.upgraded(watched)
        self.refusing, self.deadline = True, NEVER
        self.transport.unregisterProducer()
        self.dataReceived = watched.dataReceived  # type: ignore[method-assign]

        def lost(reason: Failure) -> None:
            try:
                protocol.connectionLost(reason)
            finally:
                Connection.connectionLost(self, reason)

        self.connectionLost = lost  # type: ignore[method-assign, assignment]
        protocol.makeConnection(watched)
        ahead, self._ahead = b"".join(self._ahead), []
        if ahead:  # frames sent with the handshake come after its answer, which is written next
            self.transport.pauseProducing()
            self.site.reactor.callLater(0, self._hand_over, ahead)

    def _hand_over(self, data: bytes) -> None:
        """Give what was read ahead to the new protocol, a piece in each turn of the reactor."""
        if self not in self.site.connections:
            return
        self.dataReceived(data[:PIECE])
        if len(data) > PIECE:
            self.site.reactor.callLater(0, self._hand_over, data[PIECE:])
        else:
            self.transport.resumeProducing()
