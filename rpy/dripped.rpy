"""
Drip the body, or the headers, byte by byte.

    GET /dripped.rpy?size=10&duration=2
    GET /dripped.rpy?part=headers&duration=5

Parameters:

    name      meaning                                        range            default
    delay     seconds before the first byte                  0 to 3600        0
    duration  seconds from then to the last dripped byte     0 to 3600        2
    size      bytes in the body                              0 to 10000000    10
    status    status of the response, but not 204 or 304     200 to 599       200
    part      what is dripped                                body, headers    body
    framing   how the end of the body is marked              length, chunked  length
    encoding  Content-Encoding, whatever the client accepts  identity, gzip   identity
    key       a label for finding the request in the ledger  any text         -

Answer: "status", text/plain, and "size" digits: 0123456789 over and over. The headers come after
    "delay"; t seconds later, size * t / duration bytes have been sent, rounded down, in at most 100
    writes per second (or more, of 64 KiB). part=headers: the status line and headers are dripped
    like that, and then the body follows at once. encoding=gzip: the bytes of one gzip member are
    dripped, and "size" is its unpacked size. HEAD gets no body. Server-Timing reports the wait.
Errors: 400 with one line that says which parameter is wrong; 400 for part=headers over HTTP/2.
Client leaves: the timer is cancelled and the disconnect is logged. A client that stops reading
    pauses the drip; when it reads again, overdue bytes follow at once.

Try it:

    $ twistd -n web --path .
    $ curl -iN 'http://127.0.0.1:8080/dripped.rpy?part=headers&duration=2'
"""

# SPDX-License-Identifier: MIT-0
import time
import zlib
from urllib.parse import parse_qs

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer


class Dripped(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # replaced in tests

    def render_GET(self, request):
        try:
            params = parse_params(
                request, "delay", "duration", "size", "status", "part", "framing", "encoding", "key"
            )
            delay = number(params, "delay", default=0.0, low=0, high=MAX_WAIT)
            duration = number(params, "duration", default=2.0, low=0, high=MAX_WAIT)
            size = number(params, "size", default=10, low=0, high=MAX_SIZE)
            status = number(params, "status", default=200, low=200, high=599)
            part = choice(params, "part", "body", "body", "headers")
            framing = choice(params, "framing", "length", "length", "chunked")
            encoding = choice(params, "encoding", "identity", "identity", "gzip")
            if status in (204, 304):
                raise ValueError(f"invalid status {status}, it has no body: give another")
            if part == "headers" and request.transport is None:
                raise ValueError("invalid part 'headers' over HTTP/2: give body, or use HTTP/1.1")
        except ValueError as error:
            return error_page(request, 400, error)
        request.setResponseCode(status)
        chunked, gzip = framing == "chunked", encoding == "gzip"
        return run(request, self.respond(request, delay, duration, size, part, chunked, gzip))

    async def respond(self, request, delay, duration, size, part, chunked, gzip):
        """Answer after *delay* seconds; drip the body, or else the headers, for *duration* seconds."""
        arrived, client, take, total = self.now(), Backpressure(request), digits, size
        await deferLater(self.clock, delay)
        if gzip:
            member = await self.compress(size)
            take, total = (lambda first, end: member[first:end]), len(member)
            request.setHeader("Content-Encoding", "gzip")
        if not chunked:
            request.setHeader("Content-Length", str(total))
        set_headers(request, "text/plain; charset=utf-8", wait=self.now() - arrived)
        began = arrived + delay
        if part == "headers":
            await self.drip_headers(request, client, chunked, began, duration)
            began, duration = self.now(), 0
        request.write(b"")  # sends the headers, unless they have been dripped
        if request.method != b"HEAD":
            await self.drip(request, client, take, total, began, duration)
        request.unregisterProducer()
        request.finish()

    async def drip_headers(self, request, client, chunked, began, duration):
        """Drip the bytes that Twisted would write as status line and headers."""
        chunked = chunked and request.method != b"HEAD" and request.clientproto == b"HTTP/1.1"
        if chunked:
            request.setHeader("Transfer-Encoding", "chunked")
        lines = [b"%b %d %b" % (request.clientproto, request.code, request.code_message)]
        for name, values in request.responseHeaders.getAllRawHeaders():
            lines += [b"%b: %b" % (name, value) for value in values]
        head = b"\r\n".join([*lines, b"", b""])
        request.startedWriting = (
            True  # so Twisted writes no headers, and sends what we write as it is
        )
        await self.drip(request, client, lambda a, b: head[a:b], len(head), began, duration)
        request.chunked = chunked  # from here on Twisted adds the chunk sizes

    async def drip(self, request, client, take, total, began, duration):
        """Write *total* bytes evenly: t seconds after *began*, floor(total * t / duration) are out.

        0          delay      + 1/4      + 1/2      + 3/4      + duration
        |----------|----------|----------|----------|----------|
        request    headers    byte 1     byte 2     byte 3     byte 4, end     (size=4)
        """
        writes = max(1, min(total, int(duration / TICK)), -(-total // MAX_PIECE))
        for n in range(1, writes + 1):
            due = began + duration * n / writes  # since the start: lateness does not add up
            await deferLater(self.clock, max(0, due - self.now()))
            await client.ready()
            request.write(take(total * (n - 1) // writes, total * n // writes))

    async def compress(self, size):
        """Return a gzip member of the body, made in pieces so that other requests are not late."""
        packer, pieces = zlib.compressobj(1, wbits=31), []
        for first in range(0, size, MAX_PIECE):
            pieces.append(packer.compress(digits(first, min(first + MAX_PIECE, size))))
            await deferLater(self.clock, 0)
        return b"".join([*pieces, packer.flush()])


MAX_WAIT = 3600  # seconds
MAX_SIZE = 10_000_000  # bytes
MAX_PIECE = 2**16  # bytes in one write
TICK = 0.01  # seconds between writes, at least
DIGITS = b"0123456789" * (MAX_PIECE // 10 + 2)


def digits(first, end):
    """Return the body's bytes from *first* to before *end*, at most MAX_PIECE of them."""
    return DIGITS[first % 10 : first % 10 + end - first]


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.dripped")


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


def choice(params, name, default, *allowed):
    """Return one of the words in *allowed*, or *default* if the parameter is missing."""
    text = params.get(name, default)
    if name in params and text not in allowed:
        raise ValueError(f"invalid {name} {text[:40]!a}: give {' or '.join(allowed)}")
    return text


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
resource = Dripped()
