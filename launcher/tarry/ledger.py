"""The ledger: what happened to every request, whichever script served it.

An entry is opened when a request has been read and closed when its response has ended, one way or
another. Kept are all that are pending and the last that have ended, bounded in number and in bytes.
Never kept: bodies, cookies, the `Authorization` header, a password in the address, and the values of
query parameters whose names say that they are credentials.

Times: `arrived` is the wall clock (seconds since 1970); all others are milliseconds after that, on a
monotonic clock. They say when the server handed bytes to the connection or heard from it, which is
when the kernel took or gave them, not when the client saw them.
"""

from __future__ import annotations

import json
import re
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.logger import Logger

PENDING = "pending"  # not ended yet
FINISHED = "finished"  # the whole response was written
LEFT = "left"  # the client disconnected before that
ABORTED = "aborted"  # the script aborted the connection
FAILED = "failed"  # the script raised an exception, or wrote more or less than it declared
REFUSED = "refused"  # by the server, before a script saw it: malformed, or over a limit
OUTCOMES = (PENDING, FINISHED, LEFT, ABORTED, FAILED, REFUSED)

log = Logger()

MAX_WRITES = 1000  # writes of a response that are kept; further ones are counted
MAX_ENTRIES = 10_000  # ended entries that are kept by default
MAX_BYTES = 64 * 2**20  # of memory, by estimate, that ended entries may take
ENTRY_BYTES = 700  # of memory that an entry takes beside its texts and writes, measured

_CREDENTIAL = re.compile(rb"passw|secret|token|api_?key|auth|signature|credential", re.IGNORECASE)


class Entry:
    """What is known of one request. An ended one doesn't change any more."""

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
        self.stalled = False  # the client isn't reading

    def wrote(self, size: int, now: float) -> None:
        """Record that *size* bytes of the body were written *now* (monotonic)."""
        if not self.first:  # and mostly last: so a list of one is not kept
            self.first = self.last = now
            self.bytes = size
            return
        if self.writes is None:
            self.writes = array("d", (self.first, self.bytes))
        if len(self.writes) < 2 * MAX_WRITES:
            self.writes.extend((now, size))
        else:
            self.uncounted += 1
        self.last = now
        self.bytes += size

    def measure(self) -> int:
        """Return an estimate of the memory this takes, in bytes."""
        texts = len(self.path) + len(self.query) + len(self.key) + len(self.detail + self.note)
        return ENTRY_BYTES + texts + 8 * len(self.writes or ())

    def as_dict(self) -> dict[str, Any]:
        """Return what the ledger shows of it, ready for JSON."""

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

    def as_json(self) -> bytes:
        """Return it as one line of JSON."""
        return json.dumps(self.as_dict()).encode()


@dataclass(frozen=True)
class Filter:
    """Which entries are wanted. What is empty or 0 does not matter."""

    key: str = ""
    path: bytes = b""
    outcome: str = ""
    since: int = 0  # only entries with a larger id
    other_than: bytes = b""  # only entries with another path

    def __call__(self, entry: Entry) -> bool:
        return (
            (not self.key or entry.key == self.key)
            and (not self.outcome or entry.outcome == self.outcome)
            and (not self.path or entry.path == self.path)
            and entry.id > self.since
            and (not self.other_than or entry.path != self.other_than)
        )


EVERYTHING = Filter()
Watcher = Callable[[Entry, Callable[[], bytes]], None]


