"""Requests and responses in memory: bodies, forms, Content-Length, failures, and what the ledger has."""

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from tarry.ledger import Ledger
from tarry.limits import Limits
from tarry.site import Site


class Wire:
    """One connection to a site whose only resource calls *render*."""

    def __init__(self, render, limits=None, method="GET"):
        page = Resource()
        page.isLeaf, page.render = True, render
        self.clock = Clock()
        self.site = Site(page, limits or Limits(), Ledger(), reactor=self.clock)
        self.transport = StringTransport(hostAddress=IPv4Address("TCP", "127.0.0.1", 80))
        self.channel = self.site.buildProtocol(None)
        self.channel.makeConnection(self.transport)

    def send(self, first, *headers, body=b""):
        lines = [f"{first} HTTP/1.1", "Host: localhost", *headers, "", ""]
        self.channel.dataReceived("\r\n".join(lines).encode() + body)
        return self.transport.value()

    def post(self, body, kind, *headers):
        return self.send(
            "POST /", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers, body=body
        )

    def leave(self):
        self.channel.connectionLost(Failure(ConnectionDone()))

    @property
    def aborted(self):
        return self.transport.disconnecting

    @property
    def entry(self):
        (entry,) = self.site.ledger.entries()
        return entry


def body_of(sent):
    return sent.partition(b"\r\n\r\n")[2]


def args(request):
    return repr(sorted(request.args.items())).encode()


URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--b--\r\n'


def test_fields_of_a_form_and_of_the_query():
    assert body_of(Wire(args).send("GET /?a=1&a=2&b=")) == b"[(b'a', [b'1', b'2']), (b'b', [b''])]"
    assert body_of(Wire(args).post(b"a=%41&c=", URLENCODED)) == b"[(b'a', [b'A']), (b'c', [b''])]"
    assert (
        body_of(Wire(args).post(MULTIPART, "multipart/form-data; boundary=b"))
        == b"[(b'a', [b'1'])]"
    )


@pytest.mark.parametrize(("body", "kind"), [
    (b"a=1;" * 2_500_000, URLENCODED),
    (b"a=&" * 3_300_000, URLENCODED),
    (b"a=%41" * 2_000_000, URLENCODED),
    (b"--b\n" * 2_000_000, "multipart/form-data; boundary=b"),
    (b"--b\r\n\r\n" + b"\r" * 9_000_000, "multipart/form-data; boundary=b"),
], ids=["semicolons", "empty fields", "escapes", "bare LF", "one part of CR"])  # fmt: skip
def test_a_form_that_is_too_long_to_parse_is_refused(body, kind):
    wire = Wire(args, Limits(body_bytes=len(body)))
    sent = wire.post(body, kind)
    assert sent.startswith(b"HTTP/1.1 413 ")
    assert b"this server parses at most 20000" in sent
    assert (wire.entry.outcome, wire.entry.status) == ("refused", 413)


def test_a_body_of_any_form_is_whole_for_a_script_that_does_not_ask_for_its_fields():
    sent = Wire(lambda request: b"%d" % len(request.content.read())).post(
        b"a=1;" * 10_000, URLENCODED
    )
    assert body_of(sent) == b"40000"


def test_a_type_with_many_parameters_is_refused():
    sent = Wire(args).post(b"a=1", "multipart/form-data;" + ";" * 15_000)
    assert sent.startswith(b"HTTP/1.1 400 ")
    assert body_of(sent) == b"Content-Type has over 10 parameters\n"


def test_a_malformed_multipart_form_is_refused_in_one_line():
    sent = Wire(args).post(b"nothing of the kind", "multipart/form-data; boundary=b")
    assert sent.startswith(b"HTTP/1.1 400 ")
    assert body_of(sent).startswith(b"malformed multipart form: ")


# Bodies on disk take a descriptor, which is counted.


