"""A TCP connection that sends what a reactor's turn wrote at the end of that turn.

Twisted's own registers with epoll for each response that it is to be told when it may write, and is
told in the next round: two system calls more, and a round later. Here the socket is asked at once, and
epoll only if it would block. Buffering, backpressure and closing are Twisted's.
"""

from __future__ import annotations

import socket
from errno import ENOBUFS
from typing import Any, cast

from twisted.internet import tcp
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IListeningPort, IReactorTime
from twisted.internet.main import CONNECTION_LOST
from twisted.python.failure import Failure

BACKLOG = 4096  # connections that wait to be accepted; the kernel may allow fewer
BATCH = 64  # connections that a turn writes to before the first are sent

# A peer that vanished without a word is noticed after IDLE + INTERVAL * PROBES seconds of silence.
KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}


class Turn:
    """The connections that were written to in this turn of the reactor."""

    def __init__(self, reactor: IReactorTime) -> None:
        self.reactor = reactor
        self.written: list[Transport] = []
        self._ending = False

    def add(self, transport: Transport) -> None:
        if len(self.written) >= BATCH:
            self.send()  # of a turn that answers thousands, the first need not wait for the last
        self.written.append(transport)
        if not self._ending:
            self._ending = True
            self.reactor.callLater(0, self.end)

    def end(self) -> None:
        self._ending = False
        self.send()

    def send(self) -> None:
        written, self.written = self.written, []
        for transport in written:
            transport.end_of_turn()


class Transport(tcp.Server):
    """One accepted connection. The class needs `turn` set, which `tune` does."""

    turn: Turn
    _noted = False  # in the turn's list
    _blocked = False  # waiting for the socket to take more

    def startWriting(self) -> None:
        """FileDescriptor calls this when there is something to send, or to close."""
        if not self._noted and not self._blocked:
            self._noted = True
            self.turn.add(self)

    def stopWriting(self) -> None:
        if self._blocked:
            self._blocked = False
            super().stopWriting()

    def end_of_turn(self) -> None:
        self._noted = False
        if self.connected and (self._unsent() or self.disconnecting or self._writeDisconnecting):
            lost = self.doWrite()
            if lost is not None:
                self.connectionLost(Failure(lost))
            elif self.connected and self._unsent():
                self._blocked = True
                super().startWriting()

    def send_now(self) -> None:
        """Send what there is; all else is left to the end of the turn, also to find out a loss."""
        if self._noted and self.connected and not self.disconnecting and self._unsent():
            self.doWrite()

    def writeSomeData(self, data: bytes) -> int | ConnectionLost:
        """As Connection's, with less ado where there is little to send."""
        if len(data) > self.SEND_LIMIT:
            return super().writeSomeData(data)
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as wrong:
            return 0 if wrong.errno == ENOBUFS else CONNECTION_LOST

    def _unsent(self) -> bool:
        return self._tempDataLen > 0 or len(self.dataBuffer) > self.offset


def tune(port: IListeningPort, reactor: Any) -> IListeningPort:
    """Give *port*, which has just begun to listen, this transport, a long backlog and keep-alive."""
    if isinstance(port, tcp.Port):
        port.transport = cast(
            type[tcp.Server], type("Transport", (Transport,), {"turn": Turn(reactor)})
        )
        # Accepted sockets inherit these.
        port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):
                port.socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        port.socket.listen(BACKLOG)
    return port
