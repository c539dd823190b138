"""What RFC 9112 asks of a request's headers, beyond what the parser checks."""

from __future__ import annotations

from tarry.errors import Refused

Fields = dict[bytes, list[bytes]]  # names in lower case, and the values of each


def keeps_alive(version: bytes, connection: list[bytes]) -> bool:
    """Return whether a further request may follow one with these *connection* headers."""
    if version != b"HTTP/1.1":
        return False
    tokens = b",".join(connection).lower().split(b",")
    return b"close" not in [token.strip() for token in tokens]


def check_headers(method: bytes, target: bytes, version: str, fields: Fields) -> int | None:
    """Return the length of the body, None if it is not known beforehand.

    Raises Refused for what llhttp lets pass, and RFC 9112 does not (or a server should not).
    """
    if version not in ("1.1", "1.0"):
        raise Refused(505, f"HTTP/{version} is not supported here: use HTTP/1.1")
    check_target(method, target)
    hosts = len(fields.get(b"host", ()))
    if hosts > 1 or (not hosts and version == "1.1"):
        raise Refused(400, f"the request has {hosts or 'no'} Host headers: send one")
    if b"transfer-encoding" in fields:
        coding = b", ".join(fields[b"transfer-encoding"])
        if coding.lower() != b"chunked" or version == "1.0":
            shown = coding[:40].decode("latin-1")
            raise Refused(400, f"invalid Transfer-Encoding {shown!a}: use chunked, with HTTP/1.1")
        return None
    return int(fields[b"content-length"][0]) if b"content-length" in fields else 0


def check_target(method: bytes, target: bytes) -> None:
    """Raise Refused for a target that is neither a path, nor a URL, nor the * of OPTIONS."""
    if method == b"CONNECT":
        raise Refused(501, "CONNECT is not supported: this server is no proxy")
    url = target.partition(b"?")[0].partition(b"://")[1]
    if not (target.startswith(b"/") or url or (target, method) == (b"*", b"OPTIONS")):
        shown = target[:80].decode("latin-1")
        raise Refused(400, f"invalid request target {shown!a}: start it with /")
