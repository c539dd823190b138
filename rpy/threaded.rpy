"""
Call a function that blocks, in a thread.

    GET /threaded.rpy?duration=2
    GET /threaded.rpy?duration=10&stubborn
    GET /threaded.rpy?show

Parameters:

    name      meaning                                             range     default
    duration  seconds the function blocks its thread              0 to 60   2
    stubborn  the function never checks whether it should stop    flag      -
    show      tell how many threads are busy, without taking one  flag      -
    key       a label for finding the request in the ledger       any text  -

Answer: 200 application/json: the seconds the request "waited" for one of 8 threads, the seconds
    the function "blocked" it, and the thread's name. The Server-Timing header reports their sum.
    With "show": how many functions are "running" and how many requests "waiting". HEAD waits too.
Errors: 400 with one line that says which parameter is wrong. 503 with Retry-After if 1000 requests
    are waiting for a thread.
Client leaves: the disconnect is logged. A request that waits for a thread leaves the queue. A
    running function sees it and returns within 0.05 s. A stubborn one keeps its thread for its
    whole duration, and delays the exit of the server as well.

Try it:

    $ twistd -n web --path .
    $ curl -m 1 'http://127.0.0.1:8080/threaded.rpy?duration=5&stubborn'
    $ curl 'http://127.0.0.1:8080/threaded.rpy?show'
"""

# SPDX-License-Identifier: MIT-0
import json
import threading
import time
from urllib.parse import parse_qs

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

MAX_DURATION = 60  # seconds: a server that stops waits for its threads
MAX_THREADS = 8  # of the reactor's 10: it needs some for other things, such as name lookups
MAX_WAITING = 1000  # requests


class Threaded(Resource):
    isLeaf = True
    clock, now, pool = reactor, time.monotonic, reactor.getThreadPool()  # replaced in tests

    def __init__(self):
        super().__init__()
        self.threads = DeferredSemaphore(MAX_THREADS)

    def render_GET(self, request):
        try:
            params = parse_params(request, "duration", "stubborn", "show", "key")
            duration = number(params, "duration", default=2.0, low=0, high=MAX_DURATION)
            stubborn, show = flag(params, "stubborn"), flag(params, "show")
        except ValueError as error:
            return error_page(request, 400, error)
        running, waiting = MAX_THREADS - self.threads.tokens, len(self.threads.waiting)
        if show:
            return json_page(request, {"running": running, "waiting": waiting})
        if waiting >= MAX_WAITING:
            return try_later(request, f"{waiting} requests are waiting for a thread")
        return run(request, self.call_in_thread(request, duration, stubborn))

    async def call_in_thread(self, request, duration, stubborn):
        """Wait for a free thread, have it call block(), then answer."""
        arrived, unwanted = self.now(), threading.Event()
        await self.threads.acquire()  # "async with" would release it when the client disconnects
        waited = self.now() - arrived

        def call():  # in the thread, where nothing of Twisted may be called but callFromThread
            try:
                return block(duration, stubborn, unwanted)
            finally:  # only now is the thread free
                self.clock.callFromThread(self.threads.release)

        try:
            # The same as deferToThread(call): a Deferred that fires when call() has returned.
            thread, blocked = await deferToThreadPool(self.clock, self.pool, call)
        finally:
            unwanted.set()  # cancelling the Deferred doesn't stop the function: it has to look
        content = {"waited": round(waited, 3), "blocked": round(blocked, 3), "thread": thread}
        request.write(json_page(request, content, total=waited + blocked))
        request.finish()


def block(duration, stubborn, unwanted):
    """Block, as a database driver may; return the thread's name and for how many seconds."""
    began = time.monotonic()
    while (left := began + duration - time.monotonic()) > 0:
        if unwanted.is_set() and not stubborn:
            break
        time.sleep(left if stubborn else min(left, 0.05))
    return threading.current_thread().name, time.monotonic() - began


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.threaded")


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


cache()  # keep this resource, and with it the count of free threads, from request to request
resource = Threaded()
