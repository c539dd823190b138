"""A request, from its headers to the end of its response (see response.py).

It begins in `headers_received`, which opens its entry in the ledger, and ends in `_end`, which closes the
entry. It is Twisted's `server.Request` with the same public interface, except that arguments, header
objects and cookies are made when a script asks for them, and forms are parsed within limits.
"""

from __future__ import annotations

import time
from io import BytesIO
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from twisted.python.failure import Failure
from twisted.web import http, server
from twisted.web.error import UnsupportedMethod
from twisted.web.http_headers import Headers

from tarry.body import Body
from tarry.errors import Refused, error_line
from tarry.forms import form_fields
from tarry.ledger import REFUSED, Entry, without_credentials
from tarry.limits import SPOOL_BYTES
from tarry.origins import SAFE_METHODS
from tarry.request_rules import Fields, check_target
from tarry.response import Response, lazy

if TYPE_CHECKING:
    from collections.abc import Iterable

parse_qs, NOT_DONE_YET = http.parse_qs, server.NOT_DONE_YET
monotonic = time.monotonic
MAX_NOTE = 200  # characters of a script's note that are kept


class Request(Response):
    """One request and its response, on any version of HTTP."""

    complete = False  # its body is in
    early_body: Body | None = None  # as it arrives, for a resource with `early = True`
    expects_continue = False  # the client sends the body when it is told to
    keeps_alive = True  # the client may send a further request on its connection
    raw_headers: list[tuple[bytes, bytes]] = []  # noqa: RUF012  # as they came
    received_fields: Fields | None = None
    _on_disk = False  # the body

    def __init__(self, channel: Any, queued: object = None) -> None:
        # Not Twisted's own: what it makes for each request is made here when it is asked for.
        self.channel, self.site, self.transport = channel, channel.site, channel.transport
        self.client, self.host = channel.getPeer(), channel.getHost()
        self.notifications = []
        self.entry = Entry(monotonic(), time.time())
        self.entry.peer = getattr(channel, "peer_name", None) or peer_name(self.client)

    # What was asked.

    @lazy
    def requestHeaders(self) -> Headers:
        headers = Headers()
        for name, value in self.raw_headers:
            headers.addRawHeader(name, value)
        return headers

    @lazy
    def received_cookies(self) -> dict[bytes, bytes]:
        pairs = [
            cookie.lstrip().partition(b"=")
            for header in self.fields(b"cookie")
            for cookie in header.split(b";")
        ]
        return {name: value for name, equals, value in pairs if equals}

    @lazy
    def args(self) -> dict[bytes, list[bytes]]:
        """Query parameters and, for a POST, fields of the form: each name's values."""
        args: dict[bytes, list[bytes]] = parse_qs(self.uri.partition(b"?")[2], 1)
        if self.method == b"POST" and self.complete:
            args.update(form_fields(self))
        return args

    def fields(self, name: bytes) -> list[bytes]:
        """Return the values of the request header *name*, which is in lower case, as received."""
        if self.received_fields is not None:
            return self.received_fields.get(name, [])
        return list(self.requestHeaders.getRawHeaders(name) or ())  # HTTP/2 puts them there

    @property
    def body(self) -> Body:
        """The body, piece by piece: as it arrives for a resource with `early = True`, else at once."""
        if self.early_body is None:
            self.early_body = Body()
            self.early_body.received(self.content.read())
            self.early_body.end()
        return self.early_body

    @property
    def note(self) -> str:
        """What the script has to say of this request, in the ledger at once, cut to MAX_NOTE."""
        return self.entry.note

    @note.setter
    def note(self, text: object) -> None:
        self.entry.note = str(text)[:MAX_NOTE]

    # How it arrives.

    def headers_received(
        self, method: bytes, uri: bytes, version: bytes, length: int | None
    ) -> None:
        """Begin: the headers are in, a body of *length* bytes follows (None: not known)."""
        self.method, self.uri, self.clientproto = method, uri, version
        if not uri.startswith(b"/"):
            self._origin_form()
        self.path = self.uri.partition(b"?")[0]
        self.entry.in_body = length != 0
        self._open()
        self.gotLength(length)

    def _origin_form(self) -> None:
        """Make of http://user:password@host/path?query, which a proxy may send, /path?query."""
        authority = self.uri.partition(b"://")[2]
        if authority:
            self.uri = b"/" + authority.partition(b"/")[2]

    def _open(self) -> None:
        entry = self.entry
        entry.method, entry.path, entry.protocol = self.method, self.path, self.clientproto
        query = self.uri.partition(b"?")[2]
        keys: Iterable[bytes] = ()
        if query:
            entry.query = without_credentials(query)
            if b"key" in query:
                keys = parse_qs(query, 1).get(b"key", ())
        for key in [*keys, *self.fields(b"x-tarry-key")][:1]:
            entry.key = key.decode("utf-8", "replace")
        self.site.ledger.open(entry)

    def gotLength(self, length: int | None) -> None:
        """Make what holds the body: in memory until it has over SPOOL_BYTES."""
        self.content = BytesIO()

    def _spool(self) -> None:
        """Hold the body in a file, which counts as a connection does: both take a descriptor."""
        self.site.take_descriptor()
        file = TemporaryFile()  # noqa: SIM115  # closed with the request
        file.write(self.content.getvalue())
        self.content, self._on_disk = file, True

    def handleContentChunk(self, data: bytes) -> None:
        """Keep a piece of the body. Raises Refused if it grows too long."""
        size, most = self.entry.received + len(data), self.site.limits.body_bytes
        self.entry.received = size
        if size > most:
            raise Refused(413, f"the body has over {most} bytes")
        if self.early_body is not None:
            self.early_body.received(data)
            return
        if size > SPOOL_BYTES and not self._on_disk:
            self._spool()
        self.content.write(data)

    def close_content(self) -> None:
        """Let go of the request's body."""
        if self.early_body is not None:
            self.early_body.end()
        if self.content is not None:
            self.content.close()
            if self._on_disk:
                self._on_disk = False
                self.site.release_descriptor()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Begin and answer at once. Channels that are not ours call this, with the body in `content`."""
        body = self.content
        self.headers_received(command, path, version, 0)
        self.content = body
        try:
            check_target(command, path)
        except Refused as refused:
            self.refuse(refused)
        else:
            self.body_received()

    def body_received(self) -> None:
        """Have it answered: the body is in."""
        self.complete, self.entry.in_body = True, False
        self.content.seek(0)
        self.process()

    def process_early(self, body: Body) -> None:
        """Have it answered while its body arrives: what is here already is the first piece."""
        self.content.seek(0)
        body.received(self.content.read())
        self.early_body = body
        self.process()

    # How it is answered.

    def process(self) -> None:
        site = self.site
        if hasattr(self.channel, "raw_bytes"):
            self.raw_before = self.channel.raw_bytes()
        try:
            self._check()
            if self.path == b"*":  # OPTIONS *
                self.setHeader(b"Allow", b"OPTIONS, GET, HEAD, POST, PUT, PATCH, DELETE")
                self.finish()
                return
            self.prepath = []
            self.postpath = list(map(unquote_to_bytes, self.path[1:].split(b"/")))
            resource = site.getResourceFor(self)
            make_encoder = getattr(resource, "getEncoder", None)
            if make_encoder is not None:
                self._encoder = make_encoder(self)
            self.render(resource)
        except Refused as refused:
            self.refuse(refused)
        except BaseException:  # as in Twisted: whatever it is, the client gets an answer
            self.processingFailed(Failure())

    def _check(self) -> None:
        """Raise Refused if it is over a limit, or asked for from another site's page."""
        site = self.site
        if len(site.ledger.pending) > site.limits.pending:
            line = f"{site.limits.pending} requests are pending: try again later"
            raise Refused(503, line, ("Retry-After", "1"))
        host = b"".join(self.fields(b"host")[:1])
        if getattr(self.channel, "loopback", False) and host:
            site.origins.check_host(host)
        if self.method not in SAFE_METHODS or self.fields(b"upgrade"):
            origin, fetch_site = self.fields(b"origin"), self.fields(b"sec-fetch-site")
            site.origins.check_origin(
                host, origin[0] if origin else None, fetch_site[0] if fetch_site else None
            )

    def refuse(self, refused: Refused) -> None:
        """Answer with the line of *refused*; the ledger has it as refused."""
        if self.startedWriting or self._disconnected:
            self._fail(str(refused))
            return
        self._forget_response()
        for name, value in refused.headers:
            self.setHeader(name, value)
        self._outcome = REFUSED
        error_line(self, refused.code, refused.line)

    def refused_unread(self, refused: Refused) -> None:
        """Note that it is refused before it was read; the connection tells the client."""
        if not self.entry.id:
            self.entry.path = self.uri.partition(b"?")[0]
            self.site.ledger.open(self.entry)
        self.entry.status = refused.code
        self.close_content()
        self._end(REFUSED, refused.line)
        self.channel = None

    def render(self, resrc: Any) -> None:
        """Have *resrc* answer. What is neither bytes nor NOT_DONE_YET is a failure like any other."""
        try:
            body = resrc.render(self)
        except UnsupportedMethod as error:
            allowed: list[bytes] = list(error.allowedMethods)
            if self.method != b"HEAD" or b"GET" not in allowed:
                self._unsupported(allowed)
                return
            self.method, self._for_head = b"GET", True
            body = resrc.render(self)
            self.method, self._for_head = b"HEAD", False
        if body is NOT_DONE_YET or self._closed or self.finished:
            return
        if not isinstance(body, bytes):
            kind, method = type(body).__name__, f"render_{self.method.decode('ascii', 'replace')}"
            wrong = f"{type(resrc).__name__}.{method} returned {kind}: return bytes or NOT_DONE_YET"
            self.processingFailed(Failure(TypeError(wrong)))
            return
        if body or self.method != b"HEAD":
            self.setHeader(b"Content-Length", b"%d" % len(body))
        self.write(body)
        self.finish()

    def _unsupported(self, allowed: list[bytes]) -> None:
        names = ", ".join(method.decode() for method in allowed)
        self.setHeader(b"Allow", names)
        known = self.method in server.supportedMethods
        method = ascii(self.method.decode("latin-1")[:40])
        error_line(self, 405 if known else 501, f"method {method} is not allowed here: use {names}")


def peer_name(peer: Any) -> str:
    """Return a client's address as the ledger shows it."""
    return f"{peer.host}:{peer.port}" if hasattr(peer, "port") else "local"
