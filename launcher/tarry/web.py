"""Site, channel and request: Twisted's own, with a ledger, limits, and no half-failed answers.

Where they differ from Twisted on purpose:

- A response that is finished leaves at once; what is written before that leaves at the end of the
  reactor's turn. (Twisted: both in the next turn.)
- One sweep a second ends connections that are overdue, instead of a timer for each. The head of a
  request has `Limits.head_seconds` in total, so that a trickle ends; a body may pause for as long as a
  connection may idle.
- What is over a limit is answered with 408, 413, 431 or 503, not with 400 or nothing.
- `str` given to `write`, and an exception out of a render method after the first byte, break the
  connection off. Before the first byte both are a 500 of one plain line.
- Nothing is formatted for the access log if there is none.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote_to_bytes

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http, http_headers, server
from twisted.web.error import UnsupportedMethod
from twisted.web.resource import getChildForRequest

from tarry.folder import place, plain
from tarry.ledger import ABORTED, FAILED, FINISHED, LEFT, Entry, Ledger, without_credentials
from tarry.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from tarry.accesslog import AccessLog

# The module twisted.web.http looks up its attributes slowly, as some of them are deprecated.
NO_BODY_CODES, PlainRequest, parse_qs = http.NO_BODY_CODES, http.Request, http.parse_qs
NOT_DONE_YET, VERSION = server.NOT_DONE_YET, server.version

log = Logger()
monotonic = time.monotonic
NEVER = float("inf")
SWEEP = 1.0  # seconds from one look at all connections to the next
FIELDS = 10_000  # of a form, in a request's body
NOTE = 200  # characters of a script's note that are kept
LINGER = 5.0  # seconds that a client has to read why it was refused


@dataclass(frozen=True)
class Limits:
    """What one server takes before it says no. Seconds, bytes and counts; none of them is clamped."""

    head_seconds: float = 10.0  # for a request's head, from its first byte: 408
    idle_seconds: float = 60.0  # without a byte, between requests or within a body
    head_bytes: int = 16_384  # request line and headers: 431
    body_bytes: int = 10_000_000  # 413
    pending: int = 20_000  # requests that are not answered yet: 503
    connections: int = 1_000_000  # open ones: 503


class Request(server.Request):
    """A request that keeps its entry in the ledger up to date."""

    channel: Any
    content: Any
    site: Any = None
    entry: Entry
    fault = ""  # what went wrong in the script, once something has
    _too_much = ""  # of a body, in words
    _closed = False  # nothing more is to be sent, whatever the script does
    _upgraded = False  # to a protocol that has an end of its own

    def __init__(self, channel: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(channel, *arguments, **options)
        self.entry = Entry(monotonic(), time.time())

    @property
    def note(self) -> str:
        """What the script has to say of this request, in the ledger at once, and cut to NOTE."""
        return self.entry.note

    @note.setter
    def note(self, text: object) -> None:
        self.entry.note = str(text)[:NOTE]

    def handleContentChunk(self, data: bytes) -> None:
        most = self.channel.site.limits.body_bytes
        if self.content.tell() + len(data) <= most:
            super().handleContentChunk(data)
        elif isinstance(self.channel, Channel):
            self.channel.refuse(413, f"the body is over {most} bytes")
        else:
            # HTTP/2: told at the end of the body, which is not kept
            self._too_much = f"the body is over {most} bytes"

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """As Twisted's, which parses the fields of a form while everybody waits: not too many."""
        if command == b"POST" and self.content.tell() > FIELDS:
            kind = (self.getHeader(b"Content-Type") or b"").lower()
            mark = {b"application/x-www-form-urlencoded": b"&", b"multipart/form-data": b"\r\n--"}
            between = mark.get(kind.partition(b";")[0].strip())
            self.content.seek(0)
            if between and self.content.read().count(between) > FIELDS:
                self._too_much = f"the form has over {FIELDS} fields"
                self.content.seek(0)  # so that Twisted sees nothing to parse
        super().requestReceived(command, path, version)

    def process(self) -> None:
        site = self.site = self.channel.site
        entry = self.entry
        if not self.uri.startswith(b"/"):
            self._origin_form()
        entry.method, entry.path, entry.protocol = self.method, self.path, self.clientproto
        query = self.uri.partition(b"?")[2]
        if query:
            entry.query = without_credentials(query)
        arguments = self.args if self.method != b"POST" else parse_qs(query, 1)  # no body's
        keys = arguments.get(b"key") or self.requestHeaders.getRawHeaders(b"X-Tarry-Key")
        if keys:
            entry.key = keys[0].decode("utf-8", "replace")
        entry.peer = getattr(self.channel, "peer_name", None) or peer_name(self.channel)
        site.ledger.open(entry)
        if self._too_much:
            plain(self, 413, self._too_much)
            return
        if len(site.ledger.pending) > site.limits.pending:
            self.setHeader(b"Retry-After", b"1")
            plain(self, 503, f"{site.limits.pending} requests are pending: try again later")
            return
        if self.path == b"*":
            super().process()
            return
        self.responseHeaders.setRawHeaders(b"Server", [VERSION])
        self.responseHeaders.setRawHeaders(b"Date", [site.date()])
        self.prepath = []
        self.postpath = list(map(unquote_to_bytes, self.path[1:].split(b"/")))
        try:
            resource = site.getResourceFor(self)
            make_encoder = getattr(resource, "getEncoder", None)
            if make_encoder is not None:
                self._encoder = make_encoder(self)
            self.render(resource)
        except BaseException:  # as in Twisted: whatever it is, the client gets an answer
            self.processingFailed(Failure())

    def _origin_form(self) -> None:
        """Make of http://user:password@host/path?query, which a proxy may send, /path?query."""
        authority = self.uri.partition(b"://")[2]
        if authority:
            self.uri = b"/" + authority.partition(b"/")[2]
            self.path = self.uri.partition(b"?")[0]

    def render(self, resrc: Any) -> None:
        """As Twisted's, but what is neither bytes nor NOT_DONE_YET is a failure like any other."""
        try:
            body = resrc.render(self)
        except UnsupportedMethod:
            super().render(resrc)
            return
        if body is NOT_DONE_YET or self._closed:
            return
        if not isinstance(body, bytes):
            kind, method = type(body).__name__, f"render_{self.method.decode('ascii', 'replace')}"
            wrong = f"{type(resrc).__name__}.{method} returned {kind}: return bytes or NOT_DONE_YET"
            self.processingFailed(Failure(TypeError(wrong)))
            return
        if body or self.method != b"HEAD":
            self.setHeader(b"Content-Length", b"%d" % len(body))
        self.write(b"" if self.method == b"HEAD" else body)
        self.finish()

    def write(self, data: bytes) -> None:
        if self._closed:
            return
        if isinstance(data, str):
            frame = sys._getframe(1)
            where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            log.error(
                "{where}: request.write was given a str, {text}: write bytes: b'…' or .encode()",
                where=where, text=ascii(data[:40]),
            )  # fmt: skip
            self._break_off(f"str written at {where}")
            return
        if self._encoder is None and (self.startedWriting or self._typed()):
            PlainRequest.write(self, data)
        else:
            super().write(data)
        if not self._disconnected:
            bodiless = self.method == b"HEAD" or self.code in NO_BODY_CODES
            self.entry.wrote(0 if bodiless else len(data), monotonic())

    def _typed(self) -> bool:
        """Whether the response has its type, so that server.Request need not think of one."""
        return self.responseHeaders.hasHeader(b"Content-Type") and not self._inFakeHead

    def finish(self) -> None:
        if self._closed:
            return
        transport = self.transport
        super().finish()
        self._end(FAILED if self.fault else FINISHED, self.fault)
        if isinstance(transport, Transport):
            transport.send_now()

    def loseConnection(self) -> None:
        """As Twisted's. Where that would be the clean end of a part, as on HTTP/2, break it off."""
        if self.transport is None and self.channel is not None and not self.finished:
            abort(self)
        else:
            super().loseConnection()

    def upgraded(self) -> None:
        """The connection speaks another protocol from now on."""
        self.code, self.startedWriting, self._upgraded = 101, 1, True

    def _end(self, outcome: str, detail: str) -> None:
        entry, site = self.entry, self.site
        if self.startedWriting:
            entry.status = self.code
        site.ledger.close(entry, outcome, detail, monotonic())
        if site.access_log is not None:
            site.access_log.write(self, entry)

    def processingFailed(self, reason: Failure) -> Failure:
        """An exception came out of a render method, or from on the way to it."""
        wrong = cast(BaseException, reason.value)
        detail = f"{type(wrong).__name__} at {place(wrong, '') or 'no line of a script'}"
        log.failure("{uri!r} failed: {detail}", failure=reason, uri=self.uri, detail=detail)
        if self.finished or self._disconnected or self._closed:
            return reason
        if self.site.displayTracebacks and not self.startedWriting:
            self.fault = detail
            super().processingFailed(reason)
        else:
            self._break_off(detail)
        return reason

    def _break_off(self, detail: str) -> None:
        """Answer 500 if nothing was sent yet, else break the connection: a part is not the whole."""
        self.fault = detail
        if self.producer is not None:
            self.unregisterProducer()
        if self.startedWriting:
            self._end(FAILED, detail)
            abort(self)
        else:
            plain(self, 500, "the script failed: the server's log says why")
        self._closed = True

    def connectionLost(self, reason: Failure) -> None:
        if not self.finished and self.site is not None:
            disconnecting = getattr(self.transport, "disconnecting", False)
            if self._upgraded and disconnecting and not reason.check(ConnectionAborted):
                self._end(FINISHED, "")
            elif disconnecting or reason.check(ConnectionAborted):
                self._end(ABORTED, self.entry.detail)
            else:
                self._end(LEFT, "FIN" if reason.check(ConnectionDone) else "RST")
        if self.transport is None and self.producer is not None:
            producer = self.producer  # on HTTP/2 nobody else tells it
            self.unregisterProducer()
            producer.stopProducing()
        super().connectionLost(reason)


