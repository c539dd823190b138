"""
Stream server-sent events that a client can resume.

    GET /sse.rpy?interval=0.5&count=5

Parameters:

    name      meaning                                        range        default
    interval  seconds between events                         0 to 3600    1
    count     number of the last event; 0 for no end         0 to 100000  0
    retry     seconds a client should wait to reconnect      0 to 3600    1
    key       a label for finding the request in the ledger  any text     -

Answer: 200 text/event-stream, the format that a browser's EventSource reads. The data of an event
    is JSON: its number "n", which is its id, too, and when it was "due", in seconds since the
    request arrived; the first is due at once. Without an event, a comment is sent every 15
    seconds, so that proxies keep the connection open. HEAD gets the headers alone.
Resume: EventSource reconnects when a response ends or breaks off, and sends the last id in the
    Last-Event-ID header. The events that follow this id are sent. If "count" was the last, the
    answer is 204: EventSource stops.
Errors: 400 with one line that says which parameter is wrong.
Client leaves: the stream stops and the disconnect is logged. A client that stops reading pauses
    the stream; when it reads again, overdue events follow at once.

Try it:

    $ twistd -n web --path .
    $ curl -iN 'http://127.0.0.1:8080/sse.rpy?interval=0.5&count=5'
    $ curl -iN -H 'Last-Event-ID: 3' 'http://127.0.0.1:8080/sse.rpy?interval=0.5&count=5'
"""

# SPDX-License-Identifier: MIT-0
import re
import sys
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

MAX_WAIT, MAX_EVENTS, HEARTBEAT = 3600, 100_000, 15  # HEARTBEAT: seconds between comments


class Sse(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # replaced in tests

    def render_GET(self, request):
        try:
            params = parse_params(request, "interval", "count", "retry", "key")
            interval = number(params, "interval", default=1.0, low=0, high=MAX_WAIT)
            count = number(params, "count", default=0, low=0, high=MAX_EVENTS)
            retry = number(params, "retry", default=1.0, low=0, high=MAX_WAIT)
        except ValueError as error:
            return error_page(request, 400, error)
        last_id = request.getHeader(b"Last-Event-ID") or b""
        last = int(last_id) if re.fullmatch(b"[0-9]{1,15}", last_id) else 0  # else not one of ours
        return run(request, self.stream(request, interval, count or sys.maxsize, retry, last))

    async def stream(self, request, interval, count, retry, last):
        """Send the events after number *last*, each when it is due, up to number *count*."""
        arrived, client = self.now(), Backpressure(request)
        set_headers(request, "text/event-stream; charset=utf-8")
        if last >= count:
            request.setResponseCode(204)  # EventSource stops; after 200 it reconnects
        elif request.method != b"HEAD":
            # An id without data is no event, but what a client sends that reconnects before one.
            request.write(b"retry: %d\nid: %d\n\n" % (retry * 1000, last))
            for n in range(last + 1, count + 1):
                due = (n - last - 1) * interval
                await self.wait_until(arrived + due, request, client)
                request.write(b'id: %d\ndata: {"n": %d, "due": %.3f}\n\n' % (n, n, due))
        request.unregisterProducer()
        request.finish()

    async def wait_until(self, due, request, client):
        """Wait until *due*, and until the client is reading; meanwhile, send comments."""
        while due - self.now() > HEARTBEAT:
            await deferLater(self.clock, HEARTBEAT)
            await client.ready()
            request.write(b":\n\n")  # a line that begins with a colon is a comment
        await deferLater(self.clock, max(0, due - self.now()))
        await client.ready()


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.sse")


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
resource = Sse()
