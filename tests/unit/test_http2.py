"""HTTP/2 in memory: limits, backpressure, what the ledger tells, and how connections and streams end."""

import struct

import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET

from tarry import http2
from tarry.site import Site
from tests.unit.http2_client import GET, POST, PREFACE, Client, Page

WAIT = (*GET[:3], (":path", "/wait?key=k"))
SLOW_POST = (*POST[:3], (":path", "/wait"))
CALM, NO_ERROR = ErrorCodes.ENHANCE_YOUR_CALM, ErrorCodes.NO_ERROR


@pytest.fixture
def connect(monkeypatch):
    """Call it for a connection; *limits* are the site's."""
    return lambda page=None, **options: Client(monkeypatch, page, **options)


def ended(frame):
    frame.flags.add("END_STREAM")
    return frame


def window(stream, size):
    return WindowUpdateFrame(stream, window_increment=size)


def block(c, stream, data):
    """A header block of these bytes, in as many frames as it takes."""
    pieces = [data[i : i + 16_000] for i in range(0, len(data), 16_000)]
    frames = [HeadersFrame(stream, pieces[0]), *(ContinuationFrame(stream, p) for p in pieces[1:])]
    frames[-1].flags.add("END_HEADERS")
    return [ended(frames[0]), *frames[1:]]


# A connection that does nothing


def test_an_idle_connection_is_ended(connect):
    c = connect(idle_seconds=10)
    c.send(c.headers(1))
    c.sweep(10)
    assert c.goaway is None
    c.sweep(2)
    assert c.goaway == NO_ERROR
    assert c.transport.disconnecting
    assert not c.transport.aborted
    c.sweep(7)
    assert c.transport.aborted


@pytest.mark.parametrize("said", [b"", PREFACE[:10], PREFACE])
def test_a_connection_must_begin_in_time(connect, said):
    c = connect(preface=False, header_seconds=3)
    c.send(said)
    c.sweep(5)
    assert c.goaway == NO_ERROR


def test_bytes_of_a_frame_that_is_never_complete_keep_no_connection(connect):
    c = connect(idle_seconds=10)
    for byte in (20).to_bytes(3, "big") + b"\x06\0\0\0\0\0" + bytes(10):
        c.send(bytes([byte]))
        c.sweep(1)
    assert c.goaway == NO_ERROR


def test_ping_keeps_a_connection(connect):
    c = connect(idle_seconds=5)
    for _ in range(5):
        c.sweep(4)
        c.send(PingFrame(0, b"12345678"))
    assert c.goaway is None


def test_a_long_wait_is_no_idling(connect):
    c = connect(idle_seconds=5)
    c.send(c.headers(1, WAIT))
    c.sweep(60)
    c.page.waiting[0].finish()
    c.read()
    assert (c.response(1).status, c.response(1).end) == (200, "end")
    c.sweep(7)
    assert c.goaway == NO_ERROR


# Headers over the limits


def test_headers_must_be_complete_in_time(connect):
    c = connect(header_seconds=3)
    c.send(c.headers(1, WAIT), HeadersFrame(3, c.encoder.encode(GET)[:1]))
    for _ in range(5):
        c.send(ContinuationFrame(3, b""))
        c.sweep(1)
    assert (c.response(3).status, c.response(3).end) == (408, "end")
    assert c.response(3).body == b"no complete headers in 3 seconds\n"
    assert c.goaway == CALM
    assert c.of(GoAwayFrame)[0].last_stream_id == 3
    assert c.transport.disconnecting
    said = "no complete headers in 3 seconds"
    assert c.outcomes == [("left", f"GOAWAY ENHANCE_YOUR_CALM, sent: {said}"), ("refused", said)]
    assert c.entries[1]["status"] == 408


def test_headers_over_the_limit_get_431_and_the_connection_goes_on(connect):
    c = connect(header_bytes=1000)
    c.send(c.headers(1, [*GET, ("x-long", "y" * 1000)]), c.headers(3))
    assert (c.response(1).status, c.response(1).end) == (431, "end")
    assert c.response(1).body == b"request headers are over 1000 bytes\n"
    assert c.response(3).status == 200
    assert c.outcomes == [
        ("refused", "request headers are over 1000 bytes"),
        ("finished", ""),
    ]
    assert c.goaway is None


