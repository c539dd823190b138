"""What RFC 9113 asks of a request's headers, and what a response's headers become.

h2 would check most of this too, but ends the whole connection for a malformed request. Here only its
stream ends, and the client is told why (section 8.1.1).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from tarry.errors import Refused
from tarry.limits import MAX_HEADERS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twisted.web.http_headers import Headers

FieldList = list[tuple[bytes, bytes]]

NAME = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+")
TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-zA-Z]+")
VISIBLE = re.compile(rb"[!-~]+")
BAD_VALUE = re.compile(rb"[\0\r\n]|^[ \t]|[ \t]$")
PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
# They are about one connection, which HTTP/2 has other means for (section 8.2.2).
CONNECTION_SPECIFIC = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)


class Malformed(Refused):
    """The request breaks RFC 9113: the client gets 400, and its stream is reset."""

    def __init__(self, line: str) -> None:
        super().__init__(400, f"malformed request: {line}")


class Target(NamedTuple):
    """What the pseudo-headers say, as far as they are there; and the headers as HTTP/1 has them."""

    method: bytes
    path: bytes
    headers: FieldList


def target(fields: Iterable[tuple[bytes, bytes]]) -> Target:
    """Return what is asked for, as far as that can be told: nothing is checked."""
    found = {name: value for name, value in fields if name.startswith(b":")}
    host = [(b"host", found[b":authority"])] if found.get(b":authority") else []
    headers = [
        (name, value)
        for name, value in fields
        if not name.startswith(b":") and not (host and name == b"host")
    ]
    return Target(found.get(b":method", b""), found.get(b":path", b""), host + headers)


def check(fields: FieldList, most: int) -> int | None:
    """Return the body's length, None if it is not told. Raises Refused, for over *most* bytes too."""
    if sum(len(name) + len(value) + 4 for name, value in fields) > most:  # as HTTP/1 has them
        raise Refused(431, f"request headers are over {most} bytes")
    if len(fields) > MAX_HEADERS:
        raise Refused(431, f"the request has over {MAX_HEADERS} headers")
    found: dict[bytes, bytes] = {}
    regular: dict[bytes, bytes] = {}
    for name, value in fields:
        _check_field(name, value)
        if name.startswith(b":"):
            if name not in PSEUDO:
                raise Malformed(f"unknown pseudo-header {shown(name)}")
            if name in found:
                raise Malformed(f"{shown(name)} is there twice")
            if regular:
                raise Malformed(f"{shown(name)} is behind other headers")
            found[name] = value
        else:
            if name == b"host" and name in regular:
                raise Malformed("'host' is there twice")
            regular[name] = value
    if found.get(b":method") == b"CONNECT":
        raise Refused(501, "CONNECT is not supported: this server is no proxy")
    for name in (b":method", b":scheme", b":path"):
        if not found.get(name):
            raise Malformed(f"{shown(name)} is missing or empty")
    _check_target(found, regular.get(b"host"))
    length = regular.get(b"content-length")
    return None if length is None else int(length)


def check_trailers(fields: FieldList) -> None:
    """Raise Malformed for trailers that a request must not have."""
    for name, value in fields:
        _check_field(name, value)
        if name.startswith(b":"):
            raise Malformed(f"{shown(name)} in trailers")


def _check_field(name: bytes, value: bytes) -> None:
    if not NAME.fullmatch(name):
        raise Malformed(f"header name {shown(name)}: use lower case and no special characters")
    if BAD_VALUE.search(value):
        raise Malformed(f"the value of {shown(name)} has a line end, NUL, or space around it")
    if name in CONNECTION_SPECIFIC or (name == b"te" and value.lower() != b"trailers"):
        raise Malformed(f"header {shown(name)} must not be used with HTTP/2")


def _check_target(found: dict[bytes, bytes], host: bytes | None) -> None:
    method, path = found[b":method"], found[b":path"]
    if not TOKEN.fullmatch(method):
        raise Malformed(f":method {shown(method)} has characters that a method must not have")
    if not VISIBLE.fullmatch(path):
        raise Malformed(f":path {shown(path)} has characters that must be percent-encoded")
    if not (path.startswith(b"/") or (path, method) == (b"*", b"OPTIONS")):
        raise Malformed(f":path {shown(path)} does not start with /")
    authority = found.get(b":authority", host)
    if not authority or b"@" in authority:
        raise Malformed(":authority is missing, empty, or has a user name in it")
    if host is not None and host != authority:
        raise Malformed(f":authority {shown(authority)} and host {shown(host)} differ")


def shown(text: bytes) -> str:
    """Return *text* of the client as a message may show it."""
    return ascii(text[:80].decode("latin-1"))


def response_fields(code: bytes, headers: Headers) -> FieldList:
    """Return the header list of a response."""
    fields = [(b":status", code)]
    for name, values in headers.getAllRawHeaders():
        name = name.lower()
        if name not in CONNECTION_SPECIFIC:
            fields += [(name, value) for value in values]
    return fields


def refusal_fields(refused: Refused) -> FieldList:
    """Return the header list of a response of one line of text."""
    fields = [
        (b":status", b"%d" % refused.code),
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % (len(refused.line.encode()) + 1)),
        (b"x-content-type-options", b"nosniff"),
    ]
    return fields + [(name.lower().encode(), value.encode()) for name, value in refused.headers]
