"""An HTTP/2 connection: its streams, what they send, and its end.

- Each stream that has something to send sends a frame in turn, as far as the client's windows and the
  transport allow; the producer of one that cannot send is paused.
- A connection ends with GOAWAY, after which it is read but not parsed, for LINGER seconds at most. It is
  one of the site's until its socket is closed.
- When the server stops, streams under way end first. New ones are refused meanwhile, and GOAWAY follows the
  last response: clients built on h2, such as httpx, give up all streams when they see one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings
from twisted.logger import Logger
from twisted.python.failure import Failure

from tarry.accounting import Accounted
from tarry.http2_frames import goaway
from tarry.limits import LINGER, MAX_HEADERS, NEVER

if TYPE_CHECKING:
    from tarry.http2_headers import FieldList
    from tarry.http2_stream import Stream
    from tarry.site import Site

MAX_STREAMS = 100  # of a connection, at once: further ones are refused
MAX_UNREAD = 131_072  # bytes of frames that wait while the client does not read: then it is cut off
STOP_LINGER = 1.0  # seconds that a client has to close its side when the server stops

CONFIG = H2Configuration(client_side=False, header_encoding=None, validate_inbound_headers=False)
log = Logger()
monotonic = time.monotonic


class State(H2Connection):
    """What h2 knows of a connection."""

    MAX_CLOSED_STREAMS = 1000  # of which it remembers how they ended


class HTTP2Connection(Accounted):
    """One connection, as its streams and the site see it."""

    def __init__(self, site: Site) -> None:
        self.factory = self.site = site
        self.http = State(CONFIG)
        self.streams: dict[int, Stream] = {}
        self._ready: dict[int, Stream] = {}  # that may have a frame to send, in their order
        self._sending = False
        self._full = False  # the client does not read what there is to send
        self._unread = 0  # bytes written since then
        self._draining = False  # no new streams
        self._ending = False  # GOAWAY was sent: nothing is parsed any more
        self._client_goaway = ""  # as the ledger shows it

    @property
    def last_stream(self) -> int:
        """The highest stream that the client has opened."""
        return self.http.highest_inbound_stream_id

    def connectionMade(self) -> None:
        super().connectionMade()
        self.deadline = monotonic() + self.site.limits.header_seconds
        most = self.site.limits.header_bytes + 32 * MAX_HEADERS  # as section 6.5.2 counts
        self.http.local_settings = Settings(client=False, initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            SettingCodes.MAX_HEADER_LIST_SIZE: most,
        })  # fmt: skip
        self.http.initiate_connection()
        # h2 would end the connection for one stream too many; here that stream is refused.
        self.http.local_settings = Settings(client=False)
        self.http.decoder.max_header_list_size = most
        self._flush()

    # Sending.

    def send_headers(self, stream: Stream, fields: FieldList) -> None:
        """Send a response's headers, or 1xx ones. Raises ProtocolError if h2 finds fault with them."""
        self.http.send_headers(stream.number, fields)
        self._flush()

    def acknowledge(self, length: int, number: int) -> None:
        """Let the client send *length* bytes of bodies more, on stream *number* and altogether."""
        if not self._ending:
            self.http.acknowledge_received_data(length, number)
            self._flush()

    def open_window(self, length: int, number: int | None = None) -> None:
        """Let the client send *length* bytes more on stream *number*; if None, altogether."""
        if not self._ending and length:
            self.http.increment_flow_control_window(length, number)
            self._flush()

    def send(self, stream: Stream) -> None:
        """Send what *stream* has, after a frame of each other one that waits."""
        self._ready[stream.number] = stream
        self._send()

    def _send(self) -> None:
        if self._sending:
            return
        self._sending = True
        try:
            while self._ready and not self._full and not self._ending:
                number = next(iter(self._ready))
                stream = self._ready.pop(number)
                if not stream.closed and not stream.ended:
                    more = stream.send_frame()
                    self._flush()
                    if more:
                        self._ready[number] = stream
                    else:
                        stream.watch_backlog()
        finally:
            self._sending = False
        for stream in list(self._ready.values()):
            stream.watch_backlog()

    def _flush(self) -> None:
        data = self.http.data_to_send()
        if data and not self._ending:
            self._write(data)

    def _write(self, data: bytes) -> None:
        if self._full:
            self._unread += len(data)
            if self._unread > MAX_UNREAD:
                log.info("{peer} does not read: it is cut off", peer=self.peer_name)
                self._ending = True
                self.transport.abortConnection()
                return
        self.transport.write(data)

    def pauseProducing(self) -> None:
        """The client does not read what there is to send."""
        self._full, self._unread = True, 0

    def resumeProducing(self) -> None:
        self._full = False
        self._send()

    def send_now(self) -> None:
        """Send what was written, without waiting for the end of the reactor's turn."""
        if self.socket is not None and self.socket is self.transport:
            self.socket.send_now()

    def stopProducing(self) -> None:
        """The connection is lost, of which `released` is told."""

    # Streams end.

    def reset(self, stream: Stream, code: int) -> None:
        """Reset *stream*."""
        if not stream.closed and not self._ending:
            self.http.reset_stream(stream.number, code)
            self._flush()
            self.release(stream)

    def release_if_ended(self, stream: Stream) -> None:
        if stream.ended and not stream.receiving:
            self.release(stream)

    def release(self, stream: Stream) -> None:
        """Forget *stream*, which has ended."""
        stream.closed = True
        self._ready.pop(stream.number, None)
        if self.streams.pop(stream.number, None) is not None and not self.streams:
            if self._draining:
                self.end(ErrorCodes.NO_ERROR)
            else:
                self.deadline = monotonic() + self.site.limits.idle_seconds

    # It ends.

    def end(self, code: int, line: str = "", how: str = "") -> None:
        """Send GOAWAY and close. *how* is what the ledger says of streams under way."""
        if self._ending:
            return
        self._flush()
        self._write(goaway(self.last_stream, code, line))
        self._ending = True
        self.deadline = monotonic() + (STOP_LINGER if self.site.draining else LINGER)
        streams, self.streams = list(self.streams.values()), {}
        self._ready.clear()
        for stream in streams:
            stream.lost(how)
        self.transport.unregisterProducer()  # for which TLS would wait with its end
        # Closing while the client still sends would make the kernel drop what it has not read.
        tcp = self.socket is not None and self.socket is self.transport
        close = self.transport.loseWriteConnection if tcp else self.transport.loseConnection
        close()

    def released(self, how: str, reason: Failure | None = None) -> None:
        """The socket is closed; *how* is FIN or RST if the client did it."""
        self._ending = True
        self.site.connections.discard(self)
        self.deadline = NEVER
        streams, self.streams = list(self.streams.values()), {}
        for stream in streams:
            stream.lost(self._client_goaway or how, reason or self._reason)

    # What requests and the site ask of every connection.

    def abortConnection(self) -> None:
        self.transport.abortConnection()

    def busy(self) -> bool:
        """Whether a stream is open."""
        return bool(self.streams)

    @property
    def persistent(self) -> bool:
        """Whether a further stream may be opened. Set it to False to have the connection end."""
        return not self._draining

    @persistent.setter
    def persistent(self, value: bool) -> None:
        self._draining = not value

    def loseConnection(self) -> None:
        """Say that no more requests are taken, and close. The site's stop calls it again and again."""
        if self._ending and self.deadline < monotonic():
            self.transport.abortConnection()
        self.end(ErrorCodes.NO_ERROR)

    def overdue(self) -> None:
        """End it: the deadline has passed."""
        if self._ending:
            self.transport.abortConnection()
        else:
            self.end(ErrorCodes.NO_ERROR, "idle for too long")
