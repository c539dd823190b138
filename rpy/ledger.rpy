"""
Show what became of each request, as the server saw it.

    GET /ledger.rpy?outcome=left&key=a
    GET /ledger.rpy?until=left&key=a&timeout=5
    DELETE /ledger.rpy?key=a

Parameters:

    name     meaning                                         range                default
    key      only with this key, or this X-Tarry-Key header  any text             -
    path     only for this path, like /delayed.rpy           any text             -
    outcome  only with this outcome: see Outcomes            one of these         -
    since    only after the request with this id             0 to 10000000000000  0
    until    wait until there is one with this outcome       an outcome           -
    timeout  seconds to wait for it                          0 to 3600            10
    summary  return counts instead                           flag                 -

Outcomes: pending, finished, left (by the client), aborted or failed (by the script), refused.
Answer: 200 application/json, a list in order of arrival. "arrived" is a Unix time; "first_byte",
    "last_byte", "end" and "writes" are milliseconds after it. "until" returns the first such entry,
    or 408. DELETE forgets what has ended, and counts it. With the header Accept: text/event-stream,
    an event for each such entry that begins or ends. Requests for this script need their "path".
Errors: 400 with one line that says which parameter is wrong; 404 for any path below this one; 503
    without `tarry serve`, which keeps the ledger, or beyond 100 event streams or 1000 with "until".
Client leaves: it is forgotten. One that does not read events misses some: "event: missed" counts them.

Try it:

    $ tarry serve
    $ curl 'http://127.0.0.1:8080/ledger.rpy?summary'
"""

# SPDX-License-Identifier: MIT-0
import json
from urllib.parse import parse_qs

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer


class Ledger(Resource):
    isLeaf = True
    clock = reactor  # replaced in tests

    def render(self, request):
        if request.postpath:  # otherwise /ledger.rpy/a.bat?key=... downloads what others sent
            return error_page(request, 404, "no such page: request ledger.rpy itself")
        if not (hasattr(request.site, "ledger") and request.site.ledger.most):
            return error_page(request, 503, "no ledger: give 'tarry serve', without '--ledger 0'")
        return super().render(request)

    def render_GET(self, request):
        ledger = request.site.ledger
        try:
            params = parse_params(
                request, "key", "path", "outcome", "since", "until", "timeout", "summary"
            )
            outcome = choice(params, "outcome", "", *ledger.OUTCOMES)
            until = choice(params, "until", "", *ledger.OUTCOMES)
            since = number(params, "since", default=0, low=0, high=10**13)
            timeout = number(params, "timeout", default=10.0, low=0, high=MAX_WAIT)
            summary = flag(params, "summary")
            wanted = parse_filter(request, params, outcome=until or outcome, since=since)
        except ValueError as error:
            return error_page(request, 400, error)
        if summary:
            return json_page(request, ledger.summary())
        if request.getHeader(b"Accept") == b"text/event-stream":
            return self.follow(request, ledger, wanted)
        if until:
            return self.wait(request, ledger, wanted, timeout, params)
        return run(request, self.send_list(request, ledger, wanted))

    async def send_list(self, request, ledger, wanted):
        """Send the entries in pieces, each when the client has read most of those before."""
        client, piece, between = Backpressure(request), b"", b"["
        set_headers(request, "application/json")
        for entry in ledger.in_order(wanted):
            piece, between = piece + between + entry.as_json(), b", "
            if len(piece) > MAX_PIECE:
                request.write(piece)
                piece = b""
                await deferLater(self.clock, 0)  # other requests get their turn
                await client.ready()
        request.write(piece + (b"]\n" if between == b", " else b"[]\n"))
        request.unregisterProducer()
        request.finish()

    def wait(self, request, ledger, wanted, timeout, params):
        """Answer with the first entry that is wanted, now or later; 408 after *timeout* seconds."""
        came = Deferred()

        def watch(entry, as_json):
            if wanted(entry) and not came.called:
                came.callback(as_json())

        async def answer():
            try:
                body = await came.addTimeout(timeout, self.clock) + b"\n"
                set_headers(request, "application/json")
            except TimeoutError:
                body = json_page(request, {"error": "no such entry came", **params}, 408)
            finally:
                stop()
            request.write(body)
            request.finish()

        first = next(ledger.in_order(wanted), None)
        if first is not None:
            watch(first, first.as_json)
        stop = ledger.watch("until", MAX_WAITING, watch)
        if stop is None:
            return try_later(request, f"{MAX_WAITING} requests wait for an entry already")
        return run(request, answer())

    def follow(self, request, ledger, wanted):
        """Send an event for each entry that is wanted, when it begins and when it ends."""
        client, missed = Backpressure(request), 0

        def watch(entry, as_json):
            nonlocal missed
            if wanted(entry) and client.paused:
                missed += 1
            elif wanted(entry):
                told = b"event: missed\ndata: %d\n\n" % missed if missed else b""
                event = entry.id, entry.outcome.encode(), as_json()
                request.write(told + b"id: %d\nevent: %b\ndata: %b\n\n" % event)
                missed = 0

        async def beat():
            try:
                while True:
                    await deferLater(self.clock, HEARTBEAT)
                    await client.ready()
                    request.write(b": still here\n\n")
            finally:
                stop()

        stop = ledger.watch("stream", MAX_STREAMS, watch)
        if stop is None:
            request.unregisterProducer()
            return try_later(request, f"{MAX_STREAMS} clients follow the ledger already")
        set_headers(request, "text/event-stream")
        request.write(b": an event for each request that begins or ends\n\n")
        return run(request, beat())

    def render_DELETE(self, request):
        ended = request.site.ledger.OUTCOMES[1:]  # the first is pending
        try:
            params = parse_params(request, "key", "path", "outcome")
            unwanted = parse_filter(request, params, outcome=choice(params, "outcome", "", *ended))
        except ValueError as error:
            return error_page(request, 400, error)
        return json_page(request, {"forgotten": request.site.ledger.forget(unwanted)})


MAX_WAIT, MAX_PIECE, HEARTBEAT = 3600, 16_384, 15  # seconds, bytes, seconds
MAX_WAITING, MAX_STREAMS = 1000, 100  # each takes time in every other request


def parse_filter(request, params, **about):
    """Return a function that says whether an entry is wanted."""
    key, path = params.get("key", ""), params.get("path", "")
    if path and not path.startswith("/"):
        raise ValueError(f"invalid path {path[:40]!a}: give one like /delayed.rpy")
    ours = b"" if path else request.path  # who reads the ledger is not looking for that
    return request.site.ledger.filter(key, path.encode(), other_than=ours, **about)


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.ledger")


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


def flag(params, name):
    """Return whether the parameter is there, as "name" or "name=1"."""
    text = params.get(name, "")
    if text not in ("", "1"):
        raise ValueError(f"invalid {name} {text[:40]!a}: give {name} or {name}=1")
    return name in params


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


def try_later(request, message, seconds=1):
    """Set the status and headers of a 503 with Retry-After; return its body."""
    request.setHeader("Retry-After", str(seconds))
    return error_page(request, 503, f"{message}: try again in {seconds} s")


def json_page(request, content, code=200, **timings):
    """Set the status and headers of a JSON response; return its body."""
    request.setResponseCode(code)
    set_headers(request, "application/json", **timings)
    return json.dumps(content).encode() + b"\n"


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


recache()  # stateless, as the ledger is the server's: `tarry serve` may reuse this resource
resource = Ledger()
