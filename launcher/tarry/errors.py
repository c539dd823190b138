"""Answers of one line of plain text: what is wrong, what was given, what is allowed."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from twisted.web.server import NOT_DONE_YET


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


def error_line(request: Any, code: int, line: str) -> int:
    """Answer *request* with one line of plain text."""
    request.setResponseCode(code)
    request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
    request.setHeader(b"Cache-Control", b"no-store")
    request.setHeader(b"X-Content-Type-Options", b"nosniff")
    body = f"{line}\n".encode()
    request.setHeader(b"Content-Length", b"%d" % len(body))
    request.write(body)
    request.finish()
    return NOT_DONE_YET