def test_over_500_headers_get_431(connect):
    c = connect()
    c.send(c.headers(1, [*GET, *((f"x{n}", "") for n in range(500))]))
    assert c.response(1).status == 431
    assert b"over 500 headers" in c.response(1).body


@pytest.mark.parametrize("what", ["a long value", "many of one index"])
def test_a_header_block_that_is_too_long_to_decode_gets_431_and_goaway(connect, what):
    c = connect()
    c.send(c.headers(1, WAIT))
    encoded = c.encoder.encode([*GET, ("x-long", "y" * 60_000)], huffman=False)
    data = {
        "a long value": encoded,
        "many of one index": encoded[:4] + b"\x90" * 10_000,
    }[what]
    c.send(*block(c, 3, data))
    assert c.response(3).status == 431
    assert c.goaway == CALM
    assert [outcome for outcome, _ in c.outcomes] == ["left", "refused"]
    assert c.transport.disconnecting


def test_trailers_that_are_too_long_end_the_connection(connect):
    c = connect(header_bytes=1000)
    c.send(c.headers(1, POST, end=False), *block(c, 1, b"\x82" * 9000))
    assert c.goaway == CALM
    assert c.response(1).status is None


def test_connect_is_not_supported(connect):
    c = connect()
    c.send(c.headers(1, [(":method", "CONNECT"), (":authority", "a:1")], end=False))
    assert c.response(1).status == 501
    c.send(c.headers(3))
    assert c.response(3).status == 200


# Bodies over the limits


def test_a_body_is_seen_while_it_arrives_and_must_go_on(connect):
    c = connect(idle_seconds=5)
    c.send(c.headers(1, SLOW_POST, end=False))
    for _ in range(4):
        c.sweep(4)
        c.send(DataFrame(1, b"part"))
    (entry,) = c.entries
    assert (entry["outcome"], entry["in_body"], entry["received"]) == ("pending", True, 16)
    c.sweep(7)
    assert (c.response(1).status, c.response(1).end) == (408, "end")
    assert c.outcomes == [("refused", "no more of the body for 5 seconds")]
    assert c.site.ledger.pending == {}
    c.sweep(7)
    assert [f.error_code for f in c.of(RstStreamFrame, 1)] == [NO_ERROR]
    c.sweep(7)
    assert c.goaway == NO_ERROR


def test_bodies_that_do_not_end_count_as_pending(connect):
    c = connect(pending=2)
    c.send(*[c.headers(n, SLOW_POST, end=False) for n in (1, 3)], c.headers(5))
    assert c.response(5).status == 503


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_gets_413_at_once_and_the_rest_is_dropped(connect, declared):
    c = connect(body_bytes=10_000)
    length = [("content-length", "200000")] if declared else []
    c.send(c.headers(1, [*POST, *length], end=False))
    if not declared:
        c.send(DataFrame(1, bytes(10_001)))
    assert (c.response(1).status, c.response(1).end) == (413, "end")
    for _ in range(12):
        c.send(DataFrame(1, bytes(15_000)))
    assert c.goaway is None, "the windows were opened again"
    c.sweep(7)
    assert [f.error_code for f in c.of(RstStreamFrame, 1)] == [NO_ERROR]
    c.send(c.headers(3))
    assert c.response(3).status == 200


def test_the_body_of_a_refused_request_may_end(connect):
    c = connect(body_bytes=10)
    c.send(c.headers(1, POST, end=False), DataFrame(1, bytes(11)), ended(DataFrame(1, bytes(11))))
    assert c.response(1).status == 413
    assert c.server.streams == {}
    assert c.of(RstStreamFrame) == []


def test_100_continue_is_sent_when_the_body_is_awaited(connect):
    c = connect()
    c.send(c.headers(1, [*POST, ("expect", "100-continue")], end=False))
    assert [f.fields[":status"] for f in c.of(HeadersFrame)] == ["100"]
    c.send(ended(DataFrame(1, b"body")))
    assert [f.fields[":status"] for f in c.of(HeadersFrame)] == ["100", "200"]
    assert c.response(1).body == b"POST body"


