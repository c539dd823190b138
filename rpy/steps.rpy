"""
Play a response from a score in the query, step by step.

    GET /steps.rpy?wait=1&status=201&header=X-A:1&send=hello&wait=60&bytes=1000&reset
    GET /steps.rpy?send=tick&wait=0.5&repeat=10:2&explain
    GET /steps.rpy?send=one&hold=a&send=two
    POST /steps.rpy?key=a

Parameters:

    name     meaning                                                 range            default
    wait     do nothing (seconds)                                    0 to 3600        -
    status   answer with this status                                 200 to 599       -
    header   add a header, Name:value                                a header         -
    length   declare a Content-Length (bytes)                        0 to 1000000000  -
    send     write this text to the body                             bytes            -
    bytes    write so many bytes to the body: 012345678901...        0 to 1000000000  -
    flush    send what there is, at least the head                   flag             -
    raw      write to the connection, past all framing (bytes)       bytes            -
    repeat   N:K, play the last K steps N times in all               two numbers      -
    hold     wait until POST opens the gate of this name, its "key"  any text         -
    end      end the response; need not be said                      flag             -
    close    close the connection (FIN); on HTTP/2, the stream       flag             -
    reset    reset the connection (RST)                              flag             -
    hang     send nothing more until the client leaves               flag             -
    explain  show the score with its times, instead of playing it    flag             -
    key      POST: the gate to open; GET: not used                   any text         -

Score: all but "explain" and "key" are steps, and are played in the order in which they stand.
    Waits are reckoned from the start, or from the last "hold": a late step does not delay the
    next. For "repeat", a repeat and what it repeats are one step. In the values "+" is a space,
    and the rest is percent-encoded. A score has at most 10000 steps with all repeats, 3600 seconds
    of waits, 1000000000 bytes, and 16384 of headers. A "hold" or "hang" of an hour is reset, and
    so is a "hold" when at all of 1000 gates somebody waits. What a client has not taken yet when a
    "reset" comes may be lost with it.
Answer: what the score says; where it says nothing, 200 and text/plain. Its headers replace ours.
    Server-Timing has the wait before the head in milliseconds. To "explain": 200 text/plain, a
    line a step. To POST: 200 application/json: "key", and "opened", how many it let go on.
    Without a query, this text. HEAD plays the score without its body; POST with a score plays it.
Errors: 400 and one line on the step that was wrong, before anything is sent; 405 or 501 for other
    methods; 500 if the script fails, or an aborted connection if bytes are out. "raw", and headers
    or types on which browsers or proxies act, are refused unless the server is started with
    TIMED_OPEN=1 in its environment. "raw" needs HTTP/1, and closes the connection.
Kept: 1000 gates. Where nobody waits, one is forgotten an hour after the last request for it, and
    sooner if another is needed.
Client leaves: nothing more is played, and the log has a line.

Try it:

    $ twistd -n web --path .
    $ curl -i 'http://127.0.0.1:8080/steps.rpy?wait=1&status=201&send=hello&wait=1&send=+world'
    $ curl 'http://127.0.0.1:8080/steps.rpy?send=tick&wait=0.5&repeat=10:2&reset&explain'
"""

# SPDX-License-Identifier: MIT-0
import json
import os
import re
import time
from collections import namedtuple
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

cache()  # from here on only once: the gates must outlive the request
log = Logger(namespace="rpy.timed")

OPEN = os.environ.get("TIMED_OPEN") == "1"  # whoever asks may make a browser run what he sends
LONGEST = 3600  # seconds
MOST = 10_000  # steps
LARGEST = 10**9  # bytes
HEAD = 16_384  # bytes of headers
GATES = 1000
FILL = b"0123456789" * 6400  # bytes, written as one piece


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


async def sent(clock):
    """Wait for the turns of the reactor in which what was written is sent: an abort drops it."""
    for _ in range(2):
        await deferLater(clock, 0)


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


