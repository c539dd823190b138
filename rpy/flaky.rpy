"""
Fail at first, or at random, then succeed.

    GET /flaky.rpy?key=a&failures=2
    POST /flaky.rpy?rate=0.3&seed=7
    DELETE /flaky.rpy?key=a

Parameters:

    name      meaning                                         range            default
    key       requests are counted separately for each key    any text         -
    failures  how many requests fail at first                 0 to 10000       2
    rate      instead, the share of requests that fail        0 to 1           0
    seed      with "rate": the same seed, the same failures   0 to 4294967295  0
    status    status of a failure                             400 to 599       503
    retry     Retry-After of a failure, in seconds            0 to 3600        1
    delay     seconds to wait before answering                0 to 3600        0
    show      return the counts, without counting this        flag             -

Answer: 200 application/json, or "status": "key", "n" (the request's number for this key, counted on
    arrival) and "failed". "show" returns "key", "requests" and "failed". DELETE resets the key and
    returns "key" and "forgotten", its count. HEAD counts too. Server-Timing reports the wait.
Errors: 400 with one line that says which parameter is wrong; 404 for any path below this one.
Kept: 1000 keys, each for an hour after its last request. The key unused for longest makes room.
Client leaves: the timer is cancelled and the disconnect is logged. The request still counts.

Try it:

    $ twistd -n web --path .
    $ curl -i 'http://127.0.0.1:8080/flaky.rpy?key=a&failures=1'
    $ curl 'http://127.0.0.1:8080/flaky.rpy?key=a&show'
"""

# SPDX-License-Identifier: MIT-0
import json
import random
import time
from urllib.parse import parse_qs

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

MAX_WAIT, MAX_KEYS = 3600, 1000  # seconds, keys


class Flaky(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # replaced in tests

    def __init__(self):
        super().__init__()
        self.counts = States(Counts, limit=MAX_KEYS, lifetime=MAX_WAIT)

    def render(self, request):
        if request.postpath:  # otherwise /flaky.rpy/a.bat?key=... downloads the client's text
            return error_page(request, 404, "no such page: request flaky.rpy itself")
        return super().render(request)

    def render_GET(self, request):
        try:
            params = parse_params(
                request, "key", "failures", "rate", "seed", "status", "retry", "delay", "show"
            )
            failures = number(params, "failures", default=2, low=0, high=10_000)
            rate = number(params, "rate", default=0.0, low=0, high=1)
            seed = number(params, "seed", default=0, low=0, high=2**32 - 1)
            status = number(params, "status", default=503, low=400, high=599)
            retry = number(params, "retry", default=1, low=0, high=MAX_WAIT)
            delay = number(params, "delay", default=0.0, low=0, high=MAX_WAIT)
            show = flag(params, "show")
        except ValueError as error:
            return error_page(request, 400, error)
        key = params.get("key", "")
        counts = self.counts.use(key, self.now())
        if show:
            told = {"key": key, "requests": counts.requests, "failed": counts.failed}
            return json_page(request, told)
        counts.requests += 1
        n = counts.requests
        # Each number has a draw of its own, so the order of arrival does not matter.
        failed = random.Random(f"{seed}/{n}").random() < rate if rate else n <= failures
        counts.failed += failed
        content = {"key": key, "n": n, "failed": failed}
        return run(request, self.answer(request, delay, content, status, retry))

    render_POST = render_GET

    def render_DELETE(self, request):
        try:
            key = parse_params(request, "key").get("key", "")
        except ValueError as error:
            return error_page(request, 400, error)
        counts = self.counts.use(key, self.now())
        forgotten, counts.requests, counts.failed = counts.requests, 0, 0
        return json_page(request, {"key": key, "forgotten": forgotten})

    async def answer(self, request, delay, content, status, retry):
        """Fail or succeed after *delay* seconds; which of the two was decided on arrival."""
        arrived, code = self.now(), status if content["failed"] else 200
        await deferLater(self.clock, delay)
        if content["failed"]:
            request.setHeader("Retry-After", str(retry))
        request.write(json_page(request, content, code, wait=self.now() - arrived))
        request.finish()


class Counts:
    """What was counted for one key."""

    requests = failed = 0

    def busy(self):
        return False


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.flaky")


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


class States:
    """One state for each key, made by *make*; at most *limit* of them.

    A state that no request has used for *lifetime* seconds is dropped. When there is no room for a
    new key, the state unused for longest is dropped. A state whose `busy()` is true stays.
    """

    def __init__(self, make, limit, lifetime):
        self.make, self.limit, self.lifetime = make, limit, lifetime
        self.states = {}  # key -> (state, last use), the one unused for longest first

    def use(self, key, now):
        """Return the state of *key*, new or not; None if there is no room for it."""
        for _ in range(len(self.states)):
            oldest, (state, used) = next(iter(self.states.items()))
            full = len(self.states) >= self.limit and key not in self.states
            if not full and now - used < self.lifetime:
                break
            del self.states[oldest]
            if state.busy():
                self.states[oldest] = state, now
        if len(self.states) >= self.limit and key not in self.states:
            return None
        state, _ = self.states.pop(key, None) or (self.make(), now)
        self.states[key] = state, now
        return state


cache()  # keep this resource, and with it the counts, from request to request
resource = Flaky()
