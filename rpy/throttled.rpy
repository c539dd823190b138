"""
Send bytes at a fixed rate: all of them, or a range.

    GET /throttled.rpy?size=1000000&rate=100000
    GET /throttled.rpy?size=10000000000&rate=0

Parameters:

    name  meaning                                        range             default
    size  bytes in the whole resource                    0 to 10000000000  1000000
    rate  bytes per second; 0: as fast as they are read  0 to 1000000000   100000
    key   a label for finding the request in the ledger  any text          -

Answer: 200 application/octet-stream with Content-Length, ETag and Accept-Ranges. Each 16 bytes are a
    line with its own offset: 15 digits and a newline. Byte n is sent n / rate seconds after the
    request at the earliest, and the last byte exactly then. A piece is what is due in 50 ms, but
    from 1 byte to 64 KiB. HEAD gets the headers at once. Range and If-Range work as RFC 9110 says:
    206 with Content-Range for one range; several ranges and other units are ignored.
Errors: 400 with one line that says which parameter is wrong; 416 for a range without a byte. A
    failure in mid-stream aborts the connection.
Client leaves: the timer is cancelled and the disconnect is logged. A client that stops reading
    pauses the stream; when it reads again, the rate is the same: lost time is not made up for.

Try it:

    $ twistd -n web --path .
    $ curl -N 'http://127.0.0.1:8080/throttled.rpy?size=160&rate=80'
    $ curl -i -r 160-191 'http://127.0.0.1:8080/throttled.rpy'
"""

# SPDX-License-Identifier: MIT-0
import math
import re
import time
from urllib.parse import parse_qs

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer


