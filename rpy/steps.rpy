"""
Play a response step by step, as the query says.

    GET /steps.rpy?wait=1&status=201&header=X-A:1&send=hello&wait=60&bytes=1000&reset
    POST /steps.rpy?wait=60

Parameters:

    name    meaning                                             range            default
    wait    wait for so many seconds                            0 to 3600        -
    status  set the status                                      200 to 599       -
    header  add a header: Name:value                            a header         -
    length  declare a Content-Length; untrue, it ends in FIN    0 to 1000000000  -
    send    write this text; if it is empty, just the headers   bytes            -
    bytes   write so many bytes: 012345678901...                0 to 100000000   -
    raw     write past HTTP's framing; it ends in FIN           bytes            -
    repeat  N:K, to play the last K steps N times in all        two numbers      -
    close   close the connection (FIN), on HTTP/2 the stream    flag             -
    reset   reset the connection (RST), on HTTP/2 the stream    flag             -
    hang    send nothing more, and reset it after an hour       flag             -
    key     a label for finding the request in the ledger       any text         -

Answer: what the steps say, by default 200 text/plain; in all 2000 steps, 3600 s, 100000000 bytes.
Errors: 400 names the wrong step, before anything is sent; 404 for any path below. "raw": see OPEN.
Client leaves: no more steps are played, and the disconnect is logged. Not reading pauses them.

Try it:

    $ twistd -n web --path .
    $ curl -i 'http://127.0.0.1:8080/steps.rpy?wait=1&status=201&send=hello&wait=1&send=+world'
"""

# SPDX-License-Identifier: MIT-0
import os
import time
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

OPEN = os.environ.get("STEPS_OPEN") == "1"  # allows "raw", and headers that others may act on


