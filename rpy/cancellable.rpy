"""
Stop working as soon as the client disconnects.

    GET /cancellable.rpy?duration=10&count=20
    GET /cancellable.rpy?show=recent

Parameters:

    name      meaning                                        range            default
    duration  seconds the work takes                         0 to 3600        10
    count     steps the work is done in                      1 to 1000        10
    show      list the jobs instead                          running, recent  -
    key       a label for this job; with show, list only it  any text         -

Answer: 200 application/json when the work is done: the job's "id", "key", "started" (UTC),
    "outcome" (running, finished, cancelled or failed), "steps" done, and "seconds" it took.
    show=running lists the jobs in progress, show=recent the last 100 that ended, oldest first.
    The Server-Timing header reports how long the work took. HEAD works too: for the headers.
Errors: 400 with one line that says which parameter is wrong.
Client leaves: the work stops at once. The job is listed as cancelled, and the log has a line.

Try it:

    $ twistd -n web --path .
    $ curl -m 2 'http://127.0.0.1:8080/cancellable.rpy?duration=10'
    $ curl 'http://127.0.0.1:8080/cancellable.rpy?show=recent'
"""

# SPDX-License-Identifier: MIT-0
import itertools
import json
import time
from collections import deque
from datetime import datetime, timezone
from urllib.parse import parse_qs

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

MAX_DURATION = 3600  # seconds
MAX_STEPS = 1000
MAX_RECENT = 100  # jobs that have ended


class Cancellable(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # replaced in tests

    def __init__(self):
        super().__init__()
        self.ids, self.running, self.recent = itertools.count(1), {}, deque(maxlen=MAX_RECENT)

    def render_GET(self, request):
        if request.postpath:  # otherwise /cancellable.rpy/a.bat?key=... downloads the client's text
            return error_page(request, 404, "no such page: request cancellable.rpy itself")
        try:
            params = parse_params(request, "duration", "count", "show", "key")
            duration = number(params, "duration", default=10.0, low=0, high=MAX_DURATION)
            count = number(params, "count", default=10, low=1, high=MAX_STEPS)
            show = choice(params, "show", "", "running", "recent")
        except ValueError as error:
            return error_page(request, 400, error)
        key = params.get("key", "")
        if show:
            jobs = self.recent if show == "recent" else self.running.values()
            return json_page(request, [job for job in jobs if key in ("", job["key"])])
        return run(request, self.work(request, duration, count, key))

    async def work(self, request, duration, count, key):
        """Do *count* steps in *duration* seconds; stop when the client disconnects."""
        began, started = self.now(), datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        job = {"id": next(self.ids), "key": key, "started": started, "outcome": "running"}
        self.running[job["id"]] = job
        outcome = "failed"  # unless one of the next two says otherwise
        try:
            for job["steps"] in range(count):
                due = began + duration * (job["steps"] + 1) / count
                await deferLater(self.clock, max(0, due - self.now()))  # your own work goes here
            job["steps"] = count
            outcome = "finished"
        except CancelledError:  # raised by the await, because run() cancels this coroutine
            outcome = "cancelled"
            raise
        finally:
            job.update(outcome=outcome, seconds=round(self.now() - began, 4))
            self.recent.append(self.running.pop(job["id"]))
        request.write(json_page(request, job, work=job["seconds"]))
        request.finish()


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.cancellable")


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


def choice(params, name, default, *allowed):
    """Return one of the words in *allowed*, or *default* if the parameter is missing."""
    text = params.get(name, default)
    if name in params and text not in allowed:
        raise ValueError(f"invalid {name} {text[:40]!a}: give {' or '.join(allowed)}")
    return text


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


cache()  # keep this resource, and with it the lists of jobs, from request to request
resource = Cancellable()
