"""The ledger: what became of every request, whatever script served it.

An entry is opened when a request has been read and closed when its response has ended, one way or
another. Kept are all that are pending and the last that have ended, bounded in number and in bytes.
Never kept: bodies, cookies, the `Authorization` header, a password in the address, and the values of
query parameters whose names say that they are credentials.

Times: `arrived` is the wall clock (seconds since 1970); all others are milliseconds after that, on a
monotonic clock. They say when the server handed bytes to the connection or heard from it, which is
when the kernel took or gave them, not when the client saw them.
"""

from __future__ import annotations

import re
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

PENDING = "pending"  # not ended yet
FINISHED = "finished"  # the whole response was written
LEFT = "left"  # the client has gone before that
ABORTED = "aborted"  # the script broke the connection off
FAILED = "failed"  # an exception came out of the script
REFUSED = "refused"  # by the server, before a script saw it: malformed, or over a limit
OUTCOMES = (PENDING, FINISHED, LEFT, ABORTED, FAILED, REFUSED)

WRITES = 1000  # writes of a response that are kept; further ones are counted
MOST = 10_000  # ended entries that are kept by default
MOST_BYTES = 64 * 2**20  # of memory, by estimate, that ended entries may take
ENTRY_BYTES = 700  # of memory that an entry takes beside its texts and writes, measured

_CREDENTIAL = re.compile(rb"passw|secret|token|api_?key|auth|signature|credential", re.IGNORECASE)


class Entry:
    """What is known of one request. Ended ones do not change any more."""

    __slots__ = (
        "arrived", "began", "bytes", "detail", "ended", "first", "id", "in_body", "key", "last",
        "messages", "method", "note", "outcome", "path", "peer", "protocol", "query", "received",
        "size", "stalled", "status", "uncounted", "writes",
    )  # fmt: skip

    def __init__(self, began: float, arrived: float) -> None:
        self.id = 0
        self.began, self.arrived = began, arrived  # monotonic, wall clock
        self.key = self.query = self.peer = self.detail = self.note = ""
        self.method = self.path = self.protocol = b""
        self.status = self.bytes = self.uncounted = self.size = self.received = 0
        self.messages: list[int] | None = None  # received and sent, of a WebSocket
        self.in_body = False  # the request's body is not complete
        self.first = self.last = self.ended = 0.0  # monotonic; 0: not yet
        self.writes: array[float] | None = None  # time, size, time, size …
        self.outcome = PENDING
        self.stalled = False  # the client does not read what there is to read

    def wrote(self, size: int, now: float) -> None:
        """Note that *size* bytes of the body were written *now* (monotonic)."""
        if not self.first:  # and mostly last: so a list of one is not kept
            self.first = self.last = now
            self.bytes = size
            return
        if self.writes is None:
            self.writes = array("d", (self.first, self.bytes))
        if len(self.writes) < 2 * WRITES:
            self.writes.extend((now, size))
        else:
            self.uncounted += 1
        self.last = now
        self.bytes += size

    def measure(self) -> int:
        """An estimate of the memory that this takes, in bytes."""
        texts = len(self.path) + len(self.query) + len(self.key) + len(self.detail + self.note)
        return ENTRY_BYTES + texts + 8 * len(self.writes or ())

    def as_dict(self) -> dict[str, Any]:
        """What the ledger shows of it, ready for JSON."""

        def after(moment: float) -> float | None:
            return round((moment - self.began) * 1000, 3) if moment else None

        pairs = self.writes or array("d", (self.first, self.bytes) if self.first else ())
        return {
            "id": self.id,
            "key": self.key,
            "method": self.method.decode("ascii", "replace"),
            "path": self.path.decode("ascii", "replace"),
            "query": self.query,
            "protocol": self.protocol.decode("ascii", "replace"),
            "peer": self.peer,
            "arrived": round(self.arrived, 6),
            "first_byte": after(self.first),
            "last_byte": after(self.last),
            "end": after(self.ended),
            "received": self.received,
            "in_body": self.in_body,
            "messages": dict(zip(("received", "sent"), self.messages, strict=True))
            if self.messages
            else None,
            "status": self.status or None,
            "bytes": self.bytes,
            "writes": [
                [after(moment), int(size)]
                for moment, size in zip(pairs[::2], pairs[1::2], strict=True)
            ],
            "writes_not_kept": self.uncounted,
            "outcome": self.outcome,
            "detail": self.detail,
            "note": self.note,
            "not_reading": self.stalled,
        }


