"""
Stop working when the client has left.

    GET /cancellable.rpy?duration=10&count=20
    GET /cancellable.rpy?show=recent

Parameters:

    name      meaning                                                range           default
    duration  how long the work takes (seconds)                      0 to 3600       10
    count     steps that the work is done in                         1 to 1000       10
    show      a list of work instead: what goes on, has ended   running, recent  -
    key       your name for this work; with "show", list only those  any text        -

Answer: 200 application/json, when the work is done: "id", "key", "started" (UTC), "outcome"
    (running, finished or cancelled), "seconds" since the start, "steps" done. "show" gives a
    list of these: all that is running, or the last 100 that ended, oldest first. The header
    Server-Timing has the length of the work in milliseconds. HEAD works too: for the headers.
Errors: 400 and one line on the parameter that was wrong; 405 or 501 for other methods; 500 if
    the script fails, or an aborted connection if bytes are out.
Client leaves: the work is cancelled at once, which "show=recent" and a line in the log tell.

Try it:

    $ twistd -n web --path .
    $ curl -m 2 'http://127.0.0.1:8080/cancellable.rpy?duration=10'
    $ curl 'http://127.0.0.1:8080/cancellable.rpy?show=recent'
"""

# SPDX-License-Identifier: MIT-0
import itertools
import json
import re
import time
from collections import deque
from datetime import datetime, timezone
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

cache()  # from here on only once: the lists below must outlive the request
log = Logger(namespace="rpy.cancellable")

LONGEST = 3600  # seconds
MOST = 1000  # steps
KEPT = 100  # pieces of work that have ended


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


class Cancellable(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # which a test replaces

    def __init__(self):
        super().__init__()
        self.ids, self.running, self.recent = itertools.count(1), {}, deque(maxlen=KEPT)

    def render_GET(self, request):
        try:
            duration, count, show = (10.0, 0, LONGEST), (10, 1, MOST), ("", "running", "recent")
            asked = query(request, duration=duration, count=count, show=show, key=("",))
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        if asked["show"]:
            listed = self.recent if asked["show"] == "recent" else self.running.values()
            self.answer(request, [job for job in listed if asked["key"] in ("", job["key"])])
        else:
            self.work(request, asked["duration"], asked["count"], asked["key"])
        return NOT_DONE_YET

    def answer(self, request, content, **waits):
        describe(request, b"application/json", **waits)
        request.write(json.dumps(content).encode() + b"\n")
        request.finish()

    def work(self, request, duration, count, key):
        """Do *count* steps in *duration* seconds, and stop as soon as the client has left."""
        began, at = self.now(), datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        job = {"id": next(self.ids), "key": key, "started": at, "outcome": "running", "steps": 0}
        self.running[job["id"]] = job

        def plan():
            due = began + duration * (job["steps"] + 1) / count
            return self.clock.callLater(max(0, due - self.now()), attempt, request, log, step)

        def step():
            nonlocal timer
            job["steps"] += 1  # this is the work: put your own here, a piece at a time
            if job["steps"] < count:
                timer = plan()
            else:
                end("finished")
                self.answer(request, job, work=self.now() - began)

        def end(outcome):
            job.update(outcome=outcome, seconds=round(self.now() - began, 4))
            self.recent.append(self.running.pop(job["id"]))

        def stop(reason):
            if job["outcome"] == "running":  # so this is not our own finish: nobody waits any more
                end("cancelled")
                if timer.active():
                    timer.cancel()
                log.info("{uri!r} cancelled in step {n}", uri=request.uri, n=job["steps"] + 1)

        request.notifyFinish().addBoth(stop)
        timer = plan()


resource = Cancellable()
