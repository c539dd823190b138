"""
Open a WebSocket and echo each message after a delay.

    GET /websocket.rpy?delay=0.5

Parameters:

    name   meaning                                        range      default
    delay  seconds from a message to its echo             0 to 3600  0
    key    a label for finding the request in the ledger  any text   -

Answer: 101, then a WebSocket (RFC 6455) that echoes messages in order. It is closed with 1009 after a
    message over 64 KiB, with 1008 if over 1 MiB waits, and reset after 1 MiB without a message's end.
Errors: 426 for a request that is no handshake; 400 with one line that says what is wrong; 403 for a page
    of another site, unless ORIGINS has it; 503 without Twisted 26.10 and its extra "websocket".
Client leaves: timers are cancelled, and the log says so. A client that does not read is not read from.

Try it:

    $ twistd -n web --path .
    $ curl -i 'http://127.0.0.1:8080/websocket.rpy'
"""

# SPDX-License-Identifier: MIT-0
from types import SimpleNamespace
from urllib.parse import parse_qs

import twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource

try:
    from twisted.web.websocket import WebSocketResource
except ImportError:
    WebSocketResource = None

MAX_DELAY, MAX_MESSAGE, MAX_WAITING = 3600, 65_536, 1_048_576  # seconds, bytes, bytes
READ_SIZE = 256  # bytes parsed in one turn of the reactor: 64 KiB can be 9000 messages
ORIGINS = set()  # of other sites whose pages may connect: b"https://example.org"


class Websocket(Resource):
    isLeaf = True
    clock = reactor  # replaced in tests

    def render_GET(self, request):
        try:
            params = parse_params(request, "delay", "key")
            delay = number(params, "delay", default=0.0, low=0, high=MAX_DELAY)
        except ValueError as error:
            return error_page(request, 400, error)
        if error := check_handshake(request):
            return error_page(request, *error)
        conversation = Conversation(request, self.clock, delay)
        factory = SimpleNamespace(buildProtocol=lambda request: conversation)
        try:
            return WebSocketResource(factory).render_GET(request)
        except Exception as error:  # of several kinds, for a header that wsproto cannot parse
            if conversation.websocket:
                raise
            return error_page(request, 400, f"invalid handshake: {error}")


class Conversation:
    """One WebSocket. Twisted calls the methods whose names are in camelCase."""

    def __init__(self, request, clock, delay):
        self.request, self.tcp, self.clock, self.delay = request, request.transport, clock, delay
        self.waiting, self.size = [], 0  # what waits for its echo, and how many bytes it has
        self.unfinished, self.websocket, self.parse = 0, None, None  # bytes after the last message

    def textMessageReceived(self, text):
        self.echo_later(self.websocket.sendTextMessage, text, len(text.encode()))

    def bytesMessageReceived(self, data):
        self.echo_later(self.websocket.sendBytesMessage, data, len(data))

    def echo_later(self, send, message, size):
        """Echo a message after the delay, or close the WebSocket if this is too much."""
        self.unfinished = 0
        if self.tcp.disconnecting:
            return
        if size > MAX_MESSAGE or self.size > MAX_WAITING:
            self.websocket.loseConnection(1009 if size > MAX_MESSAGE else 1008)
        elif not self.delay:  # not by a timer: a close frame that came with it would be faster
            send(message)
        else:
            timer = deferLater(self.clock, self.delay, self.echo).addErrback(self.fail)
            self.waiting.append((timer, send, message, size + 1024))
            self.size += size + 1024

    def echo(self):
        _, send, message, size = self.waiting.pop(0)  # the delay is the same for all
        self.size -= size
        if not self.tcp.disconnecting:
            send(message)

    def negotiationStarted(self, transport):
        self.websocket, channel = transport, self.request.channel
        self.parse, channel.dataReceived = channel.dataReceived, self.dataReceived

    def negotiationFinished(self):
        getattr(self.tcp, "transport", self.tcp).bufferSize = READ_SIZE  # TLS is on top of TCP
        self.tcp.unregisterProducer()  # HTTP's own
        self.tcp.registerProducer(self.tcp, True)  # reads nothing while much is to be sent

    def dataReceived(self, data):
        self.unfinished += len(data)
        if self.unfinished > MAX_WAITING:  # the message may have no end, and Twisted gathers it all
            self.tcp.abortConnection()
        elif not self.tcp.disconnecting:
            self.parse(data)
            if self.tcp.disconnecting:
                self.tcp.unregisterProducer()  # TLS does not close while there is one

    def pongReceived(self, payload): ...  # no ping was sent

    def fail(self, failure):
        if not failure.check(CancelledError):
            log.failure("{uri!r} failed", failure, uri=self.request.uri)
            self.tcp.abortConnection()

    def connectionLost(self, reason):
        log.info("{uri!r}: the client disconnected", uri=self.request.uri)
        for timer, *_ in self.waiting:
            timer.cancel()


def check_handshake(request):
    """Return the status and text of an error, or None if all is right (RFC 6455, section 4.2.1)."""
    names = b"Host Origin Connection Upgrade Sec-WebSocket-Version Sec-WebSocket-Key".split()
    values = [request.requestHeaders.getRawHeaders(name, []) for name in names]
    host, origin, connection, upgrade, version, key = map(b", ".join, values)
    if request.clientproto != b"HTTP/1.1":
        return 400, "a WebSocket needs HTTP/1.1: give a handshake of this version"
    if WebSocketResource is None or (twisted.version.major, twisted.version.minor) < (26, 10):
        return 503, "WebSockets need: pip install 'Twisted[websocket]>=26.10'"
    upgraded = b"upgrade" in connection.lower() and upgrade.lower() == b"websocket"
    if request.method != b"GET" or not upgraded or version != b"13":
        wanted = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        for header in wanted.items():
            request.setHeader(*header)
        return 426, "this is a WebSocket: connect to it with ws:// and version 13"
    if len(key) != 24 or key[22:] != b"==" or not key[:22].translate(None, b"+/").isalnum():
        return 400, f"invalid Sec-WebSocket-Key {key[:40]!a}: give one of 16 bytes in Base64"
    if origin and origin not in ORIGINS and origin.lower().partition(b"://")[2] != host.lower():
        return 403, f"a page of {origin[:60]!a} may not connect: add its site to ORIGINS"


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.websocket")


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


recache()  # stateless, so `tarry serve` may reuse this resource; plain twistd ignores this
resource = Websocket()
