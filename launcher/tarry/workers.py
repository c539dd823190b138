"""`--workers N`: N processes that accept from the same listening sockets.

The parent binds the sockets, which the workers inherit, so a port is never without a listener while a
worker is replaced. A worker that ends unasked is started again, after a pause that doubles as long as
it keeps ending soon. Each worker holds one end of a pipe: if the parent goes, however, it stops too.

Every worker has its own ledger, and scripts keep their state per process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import ConnectionDone, ReactorNotRunning
from twisted.internet.interfaces import IListeningPort, IReadDescriptor
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

log = Logger()
VARIABLE = "TARRY_WORKER"  # the environment variable that makes a process a worker
PAUSE, MAX_PAUSE = 0.1, 10.0  # seconds before a restart; a worker that lived MAX_PAUSE is healthy


@dataclass
class WorkerConfig:
    """What a worker is told: its number, the endpoints, and the sockets they listen on."""

    number: int
    endpoints: list[str] = field(default_factory=list)
    sockets: list[int] = field(default_factory=list)
    families: list[int] = field(default_factory=list)

    @classmethod
    def given(cls) -> WorkerConfig | None:
        """Return the configuration of this process; None if it isn't a worker."""
        told = os.environ.get(VARIABLE)
        return cls(**json.loads(told)) if told else None


class Reactor:
    """Stands in for the reactor while an endpoint listens: calls *listen* to make the port."""

    def __init__(self, reactor: Any, listen: Any) -> None:
        self._reactor, self._listen = reactor, listen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        return self._listen(port, factory, backlog, interface)

    def listenSSL(
        self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = ""
    ) -> Any:
        secure = TLSMemoryBIOFactory(contextFactory, False, factory, self._reactor)
        return self._listen(port, secure, backlog, interface)


def adopted(reactor: Any, task: WorkerConfig, index: int) -> Any:
    """Return the endpoint number *index* of *task*, on the socket that the worker inherited."""

    def listen(port: int, factory: Any, backlog: int, interface: str) -> Any:
        return reactor.adoptStreamPort(task.sockets[index], task.families[index], factory)

    return serverFromString(Reactor(reactor, listen), task.endpoints[index])


@implementer(IReadDescriptor)
class ParentMonitor:
    """Stops a worker when its parent is gone: its standard input ends then."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        os.setpgrp()  # Ctrl-C goes to the parent, which passes it on
        reactor.addReader(self)

    def fileno(self) -> int:
        return 0

    def logPrefix(self) -> str:
        return "parent monitor"

    def doRead(self) -> None:
        if not os.read(0, 1000):
            self.connectionLost(Failure(ConnectionDone()))

    def connectionLost(self, reason: Failure) -> None:
        """Stop: the parent is gone. (For a closed pipe, epoll makes the reactor call this, not doRead.)"""
        self.reactor.removeReader(self)
        with contextlib.suppress(ReactorNotRunning):  # it has been told to stop already
            self.reactor.stop()


class Worker(ProcessProtocol):
    """One worker process, and the ones that replace it."""

    transport: Any = None
    pause = PAUSE
    restart: Any = None

    def __init__(self, supervisor: Supervisor, number: int) -> None:
        self.supervisor, self.number = supervisor, number
        self.reactor = supervisor.reactor
        self.ended: Deferred[None] = Deferred()

    def start(self) -> None:
        self.restart = None
        task = WorkerConfig(self.number, *self.supervisor.bound())
        command = [sys.executable, "-m", "tarry", "serve", *self.supervisor.arguments]
        self.started = self.reactor.seconds()
        self.reactor.spawnProcess(
            self, command[0], command,
            env={**os.environ, VARIABLE: json.dumps(asdict(task))},
            childFDs={
                0: "w", 1: 1, 2: 2, **{fd: fd for fd in (*task.sockets, *self.supervisor.inherited)},
            },
        )  # fmt: skip

    def signal(self, number: int) -> None:
        if self.transport is not None and self.transport.pid:
            self.transport.signalProcess(number)

    def stop(self) -> Deferred[None]:
        if self.restart is not None:
            self.restart.cancel()
            return succeed(None)
        self.signal(signal.SIGTERM)
        return self.ended

    def processEnded(self, reason: Failure) -> None:
        if self.supervisor.stopping:
            self.ended.callback(None)
            return
        if self.reactor.seconds() - self.started > MAX_PAUSE:
            self.pause = PAUSE
        log.error(
            "worker {number} ended, {reason}: it starts again in {pause:g} s",
            number=self.number, reason=reason.getErrorMessage(), pause=self.pause,
        )  # fmt: skip
        self.restart = self.reactor.callLater(self.pause, self.start)
        self.pause = min(self.pause * 2, MAX_PAUSE)


class Supervisor(Service):
    """The parent: binds *endpoints* and starts *count* workers with *arguments* to serve them.

    Workers inherit the descriptors *inherited*.
    """

    def __init__(
        self,
        endpoints: list[str],
        count: int,
        arguments: list[str],
        reactor: Any,
        inherited: tuple[int, ...] = (),
    ) -> None:
        self.endpoints, self.arguments, self.reactor = endpoints, arguments, reactor
        self.inherited = inherited
        self.workers = [Worker(self, number + 1) for number in range(count)]
        self.listening: list[Any] = []
        self.stopping = False

    def startService(self) -> None:
        super().startService()

        def listen(port: int, factory: Any, backlog: int, interface: str) -> Any:
            bound = self.reactor.listenTCP(port, Factory(), backlog, interface)
            bound.stopReading()  # the workers accept
            self.listening.append(bound)
            return bound

        for endpoint in self.endpoints:
            failed: list[Failure] = []
            made = serverFromString(Reactor(self.reactor, listen), endpoint)
            made.listen(Factory()).addErrback(failed.append)
            if failed:
                failed[0].raiseException()
        for worker in self.workers:
            worker.start()

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        self.stopping = True
        for port in self.listening:
            port.stopListening()
        return DeferredList([worker.stop() for worker in self.workers])

    def reopen(self) -> None:
        """Make all workers reopen their access log."""
        for worker in self.workers:
            worker.signal(signal.SIGHUP)

    def bound(self) -> tuple[list[str], list[int], list[int]]:
        """Return endpoints, descriptors and address families, for a WorkerConfig."""
        sockets = [port.fileno() for port in self.listening]
        return self.endpoints, sockets, [int(port.addressFamily) for port in self.listening]

    def ports(self) -> list[IListeningPort]:
        return self.listening
