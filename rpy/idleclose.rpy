"""
Answer at once, then end the idle connection unannounced.

    GET /idleclose.rpy?after=2
    GET /idleclose.rpy?after=2&how=reset

Parameters:

    name   meaning                                        range         default
    after  seconds from the response to the end           0 to 3600     5
    how    end it with a FIN or with an RST               close, reset  close
    key    a label for finding the request in the ledger  any text      -

Answer: 200 application/json with a Content-Length: "how" and "after". The connection stays open for
    more requests, and ends "after" seconds later, even while one of them is being answered. There
    is no "Connection: close" to announce it. If a connection has several requests to this script,
    the last one counts. The server's own timeout for idle connections is off until the response
    to the next request. Over HTTP/1.0, or after "Connection: close" in the request, the connection
    closes at once, as the client asked. HEAD gets the headers alone.
Errors: 400 with one line that says which parameter is wrong; 400 over HTTP/2, where requests to other
    scripts share the connection.
Kept: a timer for each connection that is to end.
Client leaves: the timer is cancelled and the disconnect is logged.

Try it:

    $ twistd -n web --path .
    $ curl -i 'http://127.0.0.1:8080/idleclose.rpy?after=2&how=reset'
"""

# SPDX-License-Identifier: MIT-0
import json
from urllib.parse import parse_qs

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource

MAX_WAIT = 3600  # seconds


class Idleclose(Resource):
    isLeaf = True
    clock = reactor  # replaced in tests

    def __init__(self):
        super().__init__()
        self.endings = {}  # by channel: the Deferred of end()

    def render_GET(self, request):
        try:
            params = parse_params(request, "after", "how", "key")
            after = number(params, "after", default=5.0, low=0, high=MAX_WAIT)
            how = choice(params, "how", "close", "close", "reset")
        except ValueError as error:
            return error_page(request, 400, error)
        if request.transport is None:  # on HTTP/2 only the channel has one
            return error_page(request, 400, "HTTP/2 is not supported: give HTTP/1.1")
        if request.channel.persistent:  # else the server closes it behind this response
            self.schedule(request, after, how)
        return json_page(request, {"how": how, "after": after})

    def schedule(self, request, after, how):
        """End the connection *after* seconds, unless the client disconnects first."""
        channel, uri = request.channel, request.uri
        if channel in self.endings:
            self.endings[channel].cancel()
        else:
            on_lost(channel, lambda: self.forget(channel, uri))
        ending = self.endings[channel] = Deferred.fromCoroutine(self.end(channel, after, how))
        ending.addErrback(report, uri)

    async def end(self, channel, after, how):
        """Wait, then close or reset the connection."""
        for _ in range(2):  # the response leaves within two turns of the reactor
            await deferLater(self.clock, 0)
        channel.setTimeout(None)  # the server's own, set when the response was finished
        await deferLater(self.clock, after)
        del self.endings[channel]
        if how == "reset":
            channel.transport.abortConnection()
        else:
            channel.loseConnection()

    def forget(self, channel, uri):
        """Cancel the timer of a connection that was lost."""
        ending = self.endings.pop(channel, None)
        if ending:  # otherwise end() has closed it
            log.info("{uri!r}: the client disconnected", uri=uri)
            ending.cancel()


def on_lost(channel, call):
    """Call *call* when the connection is lost. Between requests, Twisted tells only the channel."""
    connection_lost = channel.connectionLost

    def lost(reason):
        call()
        connection_lost(reason)

    channel.connectionLost = lost


def report(failure, uri):
    """An errback: log why a connection was not ended, unless it is because the client was faster."""
    if not failure.check(CancelledError):
        log.failure("{uri!r} failed", failure, uri=uri)


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.idleclose")


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


cache()  # keep this resource, and with it the timers, from request to request
resource = Idleclose()