def test_no_100_continue_for_a_body_that_is_refused(connect):
    c = connect(body_bytes=10)
    extra = [("expect", "100-continue"), ("content-length", "11")]
    c.send(c.headers(1, [*POST, *extra], end=False))
    assert [f.fields[":status"] for f in c.of(HeadersFrame)] == ["413"]


# Attacks


def test_streams_that_are_reset_again_and_again_end_the_connection(connect):
    c = connect()
    for n in range(1, 2001, 2):
        c.send(c.headers(n, WAIT), RstStreamFrame(n, ErrorCodes.CANCEL))
    assert c.goaway is None
    for n in range(2001, 2101, 2):
        c.send(c.headers(n, WAIT), RstStreamFrame(n, ErrorCodes.CANCEL))
    assert c.goaway == CALM
    assert c.site.ledger.pending == {}


def test_streams_that_are_reset_now_and_then_do_not(connect):
    c = connect()
    for n in range(1, 4001, 2):
        c.send(c.headers(n, WAIT), RstStreamFrame(n, ErrorCodes.CANCEL))
        c.clock.advance(0.04)
    assert c.goaway is None


def test_a_client_that_pings_and_does_not_read_is_cut_off(connect):
    c = connect()
    c.server.pauseProducing()
    for _ in range(20):
        c.server.dataReceived(PingFrame(0, b"12345678").serialize() * 500)
    assert c.transport.aborted
    assert len(c.transport.value()) < 150_000


def test_many_frames_are_parsed_in_several_turns(connect, monkeypatch):
    monkeypatch.setattr(http2, "SLICE", -1)  # each takes its time
    c = connect()
    sent = b"".join(PingFrame(0, b"%08d" % n).serialize() for n in range(100))
    c.server.dataReceived(sent[:500])
    assert c.transport.producerState == "paused"
    c.server.dataReceived(sent[500:])
    assert len(c.read().of(PingFrame)) == 1
    for _ in range(100):
        c.clock.advance(0)
    assert [f.opaque_data for f in c.read().of(PingFrame)] == [b"%08d" % n for n in range(100)]
    assert c.transport.producerState == "producing"
    assert not c.clock.getDelayedCalls()


def test_a_connection_that_is_lost_parses_no_more(connect, monkeypatch):
    monkeypatch.setattr(http2, "SLICE", -1)
    c = connect()
    c.server.dataReceived(c.headers(1, WAIT).serialize() + c.headers(3, WAIT).serialize())
    c.leave()
    assert not c.clock.getDelayedCalls()
    assert [outcome for outcome, _ in c.outcomes] == ["left"]


# Backpressure


class Pushing:
    """A push producer that tells what it was told."""

    def __init__(self, request):
        self.request, self.told = request, []
        request.registerProducer(self, True)

    def pauseProducing(self):
        self.told.append("pause")

    def resumeProducing(self):
        self.told.append("resume")

    def stopProducing(self):
        self.told.append("stop")


def test_a_producer_pauses_while_the_window_is_used_up(connect):
    c = connect()
    c.send(c.headers(1, WAIT))
    (request,) = c.page.waiting
    producer = Pushing(request)
    request.write(bytes(65_535))
    assert producer.told == []
    request.write(b"more")
    assert producer.told == ["pause"]
    assert c.entries[0]["not_reading"]
    c.send(window(1, 2))
    c.send(window(0, 9))
    assert producer.told == ["pause"]
    c.send(window(1, 2))
    assert producer.told == ["pause", "resume"]
    assert not c.entries[0]["not_reading"]
    request.unregisterProducer()
    request.finish()
    c.read()
    assert len(c.response(1).body) == 65_539
    assert c.response(1).end == "end"


def test_a_producer_pauses_while_the_client_does_not_read(connect):
    c = connect()
    c.send(
        window(0, 2**20),
        window(0, 2**20),
        SettingsFrame(0, settings={4: 2**20}),
        c.headers(1, WAIT),
    )
    (request,) = c.page.waiting
    producer = Pushing(request)
    c.server.pauseProducing()
    request.write(b"more")
    assert producer.told == ["pause"]
    c.server.resumeProducing()
    assert producer.told == ["pause", "resume"]
    assert c.read().response(1).body == b"more"


