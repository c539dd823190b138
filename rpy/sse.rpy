"""
Push events to who listens, and later to who comes back.

    GET /sse.rpy?interval=0.5&count=5
    GET /sse.rpy?key=a
    POST /sse.rpy?key=a&event=news

Parameters:

    name      meaning                                               range        default
    key       the channel; without one the events are a clock's     any text     -
    interval  clock: from one event to the next (seconds)           0 to 3600    1
    count     the response ends after so many events; 0: never      0 to 100000  0
    retry     how long a client should wait to reconnect (seconds)  0 to 3600    1
    event     POST: the event's name, one line                      any text     -

Answer: 200 text/event-stream (WHATWG HTML, server-sent events). It begins with "retry" and the id
    after which it begins. The clock's first event comes at once, "data" is its number "n" and when
    it was "due", in seconds from the request's arrival. An event of a channel is what was
    published there; who comes for the first time gets those from then on. Every 15 seconds a
    comment is sent. HEAD gets the headers alone. POST publishes its body, UTF-8, up to 64 KiB and
    1000 lines, and gets 200 application/json: "key", the event's "id" and how many "readers" there
    are.
Comes back: who sends Last-Event-ID gets what came after that. A channel that does not keep all of
    this any more tells so first, by an event "missed" with how many these are: {"missed": 3}. It is
    null if the id is not one of this channel: the server was restarted, or the channel forgotten;
    then all follow that are kept. "missed" counts as one of "count". The clock goes on counting up
    to "count"; who has had all gets 204, upon which a browser does not come back.
Errors: 400 and one line on the parameter that was wrong, or for a body that is not UTF-8; 413 for
    one over 64 KiB; 405 or 501 for other methods; 503 with Retry-After when a channel has 5000
    readers, or at all of 200 channels somebody reads; 500 if the script fails, or an aborted
    connection if bytes are out.
Kept: 200 channels, each with its last 1000 events, of 512 KiB at most. One where nobody reads is
    forgotten an hour after the last request for it, and sooner if another is needed.
Client leaves: the stream ends at once, and the log has a line. For a client that does not read
    nothing is buffered: it goes on from the event it had got to, or with "missed".

Try it:

    $ twistd -n web --path .
    $ curl -N 'http://127.0.0.1:8080/sse.rpy?interval=0.5&count=3'
    $ curl -i -H 'Last-Event-ID: 3' 'http://127.0.0.1:8080/sse.rpy?count=3'
    $ curl -d 'Hello' 'http://127.0.0.1:8080/sse.rpy?key=a&event=news'
    $ curl -N -H 'Last-Event-ID: 0' 'http://127.0.0.1:8080/sse.rpy?key=a&count=2'
"""

# SPDX-License-Identifier: MIT-0
import json
import re
import secrets
import sys
import time
from collections import deque
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

cache()  # from here on only once: the channels must outlive the request
log = Logger(namespace="rpy.pushed")

LONGEST = 3600  # seconds
MOST = 100_000  # events of one response
HEARTBEAT = 15  # seconds: proxies take a connection that is silent for longer for dead
LARGEST = 65_536  # bytes that are published at once
LINES = 1000  # of these, each of which is sent with six bytes more
EVENTS, KEPT = 1000, 8 * LARGEST  # of a channel: number, and bytes as sent, "data: " included
READERS = 5000  # of a channel
CHANNELS = 200


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


def wire(number, data, name=""):
    """One event as it is sent."""
    lines = [f"event: {name}"] if name else []
    lines += [f"id: {number}", *(f"data: {line}" for line in re.split("\r\n|\r|\n", data))]
    return "\n".join([*lines, "", ""]).encode()


class Feed:
    """The last events of one key: each reader goes along them at its own pace, by a number."""

    def __init__(self):
        self.life = secrets.token_hex(4)  # tells our ids from those of an earlier run
        self.events, self.size, self.last = deque(), 0, 0
        self.readers = {}  # each with a Deferred that is called when there is more

    def busy(self):
        return bool(self.readers)

    def publish(self, data, name):
        self.last += 1
        self.events.append(wire(f"{self.life}-{self.last}", data, name))
        self.size += len(self.events[-1])
        while len(self.events) > EVENTS or self.size > KEPT:
            self.size -= len(self.events.popleft())
        for published in list(self.readers.values()):
            if not published.called:
                published.callback(None)

    def number(self, given):
        """The number in an id; None if it is not one of ours."""
        life, _, number = given.partition("-")
        ours = life == self.life and re.fullmatch("[0-9]{1,15}", number)
        return int(number) if ours and int(number) <= self.last else None

    def following(self, number):
        """The event after that *number*, and its own number. Some may not be there any more."""
        gone = self.last - len(self.events)
        if number is None or number < gone:
            missed = {"missed": None if number is None else gone - number}
            return gone, wire(f"{self.life}-{gone}", json.dumps(missed), "missed")
        return number + 1, self.events[number - gone]


