"""
Hint at what the page will need, then send it.

    GET /earlyhints.rpy?delay=2
    GET /earlyhints.rpy?count=3&interval=0.5

Parameters:

    name      meaning                                   range      default
    delay     from the last hint to the page (seconds)  0 to 3600  1
    count     how many hints                            0 to 10    1
    interval  from one hint to the next (seconds)       0 to 3600  0
    key       a name of your own, for the ledger        any text   -

Answer: 103 Early Hints, as often as "count" says, the first at once. Each has a Link header by
    which the client can load a style sheet (there is none) while the page is made. Then 200
    text/html with the same Link, and Server-Timing, the whole wait in milliseconds. A client of
    HTTP/1.0 gets no hints, as it would take the first for the answer, but waits as long. HEAD
    gets hints and headers.
Errors: 400 and one line on the parameter that was wrong; 405 or 501 for other methods; 500 if
    the script fails.
Client leaves: the timer is cancelled at once, and the log has a line.

Try it:

    $ twistd -n web --path .
    $ curl -i 'http://127.0.0.1:8080/earlyhints.rpy?delay=2'
"""

# SPDX-License-Identifier: MIT-0
import re
import time
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

recache()  # no state here: a server that keeps scripts in memory may keep this one
log = Logger(namespace="rpy.hinted")

LONGEST = 3600  # seconds
MOST = 10  # hints
LINK = b"</style.css>; rel=preload; as=style"
PAGE = b"""<!DOCTYPE html>
<html lang="en"><head><title>Hinted</title><link rel="stylesheet" href="/style.css"></head>
<body><p>The style sheet of this page was hinted at.</p></body></html>
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


class Hinted(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # which a test replaces

    def render_GET(self, request):
        try:
            delay, interval = (1.0, 0, LONGEST), (0.0, 0, LONGEST)
            asked = query(request, delay=delay, count=(1, 0, MOST), interval=interval, key=("",))
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        return run(request, log, self.hint(request, asked))

    async def hint(self, request, asked):
        """Send informational responses (RFC 8297), then the response itself (RFC 9110, 15.2)."""
        arrived, due = self.now(), 0
        for n in range(asked["count"]):
            due = n * asked["interval"]
            await deferLater(self.clock, max(0, arrived + due - self.now()))
            if request.clientproto != b"HTTP/1.0":
                # The channel, as the request itself can be told of one response only.
                hints = Headers({b"Link": [LINK]})
                request.channel.writeHeaders(b"HTTP/1.1", b"103", b"Early Hints", hints)
        await deferLater(self.clock, max(0, arrived + due + asked["delay"] - self.now()))
        describe(request, b"text/html; charset=utf-8", wait=self.now() - arrived)
        request.setHeader(b"Link", LINK)
        request.write(PAGE)
        request.finish()


resource = Hinted()