def test_a_pull_producer_is_asked_while_there_is_a_window(connect):
    class Pulled:
        asked = 0

        def resumeProducing(self):
            self.asked += 1
            request.write(bytes(10_000))

        def stopProducing(self):
            self.asked = "stopped"

    c = connect()
    c.send(c.headers(1, WAIT))
    (request,) = c.page.waiting
    producer = Pulled()
    request.registerProducer(producer, False)
    for _ in range(50):
        c.clock.advance(0)
    assert producer.asked == 7
    c.send(RstStreamFrame(1, ErrorCodes.CANCEL))
    assert producer.asked == "stopped"
    assert not c.clock.getDelayedCalls()


def test_streams_take_turns(connect):
    c = connect()
    c.send(
        SettingsFrame(0, settings={4: 2**20}),
        window(0, 2**20),
        c.headers(1, WAIT),
        c.headers(3, WAIT),
    )
    first, second = c.page.waiting
    c.server.pauseProducing()
    first.write(bytes(60_000))
    second.write(bytes(60_000))
    c.server.resumeProducing()
    assert [f.stream_id for f in c.read().of(DataFrame)] == [1, 3] * 4


def test_a_response_that_is_finished_must_be_taken(connect):
    c = connect(idle_seconds=5)
    c.send(SettingsFrame(0, settings={4: 10}), c.headers(1, WAIT))
    c.page.waiting[0].write(bytes(40))
    c.page.waiting[0].finish()
    for _ in range(2):
        c.sweep(4)
        c.send(window(1, 10))
    assert len(c.response(1).body) == 30
    c.sweep(7)
    assert [f.error_code for f in c.of(RstStreamFrame, 1)] == [ErrorCodes.CANCEL]
    assert c.server.streams == {}


def test_a_long_response_that_is_taken_may_outlast_the_body_that_is_not_read(connect):
    c = connect(body_bytes=10, idle_seconds=10)
    c.send(
        SettingsFrame(0, settings={4: 10}), c.headers(1, POST, end=False), DataFrame(1, bytes(11))
    )
    for _ in range(2):
        c.sweep(8)
        c.send(window(1, 10))
    assert c.response(1).end == "end"
    assert c.of(RstStreamFrame) == []


def test_a_client_s_wish_to_remember_headers_is_bounded(connect):
    c = connect()
    c.send(SettingsFrame(0, settings={1: 2**32 - 1}))
    assert c.server.http.encoder.header_table_size == 4096
    c.decoder.max_allowed_table_size = 2**32 - 1
    for n in range(1, 9, 2):
        c.send(c.headers(n))
        assert c.response(n).status == 200


# How streams end, and what the ledger tells


def test_a_client_s_reset_is_told_with_its_code(connect):
    c = connect()
    c.send(c.headers(1, WAIT), c.headers(3, SLOW_POST, end=False), c.headers(5, WAIT))
    gone = []
    c.page.waiting[0].notifyFinish().addErrback(gone.append)
    producer = Pushing(c.page.waiting[0])
    c.send(RstStreamFrame(1, ErrorCodes.CANCEL), RstStreamFrame(3, 0xABC))
    assert c.outcomes == [
        ("left", "RST_STREAM CANCEL"),
        ("left", "RST_STREAM 0xabc"),
        ("pending", ""),
    ]
    assert producer.told == ["stop"]
    assert len(gone) == 1
    c.page.waiting[0].write(b"is ignored")
    assert c.goaway is None


@pytest.mark.parametrize(("reason", "detail"), [(None, "FIN"), (ConnectionLost(), "RST")])
def test_a_connection_that_is_lost_is_told_for_each_stream(connect, reason, detail):
    c = connect()
    c.send(c.headers(1, WAIT), c.headers(3, WAIT))
    if reason is None:
        c.leave()
    else:
        c.server.connectionLost(Failure(reason))
    assert c.outcomes == [("left", detail)] * 2
    assert (c.server.streams, c.site.connections) == ({}, set())


