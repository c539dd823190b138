"""
Long-poll a channel for what is published on it.

    GET /longpoll.rpy?key=a&after=0&timeout=30
    POST /longpoll.rpy?key=a
    GET /longpoll.rpy?key=a&count

Parameters:

    name     meaning                                              range                  default
    key      the channel; each name is one                        any text               -
    after    wait for messages with a higher number than this     0 to 9007199254740991  -
    epoch    the "epoch" that came with the number                any text               -
    timeout  how long to wait at most (seconds)                   0 to 3600              30
    count    tell how many wait, without waiting                  flag                   -

Answer: 200 application/json: "messages", each with its number "n", "at" (UTC) and "text"; "last",
    to be given as "after" the next time; "epoch", to be given with it; "missed" and "reset" (see
    below); "key". At once if there are messages, else as soon as there is one; when "timeout"
    is over, also 200, with no messages: so a client's loop need not tell one case from another.
    Server-Timing has the wait in milliseconds. HEAD waits as long. Without "after" it is from
    now on: for the number to begin with, ask once with "timeout=0". To POST, whose body, up to
    65536 bytes of UTF-8 of any type, is the message: "key", "n", "epoch", and "waiting", how many
    readers had been waiting for it. To "count": "key", "last", "epoch" and "waiting".
Numbers: 1, 2, 3, without a gap. Who gives the last one it got as "after" gets each message once,
    in order, even if it left before the answer came. "missed" is how many in between are not kept
    any more. A channel that was forgotten, or whose server was started again, has a new "epoch"
    and starts at 1: to an "after" beyond the last, or another "epoch", the answer comes at once,
    with "reset" true and all that is kept. Without "epoch" a number of the last life passes for
    one of this life as soon as there are as many messages.
Errors: 400 and one line on the parameter that was wrong, or if the body is not UTF-8; 413 if it
    is too large; 405 or 501 for other methods; 500 if the script fails; 503 with Retry-After
    when 1000 readers wait at this channel already, or at all of 128 channels somebody waits.
Kept: 128 channels, of each the last 100 messages, and of these 524288 bytes, as JSON: 64 MiB in
    all. Where nobody waits, a channel is forgotten two hours after the last request for it, and
    sooner if another is needed.
Client leaves: it does not wait any more, nor count. No message is lost by that. The log has a line.

Try it:

    $ twistd -n web --path .
    $ curl 'http://127.0.0.1:8080/longpoll.rpy?key=a&after=0&timeout=5' & sleep 1
    $ curl -d 'Hello!' 'http://127.0.0.1:8080/longpoll.rpy?key=a'
    $ curl 'http://127.0.0.1:8080/longpoll.rpy?key=a&after=0'
"""

# SPDX-License-Identifier: MIT-0
import json
import re
import secrets
import time
from collections import deque
from datetime import datetime, timezone
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

cache()  # from here on only once: the channels must outlive the request
log = Logger(namespace="rpy.polled")

LONGEST = 3600  # seconds
LIFETIME = 2 * LONGEST  # seconds: who has waited for longest has an hour to come back
LARGEST = 2**16  # bytes of a message
MESSAGES = 100  # of a channel
BYTES = 2**19  # of a channel's messages, as JSON
READERS = 1000  # that wait at a channel
CHANNELS = 128
HIGHEST = 2**53 - 1  # message: the highest whole number that is exact in JavaScript


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


class Channel:
    """The last messages, each (number, JSON), and a Deferred of each reader that waits."""

    def __init__(self):
        self.epoch, self.last, self.size = secrets.token_hex(8), 0, 0
        self.messages, self.waiting = deque(), {}

    def busy(self):
        return bool(self.waiting)

    def publish(self, text):
        """Keep the message, and tell all who wait; returns how many these are."""
        self.last += 1
        at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        # As JSON, once for all readers, who get the same bytes.
        message = json.dumps({"n": self.last, "at": at, "text": text}, ensure_ascii=False).encode()
        self.messages.append((self.last, message))
        self.size += len(message)
        while len(self.messages) > MESSAGES or self.size > BYTES:
            self.size -= len(self.messages.popleft()[1])
        waiting, self.waiting = self.waiting, {}
        for news in waiting:
            news.callback(None)
        return len(waiting)


class Polled(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # which a test replaces

    def __init__(self):
        super().__init__()
        self.channels = Kept(Channel, CHANNELS, LIFETIME)

    def render_GET(self, request):
        try:
            after, timeout = (-1, 0, HIGHEST), (30.0, 0, LONGEST)
            known = {"after": after, "epoch": ("",), "timeout": timeout, "count": (False,)}
            asked = query(request, key=("",), **known)
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        channel = self.channels.use(asked["key"], self.now())
        if channel is None or (len(channel.waiting) >= READERS and not asked["count"]):
            line = f"{READERS} wait at this channel, or at {CHANNELS} others somebody does"
            return put_off(request, line)
        if asked["count"]:
            content = {"key": asked["key"], "last": channel.last, "epoch": channel.epoch}
            return answer(request, content | {"waiting": len(channel.waiting)})
        return run(request, log, self.poll(request, channel, asked))

    def render_POST(self, request):
        try:
            key = query(request, key=("",))["key"]
            data = request.content.read(LARGEST + 1)
            if len(data) > LARGEST:
                return refuse(request, 413, f"the body is over {LARGEST} bytes: give less")
            text = data.decode()
        except UnicodeDecodeError as wrong:
            return refuse(request, 400, f"the body is not UTF-8 at byte {wrong.start}: give text")
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        channel = self.channels.use(key, self.now())
        if channel is None:
            return put_off(request, f"somebody waits at all of {CHANNELS} channels")
        waiting = channel.publish(text)
        content = {"key": key, "n": channel.last, "epoch": channel.epoch, "waiting": waiting}
        return answer(request, content)

    async def poll(self, request, channel, asked):
        """Answer with the messages after the one that the reader got last: if need be, wait."""
        arrived, after = self.now(), asked["after"]
        reset = after > channel.last or asked["epoch"] not in ("", channel.epoch)
        if reset:
            after = 0
        elif after < 0:  # not given
            after = channel.last
        if after == channel.last and not reset:  # between this look and the wait nothing can come
            news = Deferred()
            channel.waiting[news] = None
            try:
                await news.addTimeout(asked["timeout"], self.clock)
            except TimeoutError:
                pass  # no messages is an answer, too
            finally:
                channel.waiting.pop(news, None)
        messages = [message for n, message in channel.messages if n > after]
        last = {
            "missed": channel.last - after - len(messages),
            "reset": reset,
            "last": channel.last,
            "epoch": channel.epoch,
        }
        describe(request, b"application/json", wait=self.now() - arrived)
        flow = Flow(request)  # as there may be much to read for many at once
        await flow.write(b'{"key": %s, "messages": [' % json.dumps(asked["key"]).encode())
        for n, message in enumerate(messages):
            await flow.write(b", " * (n > 0) + message)
        await flow.write(b"], %s\n" % json.dumps(last).encode()[1:])
        flow.finish()


resource = Polled()
