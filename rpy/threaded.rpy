"""
Call a function that blocks, in a thread of a pool.

    GET /threaded.rpy?duration=2
    GET /threaded.rpy?duration=10&deaf
    GET /threaded.rpy?count

Parameters:

    name      meaning                                   range     default
    duration  how long the function blocks (seconds)    0 to 60   2
    deaf      it does not look if its result is wanted  flag      -
    count     tell how many run and wait, in no thread  flag      -
    key       a name of your own, for the ledger        any text  -

Answer: 200 application/json: how long it "waited" for one of 10 threads and "blocked" it, in
    seconds, and the name of that "thread". The header Server-Timing has both together, in
    milliseconds. To "count": how many functions are "running" and how many requests "waiting".
    HEAD is as slow.
Errors: 400 and one line on the parameter that was wrong; 405 or 501 for other methods; 500 if
    the script fails; 503 with Retry-After when 1000 wait already.
Kept: the threads, while there is something to do. The end of the server tells the functions, as if
    the clients had left, and waits for those that are deaf.
Client leaves: one that waits for a thread waits no longer. No thread can be stopped from outside:
    the function is told, and ends within 0.05 s. One that is "deaf" keeps its thread to its own
    end, and what it returns is thrown away. The log has a line.

Try it:

    $ twistd -n web --path .
    $ curl 'http://127.0.0.1:8080/threaded.rpy?duration=1'
    $ curl -m 1 'http://127.0.0.1:8080/threaded.rpy?duration=5&deaf'
    $ curl 'http://127.0.0.1:8080/threaded.rpy?count'
"""

# SPDX-License-Identifier: MIT-0
import json
import re
import threading
import time
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, maybeDeferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

cache()  # from here on only once: the threads must outlive the request
log = Logger(namespace="rpy.threaded")

LONGEST = 60  # seconds, which the end of the server may have to wait
LOOK = 0.05  # seconds after which a function that is not deaf looks whether it is still wanted
THREADS = 10  # of our own: on those of the reactor the look-up of names depends, say
MOST = 1000  # requests that wait for one


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


def block(duration, deaf, unwanted):
    """Block for *duration* seconds, as a driver of a database may; returns thread and seconds."""
    began = time.monotonic()
    while (left := began + duration - time.monotonic()) > 0:
        if unwanted.is_set() and not deaf:
            break
        time.sleep(left if deaf else min(left, LOOK))
    return threading.current_thread().name, time.monotonic() - began


class Threaded(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # which a test replaces

    def __init__(self):
        super().__init__()
        self.pool = ThreadPool(0, THREADS, "threaded")
        self.free = DeferredSemaphore(THREADS)  # the pool has a queue, too, but none can leave it

    def render_GET(self, request):
        try:
            duration = (2.0, 0, LONGEST)
            asked = query(request, duration=duration, deaf=(False,), count=(False,), key=("",))
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        waiting = len(self.free.waiting)
        if asked["count"]:
            return answer(request, {"running": THREADS - self.free.tokens, "waiting": waiting})
        if waiting >= MOST:
            return put_off(request, f"{MOST} wait for a thread")
        if not self.pool.started:
            self.pool.start()
            # Connections are closed before that, so that all functions are told.
            reactor.addSystemEventTrigger("during", "shutdown", self.pool.stop)
        return run(request, log, self.call_in_thread(request, asked["duration"], asked["deaf"]))

    async def call_in_thread(self, request, duration, deaf):
        """Wait for a thread, let it call the function that blocks, and answer with the result."""
        arrived = self.now()
        await self.free.acquire()
        waited, unwanted, result = self.now() - arrived, threading.Event(), Deferred()
        call = (deferToThreadPool, self.clock, self.pool, block, duration, deaf, unwanted)
        # A thread is free when its function has ended, not when nobody waits for that any more.
        maybeDeferred(*call).addBoth(self.ended).chainDeferred(result)
        try:
            thread, blocked = await result
        finally:
            unwanted.set()
        content = {"waited": round(waited, 3), "blocked": round(blocked, 3), "thread": thread}
        answer(request, content, both=waited + blocked)

    def ended(self, result):
        self.free.release()
        if self.free.tokens == THREADS:  # nothing to do: no thread need wait for more
            self.pool.adjustPoolsize(0, 0)
            self.pool.adjustPoolsize(0, THREADS)
        return result


resource = Threaded()
