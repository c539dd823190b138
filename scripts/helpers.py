"""The helpers that scripts in rpy/ share: the one home of their text.

A script must work when it is copied alone, so it can't import them. Instead, each script has a copy of
those it uses, under the comment "The helpers below …". Edit a helper here, then paste it into every
script that has it:

    $ scripts/check --fix

`scripts/check` alone says which script's copy differs. tests/unit/test_helpers.py tests them once.
"""

import json
from urllib.parse import parse_qs

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

log = Logger(namespace="rpy.helpers")  # a script's is named after the script


# Parameters. Each raises ValueError: what is wrong, what was given, what is allowed.


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


# Responses.


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


# Asynchronous work.


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


async def reset_connection(request, clock):
    """Reset the connection, after what was written has left: a reset drops what has not."""
    for _ in range(2):  # it leaves within two turns of the reactor
        await deferLater(clock, 0)
    (request.transport or request.channel).abortConnection()


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
