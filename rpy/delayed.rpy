"""
Wait, then answer.

    GET /delayed.rpy?delay=2

Parameters:

    name   meaning                             range      default
    delay  wait before the answer (seconds)    0 to 3600  5
    key    a name of your own, for the ledger  any text   -

Answer: 200 text/html, one page. The header Server-Timing has the wait as it was measured, in
    milliseconds: "wait;dur=2000.413". HEAD waits as long and gets the headers alone.
Errors: 400 and one line on the parameter that was wrong; 405 or 501 for other methods; 500 if
    the script fails.
Client leaves: the timer is cancelled at once, and the log has a line.

Try it:

    $ twistd -n web --path .
    $ curl -i 'http://127.0.0.1:8080/delayed.rpy?delay=2'
"""

# SPDX-License-Identifier: MIT-0
import re
import time
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

recache()  # no state here: a server that keeps scripts in memory may keep this one
log = Logger(namespace="rpy.delayed")

LONGEST = 3600  # seconds
PAGE = b"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Delayed</title></head>
<body>Sorry to keep you waiting.</body></html>
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


class Delayed(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # which a test replaces

    def render_GET(self, request):
        try:
            asked = query(request, delay=(5.0, 0, LONGEST), key=("",))
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        self.wait(request, asked["delay"])
        return NOT_DONE_YET

    def wait(self, request, delay):
        """Answer in *delay* seconds, unless the client leaves before that."""
        arrived = self.now()

        def answer():
            describe(request, b"text/html; charset=utf-8", wait=self.now() - arrived)
            request.setHeader(b"Content-Length", b"%d" % len(PAGE))
            request.write(PAGE)
            request.finish()

        def left(reason):
            if timer.active():
                timer.cancel()
            log.info("{uri!r}: the client left", uri=request.uri)

        request.notifyFinish().addErrback(left)
        timer = self.clock.callLater(delay, attempt, request, log, answer)


resource = Delayed()
