"""
Hold requests at a gate until somebody opens it.

    GET /gated.rpy?key=a&timeout=30
    POST /gated.rpy?key=a
    GET /gated.rpy?key=a&await=2

Parameters:

    name     meaning                                              range      default
    key      the gate; each name is one                           any text   -
    timeout  how long to wait at most (seconds)                   0 to 3600  60
    count    tell how many wait, without waiting                  flag       -
    await    wait until there are so many at the gate, then tell  1 to 5000  -
    next     POST: let go so many, those first that came first    1 to 5000  -

Answer: 200 application/json. To one that was held, once the gate is opened: "key", and "place", 1
    for the first that this opening let go. To one that asks "count" or "await": "key" and
    "waiting", how many are held. To POST: "key", "opened", how many it let go, and "waiting"; the
    gate is shut again behind these. 408 with "key" and "waiting" when "timeout" is over. The
    header Server-Timing has the wait in milliseconds. HEAD is held, and counts, like GET.
Errors: 400 and one line on the parameter that was wrong; 405 or 501 for other methods; 500 if
    the script fails; 503 with Retry-After, but not to POST, when 5000 wait at this gate already,
    or at all of 1000 gates somebody does.
Kept: 1000 gates. Where nobody waits, one is forgotten an hour after the last request for it, and
    sooner if another is needed.
Client leaves: it does not wait any more, nor count. The log has a line.

Try it:

    $ twistd -n web --path .
    $ (sleep 1; curl -d '' http://127.0.0.1:8080/gated.rpy) & curl http://127.0.0.1:8080/gated.rpy
    $ curl 'http://127.0.0.1:8080/gated.rpy?count'
"""

# SPDX-License-Identifier: MIT-0
import json
import re
import time
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

cache()  # from here on only once: the gates must outlive the request
log = Logger(namespace="rpy.gated")

LONGEST = 3600  # seconds
MOST = 5000  # requests at one gate
GATES = 1000


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


class Gate:
    """Deferreds of those held, and of those that wait for so many, each in the order of arrival."""

    def __init__(self):
        self.held, self.watching = {}, {}

    def busy(self):
        return bool(self.held or self.watching)


class Gated(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # which a test replaces

    def __init__(self):
        super().__init__()
        self.gates = Kept(Gate, GATES, LONGEST)

    def render_GET(self, request):
        try:
            timeout, many = (60.0, 0, LONGEST), (0, 1, MOST)
            asked = query(request, key=("",), timeout=timeout, count=(False,), **{"await": many})
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        gate = self.gates.use(asked["key"], self.now())
        if gate and asked["count"]:
            return answer(request, {"key": asked["key"], "waiting": len(gate.held)})
        waiting = gate and (gate.watching if asked["await"] else gate.held)
        if gate is None or len(waiting) >= MOST:
            line = f"{MOST} wait at this gate, or at {GATES} others somebody does"
            return put_off(request, line)
        return run(request, log, self.hold(request, gate, waiting, asked))

    def render_POST(self, request):
        try:
            asked = query(request, key=("",), next=(MOST, 1, MOST))
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        gate = self.gates.use(asked["key"], self.now())
        first = list(gate.held)[: asked["next"]] if gate else []
        for opened in first:  # before any of them is answered: it may ask again at once
            del gate.held[opened]
        for place, opened in enumerate(first, 1):
            opened.callback(place)
        waiting = len(gate.held) if gate else 0
        return answer(request, {"key": asked["key"], "opened": len(first), "waiting": waiting})

    async def hold(self, request, gate, waiting, asked):
        """Answer when the gate is opened; who watches it, when there are enough that it holds."""
        arrived, opened = self.now(), Deferred()
        waiting[opened] = asked["await"]
        for watcher, number in list(gate.watching.items()):
            if number <= len(gate.held) and gate.watching.pop(watcher, None):
                watcher.callback(None)
        code, place = 200, None
        try:
            place = await opened.addTimeout(asked["timeout"], self.clock)
        except TimeoutError:
            code = 408
        finally:
            waiting.pop(opened, None)  # it is in there still, unless it was called
        content = {"key": asked["key"]} | (
            {"place": place} if place else {"waiting": len(gate.held)}
        )
        answer(request, content, code, wait=self.now() - arrived)


resource = Gated()
