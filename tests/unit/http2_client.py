"""An HTTP/2 client in memory, that sends frames as a test makes them, also wrong ones."""

from types import SimpleNamespace

from hpack import Decoder, Encoder
from hyperframe.frame import Frame, HeadersFrame, SettingsFrame
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from tarry import http2, http2_connection, http2_stream, site
from tarry.http2 import HTTP2
from tarry.ledger import Ledger
from tarry.limits import Limits
from tarry.site import Site

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GET = ((":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/"))
POST = ((":method", "POST"), *GET[1:])


class Page(Resource):
    """Answers as its path says: at once, with what it was sent; when the test says so; or never."""

    isLeaf = True

    def __init__(self):
        super().__init__()
        self.waiting = []  # requests

    def render(self, request):
        if request.path == b"/wait":
            self.waiting.append(request)
            return NOT_DONE_YET
        return b"%b %b" % (request.method, request.content.read())


class Transport(StringTransport):
    """One that is full when the test says so, and has closed when the server said so."""

    aborted = False

    def abortConnection(self):
        self.aborted = self.disconnecting = True


class Client:
    """One connection, its server, and the time of both."""

    def __init__(self, monkeypatch, page=None, preface=True, **limits):
        self.clock, self.page = Clock(), page or Page()
        for module in (http2, http2_connection, http2_stream, site):
            monkeypatch.setattr(module, "monotonic", self.clock.seconds)
        self.site = Site(self.page, Limits(**limits), Ledger(), reactor=self.clock)
        self.transport = Transport(hostAddress=IPv4Address("TCP", "127.0.0.1", 80))
        self.server = HTTP2(self.site)
        self.server.makeConnection(self.transport)
        self.encoder, self.decoder = Encoder(), Decoder()
        self.frames = []  # that came from the server, in order
        self.kept = b""
        if preface:
            self.send(PREFACE, SettingsFrame(0))

    def send(self, *parts):
        """Send frames, or bytes; then the server has a turn, and the client reads."""
        data = b"".join(part if isinstance(part, bytes) else part.serialize() for part in parts)
        self.server.dataReceived(data)
        self.clock.advance(0)
        return self.read()

    def read(self):
        self.kept += self.transport.value()
        self.transport.clear()
        while len(self.kept) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(self.kept[:9]))
            if len(self.kept) < 9 + length:
                break
            frame.parse_body(memoryview(self.kept[9 : 9 + length]))
            self.kept = self.kept[9 + length :]
            self.frames.append(frame)
            if isinstance(frame, HeadersFrame):
                frame.fields = dict(self.decoder.decode(frame.data))
        return self

    def headers(self, stream=1, fields=GET, end=True, complete=True):
        """A HEADERS frame; it ends the request, and its header block is complete, unless told."""
        frame = HeadersFrame(stream, self.encoder.encode(list(fields)))
        for flag, wanted in (("END_STREAM", end), ("END_HEADERS", complete)):
            if wanted:
                frame.flags.add(flag)
        return frame

    def sweep(self, seconds=1.0):
        """Let time pass, with the site looking at its connections once a second."""
        while seconds > 0:
            self.clock.advance(min(seconds, 1.0))
            seconds -= 1.0
            self.site.sweep()
        return self.read()

    def leave(self):
        self.server.connectionLost(Failure(ConnectionDone()))

    def of(self, kind, stream=None):
        """The frames of one kind that came, of one stream."""
        return [f for f in self.frames if isinstance(f, kind) and stream in (None, f.stream_id)]

    def response(self, stream=1):
        """Status and body of the response on a stream, and how that ended: "", "end", or a code."""
        frames = [f for f in self.frames if f.stream_id == stream]
        found = SimpleNamespace(status=None, body=b"", end="")
        for frame in frames:
            name = type(frame).__name__
            if name == "HeadersFrame":
                found.status = int(frame.fields[":status"])
            elif name == "DataFrame":
                found.body += frame.data
            elif name == "RstStreamFrame":
                found.end = frame.error_code
            if "END_STREAM" in frame.flags:
                found.end = "end"
        return found

    @property
    def goaway(self):
        """The code of the GOAWAY that came, None if none did."""
        for frame in self.frames:
            if type(frame).__name__ == "GoAwayFrame":
                return frame.error_code
        return None

    @property
    def entries(self):
        return [entry.as_dict() for entry in self.site.ledger.in_order()]

    @property
    def outcomes(self):
        return [(entry["outcome"], entry["detail"]) for entry in self.entries]