class Ledger:
    """All entries, and those who want to know of changes.

    *most* (0 or more; 0 keeps none) and *most_bytes* bound the ended entries that are kept; what is
    pending is bounded by the server's own limits.
    """

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self.most, self.most_bytes = most, most_bytes
        self.pending: dict[int, Entry] = {}
        self.ended: deque[Entry] = deque()
        self.outcomes: Counter[str] = Counter()
        self.requests = self.peak = self.size = 0
        self.started = time.time()
        self._watchers: list[Callable[[Entry], None]] = []

    def open(self, entry: Entry) -> None:
        """Take up a request that has just been read."""
        self.requests += 1
        entry.id = self.requests
        self.pending[entry.id] = entry
        if len(self.pending) > self.peak:
            self.peak = len(self.pending)
        if self._watchers:
            self._tell(entry)

    def close(self, entry: Entry, outcome: str, detail: str, now: float) -> None:
        """Note how it ended; a second call for the same entry is ignored."""
        if self.pending.pop(entry.id, None) is None:
            return
        entry.outcome, entry.ended, entry.stalled = outcome, now, False
        if detail:
            entry.detail = detail
        self.outcomes[outcome] += 1
        if self.most:
            entry.size = entry.measure()
            self.ended.append(entry)
            self.size += entry.size
            while len(self.ended) > self.most or self.size > self.most_bytes:
                self.size -= self.ended.popleft().size
        if self._watchers:
            self._tell(entry)

    def entries(self) -> list[Entry]:
        """All that are kept, in the order of arrival."""
        return sorted([*self.ended, *self.pending.values()], key=lambda entry: entry.id)

    @staticmethod
    def matches(entry: Entry, key: str = "", path: str = "", outcome: str = "") -> bool:
        """Whether *entry* has what is given; "" leaves it open."""
        return (
            (not key or entry.key == key)
            and (not path or entry.path == path.encode())
            and (not outcome or entry.outcome == outcome)
        )

    def forget(self, unwanted: Callable[[Entry], bool]) -> int:
        """Drop the ended entries that are *unwanted*; returns how many."""
        kept = [entry for entry in self.ended if not unwanted(entry)]
        gone = len(self.ended) - len(kept)
        self.ended = deque(kept)
        self.size = sum(entry.size for entry in kept)
        return gone

    def watch(self, watcher: Callable[[Entry], None]) -> Callable[[], None]:
        """Call *watcher* with each entry that is opened or closed, until the result is called."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def _tell(self, entry: Entry) -> None:
        for watcher in list(self._watchers):
            watcher(entry)

    def summary(self) -> dict[str, Any]:
        """Counts since the start, ready for JSON."""
        return {
            "started": round(self.started, 3),
            "requests": self.requests,
            "pending": len(self.pending),
            "peak_pending": self.peak,
            "not_reading": sum(entry.stalled for entry in self.pending.values()),
            "outcomes": {outcome: self.outcomes[outcome] for outcome in OUTCOMES[1:]},
            "kept": len(self.ended),
            "kept_at_most": self.most,
        }


def without_credentials(query: bytes) -> str:
    """A query as the ledger keeps it: values of parameters named like credentials are left out."""
    if _CREDENTIAL.search(unquote_to_bytes(query)):
        parts = re.split(rb"([&;])", query)
        for index, part in enumerate(parts):
            name, equals, _ = part.partition(b"=")
            if equals and _CREDENTIAL.search(unquote_to_bytes(name)):
                parts[index] = name + b"=-"
        query = b"".join(parts)
    return query.decode("ascii", "replace")
