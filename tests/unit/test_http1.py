"""HTTP/1.1 in memory: what is answered to which bytes, however they are cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from tarry.ledger import Ledger
from tarry.limits import Limits
from tarry.site import Site


class Echo(Resource):
    """Answers with what it was asked, at once or a second later."""

    isLeaf = True

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def render(self, request):
        note = request.getHeader(b"X-Note") or b"-"
        body = b"%b %b note=%b body=%b;" % (
            request.method,
            request.uri,
            note,
            request.content.read(),
        )
        if not request.path.startswith(b"/later"):
            return body

        def answer():
            request.setHeader(b"Content-Length", b"%d" % len(body))
            request.write(body)
            request.finish()

        self.clock.callLater(1, answer)
        return NOT_DONE_YET


class Wire:
    """A connection: what the server sent, whether it closed."""

    def __init__(self, plain=False, limits=None):
        self.clock = Clock()
        if plain:
            self.site = server.Site(Echo(self.clock), reactor=self.clock)
        else:
            self.site = Site(Echo(self.clock), limits or Limits(), Ledger(), reactor=self.clock)
        self.transport = StringTransport(hostAddress=IPv4Address("TCP", "127.0.0.1", 80))
        self.channel = self.site.buildProtocol(None)
        self.channel.makeConnection(self.transport)

    def send(self, *pieces):
        for piece in pieces:
            if not self.transport.disconnecting:
                self.channel.dataReceived(piece)
        return self

    def wait(self):
        """Until everything is answered; then the client leaves."""
        for _ in range(30):
            if not self.closed:
                self.clock.advance(1)
        self.leave()
        return self

    def leave(self):
        self.channel.connectionLost(Failure(ConnectionDone()))

    @property
    def closed(self):
        return self.transport.disconnecting

    @property
    def bodies(self):
        """The bodies that came back; and the status of a response that is not the resource's."""
        sent, found = self.transport.value(), []
        while sent:
            head, _, sent = sent.partition(b"\r\n\r\n")
            status = int(head.split()[1])
            lengths = [
                line[15:]
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            ]
            body, sent = (
                (sent[: int(lengths[0])], sent[int(lengths[0]) :]) if lengths else (b"", sent)
            )
            if status != 100:
                found.append(body if status == 200 else status)
        return found


# Any valid sequence of requests, cut anywhere


PATHS = st.sampled_from(["/a", "/b?x=1", "/later", "/later?delay=2", "/%41"])
NOTES = st.sampled_from(["-", "Content-Length: 45", "x" * 300, "GET / HTTP/1.1", "chunked", ""])
BODIES = st.binary(max_size=40) | st.sampled_from(
    [b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\r\n\r\n"]
)


@st.composite
def requests(draw):
    """One request as bytes."""
    path, note, body = draw(PATHS), draw(NOTES), draw(BODIES)
    framing = draw(st.sampled_from(["none", "length", "chunked", "expect"]))
    lines = [
        f"{'GET' if framing == 'none' else 'POST'} {path} HTTP/1.1",
        "Host: localhost",
        f"X-Note: {note}",
    ]
    if framing == "none":
        body = b""
    elif framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
        at = draw(st.integers(0, len(body)))
        chunks = [piece for piece in (body[:at], body[at:]) if piece]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in chunks) + b"0\r\n\r\n"
    else:
        lines.append(f"Content-Length: {len(body)}")
    if framing == "expect" and body:
        lines.append("Expect: 100-continue")
    return "\r\n".join([*lines, "", ""]).encode() + body


@st.composite
def pipelines(draw):
    """Requests, and the places to cut what they are on the wire."""
    sent = b"".join(draw(st.lists(requests(), min_size=1, max_size=5)))
    cuts = sorted(draw(st.sets(st.integers(1, len(sent) - 1), max_size=6)))
    return sent, [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]


