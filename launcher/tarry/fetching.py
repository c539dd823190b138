"""`tarry fetch`: request several URLs at once, and show how long each took."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urljoin

import treq
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from twisted.internet.defer import CancelledError, DeferredList, ensureDeferred
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.web.client import ResponseFailed, ResponseNeverReceived

BAR = 24  # columns of the picture
NEVER = {CancelledError: "timed out", ConnectionLost: "reset", ConnectionDone: "closed"}


@dataclass
class Fetch:
    """One request and how it ended. Times are in seconds since all were started."""

    url: str
    began: float = field(default_factory=time.monotonic)
    status: str = ""
    size: int = 0
    first: float | None = None
    last: float | None = None

    def received(self, data: bytes) -> None:
        self.size += len(data)
        self.first = self.first or time.monotonic() - self.began

    async def run(self, timeout: float) -> None:
        try:
            response = await treq.get(self.url, persistent=False, timeout=timeout, unbuffered=True)
            self.status = str(response.code)
            await treq.collect(response, self.received)
            self.last = time.monotonic() - self.began
            self.first = self.first or self.last
        except ConnectError:
            self.status = "no server"
        except ResponseNeverReceived as never:
            reason = never.reasons[0].type
            self.status = NEVER.get(reason, reason.__name__)
        except ResponseFailed:
            self.status = "cut short"
        except Exception as error:  # whatever went wrong is a row of the table
            self.status = type(error).__name__


async def fetch(urls: Sequence[str], base: str, times: int, timeout: float) -> list[Fetch]:
    """Request each of *urls*, relative to *base*, *times* times at once; return them as they ended."""
    done: list[Fetch] = []
    fetches = [Fetch(urljoin(base, url)) for url in urls for _ in range(times)]
    console = Console(stderr=True)
    progress = Progress(
        SpinnerColumn(), BarColumn(), TextColumn("{task.completed} of {task.total} answered"),
        transient=True, console=console, disable=not console.is_interactive,
    )  # fmt: skip
    with progress:
        task = progress.add_task("", total=len(fetches))

        async def one(each: Fetch) -> None:
            await each.run(timeout)
            done.append(each)
            progress.advance(task)

        await DeferredList([ensureDeferred(one(each)) for each in fetches])
    return done


def table(fetches: Sequence[Fetch], base: str) -> Table:
    """Return a table: dots until the first byte, a bar while bytes arrived."""
    longest = max([f.last for f in fetches if f.last] or [1.0])
    drawn = Table(box=None, pad_edge=False)
    room = shutil.get_terminal_size().columns - BAR - 30
    drawn.add_column("request", overflow="ellipsis", no_wrap=True, max_width=max(room, 16))
    drawn.add_column("status", no_wrap=True)
    drawn.add_column("first", justify="right", no_wrap=True)
    drawn.add_column("last", justify="right", no_wrap=True)
    drawn.add_column("", no_wrap=True, min_width=BAR)
    for each in fetches:
        name = escape(each.url.removeprefix(base))
        if each.last is None:
            drawn.add_row(name, f"[red]{each.status}")
            continue
        first = cast(float, each.first)
        dots = min(int(first / longest * BAR), BAR - 1)
        bar = "·" * dots + "█" * max(1, int(each.last / longest * BAR) - dots)
        drawn.add_row(name, each.status, f"{first:.3f} s", f"{each.last:.3f} s", bar)
    return drawn