class Pushed(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # which a test replaces

    def __init__(self):
        super().__init__()
        self.channels = Kept(Feed, CHANNELS, LONGEST)

    def render_GET(self, request):
        try:
            interval, count, retry = (1.0, 0, LONGEST), (0, 0, MOST), (1.0, 0, LONGEST)
            asked = query(request, key=("",), interval=interval, count=count, retry=retry)
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        given = (request.getHeader(b"last-event-id") or b"").decode("utf-8", "replace")
        last = int(given) if re.fullmatch("[0-9]{1,15}", given) else 0
        over = not asked["key"] and last >= asked["count"] > 0
        if over or request.method == b"HEAD":
            request.setResponseCode(204 if over else 200)
            describe(request, b"text/event-stream; charset=utf-8")
            request.finish()
            return NOT_DONE_YET
        if not asked["key"]:
            return run(request, log, self.push(request, asked, str(last), self.tick, last))
        channel = self.channels.use(asked["key"], self.now())
        if channel is None or len(channel.readers) >= READERS:
            line = f"{READERS} read this channel, or at {CHANNELS} others somebody does"
            return put_off(request, line)
        number = channel.number(given) if given else channel.last
        begin = given or f"{channel.life}-{number}"
        return run(request, log, self.push(request, asked, begin, self.follow, channel, number))

    def render_POST(self, request):
        data = request.content.read(LARGEST + 1)
        if len(data) > LARGEST:
            return refuse(request, 413, f"the body is over {LARGEST} bytes: give less")
        try:
            asked = query(request, key=("",), event=("",))
            if re.search("[\r\n]", asked["event"]):
                raise ValueError(f"event={asked['event'][:40]!a} is not allowed: give one line")
            if not asked["key"]:
                raise ValueError("nobody can publish to the clock: give key, the channel's name")
            data = data.decode()
            if data.count("\n") + data.count("\r") > LINES:
                raise ValueError(f"the body has over {LINES} lines: give fewer")
        except UnicodeDecodeError as wrong:
            return refuse(request, 400, f"the body is not UTF-8 at byte {wrong.start}: give text")
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        channel = self.channels.use(asked["key"], self.now())
        if channel is None:
            return put_off(request, f"somebody reads at all of {CHANNELS} channels")
        channel.publish(data, asked["event"])
        number = f"{channel.life}-{channel.last}"
        return answer(request, {"key": asked["key"], "id": number, "readers": len(channel.readers)})

    async def push(self, request, asked, begin, send, *about):
        """Send a stream of events, from after the one with the id *begin*."""
        describe(request, b"text/event-stream; charset=utf-8")
        flow = Flow(request)
        # It returns None: for a Deferred LoopingCall would wait, and take its errors.
        heart = LoopingCall(lambda: None if flow.room else request.write(b":\n\n"))
        heart.clock = self.clock
        heart.start(HEARTBEAT, now=False)
        try:
            # An id without data is no event, but the client keeps it for when it comes back.
            await flow.write(f"retry: {asked['retry'] * 1000:.0f}\nid: {begin}\n\n".encode())
            await send(flow, asked, *about)
        finally:
            heart.stop()
        flow.finish()

    async def tick(self, flow, asked, last):
        """Send the clock's events, each at its own time."""
        arrived = self.now()
        for n in range(last, asked["count"] or sys.maxsize):
            due = (n - last) * asked["interval"]
            await deferLater(self.clock, max(0, arrived + due - self.now()))
            await flow.write(wire(n + 1, json.dumps({"n": n + 1, "due": round(due, 3)})))

    async def follow(self, flow, asked, channel, number):
        """Send a channel's events from after that *number* on, as they are published."""
        channel.readers[flow] = Deferred()
        try:
            for _ in range(asked["count"] or sys.maxsize):
                while number == channel.last:
                    published = channel.readers[flow] = Deferred()
                    await published
                number, event = channel.following(number)
                await flow.write(event)
        finally:
            del channel.readers[flow]


resource = Pushed()
