"""A pull producer, asked for more once in each turn of the reactor, while the client reads."""

from __future__ import annotations

from typing import Any


class PullProducer:
    """Makes a push producer of *producer*, which writes a piece each time it is asked."""

    def __init__(self, producer: Any, reactor: Any) -> None:
        self.producer, self.reactor = producer, reactor
        self._call: Any = reactor.callLater(0, self._next)

    def _next(self) -> None:
        self._call = self.reactor.callLater(0, self._next)
        self.producer.resumeProducing()  # which may end it, and call stop

    def pauseProducing(self) -> None:
        self.stop()

    def resumeProducing(self) -> None:
        if self._call is None:
            self._call = self.reactor.callLater(0, self._next)

    def stopProducing(self) -> None:
        self.stop()
        self.producer.stopProducing()

    def stop(self) -> None:
        """Ask no more."""
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()