def abort(request: Any) -> None:
    """Break the connection of *request* off: RST on HTTP/1, RST_STREAM on HTTP/2."""
    (request.transport or request.channel).abortConnection()


def peer_name(channel: Any) -> str:
    """The client's address, as the ledger shows it."""
    peer = channel.getPeer()
    return f"{peer.host}:{peer.port}" if hasattr(peer, "port") else "local"


class Channel(http.HTTPChannel):
    """HTTP/1.1 on one connection, within the limits of its site."""

    site: Site
    transport: Any
    peer_name: str
    deadline = NEVER  # monotonic time at which something is overdue
    _head = 0  # bytes of the request's head so far
    _in_head = False
    _in_body = False
    _refused = False
    _pipelined = False

    def connectionMade(self) -> None:
        limits = self.site.limits
        self.totalHeadersSize = self.MAX_LENGTH = limits.head_bytes
        self._peer: Any = self.transport.getPeer()
        self._host: Any = self.transport.getHost()
        self.peer_name = peer_name(self)
        self.site.channels.add(self)
        super().connectionMade()

    def getPeer(self) -> Any:
        return self._peer

    def getHost(self) -> Any:
        return self._host

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.site.channels.discard(self)
        self.deadline = NEVER
        super().connectionLost(reason)

    # What is received, and by when. There are no timers here: see Site.sweep.

    def setTimeout(self, period: float | None) -> float:
        """HTTPChannel calls this with a period when it waits for a request, with None when not."""
        self.deadline = NEVER if period is None else monotonic() + period
        return self.site.limits.idle_seconds

    def resetTimeout(self) -> None:
        """HTTPChannel calls this for whatever comes; a head's time does not start anew with it."""

    def dataReceived(self, data: bytes) -> None:
        if self._refused:
            return  # and still read, so that the client gets to read why
        if self._in_body:
            self.deadline = monotonic() + self.site.limits.idle_seconds
        elif self.deadline != NEVER and not self._in_head:
            self._begin_head()
        super().dataReceived(data)

    def _begin_head(self) -> None:
        self._in_head = True
        self.deadline = monotonic() + self.site.limits.head_seconds

    def lineReceived(self, line: bytes) -> None:
        self._head += len(line) + 2
        if self._head > self.site.limits.head_bytes:
            self.lineLengthExceeded(line)
        elif not self._refused:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse(431, f"request line and headers are over {self.site.limits.head_bytes} bytes")

    def allHeadersReceived(self) -> None:
        self._in_head, self._head = False, 0
        most = self.site.limits.body_bytes
        if self.length is None or self.length > 0:
            if self.length is not None and self.length > most:
                self.refuse(413, f"the body has {self.length} bytes, over {most}")
                return
            self._in_body = True
            self.deadline = monotonic() + self.site.limits.idle_seconds
        super().allHeadersReceived()

    def rawDataReceived(self, data: bytes) -> None:
        if self._refused:
            return
        if not self._in_body:
            self._pipelined = True
        super().rawDataReceived(data)

    def allContentReceived(self) -> None:
        if self._refused:
            return
        self._in_body = False
        super().allContentReceived()

    def requestDone(self, request: Any) -> None:
        if self.site.draining:
            self.persistent = False
        pipelined, self._pipelined = self._pipelined, False
        super().requestDone(request)
        if pipelined and self.deadline != NEVER and not self._in_head:
            self._begin_head()  # of which a part may be here already

    def _protocolUpgradeForWebsockets(self, protocol: Any) -> None:
        """Twisted gives the connection to *protocol*: it is still one of the site's, and its request
        is pending for as long."""
        before = self.connectionLost  # which may be what a script put in the place of ours
        super()._protocolUpgradeForWebsockets(protocol)
        self.requests[0].upgraded()

        def lost(reason: Failure) -> None:
            try:
                protocol.connectionLost(reason)
            finally:
                before(reason)

        self.connectionLost = lost  # type: ignore[method-assign, assignment]

    def busy(self) -> bool:
        """Whether a request is being answered, or its body received."""
        return bool(self.requests) and not self._in_head and not self._refused

    def overdue(self) -> None:
        """The deadline has passed."""
        if self._refused or not (self._in_head or self._in_body):
            if self._refused:
                self.transport.abortConnection()
            else:
                self.deadline = monotonic() + LINGER
                self._refused = True
                self.loseConnection()
        elif self._in_head:
            self.refuse(408, f"no whole head in {self.site.limits.head_seconds:g} seconds")
        else:
            self.refuse(408, f"no more of the body for {self.site.limits.idle_seconds:g} seconds")

    def refuse(self, code: int, line: str) -> None:
        """Answer with one line instead of the request, and close once the client has read it."""
        self._refused = True
        self.transport.write(refusal(code, line))
        log.info("{peer} refused: {code}, {line}", peer=self.peer_name, code=code, line=line)
        self.deadline = monotonic() + LINGER
        # Closing while the client still sends would make the kernel throw away what it has not read.
        self.transport.unregisterProducer()
        lose = getattr(self.transport, "loseWriteConnection", None) or self.transport.loseConnection
        lose()

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Any) -> None:
        """As HTTPChannel's, in one piece."""
        if not isinstance(headers, http_headers.Headers):
            super().writeHeaders(version, code, reason, headers)
            return
        lines = [b"%b %b %b\r\n" % (version, code, reason)]
        for name, values in headers.getAllRawHeaders():
            for value in values:
                lines.append(b"%b: %b\r\n" % (name, value))  # noqa: PERF401  # it is faster so
        lines.append(b"\r\n")
        self.transport.write(b"".join(lines))

    # How the client reads.

    def pauseProducing(self) -> None:
        self._stalled(True)
        super().pauseProducing()

    def resumeProducing(self) -> None:
        self._stalled(False)
        super().resumeProducing()

    def _stalled(self, stalled: bool) -> None:
        if self.requests and isinstance(self.requests[0], Request):
            self.requests[0].entry.stalled = stalled