def test_an_aborted_response_is_reset(connect):
    c = connect()
    c.send(c.headers(1, WAIT), c.headers(3, WAIT))
    first, second = c.page.waiting
    first.write(b"part")
    first.channel.abortConnection()
    second.loseConnection()
    c.clock.advance(0)
    c.read()
    assert (c.response(1).body, c.response(1).end) == (b"part", ErrorCodes.INTERNAL_ERROR)
    assert c.response(3).end == ErrorCodes.INTERNAL_ERROR
    assert c.outcomes == [("aborted", "")] * 2
    c.send(c.headers(5))
    assert c.response(5).status == 200


def test_a_script_that_fails_after_the_first_byte_resets_its_stream(connect, logged):
    class Fails(Page):
        def render(self, request):
            request.write(b"part")
            raise RuntimeError("on purpose")

    c = connect(Fails())
    c.send(c.headers(1))
    assert (c.response(1).body, c.response(1).end) == (b"part", ErrorCodes.INTERNAL_ERROR)
    assert c.entries[0]["outcome"] == "failed"
    assert "on purpose" in logged()


def test_connection_headers_of_a_script_are_left_out(connect):
    class Closing(Page):
        def render(self, request):
            request.setHeader(b"Connection", b"close")
            request.setHeader(b"Keep-Alive", b"timeout=5")
            request.setHeader(b"X-Upper", b"Yes")
            return b""

    c = connect(Closing())
    c.send(c.headers(1))
    (headers,) = c.of(HeadersFrame)
    assert headers.fields["x-upper"] == "Yes"
    assert not {"connection", "keep-alive", "transfer-encoding"} & headers.fields.keys()


def test_hints_come_before_the_response(connect):
    class Hints(Page):
        def render(self, request):
            from twisted.web.http_headers import Headers

            request.channel.writeHeaders(
                b"HTTP/1.1", b"103", b"Early Hints", Headers({"Link": ["<x>"]})
            )
            return b"page"

    c = connect(Hints())
    c.send(c.headers(1))
    assert [f.fields[":status"] for f in c.of(HeadersFrame)] == ["103", "200"]
    assert c.of(HeadersFrame)[0].fields["link"] == "<x>"


# A script that answers before the body is there


class Early(Page):
    early = True

    def __init__(self):
        super().__init__()
        self.pieces = []

    def render(self, request):
        self.request = request
        self.done = Deferred.fromCoroutine(self.answer(request))
        return NOT_DONE_YET

    async def answer(self, request):
        request.write(b"early ")
        self.go_on = Deferred()
        await self.go_on
        async for piece in request.body:
            self.pieces.append(piece)
        request.write(b"late")
        request.finish()


@pytest.fixture
def early(connect, monkeypatch):
    monkeypatch.setattr(Site, "answers_early", lambda self, request: True)
    return connect(Early(), idle_seconds=5)


def test_a_body_that_is_not_taken_is_not_read(early):
    c = early
    c.send(c.headers(1, [*POST, ("expect", "100-continue")], end=False))
    assert c.response(1).body == b"early "
    sent = 0

    def left(stream):
        return 65_535 + sum(f.window_increment for f in c.of(WindowUpdateFrame, stream)) - sent

    while left(1) >= 16_000:
        c.send(DataFrame(1, bytes(16_000)))
        sent += 16_000
    assert 65_536 < sent < 3 * 65_536
    assert left(0) > 32_000, "other streams may send"
    c.sweep(20)
    assert c.outcomes == [("pending", "")]
    c.page.go_on.callback(None)
    c.read()
    assert left(1) > 32_000
    c.send(ended(DataFrame(1, b"end")))
    assert sum(map(len, c.page.pieces)) == sent + 3


def test_an_early_answer_may_end_before_the_body(early):
    c = early
    c.send(c.headers(1, POST, end=False))
    c.page.request.finish()
    c.read()
    assert c.response(1).end == "end"
    c.send(DataFrame(1, b"more"))
    c.sweep(7)
    assert [f.error_code for f in c.of(RstStreamFrame, 1)] == [NO_ERROR]
    c.page.go_on.addErrback(lambda _: None).cancel()


# How connections end


