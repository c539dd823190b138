"""HTTP/1.1 on one connection, parsed by httptools (llhttp).

Data is parsed up to the end of a request; what comes after that waits until the response is finished: so
responses are in order. Requests that arrived in one piece wait in `queue`. A refused one (400, 408, 413,
431 …) is in the queue too, as a `Refused`, and the connection ends with its answer.

There are no timers: `deadline` says when the connection is overdue, and Site.sweep looks at it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NoReturn

import httptools
from twisted.logger import Logger
from twisted.python.failure import Failure

from tarry.body import Body
from tarry.connection import MAX_AHEAD, Connection
from tarry.errors import Refused, whole_response
from tarry.limits import LINGER, MAX_HEADERS, NEVER
from tarry.prior_knowledge import PREFACE_ERROR, become_http2
from tarry.request import Request
from tarry.request_rules import Fields, check_headers, keeps_alive

if TYPE_CHECKING:
    from tarry.site import Site

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
log = Logger()
monotonic = time.monotonic


class HTTP1(Connection):
    """One connection: reads requests, has them answered in order, and writes the responses."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.parser = httptools.HttpRequestParser(self)
        self._in_headers = False
        self._url, self._headers = b"", list[tuple[bytes, bytes]]()
        self._size = 0  # bytes of the headers so far, in complete fields
        self._fed = 0  # bytes the parser was given since they began, at least
        self._last = False  # no request may follow the one that is received
        self._replay = b""  # headers that stand in for those of a request; see _without_upgrade
        self._advancing = False

    def connectionMade(self) -> None:
        super().connectionMade()
        self._due(self.site.limits.idle_seconds)

    def _due(self, seconds: float) -> None:
        """The client has *seconds* for what comes next, unless it waits for a response."""
        if self.answering is None:
            self.deadline = monotonic() + seconds

    # Receiving.

    def dataReceived(self, data: bytes) -> None:
        if self.refusing:
            return  # read, so that the client gets to read why; kept nowhere
        if self.queue and self.receiving is None:
            self._ahead.append(data)
            self._ahead_bytes += len(data)
            if self._ahead_bytes > MAX_AHEAD:
                self.pause_reading()
            return
        self._advancing = True  # a script that reads early runs within _parse: it may finish there
        self._parse(data)
        self._advancing = False
        self._advance()

    def _parse(self, data: bytes) -> None:
        if self.receiving is not None:
            self._due(self.site.limits.idle_seconds)
        self._fed = self._fed + len(data) if self._in_headers else 0
        if not (self._in_headers or self.receiving):
            self._fed, self._size = len(data), 0  # of one request, unless more begin in it
        try:
            self.parser.feed_data(data)
            if self._in_headers and self._fed > self.site.limits.header_bytes:
                self._too_long()  # a field that is not complete
        except httptools.HttpParserUpgrade as upgrade:
            self._after_upgrade(data[upgrade.args[0] :])
        except Refused as refused:
            self.refuse(refused)
        except httptools.HttpParserError as error:
            if self._url == b"*" and str(error) == PREFACE_ERROR:
                become_http2(self, data, self._fed)
            elif not self._last or self.receiving is not None:
                self.refuse(self._reason_of(error, data))

    def _reason_of(self, error: Exception, data: bytes) -> Refused:
        cause = error.__context__
        if isinstance(cause, Refused):  # raised in one of the methods below
            return cause
        if cause is not None:
            log.failure("receiving a request failed", Failure(cause))
            return Refused(500, "the request could not be received: the server's log says why")
        if isinstance(error, httptools.HttpParserInvalidMethodError) and data[:1].isalpha():
            return Refused(501, "unknown method: use one that HTTP registers, in capitals")
        return Refused(400, f"malformed request: {error}")

    def _after_upgrade(self, rest: bytes) -> None:
        """The request offers another protocol for what follows it. A script may take that up; if none
        does, *rest* is the next request, or the body of this one."""
        if self._replay:
            # The parser leaves out a body behind such an offer. A new one, given headers that say
            # how long the body is and nothing else, reads it.
            self.parser, replay = httptools.HttpRequestParser(self), self._replay
            self.parser.feed_data(replay)
            self._replay = b""
            self._parse(rest)
        elif rest:
            self._ahead.append(rest)
            self._ahead_bytes += len(rest)

    # httptools calls these, from within feed_data.

    def on_message_begin(self) -> None:
        if not self._replay:
            if self._size:
                self._fed = 0  # not the first in this piece: how much of it is not known
            self._in_headers, self._size = True, 0
            self._url, self._headers = b"", []
            self._due(self.site.limits.header_seconds)

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._grow(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._grow(len(name) + len(value) + 4)
        if self._in_headers:  # else it is a trailer
            self._headers.append((name, value.rstrip(b" \t")))
            if len(self._headers) > MAX_HEADERS:
                raise Refused(431, f"the request has over {MAX_HEADERS} headers")

    def on_headers_complete(self) -> None:
        if self._replay:
            return
        self._in_headers = False
        method, version = self.parser.get_method(), self.parser.get_http_version()
        fields: Fields = {}
        for name, value in self._headers:
            fields.setdefault(name.lower(), []).append(value)
        length = check_headers(method, self._url, version, fields)
        request: Request = self.site.requestFactory(self)
        request.raw_headers, request.received_fields = self._headers, fields
        protocol = b"HTTP/" + version.encode()
        request.headers_received(method, self._url, protocol, length)
        self._last = not keeps_alive(protocol, request.fields(b"connection"))
        request.keeps_alive = not self._last
        self.queue.append(request)
        self.receiving = request
        if length == 0:
            return
        most = self.site.limits.body_bytes
        if length is not None and length > most:
            raise Refused(413, f"the body has {length} bytes: this server takes at most {most}")
        self._due(self.site.limits.idle_seconds)
        request.expects_continue = b"100-continue" in map(bytes.lower, request.fields(b"expect"))
        if self.parser.should_upgrade():
            framing = (
                b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
            )
            self._replay = b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing

    def on_body(self, body: bytes) -> None:
        if self.receiving is not None:
            self.receiving.handleContentChunk(body)

    def on_message_complete(self) -> None:
        request, self.receiving = self.receiving, self.receiving if self._replay else None
        if request is not None and not self._replay:
            request.complete = True
            if request.early_body is not None:
                request.entry.in_body = False
                request.early_body.end()

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self.site.limits.header_bytes:
            self._too_long()

    def _too_long(self) -> NoReturn:
        most = self.site.limits.header_bytes
        raise Refused(431, f"request line and headers are over {most} bytes")

    def refuse(self, refused: Refused) -> None:
        """Answer with one line in place of the request, after those before it, and close."""
        self.refusing = True
        if self.receiving is not None:
            self.queue.pop()
            request, self.receiving = self.receiving, None
        else:
            request = self.site.requestFactory(self)
            request.uri = self._url if self._in_headers else b""
        request.refused_unread(refused)
        self.queue.append(refused)
        self._advance()

    # Answering.

    def _advance(self) -> None:
        """Have the next request answered, if none is."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self.answering is None and not self.transport.disconnecting:
                if self.queue:
                    first = self.queue[0]
                    if isinstance(first, Refused):
                        self._answer_refused(first)
                        return
                    early = not first.complete and self.site.answers_early(first)
                    if not (first.complete or early):
                        self._send_continue()
                        return
                    self.answering, self.deadline = first, NEVER
                    self.persistent = self.persistent and first.keeps_alive
                    if early:
                        first.process_early(Body(self._body_wanted, self.pause_reading))
                    else:
                        first.body_received()
                elif self._ahead and not self.refusing:
                    data = b"".join(self._ahead)
                    self._ahead, self._ahead_bytes = [], 0
                    self._parse(data)
                else:
                    return
        finally:
            self._advancing = False

    def _send_continue(self) -> None:
        if self.receiving is not None and self.receiving.expects_continue:
            self.receiving.expects_continue = False
            self.write(CONTINUE)

    def _body_wanted(self) -> None:
        self._send_continue()
        self.resume_reading()

    def _answer_refused(self, refused: Refused) -> None:
        log.info(
            "{peer} refused: {code}, {line}",
            peer=self.peer_name, code=refused.code, line=refused.line,
        )  # fmt: skip
        self.write(whole_response(refused))
        self.queue.clear()
        self._close_slowly()

    def _close_slowly(self) -> None:
        """Close, but read on for a while, and drop what is read."""
        self.deadline = monotonic() + LINGER
        if self._paused:
            self._paused = False
            self.transport.resumeProducing()
        # Closing while the client still sends would make the kernel drop what it has not read.
        self.transport.unregisterProducer()
        close = (
            getattr(self.transport, "loseWriteConnection", None) or self.transport.loseConnection
        )
        close()

    def requestDone(self, request: Request) -> None:
        """The response to *request* is finished."""
        self.write(b"")
        del self.queue[0]
        self.answering = None
        if request is self.receiving:  # answered early: what follows of its body is not read
            self.receiving, self.refusing = None, True
            self._close_slowly()
        elif not self.persistent or self.site.draining:
            self.refusing = True
            self.loseConnection()
        else:
            limits = self.site.limits
            self._due(limits.header_seconds if self._in_headers else limits.idle_seconds)
            self._advance()
            self.resume_reading()
        if self.socket is self.transport and self.socket is not None:
            self.socket.send_now()

    # What the site asks of every connection.

    def overdue(self) -> None:
        """End it: the deadline has passed."""
        limits = self.site.limits
        if self.refusing:
            self.transport.abortConnection()
        elif self._in_headers:
            self.refuse(Refused(408, f"no complete headers in {limits.header_seconds:g} seconds"))
        elif self.receiving is not None:
            self.refuse(Refused(408, f"no more of the body for {limits.idle_seconds:g} seconds"))
        else:
            self.refusing, self.deadline = True, monotonic() + LINGER
            self.loseConnection()
