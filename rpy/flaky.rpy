"""
Fail at first, or at random, then succeed.

    GET /flaky.rpy?key=a&failures=2
    POST /flaky.rpy?rate=0.3&seed=7
    GET /flaky.rpy?key=a&count
    DELETE /flaky.rpy?key=a

Parameters:

    name      meaning                                              range            default
    key       whose requests are counted                           any text         -
    failures  how many fail at first                               0 to 10000       2
    rate      the share that fails instead, here and there         0 to 1           0
    seed      which they are: the same for the same seed           0 to 4294967295  0
    status    of a failure                                         400 to 599       503
    retry     Retry-After of a failure (seconds)                   0 to 3600        1
    delay     wait before the answer (seconds)                     0 to 3600        0
    count     tell what was counted, without counting this         flag             -

Answer: 200 application/json, or "status" and Retry-After: "key", "n", the number of the request
    among those of this key, and "failed". It counts when it arrives, not after its "delay". To
    "count": "key", "requests" and "failed". To DELETE, after which the key starts anew: "key" and
    "forgotten", how many were counted. Server-Timing has the wait in milliseconds. POST is
    answered like GET, its body is ignored; HEAD, too, waits and counts.
Errors: 400 and one line on the parameter that was wrong; 405 or 501 for other methods; 500 if
    the script fails.
Kept: 1000 keys, each for an hour after the last request for it; of more, the one unused for
    longest goes.
Client leaves: the timer is cancelled at once, and the log has a line. The request still counts.

Try it:

    $ twistd -n web --path .
    $ curl -i 'http://127.0.0.1:8080/flaky.rpy?key=a&failures=1'
    $ curl -i 'http://127.0.0.1:8080/flaky.rpy?key=a&failures=1'
    $ curl 'http://127.0.0.1:8080/flaky.rpy?key=a&count'
"""

# SPDX-License-Identifier: MIT-0
import json
import random
import re
import time
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

cache()  # from here on only once: the counts must outlive the request
log = Logger(namespace="rpy.flaky")

LONGEST = 3600  # seconds
MOST = 10_000  # failures
KEYS = 1000


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


class Counts:
    requests = failed = 0

    def busy(self):
        return False


class Flaky(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # which a test replaces

    def __init__(self):
        super().__init__()
        self.counts = Kept(Counts, KEYS, LONGEST)

    def render_GET(self, request):
        try:
            asked = query(
                request,
                key=("",),
                failures=(2, 0, MOST),
                rate=(0.0, 0, 1),
                seed=(0, 0, 2**32 - 1),
                status=(503, 400, 599),
                retry=(1, 0, LONGEST),
                delay=(0.0, 0, LONGEST),
                count=(False,),
            )
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        counts = self.counts.use(asked["key"], self.now())
        if asked["count"]:
            content = {"key": asked["key"], "requests": counts.requests, "failed": counts.failed}
            return answer(request, content)
        return run(request, log, self.fail_or_not(request, counts, asked))

    render_POST = render_GET

    def render_DELETE(self, request):
        try:
            key = query(request, key=("",))["key"]
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        counts = self.counts.use(key, self.now())
        content = {"key": key, "forgotten": counts.requests}
        counts.requests = counts.failed = 0
        return answer(request, content)

    async def fail_or_not(self, request, counts, asked):
        """Count the request as soon as it is there, then answer in its time."""
        arrived = self.now()
        counts.requests = n = counts.requests + 1
        if asked["rate"]:  # each number has its own draw, in whatever order they come
            failed = random.Random(f"{asked['seed']}/{n}").random() < asked["rate"]
        else:
            failed = n <= asked["failures"]
        counts.failed += failed
        await deferLater(self.clock, asked["delay"])
        if failed:
            request.setHeader(b"Retry-After", b"%d" % asked["retry"])
        content = {"key": asked["key"], "n": n, "failed": failed}
        answer(request, content, asked["status"] if failed else 200, wait=self.now() - arrived)


resource = Flaky()