@pytest.mark.parametrize("plain", [True, False], ids=["twisted", "tarry"])
def test_where_requests_are_cut_makes_no_difference(plain):
    @given(pipelines())
    @settings(max_examples=2000, deadline=None, database=None)
    def check(pipeline):
        whole, pieces = pipeline
        expected = Wire(plain=True).send(whole).wait().bodies
        assert Wire(plain).send(*pieces).wait().bodies == expected

    check()


@pytest.mark.parametrize("plain", [True, False], ids=["twisted", "tarry"])
def test_a_header_of_the_next_request_is_not_one_of_this(plain):
    """What was smuggled: the value of X-Note as a header, the third request as its body."""
    wire = Wire(plain).send(
        b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\nPOST /a HTTP/1.1\r\nHost: localhost\r\nX-Note: ",
        b"Content-Length: 45\r\n\r\n",
        b"GET /third HTTP/1.1\r\nHost: localhost\r\n\r\n",
    )
    assert wire.bodies == [
        b"GET /a note=- body=;",
        b"POST /a note=Content-Length: 45 body=;",
        b"GET /third note=- body=;",
    ]


# A corpus of raw requests: (what it is, the bytes, the answers here, those of plain Twisted). An answer is
# a status, or 200 and what the resource echoed; None: the connection waits for more.

LINE, HOST, END = b"GET /a HTTP/1.1\r\n", b"Host: localhost\r\n", b"\r\n"
OK = b"GET /a note=- body=;"
POST = b"POST /a HTTP/1.1\r\nHost: localhost\r\n"
SAID = b"POST /a note=- body=abc;"

