"""
Hold requests at a gate until another request opens it.

    GET /gated.rpy?key=a&timeout=30
    GET /gated.rpy?key=a&until=2
    POST /gated.rpy?key=a

Parameters:

    name     meaning                                             range      default
    key      name of the gate                                    any text   -
    timeout  seconds to wait at most                             0 to 3600  60
    show     return how many requests are held, without waiting  flag       -
    until    wait until so many requests are held                1 to 5000  -
    next     POST: how many to let through, oldest first         1 to 5000  -

Answer: 200 application/json. A held request gets "key" and "place", 1 for the first to be let
    through. "show" and "until" get "key" and "waiting", how many are held. POST gets "key",
    "opened" (how many it let through) and "waiting"; the gate closes again behind them. 408 with
    "key" and "waiting" at the timeout. HEAD is held like GET. Server-Timing reports the wait.
Errors: 400 with one line that says which parameter is wrong; 404 for any path below this one; 503
    with Retry-After if there is no room: 5000 held at a gate, 100 with "until", or 1000 busy gates.
Kept: 1000 gates. A gate where none waits is dropped after an hour without use, or to make room.
Client leaves: its request is no longer held or counted, and the disconnect is logged.

Try it:

    $ twistd -n web --path .
    $ (sleep 1; curl -d '' http://127.0.0.1:8080/gated.rpy) & curl http://127.0.0.1:8080/gated.rpy
    $ curl 'http://127.0.0.1:8080/gated.rpy?show'
"""

# SPDX-License-Identifier: MIT-0
import json
import time
from urllib.parse import parse_qs

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

MAX_WAIT, MAX_GATES, MAX_HELD, MAX_WATCHING = 3600, 1000, 5000, 100  # seconds; the rest are counts


class Gated(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # replaced in tests

    def __init__(self):
        super().__init__()
        self.gates = States(Gate, limit=MAX_GATES, lifetime=MAX_WAIT)

    def render(self, request):
        if request.postpath:  # otherwise /gated.rpy/a.bat?key=... downloads the client's text
            return error_page(request, 404, "no such page: request gated.rpy itself")
        return super().render(request)

    def render_GET(self, request):
        try:
            params = parse_params(request, "key", "timeout", "show", "until")
            timeout = number(params, "timeout", default=60.0, low=0, high=MAX_WAIT)
            until = number(params, "until", default=1, low=1, high=MAX_HELD)
            show = flag(params, "show")
        except ValueError as error:
            return error_page(request, 400, error)
        key = params.get("key", "")
        gate = self.gates.use(key, self.now())
        if gate is None:
            return try_later(request, f"requests wait at all of {MAX_GATES} gates")
        if show:
            return json_page(request, {"key": key, "waiting": len(gate.held)})
        if "until" not in params:
            until = None
            if len(gate.held) >= MAX_HELD:
                return try_later(request, f"{MAX_HELD} requests are held at this gate")
        elif len(gate.watching) >= MAX_WATCHING:
            return try_later(request, f"{MAX_WATCHING} requests wait with until at this gate")
        return run(request, self.hold(request, key, gate, timeout, until))

    async def hold(self, request, key, gate, timeout, until):
        """Answer when the gate is opened; with *until*, when so many requests are held at it."""
        arrived, ready = self.now(), Deferred()
        waiting = gate.watching if until else gate.held
        waiting[ready] = until
        gate.tell_watchers()
        code, place = 200, None
        try:
            place = await ready.addTimeout(timeout, self.clock)
        except TimeoutError:
            code = 408
        finally:
            waiting.pop(ready, None)  # it is still there after a timeout or a disconnect
        told = {"place": place} if place else {"waiting": len(gate.held)}
        request.write(json_page(request, {"key": key, **told}, code, wait=self.now() - arrived))
        request.finish()

    def render_POST(self, request):
        try:
            params = parse_params(request, "key", "next")
            most = number(params, "next", default=MAX_HELD, low=1, high=MAX_HELD)
        except ValueError as error:
            return error_page(request, 400, error)
        key = params.get("key", "")
        gate = self.gates.use(key, self.now()) or Gate()
        opened = list(gate.held)[:most]
        for ready in opened:  # all, before the first is answered: its client may ask again at once
            del gate.held[ready]
        self.let_through(list(enumerate(opened, 1)))
        told = {"key": key, "opened": len(opened), "waiting": len(gate.held)}
        return json_page(request, told)

    def let_through(self, opened):
        """Answer the requests that were held, a hundred in each turn of the reactor."""
        for place, ready in opened[:100]:
            ready.callback(place)
        if len(opened) > 100:  # thousands in one turn would make all other requests late
            self.clock.callLater(0, self.let_through, opened[100:])


class Gate:
    """What waits at one gate, in the order of arrival. The keys are Deferreds."""

    def __init__(self):
        self.held = {}
        self.watching = {}  # each with the number of held requests that it waits for

    def busy(self):
        return bool(self.held or self.watching)

    def tell_watchers(self):
        for ready, until in list(self.watching.items()):
            if len(self.held) >= until and self.watching.pop(ready, None):
                ready.callback(None)


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.gated")


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


cache()  # keep this resource, and with it the gates, from request to request
resource = Gated()
