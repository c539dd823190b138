"""HTTP/2 for a client that begins with it unasked, as `curl --http2-prior-knowledge` does.

The parser of HTTP/1 recognizes the preface of HTTP/2, so connections of HTTP/1 do nothing for this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tarry.errors import Refused

if TYPE_CHECKING:
    from tarry.http1 import HTTP1

PREFACE_ERROR = "Pause on PRI/Upgrade"  # what llhttp says to the preface


def become_http2(connection: HTTP1, data: bytes, fed: int) -> None:
    """Have HTTP/2 speak on *connection*: the preface ends in *data*, the last of *fed* bytes."""
    try:
        from tarry.http2 import HTTP2
        from tarry.http2_frames import PREFACE
    except ImportError:  # it comes with an extra
        connection.refuse(Refused(505, "HTTP/2 is not installed: pip install 'tarry[tls]'"))
        return
    before = fed - len(data)  # bytes of the preface
    connection.hand_over(HTTP2(connection.site), PREFACE + data[len(PREFACE) - before :])