def refusal(code: int, line: str, *headers: str) -> bytes:
    """A whole response, of one line of text, after which the connection is closed."""
    reason = {431: "Request Header Fields Too Large"}.get(code) or http.RESPONSES[code].decode()
    head = (
        f"HTTP/1.1 {code} {reason}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(line) + 1}",
        "Connection: close",
        *headers,
    )
    return ("\r\n".join(head) + f"\r\n\r\n{line}\n").encode()


class TooMany(Protocol):
    """What a connection over the limit gets."""

    transport: Any

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def connectionMade(self) -> None:
        line = f"{self.limit} connections are open: try again later"
        self.transport.write(refusal(503, line, "Retry-After: 1"))
        self.transport.loseConnection()


class Site(server.Site):
    """A site that knows its connections, and what may be asked of it."""

    requestFactory = Request
    opening: Callable[[Site], Protocol] | None = (
        None  # what connections begin with, if not HTTP/1.1
    )

    def __init__(
        self,
        resource: Any,
        limits: Limits,
        ledger: Ledger,
        access_log: AccessLog | None = None,
        reactor: Any = None,
    ) -> None:
        super().__init__(resource, timeout=limits.idle_seconds, reactor=reactor)
        self.limits, self.ledger, self.access_log = limits, ledger, access_log
        self.channels: set[Any] = set()  # and connections that have not chosen one yet
        self.draining = False
        self._sweeping: LoopingCall | None = None
        self._date_of, self._date = 0, b""

    def buildProtocol(self, addr: Any) -> Any:
        if len(self.channels) >= self.limits.connections:
            return TooMany(self.limits.connections)
        return self.furnish(Channel()) if self.opening is None else self.opening(self)

    def furnish(self, channel: Any) -> Any:
        """Give *channel* what a site gives to its channels."""
        channel.factory = channel.site = self
        channel.requestFactory = self.requestFactory
        channel.timeOut = self.timeOut
        channel.callLater = self.reactor.callLater
        return channel

    def getResourceFor(self, request: Any) -> Any:
        request.sitepath = list(request.prepath)
        return getChildForRequest(self.resource, request)

    def date(self) -> bytes:
        """The value of a Date header, made anew once a second."""
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
        for channel in [channel for channel in self.channels if channel.deadline < now]:
            channel.overdue()
        if self.access_log is not None:
            self.access_log.flush()

    def drain(self) -> None:
        """From now on each connection ends with the response that is under way, if one is.

        To be called until there are no connections: on HTTP/2 responses end, but not connections.
        """
        self.draining = True
        for channel in list(self.channels):
            if channel.busy():
                channel.persistent = 0
            else:
                channel.loseConnection()  # once it has sent what it has to send

    def abort(self, why: str) -> None:
        """Break off whatever is still under way."""
        for entry in self.ledger.pending.values():
            entry.detail = why
        for channel in list(self.channels):
            channel.transport.abortConnection()