class Steps(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # replaced in tests

    def render_GET(self, request):
        if request.postpath:  # otherwise /steps.rpy/a.bat?send=... downloads the client's text
            return error_page(request, 404, "no such page: request steps.rpy itself")
        try:
            steps = parse_steps(request.uri.partition(b"?")[2].decode("latin-1"))
            end, surplus = check_steps(steps, request)
        except ValueError as error:
            return error_page(request, 400, error)
        return run(request, self.play(request, steps, end, surplus))

    render_POST = render_GET

    async def play(self, request, steps, end, surplus):
        """Play each step when it is due, since the arrival: lateness does not add up."""
        client, arrived, due = Backpressure(request), self.now(), 0
        set_headers(request, "text/plain; charset=utf-8")
        own = {value[0].lower() for _, name, value in steps if name == "header"}
        for name in own:  # they replace ours
            request.responseHeaders.removeHeader(name)
        for _, name, value in steps:
            due += value if name == "wait" else 0
            await deferLater(self.clock, max(0, arrived + due - self.now()))
            await client.ready()
            if not request.startedWriting and b"server-timing" not in own:
                wait = (self.now() - arrived) * 1000
                request.setHeader("Server-Timing", f"wait;dur={wait:.3f}")
            if surplus and STEPS[name][1] == "body" and not request.startedWriting:
                request.write(b"")  # the headers, with a length that the server would keep to
                request.write = request.transport.write
            STEPS[name][-1](request, value)
        if end == "hang":
            await deferLater(self.clock, MAX_WAIT)
        if end in ("hang", "reset"):
            return await reset_connection(request, self.clock)
        request.unregisterProducer()
        request.loseConnection() if end == "close" else request.finish()


MAX_WAIT, MAX_STEPS, MAX_SIZE = 3600, 2000, 100_000_000  # seconds, steps with all repeats, bytes
LIMITS = {"wait": MAX_WAIT, "headers": 16_384, "body": MAX_SIZE, "end": 1}  # seconds, bytes, bytes
DIGITS = b"0123456789" * 6400
TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
CONTROLS = {*range(32), 127} - {9}
FRAMING = b"connection content-length keep-alive te trailer transfer-encoding upgrade".split()
HARMLESS = (  # a browser or proxy may keep a response because of these, and does nothing else
    b"accept-ranges age allow cache-control content-encoding content-language content-range date"
    b" digest etag expires last-modified pragma retry-after server server-timing vary via warning"
    b" x-a x-b x-c x-custom"
).split()
PREFIXES = (b"ratelimit", b"x-correlation", b"x-ratelimit", b"x-request", b"x-test", b"x-trace")
PASSIVE = (  # types that no browser runs
    b"text/plain text/csv text/event-stream application/json application/problem+json"
    b" application/x-ndjson application/octet-stream"
).split()


def read_header(name, text):
    """Return name and value; unless OPEN, only of headers that others do not act on."""
    header, colon, value = text.encode("latin-1").partition(b":")
    known, value, wrong = header.lower(), value.strip(b" 	"), f"invalid header {text[:40]!a}"
    if not header or not colon or header.translate(None, TOKEN) or set(value) & CONTROLS:
        raise ValueError(f"{wrong}: give Name:value")
    if known in FRAMING:
        raise ValueError(f"{wrong}, which is framing: give length, close or raw")
    safe = known in HARMLESS or known.startswith(PREFIXES)
    if known == b"content-type":
        safe = value.lower().removesuffix(b"; charset=utf-8") in PASSIVE
    if not (safe or OPEN):
        raise ValueError(f"{wrong}, others may act on it: give the server STEPS_OPEN=1")
    return header, value


def read_number(default, low, high):
    return lambda name, text: number({name: text}, name, default, low, high)


def read_nothing(name, text):
    if text not in ("", "1"):
        raise ValueError(f"invalid {name} {text[:40]!a}: give {name} alone")


def play_raw(request, data):
    request.startedWriting = True  # or Twisted would send headers before it
    request.transport.write(data)


STEPS = {  # how to read the value, what it is part of, how much of that, and how to play it
    "wait": (read_number(0.0, 0, MAX_WAIT), "wait", float, lambda r, seconds: None),  # play() waits
    "status": (read_number(200, 200, 599), "headers", bool, lambda r, code: r.setResponseCode(code)),
    "header": (read_header, "headers", lambda header: len(b"".join(header)),
               lambda r, header: r.responseHeaders.addRawHeader(*header)),
    "length": (read_number(0, 0, 10**9), "headers", bool,
               lambda r, size: r.setHeader("Content-Length", str(size))),
    "send": (lambda _, text: text.encode("latin-1"), "body", len, lambda r, data: r.write(data)),
    "bytes": (read_number(0, 0, MAX_SIZE), "body", int, lambda r, size: r.write(DIGITS[:size])),
    "raw": (lambda _, text: text.encode("latin-1"), "body", len, play_raw),
    **dict.fromkeys(("close", "reset", "hang"), (read_nothing, "end", bool, lambda r, value: None)),
}  # fmt: skip


def parse_steps(query):
    """Return the steps as they are played: (number, name, value). Large "bytes" come in pieces."""
    steps, starts, n = [], [], 0  # starts: where each step begins; a repeat makes one of K
    try:
        for n, (name, text) in enumerate(parse_qsl(query, True, encoding="latin-1"), 1):
            if name == "repeat":
                repeat(steps, starts, text)
            elif name in STEPS:
                starts.append(len(steps))
                value = STEPS[name][0](name, text)
                if name == "bytes":
                    steps += [(n, name, len(DIGITS))] * (value // len(DIGITS))
                    value %= len(DIGITS)
                steps.append((n, name, value))
            elif name != "key" or len(text) > 1000:
                raise ValueError(f"unknown step {name[:40]!a}: give {', '.join(STEPS)} or repeat")
            if len(steps) > MAX_STEPS:
                raise ValueError(f"too many steps: give at most {MAX_STEPS}, with all repeats")
    except ValueError as error:
        raise ValueError(f"step {n}: {error}") from None
    return steps


def repeat(steps, starts, text):
    """Add the last K steps N - 1 times."""
    times, _, last = text.partition(":")
    if not (times.isdecimal() and last.isdecimal() and len(text) < 10 and int(times) > 1):
        raise ValueError(f"invalid repeat {text[:40]!a}: give N:K, to play K steps N times")
    if not 1 <= int(last) <= len(starts):
        raise ValueError(f"invalid repeat {text!a}: give a K from 1 to {len(starts)}")
    repeated = steps[starts[-int(last)] :]
    if len(repeated) * int(times) > MAX_STEPS:
        raise ValueError(f"invalid repeat {text!a}: give at most {MAX_STEPS} steps in all")
    steps += repeated * (int(times) - 1)
    del starts[len(starts) - int(last) + 1 :]


def check_steps(steps, request):
    """Return how the response ends, and whether its body has a surplus. ValueError: what can't be."""
    totals, seen = dict.fromkeys(LIMITS, 0), {}
    for n, name, value in steps:
        _, part, size, _ = STEPS[name]
        totals[part] += size(value)
        if "end" in seen:
            raise ValueError(f"step {n}, {name}, is never played: give it before {seen['end']}")
        if part == "headers" and "body" in seen:
            raise ValueError(f"step {n}, {name}, is too late: give it before {seen['body']}")
        if name == "raw" and not (OPEN and request.transport):
            raise ValueError(f"step {n}, raw, needs HTTP/1.1: also give the server STEPS_OPEN=1")
        if totals[part] > LIMITS[part]:
            raise ValueError(f"step {n}, {name}, is too much: give at most {LIMITS[part]} in all")
        seen.setdefault(part, f"step {n}, {name}")
        seen[name] = value
    length, size = seen.get("length", totals["body"]), totals["body"]
    end = name if "end" in seen else "close" if length != size or "raw" in seen else "finish"
    return end, length < size and request.transport and request.method != b"HEAD"


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.steps")


def number(params, name, default, low, high):
    """Return a number between *low* and *high*; a whole number if *default* is one."""
    text = params.get(name, str(default))
    digits = text if type(default) is int else text.replace(".", "", 1)
    if not (digits.isascii() and digits.isdecimal() and low <= float(text) <= high):
        kind = "a whole number" if type(default) is int else "a number"
        raise ValueError(f"invalid {name} {text[:40]!a}: give {kind} from {low} to {high}")
    return type(default)(text)


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


recache()  # stateless, so `tarry serve` may reuse this resource; plain twistd ignores this
resource = Steps()
