"""
Give work a deadline, and cancel it when the time is up.

    GET /deadline.rpy?duration=5&deadline=2

Parameters:

    name      meaning                                        range      default
    duration  seconds the work takes                         0 to 3600  5
    deadline  seconds it may take                            0 to 3600  2
    count     steps the work is done in                      1 to 1000  10
    key       a label for finding the request in the ledger  any text   -

Answer: application/json, with 200 if the work was done before the deadline and with 504 if not:
    "steps" done, "of" how many, and the seconds the work "took". Work that takes exactly as long
    as the deadline is late. The Server-Timing header reports what it took. HEAD waits just as long.
Errors: 400 with one line that says which parameter is wrong.
Client leaves: the work and its deadline are cancelled and the disconnect is logged.

Try it:

    $ twistd -n web --path .
    $ curl -i 'http://127.0.0.1:8080/deadline.rpy?duration=1'
    $ curl -i 'http://127.0.0.1:8080/deadline.rpy?duration=60'
"""

# SPDX-License-Identifier: MIT-0
import json
import time
from contextlib import suppress
from urllib.parse import parse_qs

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

MAX_DURATION = 3600  # seconds
MAX_STEPS = 1000


class Deadline(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # replaced in tests

    def render_GET(self, request):
        try:
            params = parse_params(request, "duration", "deadline", "count", "key")
            duration = number(params, "duration", default=5.0, low=0, high=MAX_DURATION)
            deadline = number(params, "deadline", default=2.0, low=0, high=MAX_DURATION)
            count = number(params, "count", default=10, low=1, high=MAX_STEPS)
        except ValueError as error:
            return error_page(request, 400, error)
        return run(request, self.finish_by(request, deadline, duration, count))

    async def finish_by(self, request, deadline, duration, count):
        """Answer when the work is done, or after *deadline* seconds with how far it got."""
        began, progress = self.now(), {"steps": 0, "of": count}
        work = Deferred.fromCoroutine(self.work(began, duration, progress))
        work.addTimeout(deadline, self.clock)  # a timer that cancels the work
        with suppress(TimeoutError):  # what addTimeout makes of the work's CancelledError
            await work
        took = self.now() - began
        # A busy reactor may find both timers due at once and call the work's first: that is late.
        in_time = progress["steps"] == count and took < deadline
        progress["took"] = round(took, 3)
        request.write(json_page(request, progress, code=200 if in_time else 504, work=took))
        request.finish()

    async def work(self, began, duration, progress):
        """Do the work in steps; being cancelled raises CancelledError at the await."""
        count = progress["of"]
        for step in range(1, count + 1):
            due = began + duration * (step / count)
            await deferLater(self.clock, max(0, due - self.now()))  # your own work goes here
            progress["steps"] = step


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.deadline")


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


recache()  # stateless, so `tarry serve` may reuse this resource; plain twistd ignores this
resource = Deadline()
