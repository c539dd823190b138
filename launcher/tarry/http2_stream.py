"""One stream of an HTTP/2 connection: the channel of one request.

It is born when the headers are in, and released by its connection when both sides have ended it, or one
has reset it. `deadline` is when the client is overdue: with more of the body, or in taking the rest of a
response that is finished. A client that is still sending after it was answered has LINGER seconds to end.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from h2.errors import ErrorCodes
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.python.failure import Failure

from tarry.body import Body
from tarry.errors import Refused
from tarry.http2_frames import MAX_FRAME
from tarry.http2_headers import Malformed, response_fields, target
from tarry.limits import LINGER, NEVER
from tarry.producers import PullProducer

if TYPE_CHECKING:
    from twisted.web.http_headers import Headers

    from tarry.http2 import HTTP2
    from tarry.http2_headers import FieldList
    from tarry.request import Request

monotonic = time.monotonic


class Stream:
    """What a request knows as its channel."""

    transport = None  # by this, scripts tell HTTP/2 from HTTP/1, as with Twisted's
    deadline = NEVER

    def __init__(self, connection: HTTP2, number: int) -> None:
        self.connection, self.number = connection, number
        self.factory = self.site = connection.site
        self.peer_name, self.loopback = connection.peer_name, connection.loopback
        self.request: Request | None = None  # until it is answered, or its client has left
        self.receiving = True  # the client has not ended its side
        self.unsent = bytearray()  # of the response
        self.finished = False  # all of the response is here
        self.ended = False  # and sent
        self.closed = False  # nothing more can be sent
        self._reset_at_end: int | None = None  # error code, for a response that ends with a reset
        self._producer: Any = None
        self._paused = False  # the producer
        self._holding = False  # the client may send no more of the body, until the script takes it
        self._held = 0  # bytes of the body by which its window is smaller for that

    # The request arrives.

    def received_headers(self, fields: FieldList, length: int | None) -> Request:
        """Begin a request, which is in the ledger from now on."""
        asked = target(fields)
        request: Request = self.site.requestFactory(self)
        self.request, request.raw_headers, request.received_fields = request, asked.headers, {}
        for name, value in asked.headers:
            request.received_fields.setdefault(name, []).append(value)
        request.headers_received(asked.method, asked.path, b"HTTP/2", length)
        return request

    def await_body(self) -> None:
        """The headers are in, and the body is not."""
        request = self.request
        if request is not None:
            expect = map(bytes.lower, request.fields(b"expect"))
            request.expects_continue = b"100-continue" in expect
            if self.site.answers_early(request):
                request.process_early(Body(self._body_wanted, self._body_full))
            else:
                self.deadline = monotonic() + self.site.limits.idle_seconds
                self._send_continue()

    def _send_continue(self) -> None:
        request = self.request
        if request is not None and request.expects_continue and not request.startedWriting:
            request.expects_continue = False
            self.connection.send_headers(self, [(b":status", b"100")])

    def _body_wanted(self) -> None:
        self._send_continue()
        self._holding = False
        held, self._held = self._held, 0
        if held and self.receiving and not self.closed:
            self.connection.open_window(held, self.number)

    def _body_full(self) -> None:
        self._holding = True

    def received_data(self, data: bytes, length: int) -> None:
        """Keep a piece of the body, which takes *length* of the windows. After an answer, keep none."""
        request = self.request
        if request is not None:
            if request.early_body is None:
                self.deadline = monotonic() + self.site.limits.idle_seconds
            try:
                request.handleContentChunk(data)
            except Refused as refused:
                self.refuse(refused)
        if self._holding:
            self._held += length
            self.connection.open_window(length)  # for other streams
        elif not self.closed:
            self.connection.acknowledge(length, self.number)

    def received_end(self) -> None:
        """The client has ended its side."""
        self.receiving = False
        request = self.request
        if self.finished:
            self.connection.release_if_ended(self)
        elif request is not None:
            self.deadline = NEVER
            if request.early_body is None:
                request.body_received()
            else:
                request.complete, request.entry.in_body = True, False
                request.early_body.end()

    def refuse(self, refused: Refused) -> None:
        """Answer with one line, whatever is still to come of the request."""
        if isinstance(refused, Malformed):
            self._reset_at_end = ErrorCodes.PROTOCOL_ERROR
        if self.request is not None:
            self.request.entry.detail = refused.line
            self.request.refuse(refused)

    # What its request asks of it.

    def getPeer(self) -> Any:
        return self.connection.getPeer()

    def getHost(self) -> Any:
        return self.connection.getHost()

    def isSecure(self) -> bool:
        return self.connection.isSecure()

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """Send status and headers; 1xx ones may come before."""
        if not self.closed:
            self.connection.send_headers(self, response_fields(code, headers))

    def write(self, data: bytes) -> None:
        if data and not self.closed:
            self.unsent += data
            self.connection.send(self)

    def writeSequence(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def requestDone(self, request: Request) -> None:
        """The response is finished."""
        self.request, self.finished = None, True
        self._body_wanted()  # what is still to come of it is dropped
        self.deadline = monotonic() + self.site.limits.idle_seconds
        self.connection.send(self)
        self.connection.send_now()

    def loseConnection(self) -> None:
        self.abortConnection()

    def abortConnection(self) -> None:
        """Reset the stream: what was sent of the response is not the whole."""
        request = self.request
        self.connection.reset(self, ErrorCodes.INTERNAL_ERROR)
        if request is not None:
            self.request = None
            reason = Failure(ConnectionAborted())
            self.site.reactor.callLater(0, request.connectionLost, reason)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self._producer is not None:
            raise RuntimeError(f"cannot register {producer}: {self._producer} is registered")
        self._producer = producer if streaming else PullProducer(producer, self.site.reactor)
        self._paused = False
        self.watch_backlog()

    def unregisterProducer(self) -> None:
        producer, self._producer = self._producer, None
        if isinstance(producer, PullProducer):
            producer.stop()

    # What its connection asks of it.

    def send_frame(self) -> bool:
        """Send one frame if the client's windows allow; return whether there is more to send now."""
        http = self.connection.http
        size = len(self.unsent)
        if size:
            size = min(size, http.local_flow_control_window(self.number), MAX_FRAME)
            if size <= 0:
                return False
        data = bytes(self.unsent[:size])
        del self.unsent[:size]
        last = self.finished and not self.unsent
        self.ended = last and self._reset_at_end is None
        if data:
            http.send_data(self.number, data, end_stream=self.ended)
        elif self.ended:
            http.end_stream(self.number)
        if self.finished:
            idle = self.site.limits.idle_seconds
            self.deadline = monotonic() + (LINGER if self.ended else idle)
        if last and self._reset_at_end is not None:
            self.connection.reset(self, self._reset_at_end)
        elif last:
            self.connection.release_if_ended(self)
        return bool(self.unsent)

    def watch_backlog(self) -> None:
        """Pause the producer while there is something that cannot be sent, resume it after that."""
        if self.request is not None:
            self.request.entry.stalled = bool(self.unsent)
        if self._producer is not None and self._paused != bool(self.unsent):
            self._paused = not self._paused
            if self._paused:
                self._producer.pauseProducing()
            else:
                self._producer.resumeProducing()

    def overdue(self) -> None:
        """End it: the deadline has passed."""
        if self.finished:  # and the client does not take it, or does not stop sending
            self.connection.reset(self, ErrorCodes.CANCEL if self.unsent else ErrorCodes.NO_ERROR)
        else:
            seconds = self.site.limits.idle_seconds
            self.refuse(Refused(408, f"no more of the body for {seconds:g} seconds"))

    def lost(self, how: str, reason: Failure | None = None) -> None:
        """The stream is no more: *how* is for the ledger, what the client did."""
        self.closed = True
        request, self.request = self.request, None
        if request is not None:
            request.connectionLost(reason or Failure(ConnectionDone()), how)
