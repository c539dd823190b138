"""
Break the response, in one of eleven ways.

    GET /broken.rpy?how=truncated&size=1000
    POST /broken.rpy?how=reset&delay=2

Parameters:

    name   meaning                                        range         default
    how    what is wrong: see Ways                        one of these  empty
    size   bytes in the body, before it goes wrong        0 to 100000   10
    end    end the connection like this instead           close, reset  -
    delay  seconds to wait before the first byte or end   0 to 3600     0
    key    a label for finding the request in the ledger  any text      -

Ways: empty: no byte, then FIN. reset: no byte, then RST. silent: no byte, and no end. garbage: the
    first line of an SSH server, then FIN. All others begin like a 200 with a body of "size" bytes.
    badheader: a header line has no colon; FIN. truncated: Content-Length is one too many; FIN.
    stalled: the same without an end. badchunk: the size of the second chunk is no number; FIN.
    overlong: 8 bytes more than Content-Length. twostatus: a second response, a 500, follows the
    first. halfgzip: a gzip member without its end. After these three, the connection stays open.
Answer: exactly these bytes, without Date or Server-Timing. "end" is FIN (close) or RST (reset). What
    has no end is reset after 3600 seconds. HEAD gets no body. POST is answered like GET.
Errors: 400 with one line that says which parameter is wrong; 400 over HTTP/2, which can't say this.
On a public site: leave this file out where a proxy shares its connections between users. The
    surplus bytes of "overlong" and "twostatus" may reach another user.
Client leaves: the timer is cancelled and the disconnect is logged.

Try it:

    $ twistd -n web --path .
    $ curl 'http://127.0.0.1:8080/broken.rpy?how=truncated' || echo "exit code $?"
"""

# SPDX-License-Identifier: MIT-0
import zlib
from urllib.parse import parse_qs

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET


class Broken(Resource):
    isLeaf = True
    clock = reactor  # replaced in tests

    def render_GET(self, request):
        try:
            params = parse_params(request, "how", "size", "end", "delay", "key")
            how = choice(params, "how", "empty", *WAYS)
            size = number(params, "size", default=10, low=0, high=MAX_SIZE)
            end = choice(params, "end", WAYS[how][1], "close", "reset")
            delay = number(params, "delay", default=0.0, low=0, high=MAX_WAIT)
        except ValueError as error:
            return error_page(request, 400, error)
        if request.transport is None:
            return error_page(request, 400, "invalid protocol HTTP/2: give the request over HTTP/1")
        return run(request, self.break_response(request, how, size, end, delay))

    render_POST = render_GET

    async def break_response(self, request, how, size, end, delay):
        """Send what request.write would not send, then end as request.finish would not."""
        await deferLater(self.clock, delay)
        self.send(request, fill(WAYS[how][0], size), f"{how}: %d bytes, then {end}")
        if end == "finish":
            request.finish()
        elif end == "close":
            request.loseConnection()  # FIN, once everything is sent
        else:
            if end == "silence":
                await deferLater(self.clock, MAX_WAIT)
            await reset_connection(request, self.clock)

    def send(self, request, data, note):
        if request.method == b"HEAD":
            headers, blank_line, _ = data.partition(b"\r\n\r\n")
            data = headers + blank_line
        request.note = note % len(data)  # for the ledger
        if data:
            request.startedWriting = True  # or Twisted would send a status line and headers
            request.transport.write(data)


MAX_WAIT = 3600  # seconds
MAX_SIZE = 100_000  # bytes

HEADERS = (
    "Content-Type: text/plain; charset=utf-8\r\n"
    "Cache-Control: no-store\r\n"
    "X-Content-Type-Options: nosniff\r\n"
)
OK = "HTTP/1.1 200 OK\r\n" + HEADERS
FAILED = "HTTP/1.1 500 Internal Server Error\r\n" + HEADERS
WHOLE = "Content-Length: {size}\r\n\r\n{body}"
SHORT = "Content-Length: {more}\r\n\r\n{body}"
CHUNKS = "Transfer-Encoding: chunked\r\n\r\n{chunk}"
GZIP = "Content-Encoding: gzip\r\nContent-Length: {packed}\r\n\r\n{member}"
WAYS = {  # what is sent, and how it ends
    "empty": ("", "close"),
    "reset": ("", "reset"),
    "silent": ("", "silence"),
    "garbage": ("SSH-2.0-tarry\r\n", "close"),
    "badheader": (OK + "a line without a colon\r\n" + WHOLE, "close"),
    "truncated": (OK + SHORT, "close"),
    "stalled": (OK + SHORT, "silence"),
    "badchunk": (OK + CHUNKS + "no number\r\n", "close"),
    "overlong": (OK + WHOLE + "and more", "finish"),
    "twostatus": (OK + WHOLE + FAILED + WHOLE, "finish"),
    "halfgzip": (OK + GZIP, "finish"),
}


def fill(template, size):
    """Return the bytes of *template*, with a body of *size* bytes in its places."""
    body = ("0123456789" * (size // 10 + 1))[:size]
    packer = zlib.compressobj(wbits=31)  # gzip
    member = packer.compress(body.encode()) + packer.flush(zlib.Z_SYNC_FLUSH)  # and no end
    text = template.format(
        size=size,
        more=size + 1,
        body=body,
        chunk=f"{size:x}\r\n{body}\r\n" if size else "",  # an empty chunk would be the last one
        packed=len(member),
        member=member.decode("latin-1"),
    )
    return text.encode("latin-1")


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.broken")


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


async def reset_connection(request, clock):
    """Reset the connection, after what was written has left: a reset drops what has not."""
    for _ in range(2):  # it leaves within two turns of the reactor
        await deferLater(clock, 0)
    (request.transport or request.channel).abortConnection()


recache()  # stateless, so `tarry serve` may reuse this resource; plain twistd ignores this
resource = Broken()
