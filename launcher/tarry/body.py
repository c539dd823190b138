"""The body of a request as it arrives, for a script that answers before it is there.

A resource with `early = True` is rendered when the headers are in. Its `request.body` gives the pieces:

    async for piece in request.body:
        ...

What is not taken is not read from the socket, beyond AHEAD bytes; a client that sent "Expect:
100-continue" is told to go on when the first piece is asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from twisted.internet.defer import Deferred

AHEAD = 65_536  # bytes that wait to be taken before reading pauses


class Body:
    """An asynchronous iterator over the pieces of one request's body.

    *wanted* is called when a piece is asked for and none is there, *full* when AHEAD bytes wait.
    """

    def __init__(
        self, wanted: Callable[[], object] = bool, full: Callable[[], object] = bool
    ) -> None:
        self._wanted, self._full = wanted, full
        self._pieces: deque[bytes] = deque()
        self._waiting: Deferred[None] | None = None
        self._size = 0
        self._ended = False

    def __aiter__(self) -> Body:
        return self

    def __anext__(self) -> Any:
        return _Next(self)

    def received(self, piece: bytes) -> None:
        """Take up what has arrived."""
        if piece:
            self._pieces.append(piece)
        self._size += len(piece)
        if self._size > AHEAD:
            self._full()
        self._wake()

    def end(self) -> None:
        """The body is complete, or will never be."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)


class _Next:
    """The awaitable of one step."""

    def __init__(self, body: Body) -> None:
        self.body = body

    def __await__(self) -> Generator[Any, Any, bytes]:
        body = self.body
        while not body._pieces:
            if body._ended:
                raise StopAsyncIteration
            body._waiting = Deferred()
            body._wanted()
            yield from body._waiting.__await__()
        piece = body._pieces.popleft()
        body._size -= len(piece)
        return piece
