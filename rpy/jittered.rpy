"""
Wait for a time drawn at random, the same for a seed.

    GET /jittered.rpy?key=a
    GET /jittered.rpy?distribution=lognormal&median=0.2&key=a&seed=7
    GET /jittered.rpy?mean=2&spread=1&seed=7&n=3
    DELETE /jittered.rpy?key=a

Parameters:

    name          meaning                                       range            default
    distribution  what to draw from: see Distributions          one of these     uniform
    mean          of the distribution (seconds)                 0 to 3600        1
    median        of the distribution, in place of a "mean"     0 to 3600        -
    spread        how far around: see Distributions             0 to 3600        -
    most          what is drawn above is cut to this (seconds)  0 to 3600        60
    seed          of the draws: the same for the same seed      0 to 4294967295  -
    n             number of the draw, in place of the next one  1 to 1000000000  -
    key           whose draws are numbered, from 1 on           any text         -

Distributions: uniform: from the median less "spread" to the median and "spread". normal: "spread"
    is the standard deviation. For these two, it is half the mean if it is not given, and the mean
    is the median. lognormal, pareto: "spread" is the standard deviation of the logarithm, 0.5 if
    it is not given; pareto's shape is 1 / spread. exponential: has no use for "spread". What is
    drawn below 0 is cut to 0.
Formulas: of a u between 0 and 1, and z, the standard normal distribution's quantile of u: uniform:
    median + spread * (2u - 1); normal: median + spread * z; lognormal: median * exp(spread * z),
    whose mean is median * exp(spread ** 2 / 2); exponential: -median * log2(1 - u), whose mean is
    median / ln(2); pareto: median / (2 * (1 - u)) ** spread, whose mean is median / 2 ** spread /
    (1 - spread). To get u, take the SHA-256 of "seed" and "n" with a slash between, as in 7/3: its
    first 48 bits are a number k, and u is (k + 0.5) / 2 ** 48. No process, machine or version has
    a part in it.
Answer: 200 application/json: "key", "seed", "n", "distribution", "drawn", to the microsecond,
    "wait", that cut to between 0 and "most", and "waited", as measured; all three in seconds. With
    that "seed" and "n", the wait is the same again; the same series again has a new key, or one
    that was DELETEd. The header Server-Timing has what was waited
    in milliseconds. HEAD waits as long, and takes a number as well. To DELETE, after which the key
    starts anew: "key" and "forgotten", how many were numbered.
Errors: 400 and one line on the parameter that was wrong, on "mean" and "median" in one request, and
    on a "spread" over 10 for lognormal and pareto, or of 1 and more for pareto by its "mean", as
    it has none then; 405 or 501 for other methods; 500 if
    the script fails.
Kept: of a key, the number of draws, and a seed for those that give none, drawn afresh. 1000 keys,
    each for an hour after the last request for it; of more, the one unused for longest goes.
Client leaves: the timer is cancelled at once, and the log has a line. The number stays taken.

Try it:

    $ twistd -n web --path .
    $ curl 'http://127.0.0.1:8080/jittered.rpy?key=a&seed=7'
    $ curl 'http://127.0.0.1:8080/jittered.rpy?key=a&seed=7'
    $ curl 'http://127.0.0.1:8080/jittered.rpy?seed=7&n=1'
"""

# SPDX-License-Identifier: MIT-0
import hashlib
import json
import math
import random
import re
import time
from statistics import NormalDist
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

cache()  # from here on only once: the numbers must outlive the request
log = Logger(namespace="rpy.jittered")

LONGEST = 3600  # seconds
WIDEST = 10  # standard deviations of a logarithm
SEEDS = 2**32
DRAWS = 10**9
KEYS = 1000
DISTRIBUTIONS = ("uniform", "normal", "lognormal", "exponential", "pareto")
NOT_GIVEN = -1.0


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


def answer(request, content, code=200, **waits):
    """Answer with *content* as JSON; *waits* as in describe."""
    request.setResponseCode(code)
    describe(request, b"application/json", **waits)
    request.write(json.dumps(content).encode() + b"\n")
    request.finish()
    return NOT_DONE_YET


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


class Kept:
    """States by key, at most *most*. What is not busy goes: the one unused for longest where room
    is needed, and each when nobody has asked for it in *lifetime* seconds."""

    def __init__(self, make, most, lifetime):
        self.make, self.most, self.lifetime, self.states = make, most, lifetime, {}

    def use(self, key, now):
        """The state of *key*, made if need be; None if all others are busy and there is no room."""
        for _ in range(len(self.states)):
            old, (state, used) = next(iter(self.states.items()))  # the one unused for longest
            crowded = len(self.states) >= self.most and key not in self.states
            if not crowded and now - used < self.lifetime:
                break
            del self.states[old]
            if state.busy():
                self.states[old] = state, now
        if len(self.states) >= self.most and key not in self.states:
            return None
        state, _ = self.states.pop(key, None) or (self.make(), now)
        self.states[key] = state, now
        return state


