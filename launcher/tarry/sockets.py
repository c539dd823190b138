"""Accepted sockets: writes of one reactor turn leave together, and the end of each is seen in one place.

Twisted registers a socket with epoll for each response, and sends in the next round: two system calls
more, and a round later. Here the socket is tried at the end of the turn, and epoll is asked only when
the socket would block. Buffering, backpressure and closing are Twisted's.

`ended` is called once when a socket closes, whatever protocol is on it by then.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from errno import ENOBUFS
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IListeningPort, IReactorTime
from twisted.internet.main import CONNECTION_LOST
from twisted.python.failure import Failure

BACKLOG = 4096  # connections waiting to be accepted; the kernel may allow fewer
BATCH = 64  # sockets written to in one turn before the first are sent
CLOSE_WAIT, CLOSED = 8, 7  # states of a TCP socket whose client has gone, as TCP_INFO has them

# A client that vanished without a word is noticed after IDLE + INTERVAL * COUNT seconds.
KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}


class WriteBatch:
    """The sockets written to in this turn of the reactor."""

    def __init__(self, reactor: IReactorTime) -> None:
        self.reactor = reactor
        self.sockets: list[Any] = []
        self._scheduled = False

    def add(self, sock: Socket) -> None:
        if len(self.sockets) >= BATCH:
            self.send()  # in a turn that answers thousands, the first need not wait for the last
        self.sockets.append(sock)
        if not self._scheduled:
            self._scheduled = True
            self.reactor.callLater(0, self._end_turn)

    def _end_turn(self) -> None:
        self._scheduled = False
        self.send()

    def send(self) -> None:
        sockets, self.sockets = self.sockets, []
        for each in sockets:
            each.end_turn()


class Socket(tcp.Server):
    """One accepted TCP connection. `tune` sets its `batch`.

    `ended(how)` is called once, after the protocol's own connectionLost: "FIN" or "RST" as the client
    closed it, "" if the server did.
    """

    batch: WriteBatch
    ended: Callable[[str], None] | None = None
    written = 0  # bytes that protocols gave it to send
    _in_batch = False
    _blocked = False  # waiting for the kernel to take more
    _closing = False  # by the server

    def write(self, data: bytes) -> None:
        self.written += len(data)
        super().write(data)

    def writeSequence(self, iovec: Any) -> None:
        self.write(b"".join(iovec))

    def startWriting(self) -> None:
        """FileDescriptor calls this when there is something to send, or to close."""
        if not self._in_batch and not self._blocked:
            self._in_batch = True
            self.batch.add(self)

    def stopWriting(self) -> None:
        if self._blocked:
            self._blocked = False
            super().stopWriting()

    def end_turn(self) -> None:
        """Send what the turn wrote, or close what it closed."""
        self._in_batch = False
        if self.connected and (self._unsent() or self.disconnecting or self._writeDisconnecting):
            lost = self.doWrite()
            if lost is not None:
                self.connectionLost(Failure(lost))
            elif self.connected and self._unsent():
                self._blocked = True
                super().startWriting()

    def send_now(self) -> None:
        """Send what there is. The rest, and noticing a loss, is left to the end of the turn."""
        if self._in_batch and self.connected and not self.disconnecting and self._unsent():
            self.doWrite()

    def writeSomeData(self, data: bytes) -> int | ConnectionLost:
        """Send what the kernel takes; as Twisted's, with fewer steps for a small response."""
        if len(data) > self.SEND_LIMIT:
            return super().writeSomeData(data)
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            return 0 if error.errno == ENOBUFS else CONNECTION_LOST

    def _unsent(self) -> bool:
        return self._tempDataLen > 0 or len(self.dataBuffer) > self.offset

    def client_gone(self) -> bool:
        """Whether the client has closed, although what it sent before has not been read yet."""
        try:
            state = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        except (OSError, AttributeError):  # not TCP, or not Linux
            return False
        return state in (CLOSE_WAIT, CLOSED)

    def connectionLost(self, reason: Failure) -> None:
        closing = bool(self.disconnecting) or reason.check(ConnectionAborted) is not None
        how = "" if closing else "FIN" if reason.check(ConnectionDone) else "RST"
        super().connectionLost(reason)
        ended, self.ended = self.ended, None
        if ended is not None:
            ended(how)


class UnixSocket(Socket, unix.Server):
    """One accepted connection of a UNIX socket."""

    writeSomeData = unix.Server.writeSomeData  # it may have descriptors to send


def socket_below(transport: Any) -> Socket | None:
    """Return the socket that *transport* is, or that TLS and the like use below it."""
    while transport is not None and not isinstance(transport, Socket):
        transport = getattr(transport, "transport", None)
    return transport


def tune(port: IListeningPort, reactor: Any) -> IListeningPort:
    """Give *port*, which has just begun to listen, these sockets, a long backlog and keep-alive."""
    kind = UnixSocket if isinstance(port, unix.Port) else Socket
    if isinstance(port, tcp.Port):
        port.transport = type(kind.__name__, (kind,), {"batch": WriteBatch(reactor)})  # type: ignore[assignment]
        port.socket.listen(BACKLOG)
    if isinstance(port, tcp.Port) and kind is Socket:  # accepted sockets inherit these
        port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):
                port.socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return port
