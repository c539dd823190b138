"""
Pass on what another script answers, as it comes.

    GET /proxied.rpy?path=/streamed.rpy%3Fcount=3%26interval=0.5

Parameters:

    name     meaning                               range          default
    path     another script here, "&" as "%26"     /name.rpy?...  /streamed.rpy?count=3
    timeout  how long its head may take (seconds)  0 to 3600      60
    key      a name of your own, for the ledger    any text       -

Answer: the other script's: status, Content-Type and body, each piece when it comes. No other
    header is passed on, neither of the request nor of the answer. The header Server-Timing has
    the wait for the other's head, its status and headers, in milliseconds; 504 and one line if
    that takes longer than "timeout". HEAD is passed on as HEAD.
Errors: 400 and one line on the parameter that was wrong; 405 or 501 for other methods; 502 if the
    server does not answer, or with what is not HTTP; 508 if this script is to ask itself; 501 if
    the request came by TLS or a UNIX socket; 500 if the script fails. If the other answer breaks
    off, this one does, too.
Client leaves: the connection to the other script is closed at once, so that it notices the same.
    The log has a line. While a client does not read, this script does not read either.

Try it:

    $ twistd -n web --path .
    $ curl -iN 'http://127.0.0.1:8080/proxied.rpy?path=/streamed.rpy%3Fcount=3%26interval=0.5'
    $ curl -iN 'http://127.0.0.1:8080/proxied.rpy?path=/delayed.rpy?delay=1'
"""

# SPDX-License-Identifier: MIT-0
import re
import time
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.client import Agent, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

recache()  # no state here: a server that keeps scripts in memory may keep this one
log = Logger(namespace="rpy.relayed")

LONGEST = 3600  # seconds
CONNECTING = 5  # seconds
# No other host, and of this one nothing but scripts: what is asked for from here comes from the
# server's own address, which files and applications beside them may trust.
RELAYED = r'(/[A-Za-z0-9_-]+)+\.rpy(\?[!"$-~]*)?'  # "#" ends a path
VIA = b"1.1 proxied.rpy"  # RFC 9110, 7.6.3: a request that comes with it has been here before


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


async def sent(clock):
    """Wait for the turns of the reactor in which what was written is sent: an abort drops it."""
    for _ in range(2):
        await deferLater(clock, 0)


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


def own_address(request):
    """What the kernel says that the client connected to: getHost may be what a proxy says."""
    handle = getattr(request.transport, "getHandle", None)
    return handle().getsockname() if handle else (request.getHost().host, request.getHost().port)


class Body(Protocol):
    """A body on its way through; what it comes by is paused while the client does not read."""

    def __init__(self, request):
        self.request, self.ended = request, Deferred()

    def connectionMade(self):
        self.request.registerProducer(self.transport, True)

    def dataReceived(self, data):
        self.request.write(data)

    def connectionLost(self, reason):
        if reason.check(ResponseDone, PotentialDataLoss):  # or it ended as its connection did
            self.ended.callback(None)
        else:
            self.ended.errback(reason)


class Relayed(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # which a test replaces
    agent = Agent(reactor, connectTimeout=CONNECTING)  # each request has a connection of its own

    def render_GET(self, request):
        try:
            path, timeout = ("/streamed.rpy?count=3",), (60.0, 0, LONGEST)
            asked = query(request, path=path, timeout=timeout, key=("",))
            if not re.fullmatch(RELAYED, asked["path"]):
                shown = ascii(asked["path"][:40])
                raise ValueError(f"path={shown} is not allowed: give /name.rpy or /name.rpy?query")
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        if VIA in request.requestHeaders.getRawHeaders(b"Via", ()):
            return refuse(request, 508, "this script does not relay itself: give another")
        own = own_address(request)
        if request.isSecure() or type(own) is not tuple:
            return refuse(request, 501, "this script speaks HTTP on TCP, without TLS: ask it so")
        host = f"[{own[0]}]" if ":" in own[0] else own[0]
        url = f"http://{host}:{own[1]}{asked['path']}".encode()
        return run(request, log, self.relay(request, url, asked["timeout"]))

    async def relay(self, request, url, timeout):
        """Ask for *url*, and pass on what comes, until it ends or one of both sides leaves."""
        began = self.now()
        asked, head = self.agent.request(request.method, url, Headers({b"Via": [VIA]})), Deferred()
        asked.chainDeferred(head)  # cancelled, *asked* fails as if the server had, *head* does not
        try:
            response = await head.addTimeout(timeout, self.clock)
        except TimeoutError:
            return refuse(request, 504, f"no status of the other script after {timeout:g} s")
        except (ConnectError, ResponseFailed) as wrong:
            log.warn("{url!r}: {wrong}", url=url, wrong=wrong)
            return refuse(request, 502, "no answer of the other script: the server's log says why")
        finally:
            asked.cancel()  # closes its connection, if it has not answered
        kinds = response.headers.getRawHeaders(b"Content-Type", [b"application/octet-stream"])
        request.setResponseCode(response.code, response.phrase)
        describe(request, kinds[0], head=self.now() - began)
        request.write(b"")  # the head need not wait for the body
        body = Body(request)
        response.deliverBody(body)
        try:
            await body.ended
        except ResponseFailed:
            log.warn("{url!r} broke off", url=url)
            await sent(self.clock)
            return request.transport.abortConnection()  # a part must not pass for the whole
        finally:
            body.transport.loseConnection()
        request.unregisterProducer()
        request.finish()


resource = Relayed()
