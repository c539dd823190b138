"""
Pass on what a child process prints, as it prints it.

    GET /subprocess.rpy?count=5&interval=0.5
    GET /subprocess.rpy?interval=10&stubborn

Parameters:

    name      meaning                              range        default
    count     how many lines it prints             1 to 100000  5
    interval  from one line to the next (seconds)  0 to 3600    1
    exit      the code that it ends with           0 to 255     0
    stubborn  it ignores the signal TERM           flag         -
    key       a name of your own, for the ledger   any text     -

Answer: 200 application/x-ndjson, lines of JSON. Those of the child: their number "n", its "pid",
    and when it "printed" that, in seconds from its start. The last is of the server: the code
    that the child ended with, "exit", or the "signal", and the seconds it "took". HEAD gets the
    headers alone, without a child.
Errors: 400 and one line on the parameter that was wrong; 405 or 501 for other methods; 500 if the
    child cannot be started, or an aborted connection if bytes are out; 503 with Retry-After when
    there are 20 children already.
Client leaves: the child gets the signal TERM at once, and KILL if it is there after 2 s more. The
    log has a line. While a client does not read, the child's output is not read either, so that
    it has to wait when the pipe is full. When the server stops, its children are killed; should
    the server be killed, each ends when it prints its next line.

Try it:

    $ twistd -n web --path .
    $ curl -N 'http://127.0.0.1:8080/subprocess.rpy?count=3&interval=0.5'
    $ curl -N -m 2 'http://127.0.0.1:8080/subprocess.rpy?stubborn'
"""

# SPDX-License-Identifier: MIT-0
import json
import re
import sys
import time
from contextlib import suppress
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

cache()  # from here on only once: how many children there are must outlive the request
log = Logger(namespace="rpy.spawned")

LONGEST = 3600  # seconds
MOST = 100_000  # lines
CHILDREN = 20  # at once
GRACE = 2  # seconds from TERM to KILL
PROGRAM = """
import os, signal, sys, time
count, interval, code, stubborn = map(float, sys.argv[1:])
signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C: the server says when it ends
if stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
began = time.monotonic()
for n in range(int(count)):
    wait = began + n * interval - time.monotonic()
    if wait > 0:
        time.sleep(wait)
    printed = time.monotonic() - began
    print('{"n": %d, "pid": %d, "printed": %.3f}' % (n + 1, os.getpid(), printed))
sys.exit(int(code))
"""


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
class Child(ProcessProtocol):
    """A child process; what it prints goes to a request, as fast as the client reads."""

    def __init__(self, request, clock, children):
        self.request, self.clock, self.children = request, clock, children
        self.ended, self.killing = Deferred(), None

    def connectionMade(self):
        self.children.add(self)
        self.trigger = reactor.addSystemEventTrigger("during", "shutdown", self.signal, "KILL")
        self.transport.closeStdin()
        self.request.registerProducer(self, True)

    def pauseProducing(self):
        self.transport.pauseProducing()  # the pipe fills up, and then the child has to wait

    def resumeProducing(self):
        self.transport.resumeProducing()

    def stopProducing(self):
        """Nothing to do: the coroutine that waits is cancelled when the client leaves."""

    def outReceived(self, data):
        self.request.write(data)  # whole lines: a write to a pipe is not split up to 4096 bytes

    def errReceived(self, data):
        log.warn("a child says: {text}", text=data.decode("utf-8", "replace"))

    def dismiss(self):
        self.resumeProducing()  # that it has ended shows only when all it printed has been read
        self.signal("TERM")
        self.killing = self.clock.callLater(GRACE, self.signal, "KILL")

    def signal(self, name):
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess(name)

    def processEnded(self, reason):  # and has been waited for, so that no zombie remains
        self.children.discard(self)
        with suppress(ValueError):  # it has been called: the server stops
            reactor.removeSystemEventTrigger(self.trigger)
        if self.killing and self.killing.active():
            self.killing.cancel()
        self.ended.callback(reason.value)


class Spawned(Resource):
    isLeaf = True
    clock, now, spawn = reactor, time.monotonic, reactor.spawnProcess  # which a test replaces

    def __init__(self):
        super().__init__()
        self.children = set()

    def render_GET(self, request):
        try:
            count, interval, code = (5, 1, MOST), (1.0, 0, LONGEST), (0, 0, 255)
            known = {"exit": code, "stubborn": (False,), "key": ("",)}
            asked = query(request, count=count, interval=interval, **known)
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        if len(self.children) >= CHILDREN:
            return put_off(request, f"{CHILDREN} children run already")
        describe(request, b"application/x-ndjson")
        if request.method == b"HEAD":
            request.finish()
            return NOT_DONE_YET
        return run(request, log, self.pass_on(request, asked))

    async def pass_on(self, request, asked):
        """Start a child, pass on what it prints as it comes, and tell how it ended."""
        began = self.now()
        child = Child(request, self.clock, self.children)
        numbers = [str(float(asked[name])) for name in ("count", "interval", "exit", "stubborn")]
        # No shell, nothing of the server's environment, and no argument that is not a number.
        self.spawn(child, sys.executable, [sys.executable, "-I", "-u", "-c", PROGRAM, *numbers])
        try:
            how = await child.ended
        except CancelledError:
            child.dismiss()
            raise
        last = {"exit": how.exitCode, "signal": how.signal, "took": round(self.now() - began, 3)}
        request.write(json.dumps(last).encode() + b"\n")
        request.unregisterProducer()
        request.finish()


resource = Spawned()
