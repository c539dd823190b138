"""
Break the response, in one of eleven ways.

    GET /broken.rpy?how=truncated&size=1000
    POST /broken.rpy?how=reset&delay=2

Parameters:

    name   meaning                                           range         default
    how    what goes wrong: see Ways                         one of these  empty
    size   of the body before that (bytes)                   0 to 100000   10
    end    what ends it, in place of the end that it has     close, reset  -
    delay  wait before the first byte, or the end (seconds)  0 to 3600     0
    key    a name of your own, for the ledger                any text      -

Ways: empty: no byte, and FIN. reset: no byte, and RST. silent: no byte, and no end. garbage: the
    greeting of an SSH server, and FIN. All others begin as a 200 with a body of "size" bytes.
    badheader: one line of the head has no colon; FIN. truncated: Content-Length is one byte more
    than there are; FIN. stalled: the same, but no end. badchunk: after a chunk with the body the
    size of the next is no number; FIN. These are whole, and the connection goes on: overlong:
    after the body 8 bytes more than Content-Length has; twostatus: after the response a second
    one, a 500; halfgzip: the body is a gzip member that lacks its end, and Content-Length is
    that of what there is.
Answer: the bytes of one of these ways, the same each time: without Date, Server-Timing and the
    like. "end" is FIN (close) or RST (reset) after them; RST drops what has not been sent yet.
    Where there is no end, it is RST after 3600 seconds. HEAD gets no body. POST is answered like
    GET; its body is ignored.
Errors: 400 and one line on the parameter that was wrong, and to HTTP/2, in which none of this can
    be said; 405 or 501 for other methods; 500 if the script fails, or an aborted connection if
    bytes are out.
In a site: where a proxy shares its connections among users, what "overlong" and "twostatus" send
    too much may reach the next of them. Leave this file out there.
Client leaves: the timer is cancelled at once, and the log has a line.

Try it:

    $ twistd -n web --path .
    $ curl 'http://127.0.0.1:8080/broken.rpy?how=truncated' || echo "exit code $?"
    $ curl 'http://127.0.0.1:8080/broken.rpy?how=overlong'
    $ curl -m 1 'http://127.0.0.1:8080/broken.rpy?how=stalled'
"""

# SPDX-License-Identifier: MIT-0
import re
import zlib
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

recache()  # no state here: a server that keeps scripts in memory may keep this one
log = Logger(namespace="rpy.broken")

LONGEST = 3600  # seconds
MOST = 100_000  # bytes

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


def fill(form, size):
    """The bytes of *form*, with a body of *size* bytes in its places."""
    body = ("0123456789" * (size // 10 + 1))[:size]
    packer = zlib.compressobj(wbits=31)  # gzip
    member = packer.compress(body.encode()) + packer.flush(zlib.Z_SYNC_FLUSH)  # and no end
    text = form.format(
        size=size,
        more=size + 1,
        body=body,
        chunk=f"{size:x}\r\n{body}\r\n" if size else "",  # one of no bytes would be the last
        packed=len(member),
        member=member.decode("latin-1"),
    )
    return text.encode("latin-1")


class Broken(Resource):
    isLeaf = True
    clock = reactor  # which a test replaces

    def render_GET(self, request):
        try:
            how, end = ("empty", *WAYS), ("", "close", "reset")
            size, delay = (10, 0, MOST), (0.0, 0, LONGEST)
            asked = query(request, how=how, size=size, end=end, delay=delay, key=("",))
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        if request.transport is None:
            return refuse(request, 400, "this needs HTTP/1: ask for it without HTTP/2")
        return run(request, log, self.break_off(request, asked))

    render_POST = render_GET

    async def break_off(self, request, asked):
        """Send what no request.write would, and end as no request.finish would."""
        form, end = WAYS[asked["how"]]
        data, end = fill(form, asked["size"]), asked["end"] or end
        if request.method == b"HEAD":
            head, blank, _ = data.partition(b"\r\n\r\n")
            data = head + blank
        request.note = f"{asked['how']}: {len(data)} bytes, then {end}"
        await deferLater(self.clock, asked["delay"])
        if data:
            request.startedWriting = True  # so that nobody else sends a head
            request.transport.write(data)
        if end == "finish":
            request.finish()
        elif end == "close":
            request.loseConnection()  # FIN, once all is sent
        else:
            if end == "silence":
                await deferLater(self.clock, LONGEST)
            await sent(self.clock)
            request.transport.abortConnection()  # RST, and what is not sent by now is lost


resource = Broken()