def test_a_short_body_of_unknown_length_is_in_memory():
    wire = Wire(lambda request: type(request.content).__name__.encode())
    wire.send("POST /", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n")
    assert body_of(wire.transport.value()) == b"BytesIO"


def test_bodies_on_disk_count_as_connections_do():
    wire = Wire(args, Limits(connections=2))
    wire.send("POST /", "Content-Length: 200000", body=b"x" * 150_000)
    assert wire.site.buildProtocol(None).__class__.__name__ == "TooMany"
    wire.leave()
    assert wire.site.buildProtocol(None).__class__.__name__ == "HTTP1"


def test_a_body_that_needs_a_file_too_many_is_refused():
    wire = Wire(args, Limits(connections=1))
    chunk = b"%x\r\n%b\r\n" % (150_000, b"x" * 150_000)
    sent = wire.send("POST /", "Transfer-Encoding: chunked", body=chunk)
    assert sent.startswith(b"HTTP/1.1 503 ")
    assert (wire.entry.outcome, wire.entry.status) == ("refused", 503)


def test_an_upload_given_up_is_told_as_left():
    wire = Wire(args)
    wire.send("POST /?key=mine", "Content-Length: 10", body=b"1234")
    assert wire.entry.as_dict()["in_body"]
    wire.leave()
    shown = wire.entry.as_dict()
    assert (shown["outcome"], shown["received"], shown["key"]) == ("left", 4, "mine")


# Content-Length is kept.


def writer(declared, *pieces):
    def render(request):
        request.setHeader("Content-Length", str(declared))
        for piece in pieces:
            request.write(piece)
        request.finish()
        return NOT_DONE_YET

    return render


def test_what_is_written_over_the_length_is_not_sent_and_breaks_the_connection():
    wire = Wire(writer(3, b"ab", b"cd"))
    assert body_of(wire.send("GET /")) == b"abc"
    assert wire.aborted
    assert (wire.entry.outcome, wire.entry.detail) == (
        "failed",
        "wrote over 3 bytes, the Content-Length",
    )


def test_less_than_the_length_breaks_the_connection():
    wire = Wire(writer(5, b"ab"))
    wire.send("GET /")
    assert wire.aborted
    assert (wire.entry.outcome, wire.entry.detail) == (
        "failed",
        "wrote 2 of 5 bytes, the Content-Length",
    )


def test_a_head_response_may_declare_what_it_does_not_send():
    wire = Wire(writer(5))
    assert b"Content-Length: 5\r\n" in wire.send("HEAD /")
    assert wire.entry.outcome == "finished"


def test_a_failed_response_has_only_the_error_s_headers():
    def render(request):
        request.setHeader("Content-Encoding", "gzip")
        request.setHeader("Expires", "never")
        request.setETag(b"x")
        request.addCookie("a", "b")
        raise KeyError("why")

    head, _, body = Wire(render).send("GET /").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert not [
        name for name in (b"Content-Encoding", b"Expires", b"ETag", b"Set-Cookie") if name in head
    ]
    assert body == b"the script failed: the server's log says why\n"


@pytest.mark.parametrize(
    ("code", "phrase"), [(429, b"Too Many Requests"), (418, b"I'm a Teapot"), (599, b"Status 599")]
)
def test_every_status_has_a_phrase(code, phrase):
    def render(request):
        request.setResponseCode(code)
        return b""

    assert Wire(render).send("GET /").startswith(b"HTTP/1.1 %d %b\r\n" % (code, phrase))


def test_every_method_that_is_not_allowed_gets_one_plain_line():
    page = Resource()
    page.isLeaf, page.render_PUT = True, lambda request: b""
    wire = Wire(page.render)
    sent = wire.send("POST /")
    assert sent.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nAllow: " in sent
    assert b"text/plain" in sent


# A resource with `early = True` is rendered when the headers are in.


class Early:
    """Renders early, with a body that a test can watch being taken."""

    def __init__(self, monkeypatch, *headers, answer_at_once=False, body=b""):
        self.taken, self.answer_at_once = [], answer_at_once
        self.wire = Wire(self.render)
        monkeypatch.setattr(self.wire.site, "answers_early", lambda request: True)
        self.wire.send("POST /", *headers, body=body)

    def render(self, request):
        self.request = request
        if self.answer_at_once:
            request.setResponseCode(413)
            return b"too much"
        self.reading = Deferred.fromCoroutine(self.read(request))
        return NOT_DONE_YET

    async def read(self, request):
        async for piece in request.body:
            self.taken.append(piece)
            await self.ready
        request.write(b"%d" % len(b"".join(self.taken)))
        request.finish()

    ready = succeed(None)


def test_an_early_resource_takes_the_body_as_it_arrives(monkeypatch):
    early = Early(monkeypatch, "Content-Length: 6")
    early.wire.channel.dataReceived(b"abc")
    assert early.taken == [b"abc"]
    assert early.wire.entry.as_dict()["in_body"]
    early.wire.channel.dataReceived(b"def")
    assert body_of(early.wire.transport.value()).endswith(b"\r\n6\r\n0\r\n\r\n")
    assert (early.wire.entry.outcome, early.wire.entry.received) == ("finished", 6)
    early.wire.transport.clear()
    early.wire.send("POST /", "Content-Length: 1", body=b"x")  # the connection goes on
    assert early.wire.transport.value().startswith(b"HTTP/1.1 200 ")


def test_what_came_with_the_headers_is_a_piece_like_any(monkeypatch):
    early = Early(monkeypatch, "Content-Length: 6", body=b"abc")
    early.wire.channel.dataReceived(b"def")
    assert early.taken == [b"abc", b"def"]
    assert early.wire.entry.received == 6


def test_what_an_early_resource_does_not_take_is_not_read(monkeypatch):
    early = Early(monkeypatch, "Content-Length: 300000")
    early.ready = Deferred()
    for _ in range(3):
        early.wire.channel.dataReceived(b"x" * 40_000)
    assert len(early.taken) == 1
    assert early.wire.transport.producerState == "paused"
    early.ready.callback(None)
    assert len(early.taken) == 3
    assert early.wire.transport.producerState == "producing"


def test_continue_is_sent_when_the_body_is_first_asked_for(monkeypatch):
    early = Early(monkeypatch, "Content-Length: 3", "Expect: 100-continue", answer_at_once=True)
    sent = early.wire.transport.value()
    assert sent.startswith(b"HTTP/1.1 413 ")
    assert b"Connection: close\r\n" in sent
    early = Early(monkeypatch, "Content-Length: 3", "Expect: 100-continue")
    assert early.wire.transport.value() == b"HTTP/1.1 100 Continue\r\n\r\n"


def test_an_answer_in_mid_upload_ends_the_connection_and_no_more_is_taken_for_a_request(
    monkeypatch,
):
    early = Early(monkeypatch, "Content-Length: 100", answer_at_once=True)
    early.wire.channel.dataReceived(b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert early.wire.transport.disconnecting
    assert early.wire.site.ledger.requests == 1


def test_a_client_that_leaves_in_mid_upload_ends_the_body(monkeypatch):
    early = Early(monkeypatch, "Content-Length: 100")
    early.wire.channel.dataReceived(b"abc")
    early.request.notifyFinish().addErrback(lambda reason: early.reading.cancel())
    early.reading.addErrback(lambda failure: None)
    early.wire.leave()
    assert early.reading.called
    assert early.wire.entry.outcome == "left"
