"""
Await three lookups, one after another or all at once.

    GET /awaited.rpy?duration=1
    GET /awaited.rpy?duration=1&together

Parameters:

    name      meaning                                        range      default
    duration  seconds each lookup takes                      0 to 3600  1
    together  start all lookups at once                      flag       -
    key       a label for finding the request in the ledger  any text   -

Answer: 200 application/json: the "lookups", each with its "name" and when it "began" and "ended",
    in seconds since the request arrived; "sum", the seconds they took in total; and "took", the
    seconds the client waited. The Server-Timing header reports "took" too. HEAD waits just as long.
Errors: 400 with one line that says which parameter is wrong.
Client leaves: all lookups in progress are cancelled and the disconnect is logged.

Try it:

    $ twistd -n web --path .
    $ curl 'http://127.0.0.1:8080/awaited.rpy?duration=1'
    $ curl 'http://127.0.0.1:8080/awaited.rpy?duration=1&together'
"""

# SPDX-License-Identifier: MIT-0
import json
import time
from urllib.parse import parse_qs

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

MAX_DURATION = 3600  # seconds
NAMES = ("the user", "the orders", "the weather")


class Awaited(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # replaced in tests

    def render_GET(self, request):
        try:
            params = parse_params(request, "duration", "together", "key")
            duration = number(params, "duration", default=1.0, low=0, high=MAX_DURATION)
            together = flag(params, "together")
        except ValueError as error:
            return error_page(request, 400, error)
        return run(request, self.collect(request, duration, together))

    async def collect(self, request, duration, together):
        """Await three lookups of *duration* seconds each, then answer with what they found."""
        arrived = self.now()

        async def look_up(name):
            began = self.now() - arrived
            await deferLater(self.clock, duration)  # your own database query goes here
            return {"name": name, "began": round(began, 3), "ended": round(self.now() - arrived, 3)}

        if together:
            lookups = await all_at_once(look_up(name) for name in NAMES)
        else:
            lookups = [await look_up(name) for name in NAMES]

        took = self.now() - arrived
        total = sum(lookup["ended"] - lookup["began"] for lookup in lookups)
        content = {"lookups": lookups, "sum": round(total, 3), "took": round(took, 3)}
        request.write(json_page(request, content, lookups=took))
        request.finish()


async def all_at_once(coroutines):
    """Run *coroutines* at the same time and return their results, in the order given."""
    # A coroutine starts when it is awaited. fromCoroutine starts it now, up to its first await.
    deferreds = [Deferred.fromCoroutine(coroutine) for coroutine in coroutines]
    try:
        # gatherResults makes one Deferred of many: it has a list of all results, or fails with the
        # first failure. consumeErrors: failures after the first are not logged as unhandled.
        return await gatherResults(deferreds, consumeErrors=True)
    except FirstError as error:  # the wrapper that gatherResults puts around a failure
        for deferred in deferreds:
            deferred.cancel()  # does nothing to those that have ended
        error.subFailure.raiseException()


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.awaited")


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


recache()  # stateless, so `tarry serve` may reuse this resource; plain twistd ignores this
resource = Awaited()
