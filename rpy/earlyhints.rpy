"""
Hint at what the page will need, then send it.

    GET /earlyhints.rpy?delay=2
    GET /earlyhints.rpy?count=3&interval=0.5

Parameters:

    name      meaning                                        range      default
    delay     seconds from the last hint to the page         0 to 3600  1
    count     number of hints                                0 to 10    1
    interval  seconds between hints                          0 to 3600  0
    key       a label for finding the request in the ledger  any text   -

Answer: first "count" times 103 Early Hints, the first at once. Each has a Link header, so that the
    client can load a style sheet (there is none) before the page arrives. Then 200 text/html with
    the same Link. The Server-Timing header reports the whole wait. HEAD gets hints and headers. A
    client of HTTP/1.0 waits as long, but gets no hints: it would take the first for the answer.
Errors: 400 with one line that says which parameter is wrong.
Client leaves: the timer is cancelled and the disconnect is logged.

Try it:

    $ twistd -n web --path .
    $ curl -i 'http://127.0.0.1:8080/earlyhints.rpy?delay=2'
"""

# SPDX-License-Identifier: MIT-0
import time
from urllib.parse import parse_qs

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

MAX_WAIT, MAX_HINTS = 3600, 10  # MAX_WAIT: seconds
LINK = b"</style.css>; rel=preload; as=style"
PAGE = b"""<!DOCTYPE html>
<html lang="en"><head><title>Hinted</title><link rel="stylesheet" href="/style.css"></head>
<body><p>The client was told of this page's style sheet before the page.</p></body></html>
"""


class Earlyhints(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # replaced in tests

    def render_GET(self, request):
        try:
            params = parse_params(request, "delay", "count", "interval", "key")
            delay = number(params, "delay", default=1.0, low=0, high=MAX_WAIT)
            count = number(params, "count", default=1, low=0, high=MAX_HINTS)
            interval = number(params, "interval", default=0.0, low=0, high=MAX_WAIT)
        except ValueError as error:
            return error_page(request, 400, error)
        return run(request, self.hint(request, delay, count, interval))

    async def hint(self, request, delay, count, interval):
        """Send informational responses (RFC 8297), then the final one (RFC 9110, section 15.2)."""
        arrived, due = self.now(), 0
        for n in range(count):
            due = n * interval
            await deferLater(self.clock, max(0, arrived + due - self.now()))
            if request.clientproto != b"HTTP/1.0":
                # A request can write only one response, so this goes to the channel below it.
                hints = Headers({b"Link": [LINK]})
                request.channel.writeHeaders(b"HTTP/1.1", b"103", b"Early Hints", hints)
        await deferLater(self.clock, max(0, arrived + due + delay - self.now()))
        set_headers(request, "text/html; charset=utf-8", wait=self.now() - arrived)
        request.setHeader(b"Link", LINK)
        request.write(PAGE)
        request.finish()


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.earlyhints")


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


recache()  # stateless, so `tarry serve` may reuse this resource; plain twistd ignores this
resource = Earlyhints()
