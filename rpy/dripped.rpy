"""
Drip the body, or the headers, byte by byte.

    GET /dripped.rpy?size=10&duration=2
    GET /dripped.rpy?part=headers&duration=5
    GET /dripped.rpy?size=1000&encoding=gzip&framing=chunked

Parameters:

    name      meaning                                       range            default
    delay     wait before the first byte (seconds)          0 to 3600        0
    duration  from then to the last byte dripped (seconds)  0 to 3600        2
    size      of the body (bytes)                           0 to 10000000    10
    status    of the response, but not 204 and 304          200 to 599       200
    part      what is dripped                               body, headers    body
    framing   how the body says where it ends               length, chunked  length
    encoding  of the body, whatever the client accepts      identity, gzip   identity
    key       a name of your own, for the ledger            any text         -

Answer: "status", text/plain, and a body of "size" digits, 0123456789 over and over. The head comes
    after "delay". From then on bytes come evenly: t seconds later, size * t / duration of them,
    rounded down, so that the last comes after "delay" and "duration", and with it the end. (The
    first comes with the head at httpbin's /drip, and duration / size later here.) There are at most
    100 writes a second, or as many as it takes for pieces of 64 KiB: of more bytes than that, some
    come together.
    part=headers: status line and headers come like that, and then the body at once. encoding=gzip:
    one gzip member, the bytes of which come evenly, so that it stalls inside; "size" is what
    it unpacks to. framing: Content-Length, or chunks; with chunks, HTTP/1.0 and HTTP/2 have none.
    Server-Timing has the wait before the head in milliseconds. HEAD gets the head alone.
Errors: 400 and one line on the parameter that was wrong, and for part=headers on HTTP/2, where the
    head is one frame; 405 or 501 for other methods; 500 if the script fails, or an aborted
    connection if bytes are out.
Client leaves: the timer is cancelled at once, and the log has a line. While a client does not
    read, nothing is written; once it reads again, what fell due meanwhile follows at once.

Try it:

    $ twistd -n web --path .
    $ curl -iN 'http://127.0.0.1:8080/dripped.rpy?size=10&duration=2'
    $ curl -iN 'http://127.0.0.1:8080/dripped.rpy?part=headers&duration=2'
    $ curl -N --compressed 'http://127.0.0.1:8080/dripped.rpy?size=100&encoding=gzip'
"""

# SPDX-License-Identifier: MIT-0
import re
import time
import zlib
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.http import NO_BODY_CODES
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

recache()  # no state here: a server that keeps scripts in memory may keep this one
log = Logger(namespace="rpy.dripped")

LONGEST = 3600  # seconds
LARGEST = 10_000_000  # bytes
TICK = 0.01  # seconds from one write to the next, at least
PIECE = 2**16  # bytes in one write, at most
DIGITS = b"0123456789" * (PIECE // 10 + 2)


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


def digits(first, end):
    """Bytes *first* to *end* of the body, of which there are PIECE at most."""
    return DIGITS[first % 10 : first % 10 + end - first]


def packed(size):
    """A gzip member of the body."""
    packer = zlib.compressobj(1, wbits=31)  # level 1: 10 MB take some 10 ms, the reactor waits
    pieces = [packer.compress(digits(n, min(n + PIECE, size))) for n in range(0, size, PIECE)]
    return b"".join(pieces) + packer.flush()


def head_of(request):
    """The bytes that Twisted would write as status line and headers."""
    lines = [b"%b %d %b" % (request.clientproto, request.code, request.code_message)]
    for name, values in request.responseHeaders.getAllRawHeaders():
        lines += [b"%b: %b" % (name, value) for value in values]
    return b"\r\n".join([*lines, b"", b""])


class Dripped(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # which a test replaces

    def render_GET(self, request):
        try:
            asked = query(
                request,
                delay=(0.0, 0, LONGEST),
                duration=(2.0, 0, LONGEST),
                size=(10, 0, LARGEST),
                status=(200, 200, 599),
                part=("body", "body", "headers"),
                framing=("length", "length", "chunked"),
                encoding=("identity", "identity", "gzip"),
                key=("",),
            )
            if asked["status"] in NO_BODY_CODES:
                raise ValueError(f"status={asked['status']} has no body: give another")
            if asked["part"] == "headers" and request.transport is None:
                raise ValueError("part=headers is not for HTTP/2: give part=body, or use HTTP/1.1")
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        return run(request, log, self.respond(request, **asked))

    async def respond(self, request, delay, duration, size, status, part, framing, encoding, key):
        arrived, take, total = self.now(), digits, size
        if encoding == "gzip":
            member = packed(size)
            take, total = lambda first, end: member[first:end], len(member)
        has_body, flow = request.method != b"HEAD", Flow(request)
        await deferLater(self.clock, delay)
        request.setResponseCode(status)
        describe(request, b"text/plain; charset=utf-8", wait=self.now() - arrived)
        if encoding == "gzip":
            request.setHeader(b"Content-Encoding", b"gzip")
        if framing == "length":
            request.setHeader(b"Content-Length", b"%d" % total)
        begun = arrived + delay
        if part == "headers":
            chunked = framing == "chunked" and has_body and request.clientproto == b"HTTP/1.1"
            if chunked:
                request.setHeader(b"Transfer-Encoding", b"chunked")
            head = head_of(request)
            request.startedWriting = True  # as if Twisted had written a head: what comes now is raw
            await self.drip(flow, lambda first, end: head[first:end], len(head), begun, duration)
            request.chunked = chunked  # and from here on it is framed
            begun, duration = self.now(), 0
        await flow.write(b"")  # the head, if it is not out yet
        if has_body:
            await self.drip(flow, take, total, begun, duration)
        flow.finish()

    async def drip(self, flow, take, total, begun, duration):
        """Write *total* bytes evenly: t seconds after *begun*, floor(total * t / duration) are out.

        0          delay      + 1/4      + 1/2      + 3/4      + duration
        |----------|----------|----------|----------|----------|
        request    head       byte 1     byte 2     byte 3     byte 4, end     (size=4)
        """
        writes = max(1, min(total, int(duration / TICK)), -(-total // PIECE))
        for n in range(1, writes + 1):
            due = begun + duration * n / writes  # from the start: lateness does not add up
            await deferLater(self.clock, max(0, due - self.now()))
            await flow.write(take(total * (n - 1) // writes, total * n // writes))


resource = Dripped()
