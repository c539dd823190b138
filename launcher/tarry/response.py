"""The response to a request: what may be sent, and how it ends.

A response keeps to its Content-Length. If a script writes more or less, writes something that isn't bytes,
or raises an exception after the first byte, the connection is aborted: a part of a response must not pass
for the whole. Before the first byte, the client gets a 500 of one plain line.

`_end` closes the request's entry in the ledger, whichever way it ends.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http, server
from twisted.web.http_headers import Headers

from tarry.errors import error_line, phrase
from tarry.ledger import ABORTED, FAILED, FINISHED, LEFT, Entry
from tarry.script_loader import place
from tarry.websockets import Watched

# The module twisted.web.http looks up its attributes slowly, as some of them are deprecated.
NO_BODY_CODES, to_http_date, VERSION = http.NO_BODY_CODES, http.datetimeToString, server.version

log = Logger()
monotonic = time.monotonic


class lazy:  # noqa: N801  # used like property
    """An attribute that is made when first asked for; functools.cached_property without its lock."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make, self.name, self.__doc__ = make, make.__name__, make.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        value = instance.__dict__[self.name] = self.make(instance)
        return value


class Response(server.Request):
    """The half of a request that answers it."""

    channel: Any
    content: Any = None
    site: Any = None
    transport: Any
    entry: Entry
    fault = ""  # what went wrong in the script, once something has
    declared: int | None = None  # Content-Length of the response
    _outcome = FINISHED  # once it is finished without a fault
    raw_before = 0  # bytes that scripts had written to the socket itself before this
    _closed = False  # nothing more is sent, whatever the script does
    _websocket: Watched | None = None  # what the connection has become
    _body_allowed = True
    _for_head = False  # GET is rendered in place of HEAD

    @lazy
    def responseHeaders(self) -> Headers:
        headers = Headers()
        headers.setRawHeaders(b"Server", [VERSION])
        headers.setRawHeaders(b"Date", [self.site.date()])
        return headers

    @lazy
    def cookies(self) -> list[bytes]:
        """Values of Set-Cookie headers."""
        return []

    @lazy
    def _adapterCache(self) -> dict[str, Any]:
        """Components, such as the session."""
        return {}

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        self.code = code
        self.code_message = phrase(code) if message is None else message

    def write(self, data: bytes) -> None:
        """Send a piece of the body; the first one is sent with the status and the headers."""
        if self._closed or self._disconnected:
            return
        if self.finished:
            raise RuntimeError("Request.write called after Request.finish")
        if not isinstance(data, bytes):
            self._not_bytes(data)
            return
        if self._encoder is not None:
            data = self._encoder.encode(data)
        if not self.startedWriting:
            self._begin(None)
        if not data or not self._body_allowed:
            self.entry.wrote(0, monotonic())
            self.channel.write(b"")
            return
        self.sentLength += len(data)
        if self.declared is not None and self.sentLength > self.declared:
            surplus = self.sentLength - self.declared
            if surplus < len(data):
                self.channel.write(data[:-surplus])
                self.entry.wrote(len(data) - surplus, monotonic())
            self._fail(f"wrote over {self.declared} bytes, the Content-Length")
            return
        self.channel.write(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)
        self.entry.wrote(len(data), monotonic())

    def _not_bytes(self, data: object) -> None:
        frame = sys._getframe(2)
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        kind = type(data).__name__
        log.error(
            "{where}: request.write was given a {kind}, {text}: write bytes: b'…' or .encode()",
            where=where, kind=kind, text=ascii(data[:40]) if isinstance(data, str) else ascii(data)[:40],
        )  # fmt: skip
        self._fail(f"{kind} written at {where}")

    def _begin(self, length: int | None) -> None:
        """Send status and headers; *length* is that of the body, if it is known and not told yet."""
        self.startedWriting = 1
        headers, code = self.responseHeaders, self.code
        get_to_head = self._for_head
        self._body_allowed = (
            self.method != b"HEAD" and code not in NO_BODY_CODES and not get_to_head
        )
        declared = headers.getRawHeaders(b"Content-Length")
        if declared is None and length is not None and self._body_allowed:
            headers.setRawHeaders(b"Content-Length", [b"%d" % length])
            declared = [b"%d" % length]
        if declared is None and self._body_allowed and self.clientproto == b"HTTP/1.1":
            headers.setRawHeaders(b"Transfer-Encoding", [b"chunked"])
            self.chunked = 1
        elif declared and self._body_allowed and declared[-1].isdigit():
            self.declared = int(declared[-1][:18])
        if self.lastModified is not None and not headers.hasHeader(b"Last-Modified"):
            headers.setRawHeaders(b"Last-Modified", [to_http_date(self.lastModified)])
        if self.etag is not None:
            headers.setRawHeaders(b"ETag", [self.etag])
        if self.cookies:
            headers.setRawHeaders(b"Set-Cookie", self.cookies)
        typed = code in (204, 304) or self.declared == 0 or headers.hasHeader(b"Content-Type")
        if not typed and self.defaultContentType is not None:
            headers.setRawHeaders(b"Content-Type", [self.defaultContentType])
        self.entry.status = code
        self.channel.writeHeaders(self.clientproto, b"%d" % code, self.code_message, headers)

    def finish(self) -> None:
        """End the response. Raises RuntimeError if the client has disconnected, as Twisted's."""
        if self._closed:
            return
        if self._disconnected:
            raise RuntimeError(
                "Request.finish called on a request after its connection was lost; "
                "use Request.notifyFinish to keep track of this."
            )
        if self.finished:
            warnings.warn("request.finish called twice", stacklevel=2)
            return
        if self._encoder is not None:
            rest, self._encoder = self._encoder.finish(), None
            if rest:
                self.write(rest)
        if not self.startedWriting:
            self._begin(0)
            self.channel.write(b"")
        if self.declared is not None and self.sentLength < self.declared:
            self._fail(f"wrote {self.sentLength} of {self.declared} bytes, the Content-Length")
            return
        if self.chunked:
            self.channel.write(b"0\r\n\r\n")
        self.finished = 1
        if self.producer is not None:
            log.error("{uri!r}: finished with a producer registered", uri=self.uri)
            self.unregisterProducer()
        channel = self.channel
        self._end(FAILED if self.fault else self._outcome, self.fault)
        channel.requestDone(self)
        del self.channel
        self.close_content()
        self._notify(None)

    def _notify(self, reason: Failure | None) -> None:
        notifications, self.notifications = self.notifications, []
        for each in notifications:
            if reason is None:
                each.callback(None)
            else:
                each.errback(reason)

    def loseConnection(self) -> None:
        """Close the connection. On HTTP/2, where that would be the clean end of a part, abort it."""
        if self.transport is None and self.channel is not None and not self.finished:
            abort(self)
        else:
            super().loseConnection()

    # How it ends.

    def upgraded(self, websocket: Watched) -> None:
        """The connection speaks another protocol from now on."""
        self.code, self.startedWriting, self._websocket = 101, 1, websocket
        self.entry.status = 101

    def close_content(self) -> None:
        """Let go of the request's body."""
        raise NotImplementedError

    def _end(self, outcome: str, detail: str) -> None:
        entry, site = self.entry, self.site
        if self._websocket is None and hasattr(self.channel, "raw_bytes"):
            entry.bytes += self.channel.raw_bytes() - self.raw_before
        site.ledger.close(entry, outcome, detail, monotonic())
        if site.access_log is not None:
            site.access_log.write(self, entry)

    def processingFailed(self, reason: Failure) -> Failure:
        """An exception came out of a render method, or from on the way to it."""
        error = cast(BaseException, reason.value)
        detail = f"{type(error).__name__} at {place(error, '') or 'no line of a script'}"
        log.failure("{uri!r} failed: {detail}", failure=reason, uri=self.uri, detail=detail)
        if self.finished or self._disconnected or self._closed:
            return reason
        if self.site.displayTracebacks and not self.startedWriting:
            self.fault = detail
            self._forget_response()
            super().processingFailed(reason)
        else:
            self._fail(detail)
        return reason

    def _forget_response(self) -> None:
        """Drop what a script has set of a response that it will not give."""
        self.__dict__.pop("responseHeaders", None)
        self.cookies, self.etag, self.lastModified, self._encoder = [], None, None, None
        if self.producer is not None:
            self.unregisterProducer()

    def _fail(self, detail: str) -> None:
        """Answer 500 if nothing was sent yet, else abort the connection."""
        self.fault = detail
        if self.startedWriting:
            if self.producer is not None:
                self.unregisterProducer()
            self._end(FAILED, detail)
            abort(self)
        else:
            self._forget_response()
            error_line(self, 500, "the script failed: the server's log says why")
        self._closed = True

    def connectionLost(self, reason: Failure, how: str = "") -> None:
        """The connection is gone, as *reason* says; *how* is FIN or RST if the client closed it."""
        if not self.finished:
            closing = getattr(self.transport, "disconnecting", False)
            if self._websocket is not None and self._websocket.closed_by:
                by_client = self._websocket.closed_by == "client"
                self._end(LEFT if by_client else FINISHED, f"close {self._websocket.code}")
            elif closing or reason.check(ConnectionAborted):
                self._end(ABORTED, self.entry.detail)
            else:
                self._end(LEFT, how or ("FIN" if reason.check(ConnectionDone) else "RST"))
        if self.transport is None and self.producer is not None:
            producer = self.producer  # on HTTP/2 nobody else tells it
            self.unregisterProducer()
            producer.stopProducing()
        self._disconnected, self.channel = True, None
        self.close_content()
        self._notify(reason)


def abort(request: Any) -> None:
    """Abort the connection of *request*: RST on HTTP/1, RST_STREAM on HTTP/2."""
    (request.transport or request.channel).abortConnection()