def test_a_client_s_goaway_lets_its_streams_end(connect):
    c = connect()
    c.send(c.headers(1, WAIT), GoAwayFrame(0))
    assert c.outcomes == [("pending", "")]
    c.page.waiting[0].write(b"whole")
    c.page.waiting[0].finish()
    c.read()
    assert (c.response(1).body, c.response(1).end) == (b"whole", "end")
    assert c.goaway == NO_ERROR
    assert c.transport.disconnecting


def test_a_client_s_goaway_is_told_when_it_closes_then(connect):
    c = connect()
    c.send(c.headers(1, WAIT), GoAwayFrame(0))
    c.leave()
    assert c.outcomes == [("left", "GOAWAY NO_ERROR")]


def test_a_client_s_goaway_with_an_error_ends_all(connect):
    c = connect()
    c.send(c.headers(1, WAIT), GoAwayFrame(0, error_code=ErrorCodes.INTERNAL_ERROR))
    assert c.outcomes == [("left", "GOAWAY INTERNAL_ERROR")]
    assert c.transport.disconnecting


def test_a_failure_of_ours_ends_the_connection_and_is_logged(connect, monkeypatch, logged):
    monkeypatch.setattr(http2.HTTP2, "_received_request", lambda self, event: 1 / 0)
    c = connect()
    c.send(c.headers(1))
    assert c.goaway == ErrorCodes.INTERNAL_ERROR
    assert "ZeroDivisionError" in logged()
    assert c.transport.disconnecting


def test_the_stop_lets_streams_end_and_takes_no_new_ones(connect):
    c = connect()
    c.send(c.headers(1, WAIT), c.headers(3, SLOW_POST, end=False))
    for _ in range(3):
        c.site.drain()
    c.send(c.headers(5))
    assert c.goaway is None, "httpx gives up what is under way when it sees one"
    assert c.response(5).end == ErrorCodes.REFUSED_STREAM
    assert c.outcomes[2] == ("refused", "REFUSED_STREAM: the connection is about to end")
    c.page.waiting[0].finish()
    c.send(ended(DataFrame(3, b"the end of the body")))
    c.page.waiting[1].finish()
    c.read()
    assert [c.response(n).end for n in (1, 3)] == ["end", "end"]
    assert type(c.frames[-1]) is GoAwayFrame
    assert (c.goaway, c.frames[-1].last_stream_id) == (NO_ERROR, 5)
    assert c.transport.disconnecting


def test_the_stop_ends_an_idle_connection_at_once_and_does_not_wait_long(connect):
    c = connect()
    c.send(c.headers(1))
    c.site.drain()
    assert c.read().goaway == NO_ERROR
    c.clock.advance(0.9)
    c.site.drain()
    assert not c.transport.aborted
    c.clock.advance(0.2)
    c.site.drain()
    assert c.transport.aborted


def test_the_end_of_the_grace_breaks_off_what_is_left(connect):
    c = connect()
    c.send(c.headers(1, WAIT))
    c.site.drain()
    c.site.abort("the server stopped")
    assert c.transport.aborted


# A client that begins with HTTP/2 unasked


@pytest.mark.parametrize("cut", range(len(PREFACE) + 9))
def test_http2_without_tls_however_the_preface_is_cut(connect, cut):
    c = connect()
    sent = PREFACE + SettingsFrame(0).serialize() + c.headers(1).serialize()
    wire, c.transport = c.site.buildProtocol(None), StringTransport()
    c.transport.hostAddr, c.frames, c.kept = c.server._host, [], b""
    wire.makeConnection(c.transport)
    for piece in (sent[:cut], sent[cut : cut + 1], sent[cut + 1 :]):
        wire.dataReceived(piece)
    assert (c.read().response(1).status, c.response(1).body) == (200, b"GET ")
    assert len(c.site.connections) == 2
    wire.connectionLost(Failure(ConnectionLost()))
    assert len(c.site.connections) == 1


def test_a_header_block_is_not_kept_beyond_its_limit(connect):
    """A frame's length is believed, so nothing is collected for one that is too long."""
    c = connect()
    c.send(struct.pack(">I", 16_385)[1:] + b"\x01\x04\0\0\0\x01")
    assert c.goaway == ErrorCodes.FRAME_SIZE_ERROR
