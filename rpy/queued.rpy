"""
Serve a few requests at a time; the rest wait in a queue.

    GET /queued.rpy?key=a&limit=2&duration=1
    GET /queued.rpy?key=a&show

Parameters:

    name      meaning                                         range      default
    key       the queue to join                               any text   -
    limit     how many of its requests are served at a time   1 to 100   2
    duration  seconds it takes to serve this request          0 to 3600  1
    backlog   do not wait if so many are waiting              0 to 1000  100
    show      tell how long the queue is, without joining it  flag       -

Answer: 200 application/json: how many were waiting "ahead" of this request when it arrived, the
    seconds it "waited" and was "served". The Server-Timing header reports the wait. Requests are
    served in order of arrival; those with another "limit" are in another queue. With "show": how
    many requests the queue is "serving", and how many are "waiting". HEAD waits its turn too.
Errors: 400 with one line that says which parameter is wrong. 503 with Retry-After if "backlog"
    requests are waiting, or if 1000 other queues are in use.
Client leaves: its place is free for the next at once, and the disconnect is logged.

Try it:

    $ twistd -n web --path .
    $ curl 'http://127.0.0.1:8080/queued.rpy?limit=1&duration=3' & sleep 0.2
    $ curl 'http://127.0.0.1:8080/queued.rpy?limit=1'
"""

# SPDX-License-Identifier: MIT-0
import json
import math
import time
from urllib.parse import parse_qs

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

MAX_DURATION = 3600  # seconds
MAX_LIMIT, MAX_BACKLOG, MAX_QUEUES = 100, 1000, 1000


class Queued(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # replaced in tests

    def __init__(self):
        super().__init__()
        self.queues = {}  # (key, limit) -> semaphore, for as long as it has requests

    def render_GET(self, request):
        try:
            params = parse_params(request, "key", "limit", "duration", "backlog", "show")
            limit = number(params, "limit", default=2, low=1, high=MAX_LIMIT)
            duration = number(params, "duration", default=1.0, low=0, high=MAX_DURATION)
            backlog = number(params, "backlog", default=100, low=0, high=MAX_BACKLOG)
            show = flag(params, "show")
        except ValueError as error:
            return error_page(request, 400, error)
        name = params.get("key", ""), limit
        queue = self.queues.get(name) or DeferredSemaphore(limit)  # has *limit* tokens
        serving, waiting = limit - queue.tokens, len(queue.waiting)
        if show:
            return json_page(request, {"serving": serving, "waiting": waiting})
        if serving == limit and waiting >= backlog:
            seconds = math.ceil((serving + waiting) * duration / limit) or 1
            return try_later(request, f"{waiting} requests are waiting", seconds)
        if name not in self.queues and len(self.queues) >= MAX_QUEUES:
            return try_later(request, f"{MAX_QUEUES} queues are in use")
        self.queues[name] = queue
        return run(request, self.serve_in_turn(request, name, duration))

    async def serve_in_turn(self, request, name, duration):
        """Wait for this request's turn, serve it for *duration* seconds, then answer."""
        queue, arrived = self.queues[name], self.now()
        ahead = len(queue.waiting)
        try:
            async with queue:  # takes a token, or waits for one behind the others
                began = self.now()
                await deferLater(self.clock, duration)  # your own work goes here
            # However the block ends, the token is back and goes to the first in the queue. A token
            # kept by a request that failed or was cancelled would be missing from then on.
        finally:
            if queue.tokens == queue.limit:  # nobody is served, so nobody waits
                del self.queues[name]
        waited, served = began - arrived, self.now() - began
        content = {"ahead": ahead, "waited": round(waited, 3), "served": round(served, 3)}
        request.write(json_page(request, content, wait=waited))
        request.finish()


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.queued")


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


cache()  # keep this resource, and with it the queues, from request to request
resource = Queued()