@implementer(IPushProducer)
class Flow:
    """A response in pieces, each written once the client has taken enough of those before."""

    def __init__(self, request):
        self.request, self.room = request, None
        request.registerProducer(self, True)

    def pauseProducing(self):
        self.room = self.room or Deferred()

    def resumeProducing(self):
        room, self.room = self.room, None
        if room:
            room.callback(None)

    def stopProducing(self):
        """Nothing to do: the coroutine that writes is cancelled when the client leaves."""

    async def write(self, data):
        while self.room:
            await self.room
        self.request.write(data)

    def finish(self):
        self.request.unregisterProducer()
        self.request.finish()


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


Step = namedtuple("Step", "n name text value")  # n counts from 1
NUMBERS = {
    "wait": (float, 0, LONGEST, "seconds"),
    "status": (int, 200, 599, "a status"),
    "length": (int, 0, LARGEST, "bytes"),
    "bytes": (int, 0, LARGEST, "bytes"),
}
END = Step(0, "end", "", b"")  # which needs not be said
ENDS = ("end", "close", "reset", "hang")
NAMES = (*NUMBERS, "header", "send", "flush", "raw", "repeat", "hold", *ENDS)
HEADER = rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)"
FRAMING = rb"(?i)connection|content-length|keep-alive|te|trailer|transfer-encoding|upgrade"
HARMLESS = (  # headers that make neither a browser nor a proxy do anything but keep, or not keep
    rb"(?i)accept-ranges|age|allow|cache-control|content-(encoding|language|range|type)|date|digest"
    rb"|etag|expires|last-modified|pragma|ratelimit.*|retry-after|server|server-timing|sunset|vary"
    rb"|via|warning|x-([a-z0-9]|(correlation|custom|my|ratelimit|request|test|trace)(-[a-z0-9-]+)?)"
)
PASSIVE = (  # types which no browser runs
    rb"(?i)(text/(plain|csv|event-stream)|application/(json|problem\+json|x-ndjson|octet-stream))"
    rb"(; ?charset=[a-z0-9-]+)?"
)


def shown(name, text, most=40):
    """A step as it was given, in printable ASCII, cut short."""
    value = text.encode("latin-1").decode("utf-8", "replace")[:most]
    return ascii(name[:most])[1:-1] + (f"={ascii(value)[1:-1]}" if text else "")


def reject(n, name, text, line):
    raise ValueError(f"{f'step {n}, ' if n else ''}{shown(name, text)}: {line}")


def value_of(n, name, text):
    """What the *text* of step *n* stands for: a number, bytes, or a pair of these."""
    data = text.encode("latin-1")
    if name not in (*NAMES, "explain", "key"):
        reject(n, name, text, f"no such step: give {', '.join(NAMES)}")
    elif name in NUMBERS:
        kind, low, high, unit = NUMBERS[name]
        form = r"[0-9]{1,20}" if kind is int else r"[0-9]{1,20}(\.[0-9]*)?|\.[0-9]+"
        if not re.fullmatch(form, text) or not low <= kind(text) <= high:
            reject(n, name, text, f"give {unit}, from {low} to {high}")
        return kind(text)
    elif name == "repeat":
        if not re.fullmatch("[1-9][0-9]{0,4}:[1-9][0-9]{0,4}", text):
            reject(n, name, text, "give N:K, to play the last K steps N times")
        return tuple(map(int, text.split(":")))
    elif name == "header":
        pair = re.fullmatch(HEADER, data)
        if not pair:
            reject(n, name, text, "give Name:value")
        if re.fullmatch(FRAMING, pair[1]):
            reject(n, name, text, "it would change the framing: give length, close or raw")
        passive = pair[1].lower() != b"content-type" or re.fullmatch(PASSIVE, pair[2])
        if not OPEN and not (passive and re.fullmatch(HARMLESS, pair[1])):
            reject(n, name, text, "others might act on it: start the server with TIMED_OPEN=1")
        return pair.groups()
    elif name == "raw" and not OPEN:
        reject(n, name, text, "a browser might run it: start the server with TIMED_OPEN=1")
    elif name in ("flush", *ENDS, "explain") and text not in ("", "1"):
        reject(n, name, text, f"give {name} alone")
    elif name in ("hold", "key") and len(text) > 1000:
        reject(n, name, text, "give a name of 1000 bytes at most")
    return data.decode("utf-8", "replace") if name == "hold" else data


