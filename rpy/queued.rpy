"""
Serve a few at a time; the rest wait their turn.

    GET /queued.rpy?key=a&limit=2&duration=1
    GET /queued.rpy?key=a&most=0
    GET /queued.rpy?key=a&count

Parameters:

    name      meaning                                            range       default
    key       the queue; each name is one                        any text    -
    limit     how many are served at a time                      1 to 100    2
    duration  how long it is served, from its turn on (seconds)  0 to 3600   1
    most      how many may wait before it, if it must wait       0 to 10000  100
    count     tell how long the queue is, without joining it     flag        -

Answer: 200 application/json, after its turn: "key", "ahead", how many waited before it when it
    came, "waited", the seconds until its turn, and "served", the seconds from then on. The header
    Server-Timing has the wait for the turn in milliseconds. To "count": "key", "serving" and
    "waiting". HEAD waits and is served like GET.
Order: that of arrival. Each request brings its own "limit" and "duration": its turn comes when it
    is first in line and fewer than its own "limit" are being served. Nobody overtakes, so one
    with a low limit holds up those behind it, whatever theirs are.
Errors: 400 and one line on the parameter that was wrong; 405 or 501 for other methods; 500 if
    the script fails. 503 with Retry-After at once, if it would have to wait and "most" or more
    wait already: when all who are there would be through if each were like this one, at least
    1 second. 503 also if 1000 queues are in use.
Kept: 1000 queues. One that is empty is forgotten an hour after the last request for it, and
    sooner if another is needed.
Client leaves: its place is free at once, in line or among those served, and who is next moves up.
    The log has a line.

Try it:

    $ twistd -n web --path .
    $ curl 'http://127.0.0.1:8080/queued.rpy?key=a&limit=1&duration=3' & sleep 0.2
    $ curl -i 'http://127.0.0.1:8080/queued.rpy?key=a&limit=1&most=0'
    $ curl 'http://127.0.0.1:8080/queued.rpy?key=a&limit=1'
"""

# SPDX-License-Identifier: MIT-0
import json
import math
import re
import time
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

cache()  # from here on only once: the queues must outlive the request
log = Logger(namespace="rpy.queued")

LONGEST = 3600  # seconds
LIMIT = 100  # requests served at a time
MOST = 10_000  # requests in line
QUEUES = 1000


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


def put_off(request, line, seconds=1):
    """Refuse for now, with 503; *seconds* until it is worth coming again."""
    request.setHeader(b"Retry-After", b"%d" % seconds)
    return refuse(request, 503, f"{line}: try again in {seconds} s")


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


class Queue:
    """Of each request its turn, a Deferred: in line, with its limit, and then among those served.
    (Where one limit holds for all, twisted.internet.defer.DeferredSemaphore does the same.)"""

    def __init__(self):
        self.serving, self.waiting = set(), {}

    def busy(self):
        return bool(self.serving or self.waiting)

    def move_up(self):
        """Serve those whose turn it is."""
        while self.waiting:
            turn, limit = next(iter(self.waiting.items()))
            if len(self.serving) >= limit:
                break
            del self.waiting[turn]
            self.serving.add(turn)
            turn.callback(None)

    def leave(self, turn):
        """Take out who has been served, or does not want to be any more."""
        self.waiting.pop(turn, None)
        self.serving.discard(turn)
        self.move_up()


class Queued(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # which a test replaces

    def __init__(self):
        super().__init__()
        self.queues = Kept(Queue, QUEUES, LONGEST)

    def render_GET(self, request):
        try:
            asked = query(
                request,
                key=("",),
                limit=(2, 1, LIMIT),
                duration=(1.0, 0, LONGEST),
                most=(100, 0, MOST),
                count=(False,),
            )
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        queue = self.queues.use(asked["key"], self.now())
        if queue is None:
            return put_off(request, f"{QUEUES} queues are in use")
        serving, waiting = len(queue.serving), len(queue.waiting)
        if asked["count"]:
            return answer(request, {"key": asked["key"], "serving": serving, "waiting": waiting})
        if waiting >= asked["most"] and (waiting or serving >= asked["limit"]):
            seconds = math.ceil((serving + waiting) * asked["duration"] / asked["limit"]) or 1
            return put_off(request, f"{serving} are served, and {waiting} wait", seconds)
        return run(request, log, self.serve_in_turn(request, queue, asked))

    async def serve_in_turn(self, request, queue, asked):
        """Wait for the turn, take up one of the places for *duration* seconds, answer."""
        arrived, ahead, turn = self.now(), len(queue.waiting), Deferred()
        queue.waiting[turn] = asked["limit"]
        try:
            queue.move_up()
            await turn
            began = self.now()
            await deferLater(self.clock, asked["duration"])
        finally:  # however it ends: a place that is not given back is lost to all who wait
            queue.leave(turn)
        waited, served = began - arrived, self.now() - began
        times = {"waited": round(waited, 3), "served": round(served, 3)}
        answer(request, {"key": asked["key"], "ahead": ahead} | times, wait=waited)


resource = Queued()
