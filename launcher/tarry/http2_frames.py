"""HTTP/2 frames, cut out of what a client sends, before h2 parses them.

h2 takes any amount at once: a header block of a megabyte takes it over a second, in which everybody else
waits, and it keeps what comes of a frame until the frame is complete, even if its header says already
that it is too long. Here frames are handed on one by one, and only complete ones within the limits.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from h2.errors import ErrorCodes
from hyperframe.frame import GoAwayFrame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9  # of a frame: length (3), type, flags, stream (4)
MAX_FRAME = 16_384  # bytes of its payload: the protocol's default, which we do not change
HEADERS, SETTINGS, GOAWAY, CONTINUATION = 1, 4, 7, 9  # types
ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x4, 0x8, 0x20  # flags
BEGIN = 16  # bytes of a header block that are looked at
# A block may begin with two of these (RFC 7541, 4.2). hpack takes any number, at 3 microseconds each.
SIZE_UPDATES = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]{0,5}[\x00-\x7f]){3}")


class ConnectionFault(Exception):  # noqa: N818  # it is the client that erred
    """The client broke the protocol: the connection ends with GOAWAY, *code* and one line of text."""

    def __init__(self, code: int, line: str) -> None:
        super().__init__(line)
        self.code, self.line = code, line


class UnreadHeaders(ConnectionFault):
    """The headers of a request on *stream* are too long, or too slow, to be decoded.

    What follows cannot be decoded either: the connection ends after an answer with *status*.
    """

    def __init__(self, stream: int, status: int, line: str) -> None:
        super().__init__(ErrorCodes.ENHANCE_YOUR_CALM, line)
        self.stream, self.status = stream, status


class Frame(NamedTuple):
    """One complete frame, as it came."""

    type: int
    stream: int
    data: bytes  # with its header; for the first frame, with the preface

    @property
    def payload(self) -> bytes:
        return self.data[HEADER_BYTES:]


class FrameReader:
    """Takes the bytes of a connection, and gives the frames. Header blocks have *most* bytes."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.block_stream = 0  # whose header block is not complete; 0: none is begun
        self._buffer = bytearray()
        self._preface = PREFACE  # what is still to come of it
        self._first = True
        self._block = 0  # bytes of the header block so far
        self._begin = b""  # of which these are the first

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def __bool__(self) -> bool:
        """Whether there may be a complete frame."""
        return len(self._buffer) >= HEADER_BYTES

    def next(self) -> Frame | None:
        """Return the next complete frame, None if there is none. Raises ConnectionFault."""
        buffer = self._buffer
        if self._preface:
            size = min(len(buffer), len(self._preface))
            if buffer[:size] != self._preface[:size]:
                raise ConnectionFault(
                    ErrorCodes.PROTOCOL_ERROR,
                    "the connection does not begin with the preface of HTTP/2",
                )
            self._preface = self._preface[size:]
            del buffer[:size]
        if len(buffer) < HEADER_BYTES:
            return None
        length, kind, flags = int.from_bytes(buffer[:3], "big"), buffer[3], buffer[4]
        stream = int.from_bytes(buffer[5:HEADER_BYTES], "big") & 0x7FFF_FFFF
        self._check(length, kind, flags, stream)
        if len(buffer) < HEADER_BYTES + length:
            return None
        data = bytes(buffer[: HEADER_BYTES + length])
        del buffer[: HEADER_BYTES + length]
        if kind in (HEADERS, CONTINUATION):
            self._look_at_block(kind, flags, data)
        if self._first:
            self._first, data = False, PREFACE + data
        return Frame(kind, stream, data)

    def _look_at_block(self, kind: int, flags: int, data: bytes) -> None:
        if len(self._begin) < BEGIN:
            start, end = HEADER_BYTES, len(data)
            if kind == HEADERS:
                if flags & PADDED:
                    start, end = start + 1, end - data[start] if end > start else end
                start += 5 * bool(flags & PRIORITY)
            self._begin = (self._begin + data[start:end])[:BEGIN]
            if SIZE_UPDATES.match(self._begin):
                line = "a header block begins with more than two table size updates"
                raise ConnectionFault(ErrorCodes.COMPRESSION_ERROR, line)
        self._block += len(data) - HEADER_BYTES
        if flags & END_HEADERS:
            self.block_stream, self._block, self._begin = 0, 0, b""

    def _check(self, length: int, kind: int, flags: int, stream: int) -> None:
        """Raise ConnectionFault for a frame that is not worth waiting for."""
        if length > MAX_FRAME:
            raise ConnectionFault(
                ErrorCodes.FRAME_SIZE_ERROR,
                f"a frame of {length} bytes: at most {MAX_FRAME} are allowed",
            )
        if self._first and (kind != SETTINGS or flags & ACK):
            raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if kind == SETTINGS and flags & ACK and length:  # for which h2 has another code
            raise ConnectionFault(ErrorCodes.FRAME_SIZE_ERROR, "SETTINGS with ACK has a payload")
        if kind == HEADERS and not self.block_stream:
            self.block_stream = stream
        if kind in (HEADERS, CONTINUATION) and self._block + length > self.most:
            raise UnreadHeaders(
                self.block_stream or stream,
                431,
                f"request headers are over {self.most} bytes, compressed",
            )


def goaway(last_stream: int, code: int, text: str = "") -> bytes:
    """Return a GOAWAY frame: no stream above *last_stream* was or will be taken up.

    Not h2's own: h2 allows nothing to be sent after it, so streams under way could not end.
    """
    frame = GoAwayFrame(last_stream_id=last_stream, error_code=code, additional_data=text.encode())
    return bytes(frame.serialize())


def code_name(code: int) -> str:
    """Return the name of an error code."""
    try:
        return ErrorCodes(code).name
    except ValueError:
        return f"{code:#x}"