def parse(uri):
    """The steps of the score in *uri*, as written, and whether to explain them. The value of a
    "repeat" is how often it plays, and from which step on. ValueError on what is no step."""
    steps, explain, given = [], False, []
    items, plays = [], 0  # an item is what K counts as one: its first step, and how many are played
    for name, text in parse_qsl(uri.partition(b"?")[2].decode("latin-1"), True, encoding="latin-1"):
        if name in given:
            reject(0, name, text, "it is given more than once: give it once")
        elif name == "explain" and text in ("", "1"):
            explain = True
            given.append(name)
        elif name == "key" and len(text) <= 1000:
            given.append(name)
        else:
            n, first, mine = len(steps) + 1, len(steps), 1
            value = value_of(n, name, text)
            if name == "repeat":
                times, last = value
                if last > len(items):
                    reject(n, name, text, f"{len(items)} stand before it: give no more than that")
                value = times, items[-last][0]
                once = sum(each for _, each in items[-last:])
                first, mine = value[1], once * times + 1
                plays -= once
                del items[-last:]
            plays += mine
            if plays > MOST:
                reject(n, name, text, f"more than {MOST} steps are played with it: give fewer")
            items.append((first, mine))
            steps.append(Step(n, name, text, value))
    return steps, explain


def in_order(steps):
    """The steps as they are played; a "repeat" comes once it is through."""
    at, left = 0, {}  # how often the repeats under way still go back
    while at < len(steps):
        step = steps[at]
        if step.name == "repeat":
            left[at] = left.get(at, step.value[0]) - 1
            if left[at]:
                at = step.value[1]
                continue
            del left[at]
        yield step
        at += 1


def rehearse(steps, raw):
    """Go through a score in no time: a list of (step, gate passed last, seconds since), in the
    order of writing. ValueError if it cannot be played; *raw* says whether "raw" can be."""
    moments, given = {}, {}  # given: of the steps that must not, or need not, come again, the first
    gate, at, waits, size, head = "", 0, 0, 0, 0
    for step in in_order([*steps, END]):
        n, name, text, value = step
        if "ended" in given:
            if step is END:
                break
            reject(n, name, text, f"nothing is played after {given['ended'].name}: give it last")
        if name in ("status", "header", "length") and "head" in given:
            out = f"step {given['head'].n}, {given['head'].name}, sends the head"
            reject(n, name, text, f"{out}: give this before it")
        if name in ("status", "length") and given.setdefault(name, step) is not step:
            reject(n, name, text, f"there is one in step {given[name].n}: give it once")
        if name == "header":
            head += sum(map(len, value)) + 4
            if head > HEAD:
                reject(n, name, text, f"more than {HEAD} bytes of headers in all: give less")
        if name == "raw" and not raw:
            reject(n, name, text, "it is past HTTP/2's framing: give it on HTTP/1")
        moments.setdefault(n or len(steps) + 1, (step, gate, at))
        if name == "hold":
            gate, at = text, 0
        elif name == "wait":
            at, waits = at + value, waits + value
            if waits > LONGEST:
                reject(n, name, text, f"waits of more than {LONGEST} seconds in all: give less")
        elif name in ("send", "bytes", "raw"):
            size += value if name == "bytes" else len(value)
            if size > LARGEST:
                reject(n, name, text, f"more than {LARGEST} bytes in all: give less")
            if "status" in given and given["status"].value in (204, 304) and name != "raw":
                reject(n, name, text, "the status has no body: give another")
        if name in ("send", "bytes", "raw", "flush"):
            given.setdefault("head", step)
        if name == "raw":
            given.setdefault("raw", step)
        if name in ENDS:
            given["ended"] = step
        declared = given["length"].value if "length" in given else size
        if name == "end" and size != declared and "raw" not in given:
            told = f"length declares {declared} bytes, and {size} are sent"
            reject(n, name, text, f"{told}: give close, reset or hang to end so")
    return [moments[n] for n in sorted(moments)]


