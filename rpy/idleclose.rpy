"""
Answer at once, then end the idle connection unannounced.

    GET /idleclose.rpy?after=2
    GET /idleclose.rpy?after=2&how=reset

Parameters:

    name   meaning                               range         default
    after  from the answer to the end (seconds)  0 to 3600     5
    how    it ends: FIN or RST                   close, reset  close
    key    a name of your own, for the ledger    any text      -

Answer: 200 application/json with a Content-Length: "how" and "after". The connection stays open
    for more requests, and ends when "after" is over, without a "Connection: close", and even if
    a request is being answered then. The last request to this script on a connection says when
    and how; until then all requests are answered as ever. The limit that the server itself has
    for idle connections is lifted, until another request was answered. A client that asks by
    HTTP/1.0 or sends "Connection: close" gets just that. HEAD gets the headers alone.
Errors: 400 and one line on the parameter that was wrong, and on HTTP/2, where connections are
    shared; 405 or 501 for other methods; 500 if the script fails.
Kept: a timer for each connection that is to end.
Client leaves: its timer is cancelled at once, and the log has a line.

Try it:

    $ twistd -n web --path .
    $ curl -i 'http://127.0.0.1:8080/idleclose.rpy?after=2&how=reset'
"""

# SPDX-License-Identifier: MIT-0
import json
import re
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

cache()  # from here on only once: the timers must outlive the request
log = Logger(namespace="rpy.idled")

LONGEST = 3600  # seconds


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


async def sent(clock):
    """Wait for the turns of the reactor in which what was written is sent: an abort drops it."""
    for _ in range(2):
        await deferLater(clock, 0)


class Idled(Resource):
    isLeaf = True
    clock = reactor  # which a test replaces

    def __init__(self):
        super().__init__()
        self.ending = {}  # by channel: what will end its connection

    def render_GET(self, request):
        try:
            how = ("close", "close", "reset")
            asked = query(request, after=(5.0, 0, LONGEST), how=how, key=("",))
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        if request.transport is None:
            return refuse(request, 400, "this needs HTTP/1: ask for it without HTTP/2")
        if request.channel.persistent:
            self.schedule(request.channel, request.uri, asked)
        describe(request, b"application/json")
        return json.dumps({"how": asked["how"], "after": asked["after"]}).encode() + b"\n"

    def schedule(self, channel, uri, asked):
        """End the connection of *channel* in time, or not at all if the client is faster."""
        earlier = self.ending.pop(channel, None)
        if earlier:
            earlier.cancel()
        else:
            # Between requests only the channel is told that a client has left.
            lost = channel.connectionLost

            def connection_lost(reason):
                ending = self.ending.pop(channel, None)
                if ending:
                    log.info("{uri!r}: the client left", uri=uri)
                    ending.cancel()
                lost(reason)

            channel.connectionLost = connection_lost
        self.ending[channel] = Deferred.fromCoroutine(self.end(channel, **asked))
        self.ending[channel].addErrback(lambda failure: failure.trap(CancelledError))

    async def end(self, channel, after, how, key):
        """Let the connection idle, then end it: HTTP/1 has no way to say so beforehand."""
        await sent(self.clock)
        channel.setTimeout(None)  # the server's own limit: ours is in its place
        await deferLater(self.clock, after)
        del self.ending[channel]
        if how == "reset":
            channel.transport.abortConnection()
        else:
            channel.loseConnection()


resource = Idled()
