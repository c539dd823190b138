"""
Speak WebSocket: echo what is sent, later, and tick.

    GET /websocket.rpy?delay=0.5
    GET /websocket.rpy?interval=1&count=60

Parameters:

    name      meaning                                     range        default
    delay     from a message to its echo (seconds)        0 to 3600    0
    interval  from one tick to the next (seconds)         0 to 3600    1
    count     how many ticks are sent, the first at once  0 to 100000  0
    key       a name of your own, for the ledger          any text     -

Answer: 101, and then a WebSocket (RFC 6455). Each message is sent back as it came, text or
    binary, and in order. A tick is a text, {"tick": 1, "due": 0.0}, "due" in seconds from the
    beginning. The connection stays open until the client closes it.
Closes: 1009 after a message over 64 KiB; 1008 when what waits for its echo is over 1 MiB, each
    message counted with 64 bytes more than it has. A client that goes on sending may see the
    connection end without the code. A reset, too, for one that does not answer a ping before the
    next, of which there is one every 20 seconds.
Errors: 400 and one line on the parameter that was wrong, on HTTP/2, and for a handshake that is
    malformed; 403 for a page of another site, told by Origin and Host, unless ORIGINS in the file
    lists it; 426 for a request that does not ask for a WebSocket, and for HEAD; 405 or 501 for
    other methods; 503 if the server has no Twisted 26.10 or newer with its extra "websocket".
Client leaves: all timers are cancelled at once, and the log has a line. While a client does not
    read, echoes and ticks wait, and what it sends is not read either. That it leaves meanwhile
    is seen when it resets the connection, or by the ping it does not answer.

Try it:

    $ twistd -n web --path .
    $ curl -i 'http://127.0.0.1:8080/websocket.rpy'
"""

# SPDX-License-Identifier: MIT-0
import json
import re
import time
from types import SimpleNamespace
from urllib.parse import parse_qsl

import twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredQueue
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

try:
    from twisted.web.websocket import WebSocketResource
except ImportError:
    WebSocketResource = None

recache()  # no state here: a server that keeps scripts in memory may keep this one
log = Logger(namespace="rpy.connected")

LONGEST = 3600  # seconds
MOST = 100_000  # ticks
PING = 20  # seconds
LARGEST = 65_536  # bytes of a message
WAITING = 1_048_576  # bytes of all messages that wait for their echo
EACH = 64  # bytes that a message counts more than it has
ORIGINS = set()  # of pages that may connect, beside those of this server: b"https://example.org"


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


class Parts:
    """Where Twisted gathers the parts of a message, however long it gets: here not over LARGEST."""

    def __init__(self, nothing):
        self.data, self.size, self.nothing = nothing, 0, nothing

    def add(self, part):
        self.size += len(part.encode() if isinstance(part, str) else part)
        self.data = self.data + part if self.size <= LARGEST else self.nothing

    def done(self):
        whole = self.data if self.size <= LARGEST else None
        self.data, self.size = self.nothing, 0
        return whole


