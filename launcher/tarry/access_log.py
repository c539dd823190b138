"""The access log, in the combined format, written from the ledger's entries.

A response of which nothing was sent because the client left has the status 499, as in nginx's logs.
On a terminal each line ends with what the format has no place for: the seconds that the request took,
and its outcome.
"""

from __future__ import annotations

import re
import time
from typing import IO, Any

from tarry.ledger import FINISHED, LEFT, REFUSED, Entry, without_credentials

UNQUOTED = re.compile(rb"[^ !#-\[\]-~]")  # what must be escaped in a quoted field
GREEN, YELLOW, RED, DIM, PLAIN = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[2m", "\x1b[0m"


class AccessLog:
    """Writes lines to *file*: at once on a terminal (*watched*), else when `flush` is called."""

    def __init__(self, file: IO[str], watched: bool = False) -> None:
        self.file, self.watched = file, watched
        self._lines: list[str] = []
        self._second, self._date = 0, ""

    def write(self, request: Any, entry: Entry) -> None:
        """Add a line for *request*, which has ended as *entry* says."""
        second = int(entry.arrived)
        if second != self._second:
            self._second = second
            self._date = time.strftime("%d/%b/%Y:%H:%M:%S %z", time.localtime(second))
        query = f"?{entry.query}".encode() if entry.query else b""
        asked = b"%b %b%b %b" % (entry.method or b"-", entry.path, query, entry.protocol or b"-")
        referer = url_without_credentials((request.fields(b"referer") or [b"-"])[0])
        agent = (request.fields(b"user-agent") or [b"-"])[0]
        status = entry.status or {LEFT: 499, REFUSED: 400}.get(entry.outcome, 500)
        line = (
            f'{entry.peer.rpartition(":")[0] or "-"} - - [{self._date}] "{quoted(asked)}" {status} '
            f'{entry.bytes or "-"} "{quoted(referer)}" "{quoted(agent)}"'
        )
        if self.watched:
            colour = RED if status >= 499 else YELLOW if status >= 400 else GREEN
            if entry.outcome not in (FINISHED, REFUSED):
                colour = RED
            took = f"{entry.ended - entry.began:.3f} s {entry.outcome}"
            line = f"{colour}{line}{PLAIN} {DIM}{took}{PLAIN}"
        self._lines.append(line)
        if self.watched or len(self._lines) >= 1000:
            self.flush()

    def flush(self) -> None:
        if self._lines:
            lines, self._lines = self._lines, []
            self.file.write("\n".join(lines) + "\n")
            self.file.flush()

    def close(self) -> None:
        self.flush()
        self.file.close()


def quoted(value: bytes) -> str:
    """Return *value* escaped for a quoted field of a log line."""
    text = value.decode("latin-1")
    if UNQUOTED.search(value) is None:
        return text
    return ascii(text)[1:-1].replace('"', '\\"')


def url_without_credentials(url: bytes) -> bytes:
    """Return *url*, of a Referer, without a password, credentials in its query, and its fragment."""
    url = url.partition(b"#")[0]
    before, mark, query = url.partition(b"?")
    scheme, slashes, rest = before.partition(b"://")
    if slashes:
        authority, slash, path = rest.partition(b"/")
        before = scheme + slashes + authority.rpartition(b"@")[2] + slash + path
    return before + mark + without_credentials(query).encode("ascii", "replace")
