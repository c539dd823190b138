"""
Accept a job with 202, and tell later what became of it.

    POST /job.rpy?duration=10
    GET /job.rpy?key=a
    DELETE /job.rpy?key=a

Parameters:

    name      meaning                                              range      default
    key       the job's name; to POST, made up if not given        any text   -
    duration  POST: how long the job takes (seconds)               0 to 3600  10
    keep      POST: how long one can ask after its end (seconds)   0 to 3600  60

Answer: to POST, once the job is started: 202 with Location, this address with the job's "key",
    percent-encoded. A made-up key cannot be guessed. All answers are application/json: "key",
    "state" (running, done, cancelled or failed), "progress" from 0 to 1, "left" in seconds, and
    "result", which is null until it is done. While it is running, Retry-After has "left" as whole
    seconds, at least 1. To GET, 200 whatever the state is; without a "key": "running" and
    "ended", how many jobs there are. To DELETE, 200: it is cancelled, now or before. HEAD is
    answered like GET.
Errors: 400 and one line on the parameter that was wrong; 404 if there is no such job; 410 if it
    ended longer than its "keep" ago; 409 to POST if a job of that name is running, to DELETE if it
    is done or failed; 405 or 501 for other methods; 500 if the script fails; 503 with Retry-After,
    when the first will end, if 1000 jobs are running.
Kept: 1000 running jobs, and 1000 ended ones, of which the one that ended first goes first: it is
    404 then, like one that never was. A new job may have the name of an ended one, and replaces
    it. Jobs are in one process: where a load balancer goes by "key", give one to POST, too.
Client leaves: the job goes on, as it is nobody's request: only DELETE ends it, or the server's end.

Try it:

    $ twistd -n web --path .
    $ curl -i -X POST 'http://127.0.0.1:8080/job.rpy?key=a&duration=2'
    $ curl -i 'http://127.0.0.1:8080/job.rpy?key=a' && sleep 2
    $ curl 'http://127.0.0.1:8080/job.rpy?key=a'
    $ curl -X POST 'http://127.0.0.1:8080/job.rpy?key=b'
    $ curl -X DELETE 'http://127.0.0.1:8080/job.rpy?key=b'
"""

# SPDX-License-Identifier: MIT-0
import json
import math
import re
import secrets
import time
from urllib.parse import parse_qsl, quote

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

cache()  # from here on only once: the jobs must outlive the request
log = Logger(namespace="rpy.accepted")

LONGEST = 3600  # seconds
RUNNING = 1000  # jobs
ENDED = 1000  # jobs


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


def answer(request, content, code=200, **waits):
    """Answer with *content* as JSON; *waits* as in describe."""
    request.setResponseCode(code)
    describe(request, b"application/json", **waits)
    request.write(json.dumps(content).encode() + b"\n")
    request.finish()
    return NOT_DONE_YET


class Job:
    state, result, ended = "running", None, None

    def __init__(self, key, began, duration, keep):
        self.key, self.began, self.duration, self.keep = key, began, duration, keep

    def left(self, now):
        """Seconds until it is done; of one that has ended otherwise, what was left then."""
        if self.state == "done":
            return 0
        return max(0, self.began + self.duration - (now if self.ended is None else self.ended))


class Accepted(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # which a test replaces

    def __init__(self):
        super().__init__()
        self.running, self.ended = {}, {}  # jobs by key, each in the order in which they became so

    def render_POST(self, request):
        try:
            duration, keep = (10.0, 0, LONGEST), (60.0, 0, LONGEST)
            asked = query(request, key=("",), duration=duration, keep=keep)
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        key = asked["key"] or secrets.token_hex(16)
        if key in self.running:
            return refuse(request, 409, f"a job {key[:40]!a} is running: give another key")
        if len(self.running) >= RUNNING:
            left = min(job.left(self.now()) for job in self.running.values())
            return put_off(request, f"{RUNNING} jobs are running", max(1, math.ceil(left)))
        job = Job(key, self.now(), asked["duration"], asked["keep"])
        self.start(job)
        # For 202 no RFC says what Location is: by custom, where to ask. It is the path asked for,
        # of which what follows one slash is a path; what follows two would be another host.
        path = b"/" + request.path.lstrip(b"/")
        request.setHeader(b"Location", b"%s?key=%s" % (path, quote(key, safe="").encode()))
        return self.tell(request, job, 202)

    def render_GET(self, request):
        return self.of_job(request, self.tell)

    def render_DELETE(self, request):
        return self.of_job(request, self.cancel)

    def of_job(self, request, then):
        try:
            key = query(request, key=("",))["key"]
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        if not key and request.method != b"DELETE":
            return answer(request, {"running": len(self.running), "ended": len(self.ended)})
        job = self.running.get(key) or self.ended.get(key)
        if job is None:
            return refuse(request, 404, f"there is no job {key[:40]!a}: start one with POST")
        if job.ended is not None and self.now() >= job.ended + job.keep:
            return refuse(request, 410, f"{key[:40]!a} ended {job.keep:g} or more seconds ago")
        return then(request, job)

    def cancel(self, request, job):
        if job.state == "running":
            job.work.cancel()  # by when this returns, it has ended
        if job.state != "cancelled":
            return refuse(request, 409, f"{job.key[:40]!a} is {job.state}: it cannot be cancelled")
        return self.tell(request, job)

    def tell(self, request, job, code=200):
        left = job.left(self.now())
        if job.state == "running":
            request.setHeader(b"Retry-After", b"%d" % max(1, math.ceil(left)))
        content = {
            "key": job.key,
            "state": job.state,
            "progress": round(1 - left / (job.duration or 1), 3),
            "left": round(left, 3),
            "result": job.result,
        }
        return answer(request, content, code)

    def start(self, job):
        """Begin the work without waiting for it: its Deferred is the job's, not a request's."""
        self.running[job.key] = job
        self.ended.pop(job.key, None)
        job.work = Deferred.fromCoroutine(self.carry_out(job))

    async def carry_out(self, job):
        try:
            job.result = await self.work(job)
            job.state = "done"
        except CancelledError:
            job.state = "cancelled"
        except Exception:
            log.failure("job {key!r} failed", key=job.key)
            job.state = "failed"
        job.ended = self.now()
        del self.running[job.key]
        self.ended[job.key] = job
        if len(self.ended) > ENDED:
            del self.ended[next(iter(self.ended))]

    async def work(self, job):
        """What takes so long: here it only waits."""
        await deferLater(self.clock, job.duration)
        return f"{job.duration:g} seconds of work"


resource = Accepted()
