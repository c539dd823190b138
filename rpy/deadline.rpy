"""
Give the work a deadline, and cancel it when that is over.

    GET /deadline.rpy?duration=5&deadline=2

Parameters:

    name      meaning                             range      default
    duration  how long the work takes (seconds)   0 to 3600  5
    deadline  how long it may take (seconds)      0 to 3600  2
    count     steps that the work is done in      1 to 1000  10
    key       a name of your own, for the ledger  any text   -

Answer: application/json, with 200 if the work is done before the deadline, else with 504: "steps"
    that were done, "of" how many, and what they "took" in seconds. Work that takes as long as
    the deadline is late. The header Server-Timing has what it took in milliseconds. HEAD waits
    as long.
Errors: 400 and one line on the parameter that was wrong; 405 or 501 for other methods; 500 if
    the script fails.
Client leaves: the work and its deadline are cancelled at once, and the log has a line.

Try it:

    $ twistd -n web --path .
    $ curl -i 'http://127.0.0.1:8080/deadline.rpy?duration=1'
    $ curl -i 'http://127.0.0.1:8080/deadline.rpy?duration=60'
"""

# SPDX-License-Identifier: MIT-0
import json
import re
import time
from contextlib import suppress
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

recache()  # no state here: a server that keeps scripts in memory may keep this one
log = Logger(namespace="rpy.expired")

LONGEST = 3600  # seconds
MOST = 1000  # steps


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


class Expired(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # which a test replaces

    def render_GET(self, request):
        try:
            duration, deadline = (5.0, 0, LONGEST), (2.0, 0, LONGEST)
            count, key = (10, 1, MOST), ("",)
            asked = query(request, duration=duration, deadline=deadline, count=count, key=key)
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        work = self.finish_by(request, asked["deadline"], asked["duration"], asked["count"])
        return run(request, log, work)

    async def finish_by(self, request, deadline, duration, count):
        """Answer with the work, or without it once the deadline is over."""
        began, steps = self.now(), 0

        async def work():
            nonlocal steps
            while steps < count:
                due = began + duration * ((steps + 1) / count)
                await deferLater(self.clock, max(0, due - self.now()))  # a part of the work, say
                steps += 1

        with suppress(TimeoutError):  # then work() was cancelled where it waited
            await Deferred.fromCoroutine(work()).addTimeout(deadline, self.clock)
        took = self.now() - began
        # Both timers may be due at once, if the reactor was busy: then the clock says who is late.
        in_time = steps == count and took < deadline
        content = {"steps": steps, "of": count, "took": round(took, 3)}
        answer(request, content, 200 if in_time else 504, work=took)


resource = Expired()
