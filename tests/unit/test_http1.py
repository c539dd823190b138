"""HTTP/1.1 in memory: what is answered to which bytes, however they are cut."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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

CORPUS = Path(__file__).parents[1] / "data" / "raw_requests.txt"


class Echo(Resource):
    """Answers with what it was asked, at once or a second later."""

    isLeaf = True

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def render(self, request):
        note = request.getHeader(b"X-Note") or b"-"
        body = b"%b %b note=%b body=%b;" % (request.method, request.uri, note, request.content.read())
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
        self.transport = StringTransport()
        self.channel = self.site.buildProtocol(None)
        self.channel.makeConnection(self.transport)

    def send(self, *pieces):
        for piece in pieces:
            if not self.transport.disconnecting:
                self.channel.dataReceived(piece)
        return self

    def wait(self):
        for _ in range(60):
            self.clock.advance(1)
        return self

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
            lengths = [line[15:] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
            body, sent = (sent[: int(lengths[0])], sent[int(lengths[0]) :]) if lengths else (b"", sent)
            if status != 100:
                found.append(body if status == 200 else status)
        return found


# Any valid sequence of requests, cut anywhere


PATHS = st.sampled_from(["/a", "/b?x=1", "/later", "/later?delay=2", "/%41"])
NOTES = st.sampled_from(["-", "Content-Length: 45", "x" * 300, "GET / HTTP/1.1", "chunked", ""])
BODIES = st.binary(max_size=40) | st.sampled_from([b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n\r\n"])


@st.composite
def requests(draw):
    """One request as bytes."""
    path, note, body = draw(PATHS), draw(NOTES), draw(BODIES)
    framing = draw(st.sampled_from(["none", "length", "chunked", "expect"]))
    lines = [f"{'GET' if framing == 'none' else 'POST'} {path} HTTP/1.1", "Host: localhost", f"X-Note: {note}"]
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


def test_a_header_of_the_next_request_is_not_one_of_this(plain=False):
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
