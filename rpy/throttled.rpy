"""
Send bytes at a rate, all of them or a range.

    GET /throttled.rpy?size=1000000&rate=100000
    GET /throttled.rpy?size=10000000000&rate=0

Parameters:

    name  meaning                                           range             default
    size  of the whole (bytes)                              0 to 10000000000  1000000
    rate  of the body (bytes a second); 0: as fast as read  0 to 1000000000   100000
    key   a name of your own, for the ledger                any text          -

Answer: 200 application/octet-stream with Content-Length, ETag and Accept-Ranges; the head at once.
    Each 16 bytes are a line with its own offset: 15 digits and a newline. The n-th byte is there
    n / rate seconds after the request at the soonest, the last one just then: in pieces, of what is
    due in a twentieth of a second, but of 1 byte at least and 64 KiB at most. HEAD gets the
    headers at once.
    To Range: bytes=100-199, bytes=100- or bytes=-100: 206 with Content-Range, and those bytes of
    the whole at the same rate; to one that has none of them: 416 and one line. Several ranges,
    other units and what is no range at all are ignored, and so is Range if If-Range has another
    ETag, or a date.
Errors: 400 and one line on the parameter that was wrong; 405 or 501 for other methods; 500 if
    the script fails, or an aborted connection if bytes are out.
Client leaves: the timer is cancelled at once, and the log has a line. While a client does not
    read, nothing is written but what the system takes into its buffers, which may be megabytes.
    Once it reads again, the rate is the same: time in which it did not read is not made up for.

Try it:

    $ twistd -n web --path .
    $ curl -N 'http://127.0.0.1:8080/throttled.rpy?size=160&rate=80'
    $ curl -i -r 160-191 'http://127.0.0.1:8080/throttled.rpy'
"""

# SPDX-License-Identifier: MIT-0
import math
import re
import time
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

recache()  # no state here: a server that keeps scripts in memory may keep this one
log = Logger(namespace="rpy.throttled")

LARGEST = 10_000_000_000  # bytes
FASTEST = 1_000_000_000  # bytes a second
TICK = 0.05  # seconds from one piece to the next, if it is not cut to PIECE
PIECE = 2**16  # bytes in one write, at most
SPAN = 10_000  # bytes: whole lines, in which only the last four digits of the offset change
HOLE = b"." * 11  # where its other digits are put
LINES = b"".join(b"%b%04d\n" % (HOLE, offset) for offset in range(0, SPAN, 16))


def query(request, **known):
    """The query's values. *known* names each with its default and what is allowed: low and high of
    a number (whole if the default is), words, or nothing for any text. One whose default is False
    is a flag: "name" or "name=1". ValueError on all else."""
    pairs = parse_qsl(request.uri.partition(b"?")[2].decode("utf-8", "replace"), True)
    values = {name: default for name, (default, *_) in known.items()}
    for name, text in pairs:
        if name not in known:
            raise ValueError(f"{name[:40]!a} is no parameter here: give {', '.join(known)}")
        if [other for other, _ in pairs].count(name) > 1:
            raise ValueError(f"{name} is given more than once: give it once")
        default, *allowed = known[name]
        kind = type(default)
        if kind is bool:
            right, hint = text in ("", "1"), f"{name} or {name}=1"
        elif kind is str:
            right = text in allowed if allowed else len(text) <= 1000
            hint = " or ".join(allowed) or "1000 characters at most"
        else:
            form = r"[0-9]{1,20}" if kind is int else r"[0-9]{1,20}(\.[0-9]*)?|\.[0-9]+"
            right = re.fullmatch(form, text) and allowed[0] <= kind(text) <= allowed[1]
            hint = "a {}number from {} to {}".format("whole " * (kind is int), *allowed)
        if not right:
            raise ValueError(f"{name}={text[:40]!a} is not allowed: give {hint}")
        values[name] = kind is bool or kind(text)
    return values


def describe(request, content_type, **waits):
    """Set the headers that all answers here have; *waits* are seconds, for Server-Timing."""
    request.setHeader(b"Content-Type", content_type)
    request.setHeader(b"Cache-Control", b"no-store")  # browsers line up what they could cache
    request.setHeader(b"X-Content-Type-Options", b"nosniff")
    if waits:
        timing = [f"{name};dur={seconds * 1000:.3f}" for name, seconds in waits.items()]
        request.setHeader(b"Server-Timing", ", ".join(timing).encode())


