"""What one server takes before it says no, and the words it says it with."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

NEVER = float("inf")
LINGER = 5.0  # seconds a client has to read why it was refused


@dataclass(frozen=True)
class Limits:
    """Seconds, bytes and counts. What is over a limit is refused; nothing is cut short in silence."""

    header_seconds: float = 10.0  # for a request line and headers, from their first byte: 408
    idle_seconds: float = 60.0  # without a byte, between requests or within a body
    header_bytes: int = 16_384  # request line and headers: 431
    body_bytes: int = 10_000_000  # 413
    form_bytes: int = 20_000  # of a body that is parsed as a form, when a script asks for it: 413
    pending: int = 20_000  # requests that are not answered yet: 503
    connections: int = 1_000_000  # open ones, and files that hold bodies: 503


MAX_HEADERS = 500  # fields of one request: 431
MAX_FORM_PARAMETERS = 10  # of the Content-Type of a form
SPOOL_BYTES = 100_000  # of a body: a longer one is in a temporary file


class Refused(Exception):  # noqa: N818  # it is the client that erred
    """The request will not be answered by a script, but with *code* and one line of text."""

    def __init__(self, code: int, line: str, *headers: tuple[str, str]) -> None:
        super().__init__(line)
        self.code, self.line, self.headers = code, line, headers


def phrase(code: int) -> bytes:
    """Return the reason phrase of a status, as RFC 9110 and its registry have it."""
    try:
        return HTTPStatus(code).phrase.encode()
    except ValueError:
        return b"Status %d" % code


def whole_response(refused: Refused) -> bytes:
    """Return a response of one line of text, after which the connection is closed."""
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", f"{len(refused.line.encode()) + 1}"),
        ("X-Content-Type-Options", "nosniff"),
        ("Connection", "close"),
        *refused.headers,
    ]
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    first = f"HTTP/1.1 {refused.code} {phrase(refused.code).decode()}\r\n"
    return f"{first}{lines}\r\n{refused.line}\n".encode()
