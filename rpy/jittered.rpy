"""
Wait for a random time, the same one for the same seed.

    GET /jittered.rpy?distribution=lognormal&median=0.2&seed=7&n=3
    DELETE /jittered.rpy?key=a

Parameters:

    name          meaning                                       range            default
    distribution  what to draw from: see Distributions          one of these     uniform
    mean          mean of the distribution, in seconds          0 to 3600        1
    median        its median in seconds, instead of the mean    0 to 3600        -
    spread        how far the draws vary (half the mean)        0 to 3600        -
    most          longer waits are cut to this many seconds     0 to 3600        60
    seed          same seed, same draws, on any machine         0 to 4294967295  -
    n             number of the draw, instead of the next one   1 to 1000000000  -
    key           draws are numbered from 1 for each key        any text         -

Distributions: uniform: the median, give or take "spread". normal: "spread" is the standard deviation.
    lognormal: it is that of the logarithm, 0.5 by default, 10 at most. exponential: without it.
Answer: 200 application/json: "key", "seed", "n", "distribution", "drawn", "wait" (the draw, cut to 0
    to "most") and "waited", in seconds. DELETE resets a key: "key" and "forgotten", its draws.
Errors: 400 with one line that says which parameter is wrong; 404 for any path below this one.
Kept: 1000 keys, each for an hour after its last request. The key unused for longest makes room.
Client leaves: the timer is cancelled and the disconnect is logged. Its number stays taken.

Try it:

    $ twistd -n web --path .
    $ curl 'http://127.0.0.1:8080/jittered.rpy?key=a&seed=7'
"""

# SPDX-License-Identifier: MIT-0
import hashlib
import json
import math
import random
import statistics
import time
from urllib.parse import parse_qs

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET


class Jittered(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # replaced in tests

    def __init__(self):
        super().__init__()
        self.draws = States(Draws, limit=1000, lifetime=MAX_WAIT)

    def render(self, request):
        if request.postpath:  # otherwise /jittered.rpy/a.bat?key=... downloads the client's text
            return error_page(request, 404, "no such page: request jittered.rpy itself")
        return super().render(request)

    def render_GET(self, request):
        try:
            params = parse_params(
                request, "distribution", "mean", "median", "spread", "most", "seed", "n", "key"
            )
            distribution, median, spread = parse_distribution(params)
            most = number(params, "most", default=60.0, low=0, high=MAX_WAIT)
            seed = number(params, "seed", default=0, low=0, high=2**32 - 1)
            n = number(params, "n", default=1, low=1, high=10**9)
        except ValueError as error:
            return error_page(request, 400, error)
        key = params.get("key", "")
        draws = self.draws.use(key, self.now())
        if "n" not in params:
            n = draws.n = draws.n + 1
        if "seed" not in params:
            seed = draws.seed
        request.note = f"seed={seed}&n={n}"  # for the ledger
        # Machines differ in the last bit of a logarithm; once rounded, the waits are the same.
        drawn = round(QUANTILES[distribution](uniform(seed, n), median, spread), 6)
        content = {"key": key, "seed": seed, "n": n, "distribution": distribution, "drawn": drawn}
        return run(request, self.wait(request, content, min(max(0, drawn), most)))

    async def wait(self, request, content, wait):
        """Answer after *wait* seconds with everything it takes to wait as long again."""
        arrived = self.now()
        await deferLater(self.clock, wait)
        waited = self.now() - arrived
        content.update(wait=wait, waited=round(waited, 6))
        request.write(json_page(request, content, wait=waited))
        request.finish()

    def render_DELETE(self, request):
        try:
            key = parse_params(request, "key").get("key", "")
        except ValueError as error:
            return error_page(request, 400, error)
        draws = self.draws.use(key, self.now())
        forgotten, draws.n, draws.seed = draws.n, 0, random.randrange(2**32)
        return json_page(request, {"key": key, "forgotten": forgotten})


MAX_WAIT = 3600  # seconds


class Draws:
    """The draws of one key: how many, and a seed for requests that give none."""

    def __init__(self):
        self.n, self.seed = 0, random.randrange(2**32)

    def busy(self):
        return False


def parse_distribution(params):
    """Return the distribution's name, median and spread."""
    name = choice(params, "distribution", "uniform", *QUANTILES)
    if "mean" in params and "median" in params:
        raise ValueError("both mean and median: give one of them")
    middle = "median" if "median" in params else "mean"
    median = number(params, middle, default=1.0, low=0, high=MAX_WAIT)
    widest = 10 if name == "lognormal" else MAX_WAIT
    spread = number(params, "spread", default=0.5, low=0, high=widest)
    if "spread" not in params and name != "lognormal":
        spread = median / 2
    if middle == "mean":  # in a symmetrical distribution it is the median too
        median *= {"lognormal": math.exp(-(spread**2) / 2), "exponential": math.log(2)}.get(name, 1)
    return name, median, spread


def uniform(seed, n):
    """Return a number between 0 and 1 that depends on *seed* and *n* alone.

    It is (k + 0.5) / 2**48, k being the first 48 bits of the SHA-256 of both, as in "7/3".
    """
    bits = hashlib.sha256(b"%d/%d" % (seed, n)).digest()[:6]
    return (int.from_bytes(bits, "big") + 0.5) / 2**48  # never 0 or 1 itself


z = statistics.NormalDist().inv_cdf
QUANTILES = {  # what a share u of all draws is below: for a uniform u, a draw (inverse transform sampling)
    "uniform": lambda u, median, spread: median + spread * (2 * u - 1),
    "normal": lambda u, median, spread: median + spread * z(u),
    "lognormal": lambda u, median, spread: median * math.exp(spread * z(u)),
    "exponential": lambda u, median, spread: -median * math.log2(1 - u),
}


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.jittered")


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


cache()  # keep this resource, and with it the draws, from request to request
resource = Jittered()
