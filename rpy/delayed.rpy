"""
Wait, then answer.

    GET /delayed.rpy?delay=2

Parameters:

    name   meaning                                        range      default
    delay  seconds to wait before answering               0 to 3600  5
    key    a label for finding the request in the ledger  any text   -

Answer: 200 text/html. The Server-Timing header reports the measured wait in milliseconds:
    "wait;dur=2000.413". HEAD waits just as long.
Errors: 400 with one line that says which parameter is wrong.
Client leaves: the timer is cancelled and the disconnect is logged.

Try it:

    $ twistd -n web --path .
    $ curl -i 'http://127.0.0.1:8080/delayed.rpy?delay=2'
"""

# SPDX-License-Identifier: MIT-0
import time
from urllib.parse import parse_qs

from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

MAX_DELAY = 3600  # seconds
PAGE = b"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Delayed</title></head>
<body>Sorry to keep you waiting.</body></html>
"""


class Delayed(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # replaced in tests

    def render_GET(self, request):
        try:
            params = parse_params(request, "delay", "key")
            delay = number(params, "delay", default=5.0, low=0, high=MAX_DELAY)
        except ValueError as error:
            return error_page(request, 400, error)
        return self.wait(request, delay)

    def wait(self, request, delay):
        """Answer after *delay* seconds, unless the client disconnects first."""
        arrived = self.now()

        def answer():
            set_headers(request, "text/html; charset=utf-8", wait=self.now() - arrived)
            request.setHeader("Content-Length", str(len(PAGE)))
            request.write(PAGE)
            request.finish()

        pending = deferLater(self.clock, delay, answer)  # callLater, as a Deferred
        request.notifyFinish().addErrback(lambda reason: pending.cancel())
        pending.addErrback(report_failure, request)
        return NOT_DONE_YET  # the reactor is free to serve others until the timer fires


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.delayed")


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
resource = Delayed()