def refuse(request, code, line):
    """Answer with one plain line."""
    request.setResponseCode(code)
    describe(request, b"text/plain; charset=utf-8")
    request.write(f"{line}\n".encode())
    request.finish()
    return NOT_DONE_YET


def attempt(request, log, step):
    """Call *step* from a timer, where an exception would reach nobody: tell log and client."""
    try:
        step()
    except Exception:
        log.failure("{uri!r} failed", uri=request.uri)
        if request.startedWriting:  # a part must not pass for the whole
            (request.transport or request.channel).abortConnection()
        else:
            if request.producer:
                request.unregisterProducer()
            refuse(request, 500, "the script failed: the server's log says why")


def run(request, log, coroutine):
    """Answer by a coroutine: cancel it if the client leaves, tell log and client if it fails."""
    left = []

    def leave(reason):
        if not work.called:  # else it was our own end that closed the connection
            left.append(reason)
            log.info("{uri!r}: the client left", uri=request.uri)
            work.cancel()

    def fail(failure):
        if left:
            failure.trap(CancelledError)  # what else there is, is logged as unhandled
        else:
            attempt(request, log, failure.raiseException)

    request.notifyFinish().addErrback(leave)
    work = Deferred.fromCoroutine(coroutine)
    work.addErrback(fail)
    return NOT_DONE_YET


@implementer(IPushProducer)
class Flow:
    """A response in pieces, each written once the client has taken enough of those before."""

    def __init__(self, request):
        self.request, self.room = request, None
        request.registerProducer(self, True)

    def pauseProducing(self):
        self.room = self.room or Deferred()

    def resumeProducing(self):
        room, self.room = self.room, None
        if room:
            room.callback(None)

    def stopProducing(self):
        """Nothing to do: the coroutine that writes is cancelled when the client leaves."""

    async def write(self, data):
        while self.room:
            await self.room
        self.request.write(data)

    def finish(self):
        self.request.unregisterProducer()
        self.request.finish()


def content(first, end):
    """Bytes *first* to *end* of the whole; fast, as SPAN bytes are made by one replacement."""
    spans = range(first // SPAN, -(-end // SPAN))
    lines = b"".join(LINES.replace(HOLE, b"%011d" % span) for span in spans)
    return lines[first % SPAN :][: end - first]


def parse_range(header, size):
    """The bytes *first* to *end* of *size* that a Range header asks for; none are between them if it
    cannot be satisfied. None for one to ignore (RFC 9110, 14.1.2 and 14.2)."""
    match = re.fullmatch(rb"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", header, re.IGNORECASE)
    first, last = match.groups() if match else (b"", b"")
    if not first:
        return (max(0, size - int(last)), size) if last else None
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size) if last else size


class Throttled(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # which a test replaces

    def render_GET(self, request):
        try:
            size, rate = (1_000_000, 0, LARGEST), (100_000, 0, FASTEST)
            asked = query(request, size=size, rate=rate, key=("",))
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        size, tag = asked["size"], b'"%d"' % asked["size"]
        first, end = 0, size
        request.setHeader(b"Accept-Ranges", b"bytes")
        request.setHeader(b"ETag", tag)
        same = (request.getHeader(b"If-Range") or tag) == tag
        asked_for = parse_range(request.getHeader(b"Range") or b"", size) if same else None
        if asked_for and request.method == b"GET":  # which HEAD is not: there Range has no meaning
            first, end = asked_for
            if first >= end:
                request.setHeader(b"Content-Range", b"bytes */%d" % size)
                return refuse(request, 416, f"there are {size} bytes: give a range that has some")
            request.setResponseCode(206)
            request.setHeader(b"Content-Range", b"bytes %d-%d/%d" % (first, end - 1, size))
        describe(request, b"application/octet-stream")
        request.setHeader(b"Content-Length", b"%d" % (end - first))
        if request.method == b"HEAD":
            end = first
        return run(request, log, self.throttle(request, first, end, asked["rate"]))

    async def throttle(self, request, first, end, rate):
        """Write the bytes *first* to *end*, each when its time has come, and none before."""
        flow, begun = Flow(request), self.now()
        await flow.write(b"")  # the head
        piece = min(PIECE, max(1, int(rate * TICK))) if rate else PIECE
        for start in range(first, end, piece):
            stop = min(start + piece, end)
            due = begun + (stop - first) / (rate or math.inf)
            await deferLater(self.clock, max(0, due - self.now()))
            await flow.write(content(start, stop))  # waits while the client does not read
            late = self.now() - due
            if late > TICK:  # then that time is lost, else the next pieces make up for it
                begun += late
        flow.finish()


resource = Throttled()