class Throttled(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # replaced in tests

    def render_GET(self, request):
        try:
            params = parse_params(request, "size", "rate", "key")
            size = number(params, "size", default=1_000_000, low=0, high=MAX_SIZE)
            rate = number(params, "rate", default=100_000, low=0, high=MAX_RATE)
        except ValueError as error:
            return error_page(request, 400, error)
        tag, first, end = b'"%d"' % size, 0, size
        request.setHeader("Accept-Ranges", "bytes")
        request.setHeader("ETag", tag)
        ranged = request.method == b"GET" and request.getHeader(b"If-Range") in (None, tag)
        wanted = parse_range(request.getHeader(b"Range") or b"", size) if ranged else None
        if wanted:
            first, end = wanted
            if first >= end:
                request.setHeader("Content-Range", f"bytes */{size}")
                return error_page(request, 416, f"no such range: give one within {size} bytes")
            request.setResponseCode(206)
            request.setHeader("Content-Range", f"bytes {first}-{end - 1}/{size}")
        set_headers(request, "application/octet-stream")
        request.setHeader("Content-Length", str(end - first))
        return run(request, self.throttle(request, first, end, rate))

    async def throttle(self, request, first, end, rate):
        """Write the bytes from *first* to before *end*, each when it is due and not before."""
        began, client = self.now(), Backpressure(request)
        request.write(b"")  # sends the headers
        if request.method == b"HEAD":
            end = first
        piece = min(MAX_PIECE, max(1, int(rate * TICK))) if rate else MAX_PIECE
        for start in range(first, end, piece):
            stop = min(start + piece, end)
            due = began + (stop - first) / (rate or math.inf)
            await deferLater(self.clock, max(0, due - self.now()))
            await client.ready()
            request.write(content(start, stop))
            late = self.now() - due
            if late > TICK:  # that time is lost; if it is less, the next pieces make up for it
                began += late
        request.unregisterProducer()
        request.finish()


MAX_SIZE = 10_000_000_000  # bytes
MAX_RATE = 1_000_000_000  # bytes per second
MAX_PIECE = 2**16  # bytes in one write
TICK = 0.05  # seconds between pieces, unless they are cut to MAX_PIECE
SPAN = 10_000  # bytes: whole lines, in which only the last four digits of the offset change
HOLE = b"." * 11  # stands for the other digits
LINES = b"".join(b"%b%04d\n" % (HOLE, offset) for offset in range(0, SPAN, 16))


def content(first, end):
    """Return the bytes from *first* to before *end*. One replacement makes SPAN bytes: it is fast."""
    spans = range(first // SPAN, -(-end // SPAN))
    lines = b"".join(LINES.replace(HOLE, b"%011d" % span) for span in spans)
    return lines[first % SPAN :][: end - first]


def parse_range(header, size):
    """Return the first byte that a Range header asks for and the one after the last (RFC 9110, 14.1.2).

    They are equal or reversed if none of *size* bytes is in the range. None: ignore the header.
    """
    match = re.fullmatch(rb"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", header, re.IGNORECASE)
    first, last = match.groups() if match else (b"", b"")
    if not first:
        return (max(0, size - int(last)), size) if last else None
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size) if last else size


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.throttled")


def parse_params(request, *names):
    """Return the query string as a dict. Unknown and repeated names are a ValueError."""
    query = request.uri.partition(b"?")[2].decode("utf-8", "replace")
    params = parse_qs(query, keep_blank_values=True)
    for name, values in params.items():
        if name not in names:
            raise ValueError(f"unknown parameter {name[:40]!a}: give one of {', '.join(names)}")
        if len(values) > 1:
            raise ValueError(f"{name} was given {len(values)} times: give it once")
        if len(values[0]) > 1000:
            raise ValueError(f"{name} is too long: give at most 1000 characters")
    return {name: values[0] for name, values in params.items()}


def number(params, name, default, low, high):
    """Return a number between *low* and *high*; a whole number if *default* is one."""
    text = params.get(name, str(default))
    digits = text if type(default) is int else text.replace(".", "", 1)
    if not (digits.isascii() and digits.isdecimal() and low <= float(text) <= high):
        kind = "a whole number" if type(default) is int else "a number"
        raise ValueError(f"invalid {name} {text[:40]!a}: give {kind} from {low} to {high}")
    return type(default)(text)


def set_headers(request, content_type, **timings):
    """Set the headers every response has, and *timings*, in seconds, as Server-Timing."""
    request.setHeader("Content-Type", content_type)
    request.setHeader("Cache-Control", "no-store")
    request.setHeader("X-Content-Type-Options", "nosniff")
    for name, seconds in timings.items():
        request.responseHeaders.addRawHeader("Server-Timing", f"{name};dur={seconds * 1000:.3f}")


def error_page(request, code, message):
    """Set the status and headers of a one-line error; return its body."""
    request.setResponseCode(code)
    set_headers(request, "text/plain; charset=utf-8")
    return f"{message}\n".encode()


def run(request, coroutine):
    """Let *coroutine* answer *request*; cancel it if the client disconnects."""
    work = Deferred.fromCoroutine(coroutine)
    request.notifyFinish().addErrback(lambda reason: work.cancel())
    work.addErrback(report_failure, request)
    return NOT_DONE_YET


def report_failure(failure, request):
    """An errback: log why there is no answer, and tell the client if it is still connected."""
    connected = getattr(request, "channel", None) is not None
    if failure.check(CancelledError) and not connected:
        log.info("{uri!r}: the client disconnected", uri=request.uri)
        return
    log.failure("{uri!r} failed", failure, uri=request.uri)
    if connected and request.producer:
        request.unregisterProducer()
    if connected and request.startedWriting:  # never let part of a response pass for all of it
        (request.transport or request.channel).abortConnection()
    elif connected:
        request.write(error_page(request, 500, "the script failed: the server's log says why"))
        request.finish()


@implementer(IPushProducer)
class Backpressure:
    """Lets a coroutine wait for a slow client: `await client.ready()` before each write."""

    def __init__(self, request):
        self.paused = None  # a Deferred while the connection's send buffer is full
        request.registerProducer(self, True)

    def pauseProducing(self):
        self.paused = self.paused or Deferred()

    def resumeProducing(self):
        paused, self.paused = self.paused, None
        if paused:
            paused.callback(None)

    def stopProducing(self):
        """Nothing to do: run() cancels the coroutine when the client disconnects."""

    async def ready(self):
        while self.paused:
            await self.paused


recache()  # stateless, so `tarry serve` may reuse this resource; plain twistd ignores this
resource = Throttled()
