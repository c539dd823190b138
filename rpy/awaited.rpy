"""
Await three lookups, one after another or at once.

    GET /awaited.rpy?delay=1
    GET /awaited.rpy?delay=1&together=1

Parameters:

    name      meaning                               range      default
    delay     how long each lookup takes (seconds)  0 to 3600  1
    together  look up all at once                   flag       -
    key       a name of your own, for the ledger    any text   -

Answer: 200 application/json: "lookups", each with its "name" and when it "began" and "ended" in
    seconds from the request's arrival, "sum", what they took taken together, and "took", what
    the client waited for. The header Server-Timing has that in milliseconds. HEAD waits as long.
Errors: 400 and one line on the parameter that was wrong; 405 or 501 for other methods; 500 if
    the script fails.
Client leaves: every lookup that goes on is cancelled at once, and the log has a line.

Try it:

    $ twistd -n web --path .
    $ curl 'http://127.0.0.1:8080/awaited.rpy?delay=1'
    $ curl 'http://127.0.0.1:8080/awaited.rpy?delay=1&together=1'
"""

# SPDX-License-Identifier: MIT-0
import json
import re
import time
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

recache()  # no state here: a server that keeps scripts in memory may keep this one
log = Logger(namespace="rpy.awaited")

LONGEST = 3600  # seconds
NAMES = ("the user", "the orders", "the weather")


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


class Awaited(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # which a test replaces

    def render_GET(self, request):
        try:
            asked = query(request, delay=(1.0, 0, LONGEST), together=(False,), key=("",))
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        return run(request, log, self.collect(request, asked["delay"], asked["together"]))

    async def collect(self, request, delay, together):
        """Look three things up, each of which takes *delay* seconds, and answer with them all."""
        arrived = self.now()

        async def look_up(name):
            began = self.now() - arrived
            await deferLater(self.clock, delay)  # a database would be asked here, say
            return {"name": name, "began": round(began, 3), "ended": round(self.now() - arrived, 3)}

        if together:  # all begin; the result is there with the last of theirs
            lookups = [Deferred.fromCoroutine(look_up(name)) for name in NAMES]
            try:
                found = await gatherResults(lookups, consumeErrors=True)
            except FirstError as first:  # in which the error of one is wrapped
                first.subFailure.raiseException()
        else:  # each begins when the one before has ended
            found = [await look_up(name) for name in NAMES]
        took = self.now() - arrived
        spent = sum(each["ended"] - each["began"] for each in found)
        content = {"lookups": found, "sum": round(spent, 3), "took": round(took, 3)}
        answer(request, content, lookups=took)


resource = Awaited()
