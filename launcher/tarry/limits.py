"""What one server takes before it says no."""

from __future__ import annotations

from dataclasses import dataclass

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
