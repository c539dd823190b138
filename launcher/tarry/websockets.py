"""What passes on a WebSocket, counted as it passes: messages, bytes, and who closed with which code.

Frames are those of RFC 6455, section 5.2. Only their headers are read.
"""

from __future__ import annotations

from typing import Any

from tarry.ledger import Entry

CONTINUATION, TEXT, BINARY, CLOSE = 0, 1, 2, 8


class Frames:
    """One direction: `feed` it the bytes; `messages` have passed, `code` is that of a close frame."""

    def __init__(self) -> None:
        self.messages = 0
        self.code: int | None = None
        self._header = bytearray()
        self._payload = 0  # bytes of it that are still to come
        self._reason: bytearray | None = None  # the first two bytes of a close frame's payload

    def feed(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if self._payload:
                piece = data[at : at + self._payload]
                if self._reason is not None:
                    self._reason += piece[: 2 - len(self._reason)]
                self._payload -= len(piece)
                at += len(piece)
            else:
                self._header.append(data[at])
                at += 1
                if len(self._header) >= 2 and len(self._header) == header_length(self._header):
                    self._begin()
            if not self._payload and self._reason is not None:
                self._close()

    def _begin(self) -> None:
        header, opcode = self._header, self._header[0] & 0x0F
        length, extra = header[1] & 0x7F, {126: 2, 127: 8}.get(header[1] & 0x7F, 0)
        self._payload = int.from_bytes(header[2 : 2 + extra], "big") if extra else length
        if opcode == CLOSE:
            self._reason = bytearray()
        elif header[0] & 0x80 and opcode in (CONTINUATION, TEXT, BINARY):
            self.messages += 1
        if self._reason is None:
            self._header = bytearray()

    def _close(self) -> None:
        mask = self._header[-4:] if self._header[1] & 0x80 else b"\0\0"
        reason = bytes(a ^ b for a, b in zip(self._reason or b"", mask, strict=False))
        self.code = int.from_bytes(reason, "big") if len(reason) == 2 else 1005  # no code given
        self._reason, self._header = None, bytearray()


def header_length(header: bytearray) -> int:
    """Return how long a frame's header is, of which at least two bytes are given."""
    return 2 + {126: 2, 127: 8}.get(header[1] & 0x7F, 0) + (4 if header[1] & 0x80 else 0)


class Watched:
    """Stands between a WebSocket's protocol and its transport, and keeps the request's entry."""

    def __init__(self, transport: Any, protocol: Any, entry: Entry) -> None:
        self._transport, self._protocol, self._entry = transport, protocol, entry
        self._received, self._sent = Frames(), Frames()
        self.closed_by = ""  # "client" or "server": who sent the first close frame
        self.code = 0
        entry.messages = [0, 0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send *data*, frames of the server. (Its handshake does not pass here.)"""
        self._entry.bytes += len(data)
        self._count(self._sent, data, 1, "server")
        self._transport.write(data)

    def writeSequence(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def dataReceived(self, data: bytes) -> None:
        """Take what the client sent."""
        self._entry.received += len(data)
        self._count(self._received, data, 0, "client")
        self._protocol.dataReceived(data)

    def _count(self, frames: Frames, data: bytes, direction: int, who: str) -> None:
        frames.feed(data)
        if self._entry.messages is not None:
            self._entry.messages[direction] = frames.messages
        if frames.code is not None and not self.closed_by:
            self.closed_by, self.code = who, frames.code
