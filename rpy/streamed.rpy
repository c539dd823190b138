"""
Stream a response in chunks, each sent on schedule.

    GET /streamed.rpy?count=5&interval=0.5

Parameters:

    name      meaning                                        range        default
    delay     seconds before the first chunk                 0 to 3600    0
    interval  seconds between chunks                         0 to 3600    1
    count     number of chunks                               1 to 100000  10
    key       a label for finding the request in the ledger  any text     -

Answer: 200 application/x-ndjson, one JSON object per line: the chunk's number "n", when it was
    "due" and when it was "written", in seconds since the request arrived. The Server-Timing
    header reports the wait for the first chunk. HEAD gets the headers alone, after "delay".
Errors: 400 with one line that says which parameter is wrong. A failure in mid-stream aborts the
    connection.
Client leaves: the stream stops and the disconnect is logged. A client that stops reading pauses
    the stream; when it reads again, overdue chunks follow at once.

Try it:

    $ twistd -n web --path .
    $ curl -iN 'http://127.0.0.1:8080/streamed.rpy?count=5&interval=0.5'
"""

# SPDX-License-Identifier: MIT-0
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

MAX_WAIT = 3600  # seconds
MAX_CHUNKS = 100_000


class Streamed(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # replaced in tests

    def render_GET(self, request):
        try:
            params = parse_params(request, "delay", "interval", "count", "key")
            delay = number(params, "delay", default=0.0, low=0, high=MAX_WAIT)
            interval = number(params, "interval", default=1.0, low=0, high=MAX_WAIT)
            count = number(params, "count", default=10, low=1, high=MAX_CHUNKS)
        except ValueError as error:
            return error_page(request, 400, error)
        return run(request, self.stream(request, delay, interval, count))

    async def stream(self, request, delay, interval, count):
        """Write each chunk when it is due, but not while the client is not reading."""
        arrived, client = self.now(), Backpressure(request)
        for n in range(1 if request.method == b"HEAD" else count):
            due = delay + n * interval  # since arrival: a late chunk does not delay the next
            await deferLater(self.clock, max(0, arrived + due - self.now()))
            await client.ready()
            written = self.now() - arrived
            if n == 0:
                set_headers(request, "application/x-ndjson", wait=written)
            request.write(b'{"n": %d, "due": %.4f, "written": %.4f}\n' % (n + 1, due, written))
        request.unregisterProducer()
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


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.streamed")


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


recache()  # stateless, so `tarry serve` may reuse this resource; plain twistd ignores this
resource = Streamed()
