"""
Stream what a child process prints, as it prints it.

    GET /subprocess.rpy?count=5&interval=0.5

Parameters:

    name      meaning                                        range        default
    count     lines the child prints                         1 to 100000  5
    interval  seconds between lines                          0 to 3600    1
    cleanup   seconds the child goes on after SIGTERM        0 to 3600    0
    key       a label for finding the request in the ledger  any text     -

Answer: 200 application/x-ndjson. Each line of the child has its number "n", the child's "pid" and
    when it was "printed", in seconds. The server's last line has the "exit" code or the "signal"
    that ended the child, and the seconds it "took". At most 20 children run; other requests wait.
Errors: 400 with one line that says which parameter is wrong.
Client leaves: the child gets SIGTERM, and SIGKILL if it is still there after 2 s. Then the
    disconnect is logged. If the client stops reading, the child waits as soon as its pipe is full.

Try it:

    $ twistd -n web --path .
    $ curl -N 'http://127.0.0.1:8080/subprocess.rpy?count=3&interval=0.5'
"""

# SPDX-License-Identifier: MIT-0
import json
import sys
import time
from contextlib import suppress
from urllib.parse import parse_qs

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, TimeoutError
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

MAX_LINES, MAX_SECONDS, MAX_CHILDREN = 100_000, 3600, 20


class Subprocess(Resource):
    isLeaf = True
    clock, now, spawn = reactor, time.monotonic, reactor.spawnProcess  # replaced in tests

    def __init__(self):
        super().__init__()
        self.slots = DeferredSemaphore(MAX_CHILDREN)

    def render_GET(self, request):
        try:
            params = parse_params(request, "count", "interval", "cleanup", "key")
            count = number(params, "count", default=5, low=1, high=MAX_LINES)
            interval = number(params, "interval", default=1.0, low=0, high=MAX_SECONDS)
            cleanup = number(params, "cleanup", default=0.0, low=0, high=MAX_SECONDS)
        except ValueError as error:
            return error_page(request, 400, error)
        return run(request, self.stream_output(request, count, interval, cleanup))

    async def stream_output(self, request, *numbers):
        """Start a child, send the client what it prints, and then how it ended."""
        # No shell, none of the server's environment, and only numbers from the client.
        command = [sys.executable, "-I", "-u", "-c", PROGRAM, *map(str, numbers)]
        async with self.slots:
            began, child = self.now(), Child(request)
            set_headers(request, "application/x-ndjson")
            self.spawn(child, sys.executable, command)
            try:
                end = await child.ended
            except CancelledError as error:  # the client disconnected
                await child.stop(self.clock)  # a cancelled coroutine may go on awaiting
                raise error  # before Twisted 24.11, a bare "raise" may raise another one here
        last = {"exit": end.exitCode, "signal": end.signal, "took": round(self.now() - began, 3)}
        request.write(json.dumps(last).encode() + b"\n")
        request.unregisterProducer()
        request.finish()


class Child(ProcessProtocol):
    """Sends a child's output to the client, and reads it only as fast as the client does."""

    def __init__(self, request):
        self.request, self.ended = request, Deferred()

    def connectionMade(self):
        kill = self.transport.signalProcess, "KILL"  # when the server exits, so does the child
        self.trigger = reactor.addSystemEventTrigger("during", "shutdown", *kill)
        self.pauseProducing = self.transport.pauseProducing  # then it waits once its pipe is full
        self.resumeProducing = self.transport.resumeProducing
        self.request.registerProducer(self, True)

    def stopProducing(self):
        """Nothing to do: run() cancels the coroutine when the client disconnects."""

    def outReceived(self, data):
        self.request.write(data)

    def errReceived(self, data):
        log.warn("a child process says: {text}", text=data.decode("utf-8", "replace"))

    def processEnded(self, reason):
        reactor.removeSystemEventTrigger(self.trigger)
        self.ended.callback(reason.value)

    async def stop(self, clock, grace=2):  # seconds from SIGTERM to SIGKILL
        self.resumeProducing()  # processEnded is called when all of the output has been read
        for signal in ("TERM", "KILL"):
            self.ended = Deferred()  # the one before was cancelled
            with suppress(ProcessExitedAlready, TimeoutError):
                self.transport.signalProcess(signal)
                return await self.ended.addTimeout(grace, clock)


PROGRAM = """
import os, signal, sys, time; count, interval, cleanup = map(float, sys.argv[1:])
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends its children
signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # if nothing reads the output, end without a word
signal.signal(signal.SIGTERM, lambda *_: sys.exit(time.sleep(cleanup)))
began, pid = time.monotonic(), os.getpid()
for n in range(int(count)):
    time.sleep(max(0, began + n * interval - time.monotonic()))
    print('{"n": %d, "pid": %d, "printed": %.3f}' % (n + 1, pid, time.monotonic() - began))
"""


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.subprocess")


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


cache()  # keep this resource, and with it the number of children, from request to request
resource = Subprocess()
