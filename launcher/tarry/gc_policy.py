"""When the garbage collector runs: not while requests wait.

Python frees what nothing refers to at once; the collector is only there for cycles. A full collection
looks at every object alive, and with thousands of requests pending that stops the server for hundreds
of milliseconds: lateness for all of them, in the middle of a burst. So:

- What is there once the server is up (modules, classes, the scripts) is frozen: never looked at again.
- A collection of the young comes after half a million new containers (Python: 700 to 2,000). A pending
  request has about 40, and a burst of 10,000 of them is no garbage, so nothing is to be gained by a look.
  Serving a request makes no cycles; what scripts make of them is found after at most half a million
  containers. That bounds the memory of a server that is never idle: by 56 MB where each was a small object
  with a dict and two lists (measured), by more where they hold more.
- When nothing is in flight, a full collection is done in the pause, where it delays nobody, at most
  every IDLE seconds.

`--gc python` leaves Python's settings as they are.
"""

from __future__ import annotations

import gc
from typing import Any

from twisted.internet.task import LoopingCall

from tarry.ledger import Ledger

THRESHOLDS = (500_000, 50, 100)  # new containers; collections of the young; of the middle-aged
IDLE = 10.0  # seconds between checks whether nothing is pending


class IdleCollector:
    """Lets full collections run only while *ledger* has no pending requests."""

    def __init__(self, ledger: Ledger, clock: Any) -> None:
        self.ledger = ledger
        self._collected_at = 0  # requests served when it last collected
        self._looking = LoopingCall(self.look)
        self._looking.clock = clock

    def start(self) -> None:
        gc.collect()
        gc.freeze()
        gc.set_threshold(*THRESHOLDS)
        self._looking.start(IDLE, now=False)

    def look(self) -> None:
        """Collect if nothing is pending and requests were served since the last time."""
        if not self.ledger.pending and self.ledger.requests != self._collected_at:
            self._collected_at = self.ledger.requests
            gc.collect()