class Ledger:
    """All entries, and the watchers that are told of changes.

    *most* (0 or more; 0 keeps none) and *most_bytes* bound the ended entries that are kept; what is
    pending is bounded by the server's own limits.
    """

    OUTCOMES, filter = OUTCOMES, Filter  # for ledger.rpy, which does not import this module

    def __init__(self, most: int = MAX_ENTRIES, most_bytes: int = MAX_BYTES) -> None:
        self.most, self.most_bytes = most, most_bytes
        self.pending: dict[int, Entry] = {}
        self.ended: deque[Entry] = deque()
        self._ended_by_id: dict[int, Entry] = {}
        self.outcomes: Counter[str] = Counter()
        self.requests = self.peak = self.size = 0
        self.started = time.time()
        self.watchers: dict[object, tuple[str, Watcher]] = {}  # each with its kind

    def open(self, entry: Entry) -> None:
        """Add a request whose headers have just been read."""
        self.requests += 1
        entry.id = self.requests
        self.pending[entry.id] = entry
        if len(self.pending) > self.peak:
            self.peak = len(self.pending)
        if self.watchers:
            self._tell(entry)

    def close(self, entry: Entry, outcome: str, detail: str, now: float) -> None:
        """Record how a request ended. A second call for the same entry is ignored."""
        if self.pending.pop(entry.id, None) is None:
            return
        entry.outcome, entry.ended, entry.stalled = outcome, now, False
        if detail:
            entry.detail = detail
        self.outcomes[outcome] += 1
        if self.most:
            entry.size = entry.measure()
            self.ended.append(entry)
            self._ended_by_id[entry.id] = entry
            self.size += entry.size
            while len(self.ended) > self.most or self.size > self.most_bytes:
                oldest = self.ended.popleft()
                self.size -= oldest.size
                del self._ended_by_id[oldest.id]
        if self.watchers:
            self._tell(entry)

    def entries(self, wanted: Filter = EVERYTHING) -> Iterator[Entry]:
        """Yield those that are *wanted* and kept, in no particular order."""
        yield from filter(wanted, self.ended)
        yield from filter(wanted, self.pending.values())

    def in_order(self, wanted: Filter = EVERYTHING) -> Iterator[Entry]:
        """Yield those that are *wanted* now, in the order of arrival.

        A reader may take minutes. Meanwhile only ids are held: entries that are forgotten are left out.
        """
        for number in array("Q", sorted(entry.id for entry in self.entries(wanted))):
            entry = self.pending.get(number) or self._ended_by_id.get(number)
            if entry is not None:
                yield entry

    def forget(self, unwanted: Callable[[Entry], bool]) -> int:
        """Drop the ended entries that are *unwanted*; return how many."""
        kept = [entry for entry in self.ended if not unwanted(entry)]
        gone = len(self.ended) - len(kept)
        self.ended = deque(kept)
        self._ended_by_id = {entry.id: entry for entry in kept}
        self.size = sum(entry.size for entry in kept)
        return gone

    def watch(self, kind: str, most: int, watcher: Watcher) -> Callable[[], None] | None:
        """Call *watcher* for each entry that is opened or closed, until the result is called.

        It gets the entry, and a function that returns its JSON, which is made once for all watchers.
        Returns None, and does nothing, if there are *most* watchers of this *kind* already.
        """
        if sum(each == kind for each, _ in self.watchers.values()) >= most:
            return None
        watching = object()
        self.watchers[watching] = kind, watcher

        def stop() -> None:
            self.watchers.pop(watching, None)

        return stop

    def _tell(self, entry: Entry) -> None:
        made: list[bytes] = []

        def as_json() -> bytes:
            if not made:
                made.append(entry.as_json())
            return made[0]

        for _, watcher in list(self.watchers.values()):
            try:
                watcher(entry, as_json)
            except Exception:  # noqa: PERF203  # or it would be taken for this request's failure
                log.failure("a watcher of the ledger failed")

    def summary(self) -> dict[str, Any]:
        """Return counts since the start, ready for JSON."""
        return {
            "started": round(self.started, 3),
            "requests": self.requests,
            "pending": len(self.pending),
            "peak_pending": self.peak,
            "not_reading": sum(entry.stalled for entry in self.pending.values()),
            "outcomes": {outcome: self.outcomes[outcome] for outcome in self.OUTCOMES[1:]},
            "kept": len(self.ended),
            "kept_at_most": self.most,
        }


def without_credentials(query: bytes) -> str:
    """Return a query without the values of parameters that are named like credentials."""
    if _CREDENTIAL.search(unquote_to_bytes(query)):
        parts = re.split(rb"([&;])", query)
        for index, part in enumerate(parts):
            name, equals, _ = part.partition(b"=")
            if equals and _CREDENTIAL.search(unquote_to_bytes(name)):
                parts[index] = name + b"=-"
        query = b"".join(parts)
    return query.decode("ascii", "replace")
