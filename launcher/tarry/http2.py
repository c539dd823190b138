"""HTTP/2 on one connection, parsed by h2: its streams are channels of the same requests as HTTP/1's.

Needs the extra `tarry[tls]`. What is received is parsed frame by frame, for SLICE seconds at a time. A
malformed request ends its stream, with 400. A client that breaks the protocol ends the connection, and so
does one whose headers are too long to be decoded. A client's GOAWAY without an error lets its streams end.

There are no timers: `deadline` and those of the streams are looked at by Site.sweep.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from h2 import events
from h2.errors import ErrorCodes
from h2.exceptions import DenialOfServiceError, ProtocolError
from hpack.exceptions import HPACKError
from hyperframe.frame import DataFrame, HeadersFrame
from twisted.logger import Logger
from twisted.python.failure import Failure

from tarry import http2_headers
from tarry.errors import Refused
from tarry.http2_connection import MAX_STREAMS, HTTP2Connection
from tarry.http2_frames import (
    GOAWAY,
    ConnectionFault,
    Frame,
    FrameReader,
    UnreadHeaders,
    code_name,
)
from tarry.http2_stream import Stream
from tarry.ledger import REFUSED
from tarry.limits import NEVER

if TYPE_CHECKING:
    from tarry.site import Site

BLOCK_EXTRA = 4096  # bytes of a compressed header block over the limit, which still get a 431
MAX_TABLE = (
    4096  # bytes of response headers that are remembered for compression, whatever a client allows
)
SLICE = 0.005  # seconds of parsing before others have their turn
# Streams that are reset, by whichever side: so many at once, and so many a second. More is an attack.
RESETS, RESETS_PER_SECOND = 1000, 33
log = Logger()
monotonic = time.monotonic


class HTTP2(HTTP2Connection):
    """One connection: reads frames, and has its streams take up what is in them."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.frames = FrameReader(site.limits.header_bytes + BLOCK_EXTRA)
        self._parsing: Any = None  # the delayed call that goes on with it
        self._block_due = NEVER  # a header block must be complete
        self._resets, self._reset_time = float(RESETS), monotonic()
        self._answered_unread = 0  # a stream that h2 does not know of

    @property
    def last_stream(self) -> int:
        return max(super().last_stream, self._answered_unread)

    # Receiving.

    def dataReceived(self, data: bytes) -> None:
        if self._ending:
            return  # read, so that the client gets to read what was sent; kept nowhere
        self.frames.feed(data)
        if self._parsing is None:
            self._parse()

    def _parse(self) -> None:
        """Take frames for SLICE seconds, and go on in the next turn if there are more."""
        paused, self._parsing = self._parsing is not None, None
        until = monotonic() + SLICE
        try:
            while not self._ending and (frame := self.frames.next()) is not None:
                self._receive(frame)
                if monotonic() > until and self.frames:
                    self._parsing = self.site.reactor.callLater(0, self._parse)
                    if not paused:
                        self.transport.pauseProducing()
                    break
        except UnreadHeaders as fault:
            self._refuse_unread(fault)
        except ConnectionFault as fault:
            self._fail(fault)
        except Exception:
            log.failure("receiving a frame failed")
            line = "a frame could not be received: the server's log says why"
            self._fail(ConnectionFault(ErrorCodes.INTERNAL_ERROR, line))
        if self.frames.block_stream == 0:
            self._block_due = NEVER
        elif self._block_due == NEVER:
            self._block_due = monotonic() + self.site.limits.header_seconds
        self._flush()
        if paused and self._parsing is None:
            self.transport.resumeProducing()

    def _receive(self, frame: Frame) -> None:
        if frame.type == GOAWAY and frame.stream == 0 and len(frame.payload) >= 8:
            self._received_goaway(int.from_bytes(frame.payload[4:8], "big"))
            return
        try:
            received = self.http.receive_data(frame.data)
        except DenialOfServiceError as error:
            self.http.clear_outbound_data_buffer()  # of h2's GOAWAY: ours follows
            line = f"request headers are over {self.site.limits.header_bytes} bytes"
            raise UnreadHeaders(frame.stream, 431, line) from error
        except ProtocolError as error:
            self.http.clear_outbound_data_buffer()
            code = error.error_code
            if isinstance(error.__cause__, HPACKError):
                code = ErrorCodes.COMPRESSION_ERROR  # h2 says PROTOCOL_ERROR
            raise ConnectionFault(code, str(error)) from error
        if not self.streams:
            self.deadline = monotonic() + self.site.limits.idle_seconds
        for event in received:
            self._handle(event)

    def _handle(self, event: events.Event) -> None:
        if isinstance(event, events.RequestReceived):
            self._received_request(event)
        elif isinstance(event, events.DataReceived):
            self._received_data(event)
        elif isinstance(event, events.TrailersReceived):
            self._received_trailers(event)
        elif isinstance(event, events.StreamEnded):
            if (stream := self.streams.get(event.stream_id)) is not None:
                stream.received_end()
        elif isinstance(event, events.StreamReset):
            self._received_reset(event)
        elif isinstance(event, events.WindowUpdated | events.RemoteSettingsChanged):
            encoder = self.http.encoder
            if encoder.header_table_size > MAX_TABLE:
                encoder.header_table_size = MAX_TABLE
            for stream in self.streams.values():
                if stream.unsent:
                    self._ready[stream.number] = stream
            self._send()

    def _received_request(self, event: events.RequestReceived) -> None:
        fields = list(event.headers)
        stream = Stream(self, event.stream_id)
        if self._draining or len(self.streams) >= MAX_STREAMS:
            why = (
                "the connection is about to end"
                if self._draining
                else f"over {MAX_STREAMS} streams at once"
            )
            self._spend_reset()
            self.http.reset_stream(stream.number, ErrorCodes.REFUSED_STREAM)
            self._note_refused(f"REFUSED_STREAM: {why}", http2_headers.target(fields))
            return
        self.streams[stream.number] = stream
        self.deadline = NEVER
        ended = event.stream_ended is not None
        limits = self.site.limits
        try:
            length = http2_headers.check(fields, limits.header_bytes)
            if ended and length:
                raise http2_headers.Malformed(f"Content-Length {length}, but no body")
            stream.received_headers(fields, 0 if ended else length)
            if not ended and length is not None and length > limits.body_bytes:
                most = limits.body_bytes
                raise Refused(413, f"the body has {length} bytes: this server takes at most {most}")
        except Refused as refused:
            if stream.request is None:
                stream.received_headers(fields, 0)
            stream.refuse(refused)
        else:
            if not ended:
                stream.await_body()

    def _received_data(self, event: events.DataReceived) -> None:
        if (stream := self.streams.get(event.stream_id)) is not None:
            stream.received_data(event.data, event.flow_controlled_length)

    def _received_trailers(self, event: events.TrailersReceived) -> None:
        if (stream := self.streams.get(event.stream_id)) is not None:
            try:
                http2_headers.check_trailers(list(event.headers))
            except Refused as refused:
                stream.refuse(refused)

    def _received_reset(self, event: events.StreamReset) -> None:
        self._spend_reset()
        if (stream := self.streams.get(event.stream_id)) is not None:
            how = f"RST_STREAM {code_name(event.error_code or 0)}"
            self.release(stream)
            stream.lost(how if event.remote_reset else f"{how}, sent")

    def _spend_reset(self) -> None:
        """Raise ConnectionFault for a client that has streams reset all the time (CVE-2023-44487)."""
        now = monotonic()
        self._resets += (now - self._reset_time) * RESETS_PER_SECOND
        self._resets, self._reset_time = min(self._resets, RESETS) - 1, now
        if self._resets < 0:
            raise ConnectionFault(ErrorCodes.ENHANCE_YOUR_CALM, "too many streams were reset")

    def _received_goaway(self, code: int) -> None:
        self._client_goaway = f"GOAWAY {code_name(code)}"
        self._draining = True
        if code != ErrorCodes.NO_ERROR or not self.streams:
            self.end(ErrorCodes.NO_ERROR, "", self._client_goaway)

    # What is refused without a response, or with the end of the connection.

    def _fail(self, fault: ConnectionFault) -> None:
        """The client broke the protocol."""
        told = f"GOAWAY {code_name(fault.code)}, sent: {fault.line}"
        self._note_refused(told)
        log.info("{peer}: {told}", peer=self.peer_name, told=told)
        self.end(fault.code, fault.line, told)

    def _refuse_unread(self, fault: UnreadHeaders) -> None:
        """Answer a request whose headers cannot be read; the connection ends with it."""
        if fault.stream % 2 == 0 or fault.stream <= self.http.highest_inbound_stream_id:
            self._fail(fault)  # trailers, or not a request at all
            return
        refused = Refused(fault.status, fault.line)
        request = self.site.requestFactory(self)
        request.uri, request.entry.protocol = b"", b"HTTP/2"
        request.refused_unread(refused)
        fields = http2_headers.refusal_fields(refused)
        headers = HeadersFrame(fault.stream, self.http.encoder.encode(fields))
        headers.flags.add("END_HEADERS")
        body = DataFrame(fault.stream, f"{refused.line}\n".encode())
        body.flags.add("END_STREAM")
        self._flush()
        self._write(headers.serialize() + body.serialize())
        self._answered_unread = fault.stream
        self.end(fault.code, fault.line, f"GOAWAY {code_name(fault.code)}, sent: {fault.line}")

    def _note_refused(self, detail: str, asked: http2_headers.Target | None = None) -> None:
        """Note in the ledger what no response is given to."""
        request = self.site.requestFactory(self)
        entry = request.entry
        entry.protocol = b"HTTP/2"
        if asked is not None:
            request.raw_headers = asked.headers
            entry.method, entry.path = asked.method, asked.path.partition(b"?")[0]
        self.site.ledger.open(entry)
        request._end(REFUSED, detail)

    def look(self) -> None:
        """End the streams that are overdue."""
        now = monotonic()
        if self._ending:
            return
        if self._block_due < now:
            seconds = self.site.limits.header_seconds
            line = f"no complete headers in {seconds:g} seconds"
            self._refuse_unread(UnreadHeaders(self.frames.block_stream, 408, line))
            return
        for stream in list(self.streams.values()):
            if stream.deadline < now:
                stream.overdue()

    def released(self, how: str, reason: Failure | None = None) -> None:
        if self._parsing is not None:
            self._parsing.cancel()
            self._parsing = None
        super().released(how, reason)
