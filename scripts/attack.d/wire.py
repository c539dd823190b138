"""The attacker's side of a connection: bytes sent as they are, responses read as they come."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

PATIENCE = 15.0  # seconds for anything that should happen


class WrongError(Exception):
    """Says what the server did that it should not, or did not do."""


@dataclass
class Response:
    """A response, or how there was none: *end* is FIN, RST, silence, or "" for a whole response."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    end: str = ""


def request(target: str, *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
    """Return a request as bytes."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode() + body


def trust_all(alpn: str) -> ssl.SSLContext:
    """Return a client's context for a server whose certificate is its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    return context


class Connection:
    """One connection of an attacker. What is not read stays unread: nothing is taken ahead of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.count = reader, writer, 0

    async def send(self, *pieces: bytes) -> None:
        """Send each piece in a segment of its own."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0.002)

    async def flood(self, pieces: Iterable[bytes]) -> None:
        """Send all pieces as fast as the server reads. A server that closes ends it."""
        try:
            for piece in pieces:
                self.writer.write(piece)
                await self.writer.drain()
        except OSError:
            pass

    async def response(self, method: str = "GET") -> Response:
        """Return the next response."""
        try:
            return await asyncio.wait_for(self._response(method), PATIENCE)
        except asyncio.TimeoutError:
            return Response(end="silence")
        except asyncio.IncompleteReadError as error:
            return Response(end="FIN", body=error.partial)
        except OSError:
            return Response(end="RST")

    async def _response(self, method: str) -> Response:
        status = 100
        while status == 100:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip().split("\r\n")
            status = int(first.split()[1])
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        answer = Response(status, headers)
        if method == "HEAD" or status in (101, 204, 304):
            return answer
        if "content-length" in headers:
            answer.body = await self.reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            pieces = []
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                pieces.append((await self.reader.readexactly(size + 2))[:-2])
            await self.reader.readuntil(b"\r\n")
            answer.body = b"".join(pieces)
        else:
            answer.body = await self.reader.read(-1)
        return answer

    async def discard(self, seconds: float) -> int:
        """Read and forget what comes, for so long at most; return how many bytes came."""
        self.count = 0
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._discard(), seconds)
        return self.count

    async def _discard(self) -> None:
        with contextlib.suppress(OSError):
            while piece := await self.reader.read(1 << 18):
                self.count += len(piece)

    async def must_end(self, seconds: float, why: str) -> None:
        """Raise WrongError unless the server closes the connection in time."""
        self.count = 0
        try:
            await asyncio.wait_for(self._discard(), seconds)
        except asyncio.TimeoutError:
            raise WrongError(f"still open after {seconds:g} s: {why}") from None

    def reset(self) -> None:
        """Close with a reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.transport.abort()


async def connect(port: int, alpn: str = "", room: int = 0) -> Connection:
    """Connect to the server; with *alpn* over TLS; *room* is the size of the receive buffer."""
    client = socket.socket()
    client.setblocking(False)
    if room:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    except OSError:
        client.close()
        raise
    options = {"ssl": trust_all(alpn), "server_hostname": "localhost"} if alpn else {}
    return Connection(*await asyncio.open_connection(sock=client, limit=room or 1 << 16, **options))


# WebSocket and HTTP/2, as far as attackers need them.

HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def text_frame(text: bytes) -> bytes:
    """Return a short WebSocket text message, with a mask of zeros."""
    return bytes([0x81, 0x80 | len(text)]) + bytes(4) + text


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    """Return an HTTP/2 frame."""
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", stream)
        + payload
    )


def literal(name: str, value: str) -> bytes:
    """Return a header field in HPACK: literal, never indexed, without Huffman codes."""
    return b"\x10" + b"".join(bytes([len(t)]) + t.encode() for t in (name, value))


def fields(target: str, method: str = "GET") -> bytes:
    """Return the header block of a request."""
    pairs = [
        (":method", method),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", target),
    ]
    return b"".join(literal(name, value) for name, value in pairs)