@implementer(IPushProducer)
class Conversation:
    """One WebSocket: Twisted calls what is in camelCase."""

    why = "the client left"  # when the connection is lost, unless it was us

    def __init__(self, request, clock, now, asked):
        self.request, self.clock, self.now, self.asked = request, clock, now, asked
        self.messages, self.size = DeferredQueue(), 0  # that wait for their echo
        self.full, self.waiting = False, []  # for room
        self.answered = True  # the last ping

    def negotiationStarted(self, transport):
        self.websocket, self.socket = transport, transport.transport
        transport._textBuffer, transport._bytesBuffer = Parts(""), Parts(b"")

    def negotiationFinished(self):
        self.request.registerProducer(self, True)  # attachProducer is for clients only
        self.work = [Deferred.fromCoroutine(c) for c in (self.watch(), self.echo(), self.tick())]
        for each in self.work:
            each.addErrback(self.fail)

    def textMessageReceived(self, message):
        if message is None:
            self.close(1009)  # not before the client has sent it all: it might not read why
        elif not self.socket.disconnecting:
            size = EACH + len(message.encode() if isinstance(message, str) else message)
            self.size += size
            self.messages.put((self.now() + self.asked["delay"], message, size))
            if self.size > WAITING:
                self.close(1008)

    bytesMessageReceived = textMessageReceived

    async def echo(self):
        while True:
            due, message, size = await self.messages.get()
            await self.send(due, message)
            self.size -= size

    async def tick(self):
        began = self.now()
        for n in range(self.asked["count"]):
            due = n * self.asked["interval"]
            await self.send(began + due, json.dumps({"tick": n + 1, "due": round(due, 3)}))

    async def send(self, due, message):
        """Send a message in its time, and not before the client has read enough of those before."""
        wait = due - self.now()
        if wait > 0:
            await deferLater(self.clock, wait)
        while self.full:
            room = Deferred()
            self.waiting.append(room)
            await room
        if self.socket.disconnecting:
            return
        if isinstance(message, str):
            self.websocket.sendTextMessage(message)
        else:
            self.websocket.sendBytesMessage(message)

    def pauseProducing(self):
        self.full = True
        self.socket.pauseProducing()  # who does not read shall not send: it would want an echo

    def resumeProducing(self):
        self.full = False
        self.socket.resumeProducing()
        waiting, self.waiting = self.waiting, []
        for room in waiting:
            room.callback(None)

    def stopProducing(self):
        """Nothing to do: connectionLost is called as well."""

    async def watch(self):
        """Find out who has vanished without a word, or does not let us say our last one."""
        while True:
            await deferLater(self.clock, PING)
            if self.socket.disconnecting or not self.answered:
                break
            self.answered = False
            self.websocket.ping()
        if not self.socket.disconnecting:  # else it is known why
            self.why = "no answer to a ping"
        self.socket.abortConnection()

    def pongReceived(self, payload):
        self.answered = True

    def close(self, code):
        if not self.socket.disconnecting:
            self.why = f"closed with {code}"
            self.websocket.loseConnection(code)

    def fail(self, failure):
        if not failure.check(CancelledError):
            log.failure("{uri!r} failed", failure=failure, uri=self.request.uri)
            self.why = "the script failed"
            self.socket.abortConnection()

    def connectionLost(self, reason):
        log.info("{uri!r}: {why}", uri=self.request.uri, why=self.why)
        for each in self.work:
            each.cancel()


class Connected(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # which a test replaces

    def render_GET(self, request):
        try:
            delay, interval, count = (0.0, 0, LONGEST), (1.0, 0, LONGEST), (0, 0, MOST)
            asked = query(request, delay=delay, interval=interval, count=count, key=("",))
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        if request.transport is None:
            return refuse(request, 400, "this needs HTTP/1: ask for it without HTTP/2")
        if WebSocketResource is None or (twisted.version.major, twisted.version.minor) < (26, 10):
            return refuse(request, 503, "WebSockets need: pip install 'Twisted[websocket]>=26.10'")
        upgrade, version, origin, host = (
            (request.getHeader(name) or b"").lower()
            for name in (b"upgrade", b"sec-websocket-version", b"origin", b"host")
        )
        if (request.method, upgrade, version) != (b"GET", b"websocket", b"13"):
            request.setHeader(b"Connection", b"Upgrade")
            request.setHeader(b"Upgrade", b"websocket")
            request.setHeader(b"Sec-WebSocket-Version", b"13")
            return refuse(
                request,
                426,
                "this is a WebSocket, version 13: ask for it as ws:, by a client for these",
            )
        if origin and origin not in ORIGINS and origin.partition(b"://")[2] != host:
            site = origin[:60].decode("utf-8", "replace")
            return refuse(request, 403, f"a page of {site!a} may not connect: see ORIGINS")
        describe(request, b"text/plain; charset=utf-8")  # if Twisted refuses the handshake
        # Twisted asks its factory for what talks with the client, once the handshake is accepted.
        talk = Conversation(request, self.clock, self.now, asked)
        factory = SimpleNamespace(buildProtocol=lambda request: talk)
        return WebSocketResource(factory).render_GET(request)


resource = Connected()
