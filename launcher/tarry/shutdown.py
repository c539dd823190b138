"""A graceful shutdown: requests in flight get some seconds to end."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from tarry.site import Site

log = Logger()
CHECK = 0.05  # seconds between checks of what is still in flight


class GracefulShutdown(Service):
    """Delays the shutdown until nothing is in flight, or *seconds* have passed.

    Listening ends at once, and so do connections without a request. *watched*: tell a person how far
    it is. What is still in flight in the end is aborted.
    """

    def __init__(self, site: Site, seconds: float, watched: bool, clock: Any) -> None:
        self.site, self.seconds, self.watched, self.clock = site, seconds, watched, clock

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self.until = self.clock.seconds() + self.seconds
        self.checking = LoopingCall(self.check)
        self.checking.clock = self.clock
        return self.checking.start(CHECK).addCallback(self.ended)

    def in_flight(self) -> int:
        """Return how many requests are unanswered, or connections have unsent responses."""
        return max(len(self.site.ledger.pending), len(self.site.connections))

    def check(self) -> None:
        self.site.drain()
        left = self.until - self.clock.seconds()
        if self.in_flight() and left > 0:
            if self.watched:
                requests = count(self.in_flight())
                say = f"\rwaiting for {requests}, {left:.0f} s at most (Ctrl-C: no longer) "
                print(say, end="", file=sys.stderr, flush=True)
        else:
            self.checking.stop()

    def ended(self, _: object) -> Deferred[None]:
        if self.watched:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        if self.in_flight():
            log.warn("aborted in flight: {requests}", requests=count(self.in_flight()))
        self.site.abort("the server stopped")
        return deferLater(self.clock, 0)  # the turn in which connections are closed


def count(requests: int) -> str:
    return "1 request" if requests == 1 else f"{requests} requests"


def handle_signals(reactor: Any, reopen: Any) -> None:
    """Make SIGTERM and SIGINT stop *reactor*, a second one end the process, SIGHUP call *reopen*."""
    asked = False

    def stop(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        reactor.callFromThread(reactor.stop)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda number, frame: reactor.callFromThread(reopen))
