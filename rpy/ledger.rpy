"""
Show what became of each request, as the server saw it.

    GET /ledger.rpy?outcome=left&key=a
    GET /ledger.rpy?await=left&key=a&timeout=5
    GET /ledger.rpy?summary
    DELETE /ledger.rpy?key=a

Parameters:

    name     meaning                                        range                default
    key      only with this key, or X-Tarry-Key header      any text             -
    path     only for this path, like /delayed.rpy          any text             -
    outcome  pending, finished, left, aborted or failed     one of these         -
    since    only after the request with this id            0 to 10000000000000  0
    await    wait until there is one with this outcome      an outcome           -
    timeout  how long to wait for it (seconds)              0 to 3600            10
    summary  counts instead, also of those not reading      flag                 -

Answer: 200 application/json, a list of entries, in the order of arrival: "arrived" is in seconds
    since 1970; "first_byte", "last_byte", "end" and the first of each of "writes" in milliseconds
    after that. With "await": the first such entry, at once if there is one already; 408 and what
    was awaited if none came. DELETE forgets those that have ended: {"forgotten": 3}. With the
    header Accept: text/event-stream: each such entry from now on, as it is opened and as it ends.
    Requests for this script are left out, unless "path" names it.
Errors: 400 and one line on the parameter that was wrong; 405 or 501 for other methods; 503 if no
    ledger is kept: `tarry serve` keeps one, plain `twistd web` does not.
Client leaves: it waits for nothing any more. A stream that is not read leaves entries out and
    says how many: event: missed.

Try it:

    $ tarry serve
    $ curl 'http://127.0.0.1:8080/ledger.rpy?summary'
"""

# SPDX-License-Identifier: MIT-0
import json
import re
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

recache()  # no state here: the ledger is the server's
log = Logger(namespace="rpy.ledger")

LONGEST = 3600  # seconds
MOST = 10**13  # the id of a request
HEARTBEAT = 15  # seconds without news on a stream, so that it shows whether the client is there
OUTCOMES = ("pending", "finished", "left", "aborted", "failed")


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


@implementer(IPushProducer)
class Following:
    """A stream of server-sent events, one for each entry that is opened or has ended."""

    def __init__(self, request, clock, ledger, wanted):
        self.request, self.clock, self.wanted = request, clock, wanted
        self.missed, self.paused = 0, False
        self.timer = clock.callLater(HEARTBEAT, self.beat)
        self.unwatch = ledger.watch(self.tell)
        request.notifyFinish().addBoth(self.stop)
        describe(request, b"text/event-stream")
        request.registerProducer(self, True)
        request.write(b": one event for each request that begins or ends\n\n")

    def tell(self, entry):
        if not self.wanted(entry):
            return
        self.missed += self.paused
        if not self.paused:
            text = json.dumps(entry.as_dict())
            event = f"id: {entry.id}\nevent: {entry.outcome}\ndata: {text}\n\n"
            self.request.write(event.encode())

    def beat(self):
        self.timer = self.clock.callLater(HEARTBEAT, self.beat)
        if not self.paused:
            self.request.write(b": still here\n\n")

    def pauseProducing(self):
        self.paused = True

    def resumeProducing(self):
        self.paused, missed, self.missed = False, self.missed, 0
        if missed:
            self.request.write(b"event: missed\ndata: %d\n\n" % missed)

    def stopProducing(self):
        self.paused = True

    def stop(self, reason):
        self.unwatch()
        self.timer.cancel()


class Ledger(Resource):
    isLeaf = True
    clock = reactor  # which a test replaces

    def render(self, request):
        if getattr(request.site, "ledger", None) is None:
            return refuse(
                request, 503, "no ledger: serve this folder with 'tarry serve DIR' to have one"
            )
        if request.site.ledger.most == 0:
            return refuse(request, 503, "no ledger: serve without '--ledger 0' to have one")
        return super().render(request)

    def render_GET(self, request):
        try:
            asked = self.ask(
                request,
                key=("",),
                path=("",),
                outcome=("", *OUTCOMES),
                since=(0, 0, MOST),
                timeout=(10.0, 0, LONGEST),
                summary=(False,),
                **{"await": ("", *OUTCOMES)},
            )
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        ledger, wanted = request.site.ledger, self.filter(request, asked)
        if asked["summary"]:
            return self.answer(request, 200, ledger.summary())
        if request.getHeader(b"Accept") == b"text/event-stream":
            Following(request, self.clock, ledger, wanted)
            return NOT_DONE_YET
        found = [entry.as_dict() for entry in ledger.entries() if wanted(entry)]
        if not asked["await"]:
            return self.answer(request, 200, found)
        if found:
            return self.answer(request, 200, found[0])
        self.wait(request, ledger, wanted, asked)
        return NOT_DONE_YET

    def render_DELETE(self, request):
        try:
            asked = self.ask(request, key=("",), path=("",), outcome=("", *OUTCOMES[1:]))
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        forgotten = request.site.ledger.forget(self.filter(request, asked))
        return self.answer(request, 200, {"forgotten": forgotten})

    def ask(self, request, **known):
        asked = query(request, **known)
        if asked["path"] and not asked["path"].startswith("/"):
            raise ValueError(
                f"path={asked['path'][:40]!a} is not allowed: give one like /delayed.rpy"
            )
        return asked

    def filter(self, request, asked):
        """A function that tells of an entry whether it was *asked* for."""
        about = {"key": asked["key"], "path": asked["path"]}
        about["outcome"] = asked.get("await") or asked["outcome"]
        ours = b"" if asked["path"] else request.path  # nobody is looking for who looked here

        def wanted(entry):
            later = entry.id > asked.get("since", 0)
            return later and entry.path != ours and request.site.ledger.matches(entry, **about)

        return wanted

    def wait(self, request, ledger, wanted, asked):
        """Answer as soon as there is an entry that is *wanted*, or with 408 if none comes."""

        def came(entry):
            if wanted(entry):
                self.answer(request, 200, entry.as_dict())

        def none_came():
            told = {name: asked[name] for name in ("await", "key", "path", "since", "timeout")}
            self.answer(request, 408, {**told, "error": "none came"})

        def stop(reason):
            unwatch()
            if timer.active():
                timer.cancel()

        unwatch = ledger.watch(came)
        timer = self.clock.callLater(asked["timeout"], attempt, request, log, none_came)
        request.notifyFinish().addBoth(stop)

    def answer(self, request, code, content):
        request.setResponseCode(code)
        describe(request, b"application/json")
        request.write(json.dumps(content).encode() + b"\n")
        request.finish()
        return NOT_DONE_YET


resource = Ledger()