def evenly(seed, n):
    """A number between 0 and 1 that *seed* and *n* alone decide: no process, machine or version."""
    bits = hashlib.sha256(b"%d/%d" % (seed, n)).digest()[:6]
    return (int.from_bytes(bits, "big") + 0.5) / 2**48  # exact, and never 0 or 1 itself


def median_of(distribution, mean, spread):
    """The median of the distribution that has this *mean*; ValueError if none has."""
    if distribution == "lognormal":
        return mean / math.exp(spread**2 / 2)
    if distribution == "exponential":
        return mean * math.log(2)
    if distribution == "pareto":
        if spread >= 1:
            raise ValueError(f"spread={spread:g}: pareto has no mean: give less than 1, or median")
        return mean * (1 - spread) * 2**spread
    return mean


def quantile(u, distribution, median, spread):
    """What a share *u* of all draws is below. Of an evenly distributed *u* this makes a number that
    is distributed as asked (L. Devroye, Non-Uniform Random Variate Generation, 1986, II.2)."""
    if distribution == "uniform":
        return median + spread * (2 * u - 1)
    if distribution == "exponential":
        return -median * math.log2(1 - u)
    if distribution == "pareto":
        return median / (2 * (1 - u)) ** spread
    z = NormalDist().inv_cdf(u)
    return median + spread * z if distribution == "normal" else median * math.exp(spread * z)


class Draws:
    """Of one key: how many there were, and the seed of those that have none of their own."""

    def __init__(self):
        self.n, self.seed = 0, random.randrange(SEEDS)

    def busy(self):
        return False


class Jittered(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # which a test replaces

    def __init__(self):
        super().__init__()
        self.draws = Kept(Draws, KEYS, LONGEST)

    def render_GET(self, request):
        try:
            asked = query(
                request,
                distribution=("uniform", *DISTRIBUTIONS),
                mean=(NOT_GIVEN, 0, LONGEST),
                median=(NOT_GIVEN, 0, LONGEST),
                spread=(NOT_GIVEN, 0, LONGEST),
                most=(60.0, 0, LONGEST),
                seed=(int(NOT_GIVEN), 0, SEEDS - 1),
                n=(int(NOT_GIVEN), 1, DRAWS),
                key=("",),
            )
            shape = self.shape(**asked)
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        return run(request, log, self.wait(request, asked, shape))

    def render_DELETE(self, request):
        try:
            key = query(request, key=("",))["key"]
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        draws = self.draws.use(key, self.now())
        forgotten, draws.n, draws.seed = draws.n, 0, random.randrange(SEEDS)
        return answer(request, {"key": key, "forgotten": forgotten})

    def shape(self, distribution, mean, median, spread, **others):
        """What to draw from, as quantile takes it; ValueError if there is no such thing."""
        if NOT_GIVEN not in (mean, median):
            raise ValueError("mean and median are both given: give one of them")
        middle = 1 if mean == median else max(mean, median)  # the one that is given
        of_logarithm = distribution in ("lognormal", "pareto")
        if of_logarithm and spread > WIDEST:
            raise ValueError(
                f"spread={spread:g} is not allowed for {distribution}: give 0 to {WIDEST}"
            )
        if spread == NOT_GIVEN:
            spread = 0.5 if of_logarithm else middle / 2
        if median == NOT_GIVEN:
            median = median_of(distribution, middle, spread)
        return distribution, median, spread

    async def wait(self, request, asked, shape):
        """Draw, wait, and tell all that it takes to draw the same again."""
        arrived, draws = self.now(), self.draws.use(asked["key"], self.now())
        seed, n = asked["seed"], asked["n"]
        if seed == NOT_GIVEN:
            seed = draws.seed
        if n == NOT_GIVEN:
            n = draws.n = draws.n + 1
        request.note = f"seed={seed}&n={n}"
        # Machines differ in the last bit of a logarithm: rounded, the waits are the same on all.
        drawn = round(quantile(evenly(seed, n), *shape), 6)
        wait = min(max(0, drawn), asked["most"])
        await deferLater(self.clock, wait)
        waited = self.now() - arrived
        content = {"key": asked["key"], "seed": seed, "n": n, "distribution": shape[0]}
        content |= {"drawn": drawn, "wait": wait, "waited": round(waited, 6)}
        answer(request, content, wait=waited)


resource = Jittered()