def line(step, gate, at):
    """What "explain" shows of a step: when it comes, after the start or after a gate."""
    since = f" after {shown('hold', gate)}" if gate else ""
    return f"{at:10.3f}{since}  {shown(step.name, step.text, 200)}\n"


class Hold:
    def __init__(self):
        self.held = {}  # Deferreds, in the order of arrival

    def busy(self):
        return bool(self.held)


class Timed(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # which a test replaces

    def __init__(self):
        super().__init__()
        self.gates = Kept(Hold, GATES, LONGEST)

    def render_GET(self, request):
        try:
            steps, explain = parse(request.uri)
            moments = rehearse(steps, raw=request.transport is not None)
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        if explain:
            return self.show(request, "".join(line(*each) for each in moments))
        if not steps:
            return self.show(request, __doc__.lstrip())
        return run(request, log, self.play(request, steps))

    def render_POST(self, request):
        try:
            if parse(request.uri)[0]:
                return self.render_GET(request)
            key = query(request, key=("",))["key"]
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        gate = self.gates.use(key, self.now()) or Hold()
        opened, gate.held = gate.held, {}
        for held in opened:
            held.callback(True)
        return answer(request, {"key": key, "opened": len(opened)})

    def show(self, request, text):
        describe(request, b"text/plain; charset=utf-8")
        request.write(text.encode())
        request.finish()
        return NOT_DONE_YET

    async def play(self, request, steps):
        """Do what the score says, each step when its time has come."""
        arrived = began = self.now()
        due, flow, framed, own = 0, Flow(request), True, set()
        describe(request, b"text/plain; charset=utf-8")
        for name, value in ((step.name, step.value) for step in in_order([*steps, END])):
            if name == "wait":
                due += value
                await deferLater(self.clock, max(0, began + due - self.now()))
            elif name == "hold":
                if not await self.pass_gate(value):
                    return self.reset(request)
                began, due = self.now(), 0
            elif name == "status":
                request.setResponseCode(value)
            elif name == "header":
                if value[0].lower() not in own:  # the first of its name replaces what we would say
                    own.add(value[0].lower())
                    request.responseHeaders.removeHeader(value[0])
                request.responseHeaders.addRawHeader(*value)
            elif name == "length":
                request.setHeader(b"Content-Length", b"%d" % value)
            elif name == "send":
                await flow.write(value)
            elif name == "bytes":
                for start in range(0, value, len(FILL)):
                    await flow.write(FILL[: value - start])
            elif name == "flush":
                await flow.write(b"")
                await sent(self.clock)
            elif name == "raw":
                request.startedWriting, framed = True, False
                await flow.write(b"")
                request.transport.write(value)
            elif name == "hang":
                await deferLater(self.clock, LONGEST)
                return self.reset(request)
            elif name == "reset":
                await sent(self.clock)
                return self.reset(request)
            elif name == "end" and framed:
                return flow.finish()
            elif name in ("end", "close"):
                request.unregisterProducer()
                return request.loseConnection()
            if name in ("wait", "hold") and not (request.startedWriting or b"server-timing" in own):
                waited = (self.now() - arrived) * 1000
                request.setHeader(b"Server-Timing", b"wait;dur=%.3f" % waited)

    def reset(self, request):
        (request.transport or request.channel).abortConnection()

    async def pass_gate(self, key):
        """Wait until POST opens the gate; False if that takes too long, or there is no room."""
        gate, opened = self.gates.use(key, self.now()), Deferred()
        if gate is None:
            return False
        gate.held[opened] = None
        try:
            return await opened.addTimeout(LONGEST, self.clock)
        except TimeoutError:
            return False
        finally:
            gate.held.pop(opened, None)


resource = Timed()
