"""
Pass on the response of another script, as it comes.

    GET /proxied.rpy?path=/streamed.rpy%3Fcount=3%26interval=0.5

Parameters:

    name     meaning                                        range          default
    path     a script of this server; write "&" as "%26"    /name.rpy?...  /streamed.rpy?count=3
    timeout  seconds to wait for its headers                0 to 3600      60
    key      a label for finding the request in the ledger  any text       -

Answer: the other script's status, Content-Type and body, each part as soon as it comes. No other
    header is passed on, in either direction. The Server-Timing header reports the wait for the
    other's headers. HEAD is passed on as HEAD. If the other response breaks off, so does this one.
Errors: 400 with one line that says which parameter is wrong. 504 if the headers take longer than
    "timeout", 502 if the connection fails, 508 if "path" leads here, 501 over TLS or UNIX sockets.
Client leaves: the connection to the other script is closed, so it stops too. The disconnect is
    logged. If the client stops reading, so does this script.

Try it:

    $ twistd -n web --path .
    $ curl -iN 'http://127.0.0.1:8080/proxied.rpy?path=/streamed.rpy%3Fcount=3%26interval=0.5'
"""

# SPDX-License-Identifier: MIT-0
import re
import time
from urllib.parse import parse_qs

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.web.client import Agent, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

MAX_TIMEOUT = 3600  # seconds
PATH = r'(/[A-Za-z0-9_-]+)+\.rpy(\?[!"$-~]*)?'  # scripts of this server; a "#" would end the path
VIA = "1.1 proxied.rpy"  # RFC 9110, section 7.6.3: a request that has it comes from this script


class Proxied(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # replaced in tests
    agent = Agent(reactor, connectTimeout=5)  # seconds

    def render_GET(self, request):
        if request.postpath:  # otherwise /proxied.rpy/a.bat?path=... downloads what others sent
            return error_page(request, 404, "no such page: request proxied.rpy itself")
        try:
            params = parse_params(request, "path", "timeout", "key")
            path = params.get("path", "/streamed.rpy?count=3")
            timeout = number(params, "timeout", default=60.0, low=0, high=MAX_TIMEOUT)
            if not re.fullmatch(PATH, path):
                raise ValueError(f"invalid path {path[:40]!a}: give /name.rpy or /name.rpy?query")
        except ValueError as error:
            return error_page(request, 400, error)
        if VIA in request.requestHeaders.getRawHeaders("Via", ()):
            return error_page(request, 508, "proxied.rpy does not request itself")
        if not (host := own_host(request)):
            return error_page(request, 501, "proxied.rpy works over plain HTTP on TCP only")
        return run(request, self.pass_on(request, f"http://{host}{path}".encode(), timeout))

    async def pass_on(self, request, url, timeout):
        """Request *url* and pass on what comes, until it ends or either side disconnects."""
        began, headers = self.now(), Deferred()
        pending = self.agent.request(request.method, url, Headers({"Via": [VIA]}))
        # When cancelled, *pending* fails as if the server had hung up. So await another Deferred,
        # which gets its result: that one fails with CancelledError, or TimeoutError.
        pending.chainDeferred(headers)
        try:
            response = await headers.addTimeout(timeout, self.clock)
        except (TimeoutError, ConnectError, ResponseFailed) as error:
            log.warn("{url!r}: {error!r}", url=url, error=error)
            code = 504 if isinstance(error, TimeoutError) else 502
            request.write(error_page(request, code, "no response: the server's log says why"))
            return request.finish()
        finally:
            pending.cancel()  # closes the connection, unless the response has begun
        request.setResponseCode(response.code, response.phrase)
        types = response.headers.getRawHeaders("Content-Type", ["application/octet-stream"])
        set_headers(request, types[0], headers=self.now() - began)
        request.write(b"")  # sends the headers before there is a body
        body = Body(request)
        response.deliverBody(body)
        try:
            await body.ended  # fails if the response breaks off: then run() aborts this one
        finally:
            body.transport.loseConnection()
        request.unregisterProducer()
        request.finish()


class Body(Protocol):
    """Writes a response's body to *request*, and reads it only as fast as the client does."""

    def __init__(self, request):
        self.request, self.ended = request, Deferred()

    def connectionMade(self):
        self.request.registerProducer(self.transport, True)

    def dataReceived(self, data):
        self.request.write(data)

    def connectionLost(self, reason):
        if reason.check(ResponseDone, PotentialDataLoss):  # the latter if it came without a length
            self.ended.callback(None)
        else:
            self.ended.errback(reason)


def own_host(request):
    """Return the "address:port" that the client connected to; None unless it is plain TCP."""
    # Ask the kernel: behind a proxy, getHost() says what the proxy's client said.
    handle, host = getattr(request.transport, "getHandle", None), request.getHost()
    address = handle().getsockname() if handle else (host.host, host.port)
    if request.isSecure() or not isinstance(address, tuple):
        return None
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.proxied")


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
resource = Proxied()