CORPUS = [
    ("a request", LINE + HOST + END, [OK], [OK]),
    ("an empty line before it", b"\r\n" + LINE + HOST + END, [OK], [OK]),
    ("two in one piece", (LINE + HOST + END) * 2, [OK, OK], [OK, OK]),
    ("an absolute target", b"GET http://localhost/a HTTP/1.1\r\n" + HOST + END, [OK], [b"GET http://localhost/a note=- body=;"]),
    ("a body with its length", POST + b"Content-Length: 3\r\n\r\nabc", [SAID], [SAID]),
    ("a chunked body", POST + b"Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n", [SAID], [SAID]),
    ("trailers", POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Note: no\r\n\r\n", [SAID], [SAID]),
    ("a body that is not complete", POST + b"Content-Length: 3\r\n\r\nab", [], []),
    ("headers that are not complete", LINE + HOST, [], []),
    ("HTTP/1.0 without a Host", b"GET /a HTTP/1.0\r\n\r\n", [OK], [OK]),
    ("an offer to upgrade", LINE + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + LINE + HOST + END, [OK, OK], [OK, OK]),
    ("an offer to upgrade with a body", POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc" + LINE + HOST + END, [SAID, OK], [SAID, OK]),
    ("an offer to upgrade with chunks", POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + LINE + HOST + END, [SAID, OK], [SAID, OK]),
    ("close, and more behind it", LINE + HOST + b"Connection: close\r\n\r\n" + LINE + HOST + END, [OK], [OK]),
    ("OPTIONS *", b"OPTIONS * HTTP/1.1\r\n" + HOST + END, [b""], [b""]),
    # Refused here; some of it passes in plain Twisted.
    ("no Host", LINE + END, [400], [OK]),
    ("two Hosts", LINE + HOST + HOST + END, [400], [OK]),
    ("a Host of another site", LINE + b"Host: evil.example\r\n\r\n", [421], [OK]),
    ("a target without a slash", b"GET a HTTP/1.1\r\n" + HOST + END, [400], [b"GET a note=- body=;"]),
    ("a target with a URL in its query", b"GET plain.txt?u=http://h/echo HTTP/1.1\r\n" + HOST + END, [400], [b"GET plain.txt?u=http://h/echo note=- body=;"]),
    ("a target without a slash, again", b"GET Xecho.rpy HTTP/1.1\r\n" + HOST + END, [400], [b"GET Xecho.rpy note=- body=;"]),
    ("a target with a space", b"GET /a b HTTP/1.1\r\n" + HOST + END, [400], [400]),
    ("a method that is none", b"BREW /a HTTP/1.1\r\n" + HOST + END, [501], [b"BREW /a note=- body=;"]),
    ("CONNECT", b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + END, [501], [b"CONNECT localhost:80 note=- body=;"]),
    ("HTTP/2.0 by its word", b"GET /a HTTP/2.0\r\n" + HOST + END, [505], [400]),
    ("HTTP/1.2", b"GET /a HTTP/1.2\r\n" + HOST + END, [400], [400]),
    ("HTTP/0.9", b"GET /a\r\n\r\n", [505], [400]),
    ("what is no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", [400], [400]),
    ("a header without a colon", LINE + HOST + b"abc\r\n\r\n", [400], [400]),
    ("a header without a name", LINE + HOST + b": abc\r\n\r\n", [400], [400]),
    ("a space before the colon", LINE + HOST + b"X-Note : a\r\n\r\n", [400], [400]),
    ("a folded header", LINE + HOST + b"X-Note: a\r\n b\r\n\r\n", [400], [b"GET /a note=a b body=;"]),
    ("a NUL in a header", LINE + HOST + b"X-Note: a\x00b\r\n\r\n", [400], [400]),
    ("lines that end with LF", b"GET /a HTTP/1.1\nHost: localhost\n\n", [400], []),
    ("both lengths", POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", [400], [400]),
    ("two equal lengths", POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", [400], [400]),
    ("two lengths in one", POST + b"Content-Length: 3, 3\r\n\r\nabc", [400], [400]),
    ("a length with a sign", POST + b"Content-Length: +3\r\n\r\nabc", [400], [400]),
    ("a length that is none", POST + b"Content-Length: x\r\n\r\nabc", [400], [400]),
    ("a length of 50 digits", POST + b"Content-Length: " + b"9" * 50 + b"\r\n\r\nabc", [400], []),
    ("a length of 5,000 digits", POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nabc", [400], None),
    ("a length over the limit", POST + b"Content-Length: 10000001\r\n\r\nabc", [413], []),
    ("identity and chunked", POST + b"Transfer-Encoding: identity, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", [400], [400]),
    ("chunked twice", POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", [400], [400]),
    ("gzip", POST + b"Transfer-Encoding: gzip\r\n\r\nabc", [400], [400]),
    ("chunked in HTTP/1.0", b"POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", [400], [SAID]),
    ("a vertical tab before chunked", POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", [400], [400]),
    ("a chunk of negative length", POST + b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n", [400], [400]),
    ("a chunk that is too long", POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n", [400], [400]),
    ("a chunk with LF", POST + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n", [400], []),
    ("a malformed one behind a good one", LINE + HOST + END + b"GET a\r\n\r\n", [OK, 400], [OK, 400]),
    ("17 KB of headers", LINE + HOST + b"X-Note: " + b"x" * 17_000 + b"\r\n\r\n", [431], []),
    ("17 KB of one header, not complete", LINE + HOST + b"X-Note: " + b"x" * 17_000, [431], []),
    ("501 headers", LINE + HOST + b"A: b\r\n" * 500 + b"\r\n", [431], [400]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sent", "here", "twisted"), [row[1:] for row in CORPUS], ids=[row[0] for row in CORPUS]
)
def test_the_answer_to_each_raw_request(sent, here, twisted):
    wire = Wire().send(sent).wait()
    assert wire.bodies == here
    if 400 in here or 501 in here:
        assert wire.closed
    if twisted is not None:  # None: it raises an exception and answers nothing
        assert Wire(plain=True).send(sent).wait().bodies == twisted


@pytest.mark.parametrize(
    ("sent", "here"), [row[1:3] for row in CORPUS], ids=[row[0] for row in CORPUS]
)
def test_the_answer_is_the_same_wherever_the_request_is_cut(sent, here):
    for at in range(1, len(sent), 1 + len(sent) // 400):
        assert Wire().send(sent[:at], sent[at:]).wait().bodies == here, sent[:at]
    if len(sent) < 1000:
        assert Wire().send(*(sent[at : at + 1] for at in range(len(sent)))).wait().bodies == here
