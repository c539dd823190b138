"""
Answer chunk by chunk, each at its own time.

    GET /streamed.rpy?count=5&interval=0.5

Parameters:

    name      meaning                                range        default
    delay     wait before the first chunk (seconds)  0 to 3600    0
    interval  from one chunk to the next (seconds)   0 to 3600    1
    count     how many chunks                        1 to 100000  10
    key       a name of your own, for the ledger     any text     -

Answer: 200 application/x-ndjson, a line of JSON a chunk: its number "n", when it was "due" and
    when it was "written", in seconds from the request's arrival. The header Server-Timing has
    the wait before the first, in milliseconds. HEAD gets the headers alone, after "delay".
Errors: 400 and one line on the parameter that was wrong; 405 or 501 for other methods; 500 if
    the script fails, or an aborted connection if bytes are out.
Client leaves: the timer is cancelled at once, and the log has a line. While a client does not
    read, nothing is written; once it reads again, what fell due meanwhile follows at once.

Try it:

    $ twistd -n web --path .
    $ curl -iN 'http://127.0.0.1:8080/streamed.rpy?count=5&interval=0.5'
"""

# SPDX-License-Identifier: MIT-0
import re
import time
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

recache()  # no state here: a server that keeps scripts in memory may keep this one
log = Logger(namespace="rpy.streamed")

LONGEST = 3600  # seconds
MOST = 100_000  # chunks


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


@implementer(IPushProducer)
class Trickle:
    """One response on its way, which the transport pauses while the client does not read."""

    def __init__(self, request, clock, now, delay, interval, count):
        self.request, self.clock, self.now = request, clock, now
        self.delay, self.interval, self.count = delay, interval, count
        self.arrived, self.sent = now(), 0
        request.notifyFinish().addErrback(self.left)
        request.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self):
        self.due = self.delay + self.sent * self.interval  # from the start: lateness is not added
        wait = max(0, self.arrived + self.due - self.now())
        self.timer = self.clock.callLater(wait, attempt, self.request, log, self.send)

    def pauseProducing(self):
        if self.timer.active():
            self.timer.cancel()

    stopProducing = pauseProducing

    def left(self, reason):
        self.pauseProducing()
        log.info("{uri!r}: the client left after {n} chunks", uri=self.request.uri, n=self.sent)

    def send(self):
        written, self.sent = self.now() - self.arrived, self.sent + 1
        line = b'{"n": %d, "due": %.4f, "written": %.4f}\n' % (self.sent, self.due, written)
        if self.sent == 1:
            describe(self.request, b"application/x-ndjson", wait=written)
        last = self.sent == self.count or self.request.method == b"HEAD"
        if not last:
            self.resumeProducing()  # before the write, which may pause it again
        self.request.write(line)
        if last:
            self.request.unregisterProducer()
            self.request.finish()


class Streamed(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # which a test replaces

    def render_GET(self, request):
        try:
            delay, interval, count = (0.0, 0, LONGEST), (1.0, 0, LONGEST), (10, 1, MOST)
            asked = query(request, delay=delay, interval=interval, count=count, key=("",))
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        Trickle(request, self.clock, self.now, asked["delay"], asked["interval"], asked["count"])
        return NOT_DONE_YET


resource = Streamed()
