"""
Long-poll a channel: wait until a message is published.

    GET /longpoll.rpy?key=a&after=0&timeout=30
    POST /longpoll.rpy?key=a

Parameters:

    name     meaning                                     range                  default
    key      name of the channel                         any text               -
    after    number of the last message the client has   0 to 9007199254740991  0
    timeout  seconds to wait for a message at most       0 to 3600              30

Answer: 200 application/json. GET: up to 20 "messages", each with its number "n" and "text": at once
    if there are any, else when one is published; none at the timeout. Give "last" as "after" in
    the next request. POST publishes its body, up to 4096 bytes of UTF-8, and gets its number. Both
    get "waiting", the number of other requests that wait. Server-Timing reports the wait.
Numbers: they grow by 1, so a gap shows that messages are no longer kept. The first is the time in
    microseconds: no number is used twice, even if the server was restarted in between.
Errors: 400 with one line that says what is wrong; 404 for any path below this one.
Kept: 100 channels with their last 100 messages; a new one replaces the one unused for longest.
Client leaves: its request no longer waits, and the disconnect is logged. No message is lost.

Try it:

    $ twistd -n web --path .
    $ curl 'http://127.0.0.1:8080/longpoll.rpy?key=a' & sleep 1
    $ curl -d 'Hello!' 'http://127.0.0.1:8080/longpoll.rpy?key=a'
"""

# SPDX-License-Identifier: MIT-0
import json
import time
from collections import deque
from urllib.parse import parse_qs

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

MAX_WAIT, MAX_NUMBER = 3600, 2**53 - 1  # seconds; the largest exact integer in JavaScript
MAX_CHANNELS, MAX_MESSAGES, MAX_ANSWER, MAX_SIZE = 100, 100, 20, 4096  # MAX_SIZE: bytes


class Longpoll(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # replaced in tests

    def __init__(self):
        super().__init__()
        self.channels = {}  # by key, the one unused for longest first

    def render_GET(self, request):
        if request.postpath:  # otherwise /longpoll.rpy/a.bat?key=... downloads what others sent
            return error_page(request, 404, "no such page: request longpoll.rpy itself")
        try:
            params = parse_params(request, "key", "after", "timeout")
            after = number(params, "after", default=0, low=0, high=MAX_NUMBER)
            timeout = number(params, "timeout", default=30.0, low=0, high=MAX_WAIT)
        except ValueError as error:
            return error_page(request, 400, error)
        return run(request, self.poll(request, self.channel(params), after, timeout))

    async def poll(self, request, channel, after, timeout):
        """Answer with the messages that follow number *after*; if there are none, wait for one."""
        arrived, published = self.now(), Deferred()
        if after >= channel.last or not channel.messages:
            channel.waiting[published] = True  # until publish() calls it back
            try:
                await published.addTimeout(timeout, self.clock)
            except TimeoutError:
                pass  # answer without messages: the client asks again
            finally:
                channel.waiting.pop(published, None)
        messages = [message for message in channel.messages if message["n"] > after][:MAX_ANSWER]
        last = messages[-1]["n"] if messages else channel.last
        content = {"messages": messages, "last": last, "waiting": len(channel.waiting)}
        request.write(json_page(request, content, wait=self.now() - arrived))
        request.finish()

    def render_POST(self, request):
        try:
            params, message = parse_params(request, "key"), request.content.read(MAX_SIZE + 1)
            if len(message) > MAX_SIZE:
                raise ValueError(f"the body is too long: give at most {MAX_SIZE} bytes")
            text = message.decode()
        except ValueError as error:  # also if the body is not UTF-8
            return error_page(request, 400, error)
        return json_page(request, self.channel(params).publish(text, self.clock))

    def channel(self, params):
        """Return the channel named by "key". A new one replaces the one unused for longest."""
        key = params.get("key", "")
        channel = self.channels[key] = self.channels.pop(key, None) or Channel()
        if len(self.channels) > MAX_CHANNELS:
            del self.channels[next(iter(self.channels))]
        return channel


class Channel:
    def __init__(self):
        self.last, self.messages = int(time.time() * 1e6), deque(maxlen=MAX_MESSAGES)
        self.waiting = {}  # a Deferred for each request that waits

    def publish(self, text, clock):
        self.last += 1
        self.messages.append({"n": self.last, "text": text})
        waiting, self.waiting = list(self.waiting), {}
        self.call_back(waiting, clock)
        return {"n": self.last, "waiting": len(waiting)}

    def call_back(self, waiting, clock):
        """Call back 20 in this turn of the reactor, the rest later: all at once delay others."""
        for published in waiting[:20]:
            published.callback(None)
        if waiting[20:]:
            clock.callLater(0, self.call_back, waiting[20:], clock)


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.longpoll")


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


cache()  # keep this resource, and with it the channels, from request to request
resource = Longpoll()
