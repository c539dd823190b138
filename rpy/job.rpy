"""
Accept a job with 202 and report later what became of it.

    POST /job.rpy?key=a&duration=10
    GET /job.rpy?key=a
    DELETE /job.rpy?key=a

Parameters:

    name      meaning                                        range      default
    key       name of the job; POST makes one up if missing  any text   -
    duration  POST: seconds the job takes                    0 to 3600  10
    keep      POST: seconds to keep it after its end         0 to 3600  60

Answer: application/json. POST starts a job: 202, with the URL to ask in Location. GET: 200, the job's
    "key", "state" (running, done, cancelled or failed), "progress" from 0 to 1, the seconds "left",
    and "result". While it is running, Retry-After has the seconds left, at least 1. Without a key:
    how many jobs are "running" and "ended". DELETE cancels a job: 200, also if it was cancelled.
Errors: 400 with one line that says which parameter is wrong; 404 for an unknown job or any path below
    this one; 409 to POST if the job is running, to DELETE if it is done or failed; 410 if it is no
    longer kept; 503 with Retry-After if 1000 jobs are running.
Kept: 1000 running jobs and the last 1000 that ended. A new job may have the key of one that ended.
Client leaves: the job goes on. Only DELETE cancels it.

Try it:

    $ twistd -n web --path .
    $ curl -i -X POST 'http://127.0.0.1:8080/job.rpy?key=a&duration=2'
    $ sleep 2; curl -i 'http://127.0.0.1:8080/job.rpy?key=a'
"""

# SPDX-License-Identifier: MIT-0
import json
import math
import secrets
import time
from types import SimpleNamespace
from urllib.parse import parse_qs, quote

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource

MAX_WAIT, MAX_JOBS = 3600, 1000  # seconds; jobs that are running, and jobs that ended


class Job(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # replaced in tests

    def __init__(self):
        super().__init__()
        self.running, self.ended = {}, {}  # records by key, in the order of their start or end

    def render(self, request):
        if request.postpath:  # otherwise /job.rpy/a.bat?key=... downloads what others sent
            return error_page(request, 404, "no such page: request job.rpy itself")
        return super().render(request)

    def render_POST(self, request):
        try:
            params = parse_params(request, "key", "duration", "keep")
            duration = number(params, "duration", default=10.0, low=0, high=MAX_WAIT)
            keep = number(params, "keep", default=60.0, low=0, high=MAX_WAIT)
        except ValueError as error:
            return error_page(request, 400, error)
        key = params.get("key") or secrets.token_hex(16)  # which nobody can guess
        if key in self.running:
            return error_page(request, 409, f"job {key[:40]!a} is running: give another key")
        if len(self.running) >= MAX_JOBS:
            return try_later(request, f"{MAX_JOBS} jobs are running")
        job = self.running[key] = SimpleNamespace(key=key, state="running", result=None, keep=keep)
        job.duration, job.due, job.ended = duration, self.now() + duration, None
        self.ended.pop(key, None)
        job.work = Deferred.fromCoroutine(self.work(job))  # it outlives the request
        request.setHeader(b"Location", b"%s?key=%s" % (request.path, quote(key, safe="").encode()))
        return show(request, job, self.now(), 202)

    async def work(self, job):
        """Do a job. No request waits for it, so a disconnect does not cancel it."""
        try:
            await deferLater(self.clock, job.duration)  # your own work goes here
            job.state, job.result, job.due = "done", f"{job.duration:g} seconds of work", self.now()
        except CancelledError:
            job.state = "cancelled"
        except Exception:
            log.failure("job {key!r} failed", key=job.key)
            job.state = "failed"
        job.ended = self.now()
        self.ended[job.key] = self.running.pop(job.key)
        if len(self.ended) > MAX_JOBS:
            del self.ended[next(iter(self.ended))]

    def render_GET(self, request):
        return look_up(self, request)

    def render_DELETE(self, request):
        return look_up(self, request, cancel=True)


def look_up(jobs, request, cancel=False):
    """Answer a GET, or with *cancel*, a DELETE."""
    try:
        key = parse_params(request, "key").get("key", "")
    except ValueError as error:
        return error_page(request, 400, error)
    if not key and not cancel:
        return json_page(request, {"running": len(jobs.running), "ended": len(jobs.ended)})
    job = jobs.running.get(key) or jobs.ended.get(key)
    if job is None:
        return error_page(request, 404, f"no job has the key {key[:40]!a}: start it with POST")
    if job.ended is not None and jobs.now() >= job.ended + job.keep:
        line = f"job {key[:40]!a} was kept for {job.keep:g} s after its end: ask earlier"
        return error_page(request, 410, line)
    if cancel:
        job.work.cancel()  # when this returns, the job has ended
        if job.state != "cancelled":
            line = f"job {key[:40]!a} is {job.state}: only a running job can be cancelled"
            return error_page(request, 409, line)
    return show(request, job, jobs.now())


def show(request, job, now, code=200):
    """Set the headers of a response about *job*; return its body."""
    left = max(0, job.due - (now if job.ended is None else job.ended))
    if job.state == "running":
        request.setHeader("Retry-After", str(max(1, math.ceil(left))))
    progress = round(1 - left / (job.duration or 1), 3)
    content = {"key": job.key, "state": job.state, "progress": progress, "left": round(left, 3)}
    return json_page(request, content | {"result": job.result}, code)


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.job")


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


def try_later(request, message, seconds=1):
    """Set the status and headers of a 503 with Retry-After; return its body."""
    request.setHeader("Retry-After", str(seconds))
    return error_page(request, 503, f"{message}: try again in {seconds} s")


def json_page(request, content, code=200, **timings):
    """Set the status and headers of a JSON response; return its body."""
    request.setResponseCode(code)
    set_headers(request, "application/json", **timings)
    return json.dumps(content).encode() + b"\n"


cache()  # keep this resource, and with it the jobs, from request to request
resource = Job()
