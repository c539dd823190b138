"""What RFC 9113 and RFC 7541 ask of a server: frames that a client sends, and what must come back.

The cases are those of h2spec, in its order, as frames of our own. A case is stricter than h2spec where that
takes any end of the connection: the error code is named, and a malformed request ends its stream only.
After each case a PING tells whether the connection goes on, and after an error that it is closed.
"""

import struct

import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.unit.http2_client import GET, POST, PREFACE, Client

NO_ERROR, PROTOCOL, INTERNAL, FLOW_CONTROL, SETTINGS_TIMEOUT, CLOSED, FRAME_SIZE, REFUSED, CANCEL, COMPRESSION = (
    ErrorCodes(code) for code in range(10)
)  # fmt: skip
CALM = ErrorCodes.ENHANCE_YOUR_CALM
END_STREAM, END_HEADERS, PADDED, PRIORITY, ACK = 0x1, 0x4, 0x8, 0x20, 0x1
DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
WAIT = (*GET[:3], (":path", "/wait"))
MOST = 2**31 - 1


def raw(kind, stream, payload=b"", flags=0, length=None):
    """A frame of bytes, also a wrong one."""
    length = len(payload) if length is None else length
    return struct.pack(">I", length)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def made(frame, *flags):
    for flag in flags:
        frame.flags.add(flag)
    return frame


def ended(frame):
    return made(frame, "END_STREAM")


def settings(**values):
    codes = {"table": 1, "push": 2, "streams": 3, "window": 4, "frame": 5, "unknown": 99}
    return SettingsFrame(0, settings={codes[name]: value for name, value in values.items()})


def block(c, stream, fields=POST, end=False):
    """A header block cut into a HEADERS frame and CONTINUATION frames, the last of which ends it."""
    data = c.encoder.encode(list(fields))
    cuts = [data[i : i + 5] for i in range(0, len(data), 5)]
    first = HeadersFrame(stream, cuts[0])
    if end:
        first.flags.add("END_STREAM")
    rest = [ContinuationFrame(stream, cut) for cut in cuts[1:]]
    rest[-1].flags.add("END_HEADERS")
    return [first, *rest]


def between(frames, frame):
    return [frames[0], frame, *frames[1:]]


def request(c, *extra, base=GET, stream=1):
    return [c.headers(stream, [*base, *extra])]


def without(*names):
    return [field for field in GET if field[0] not in names]


def closed_stream(c):
    """Stream 1 ends on both sides."""
    c.send(c.headers(1))
    assert c.response(1).end == "end"


# Each: the frames, and what comes back: ("goaway", code), ("reset", code) of stream 1, a status of it, "pong".
GOOD = {
    "generic/2: PRIORITY on an idle stream": lambda c: [PriorityFrame(3, stream_weight=9)],
    "generic/2: PRIORITY on a closed stream": lambda c: closed_stream(c) or [PriorityFrame(1)],
    "generic/2: WINDOW_UPDATE on a half-closed stream": lambda c: [
        c.headers(1, WAIT), WindowUpdateFrame(1, window_increment=1)],
    "generic/2: PRIORITY on a half-closed stream": lambda c: [c.headers(1, WAIT), PriorityFrame(1)],
    "generic/2: RST_STREAM on a half-closed stream": lambda c: [c.headers(1, WAIT), RstStreamFrame(1, 8)],
    "generic/2: RST_STREAM on a closed stream": lambda c: closed_stream(c) or [RstStreamFrame(1, 8)],
    "generic/3.7: PING": lambda c: [PingFrame(0, b"another8")],
    "generic/3.9: WINDOW_UPDATE of the connection": lambda c: [WindowUpdateFrame(0, window_increment=1)],
    "4.1: a frame of unknown type": lambda c: [raw(0xEE, 0, b"?" * 8)],
    "4.1: undefined flags": lambda c: [raw(PING, 0, b"another8", 0x16)],
    "4.1: the reserved bit of the stream id": lambda c: [raw(PING, 0x8000_0000, b"another8")],
    "5.5: an extension frame": lambda c: [raw(0xF0, 0, b"x", 7)],
    "6.5.2: an unknown setting": lambda c: [settings(unknown=1)],
    "6.7: PING with ACK": lambda c: [made(PingFrame(0, b"another8"), "ACK")],
    "7: RST_STREAM with an unknown code": lambda c: [c.headers(1, WAIT), RstStreamFrame(1, 0xFF)],
}  # fmt: skip

ANSWERED = {
    "generic/3.1: DATA": lambda c: [c.headers(1, POST, end=False), ended(DataFrame(1, b"test"))],
    "generic/3.1: DATA in many frames": lambda c: [
        c.headers(1, POST, end=False), DataFrame(1, b"te"), DataFrame(1, b"st"), ended(DataFrame(1, b""))],
    "generic/3.1: DATA with padding": lambda c: [
        c.headers(1, POST, end=False),
        made(DataFrame(1, b"test", pad_length=6), "PADDED", "END_STREAM")],
    "generic/3.2: HEADERS with padding": lambda c: [
        made(HeadersFrame(1, c.encoder.encode(GET), pad_length=8), "PADDED", "END_HEADERS", "END_STREAM")],
    "generic/3.2: HEADERS with priority": lambda c: [
        made(HeadersFrame(1, c.encoder.encode(GET), stream_weight=255), "PRIORITY", "END_HEADERS", "END_STREAM")],
    "generic/3.3: PRIORITY before a lower stream": lambda c: [PriorityFrame(3), c.headers(1)],
    "generic/3.10: CONTINUATION": lambda c: block(c, 1, fields=GET, end=True),
    "generic/4: HEAD": lambda c: [c.headers(1, [(":method", "HEAD"), *GET[1:]])],
    "generic/4: trailers": lambda c: [
        c.headers(1, POST, end=False), DataFrame(1, b"test"), c.headers(1, [("x-test", "ok")])],
    "generic/5: a table size update": lambda c: [
        made(HeadersFrame(1, b"\x20\x3f\xe1\x1f" + c.encoder.encode(GET)), "END_HEADERS", "END_STREAM")],
    "4.2: DATA of 16384 bytes": lambda c: [
        c.headers(1, POST, end=False), ended(DataFrame(1, bytes(16_384)))],
    "8.3.1: Host in place of :authority": lambda c: request(c, ("host", "localhost"), base=without(":authority")),
    "8.2.2: TE with trailers": lambda c: request(c, ("te", "trailers")),
    "8.2.3: Cookie in pieces": lambda c: request(c, ("cookie", "a=b"), ("cookie", "c=d")),
}  # fmt: skip

# Errors of the connection.
BAD = {
    "3.4: the first frame is not SETTINGS": (PROTOCOL, lambda c: [PingFrame(0, b"too soon")]),
    "3.4: the first frame is the ACK of SETTINGS": (
        PROTOCOL,
        lambda c: [made(SettingsFrame(0), "ACK")],
    ),
}
CONNECTION = {
    "4.2: DATA over the largest frame": (FRAME_SIZE, lambda c: [
        c.headers(1, POST, end=False), raw(DATA, 1, bytes(16_385), END_STREAM)]),
    "4.2: DATA over the largest frame, only its header": (FRAME_SIZE, lambda c: [
        c.headers(1, POST, end=False), raw(DATA, 1, b"", END_STREAM, length=2**24 - 1)]),
    "4.2: HEADERS over the largest frame": (FRAME_SIZE, lambda c: [
        raw(HEADERS, 1, c.encoder.encode(GET) + bytes(16_384), END_STREAM | END_HEADERS)]),
    "4.3: an invalid header block": (COMPRESSION, lambda c: [raw(HEADERS, 1, b"\x82\xff\xff\xff", END_STREAM | END_HEADERS)]),
    "4.3: PRIORITY within a header block": (PROTOCOL, lambda c: between(block(c, 1), PriorityFrame(1))),
    "4.3: HEADERS of another stream within a header block": (PROTOCOL, lambda c: [block(c, 1)[0], c.headers(3)]),
    "5.1: idle: DATA": (PROTOCOL, lambda c: [ended(DataFrame(1, b"test"))]),
    "5.1: idle: RST_STREAM": (PROTOCOL, lambda c: [RstStreamFrame(1, 8)]),
    "5.1: idle: WINDOW_UPDATE": (PROTOCOL, lambda c: [WindowUpdateFrame(1, window_increment=100)]),
    "5.1: idle: CONTINUATION": (PROTOCOL, lambda c: [made(ContinuationFrame(1, c.encoder.encode(GET)), "END_HEADERS")]),
    "5.1: half closed: CONTINUATION": (PROTOCOL, lambda c: [
        c.headers(1, WAIT), made(ContinuationFrame(1, b"\x82"), "END_HEADERS")]),
    "5.1: closed: HEADERS": (CLOSED, lambda c: closed_stream(c) or [c.headers(1)]),
    "5.1: closed: CONTINUATION": (PROTOCOL, lambda c: closed_stream(c) or [
        made(ContinuationFrame(1, b"\x82"), "END_HEADERS")]),
    "5.1: reset: CONTINUATION": (PROTOCOL, lambda c: [
        c.headers(1, WAIT), RstStreamFrame(1, 8), made(ContinuationFrame(1, b"\x82"), "END_HEADERS")]),
    "5.1.1: an even stream id": (PROTOCOL, lambda c: [c.headers(2)]),
    "5.1.1: a stream id below an earlier one": (PROTOCOL, lambda c: [c.headers(5, WAIT), c.headers(3)]),
    "5.3.1: HEADERS that depends on itself": (PROTOCOL, lambda c: [
        made(HeadersFrame(1, c.encoder.encode(GET), depends_on=1), "PRIORITY", "END_HEADERS", "END_STREAM")]),
    "5.3.1: PRIORITY that depends on itself": (PROTOCOL, lambda c: [PriorityFrame(3, depends_on=3)]),
    "5.4.1: an invalid PING": (FRAME_SIZE, lambda c: [raw(PING, 0, b"abc")]),
    "5.5: an extension frame within a header block": (PROTOCOL, lambda c: between(
        block(c, 1), raw(0xF0, 0, b"x"))),
    "6.1: DATA on stream 0": (PROTOCOL, lambda c: [raw(DATA, 0, b"test", END_STREAM)]),
    "6.1: DATA with too much padding": (PROTOCOL, lambda c: [
        c.headers(1, POST, end=False), raw(DATA, 1, b"\x06test", END_STREAM | PADDED)]),
    "6.2: HEADERS on stream 0": (PROTOCOL, lambda c: [
        raw(HEADERS, 0, c.encoder.encode(GET), END_STREAM | END_HEADERS)]),
    "6.2: HEADERS with too much padding": (PROTOCOL, lambda c: [
        raw(HEADERS, 1, b"\xff" + c.encoder.encode(GET), END_STREAM | END_HEADERS | PADDED)]),
    "6.3: PRIORITY on stream 0": (PROTOCOL, lambda c: [raw(2, 0, bytes(5))]),
    "6.3: PRIORITY of 4 bytes": (FRAME_SIZE, lambda c: [c.headers(1, WAIT), raw(2, 1, bytes(4))]),
    "6.4: RST_STREAM on stream 0": (PROTOCOL, lambda c: [raw(RST_STREAM, 0, bytes(4))]),
    "6.4: RST_STREAM of 3 bytes": (FRAME_SIZE, lambda c: [c.headers(1, WAIT), raw(RST_STREAM, 1, bytes(3))]),
    "6.5: SETTINGS ACK with a payload": (FRAME_SIZE, lambda c: [raw(SETTINGS, 0, bytes(6), ACK)]),
    "6.5: SETTINGS on a stream": (PROTOCOL, lambda c: [raw(SETTINGS, 1, struct.pack(">HI", 3, 100))]),
    "6.5: SETTINGS of 3 bytes": (FRAME_SIZE, lambda c: [raw(SETTINGS, 0, bytes(3))]),
    "6.5.2: ENABLE_PUSH of 2": (PROTOCOL, lambda c: [settings(push=2)]),
    "6.5.2: INITIAL_WINDOW_SIZE over the largest": (FLOW_CONTROL, lambda c: [settings(window=2**31)]),
    "6.5.2: MAX_FRAME_SIZE below 16384": (PROTOCOL, lambda c: [settings(frame=16_383)]),
    "6.5.2: MAX_FRAME_SIZE over the largest": (PROTOCOL, lambda c: [settings(frame=2**24)]),
    "6.6: PUSH_PROMISE from a client": (PROTOCOL, lambda c: [
        c.headers(1, WAIT), made(PushPromiseFrame(1, 2, c.encoder.encode(GET)), "END_HEADERS")]),
    "6.7: PING on a stream": (PROTOCOL, lambda c: [raw(PING, 1, b"another8")]),
    "6.7: PING of 6 bytes": (FRAME_SIZE, lambda c: [raw(PING, 0, bytes(6))]),
    "6.8: GOAWAY on a stream": (PROTOCOL, lambda c: [raw(7, 1, bytes(8))]),
    "6.8: GOAWAY of 7 bytes": (FRAME_SIZE, lambda c: [raw(7, 0, bytes(7))]),
    "6.9: WINDOW_UPDATE by 0": (PROTOCOL, lambda c: [raw(8, 0, bytes(4))]),
    "6.9: WINDOW_UPDATE by 0 on a stream": (PROTOCOL, lambda c: [c.headers(1, WAIT), raw(8, 1, bytes(4))]),
    "6.9: WINDOW_UPDATE of 3 bytes": (FRAME_SIZE, lambda c: [raw(8, 0, bytes(3))]),
    "6.9.1: a window over the largest": (FLOW_CONTROL, lambda c: [
        WindowUpdateFrame(0, window_increment=MOST), WindowUpdateFrame(0, window_increment=MOST)]),
    "6.10: CONTINUATION, then another frame": (PROTOCOL, lambda c: [
        *block(c, 1)[:2], DataFrame(1, b"test")]),
    "6.10: CONTINUATION on stream 0": (PROTOCOL, lambda c: [block(c, 1)[0], raw(9, 0, b"\x82", END_HEADERS)]),
    "6.10: CONTINUATION behind a complete header block": (PROTOCOL, lambda c: [
        c.headers(1, POST, end=False), made(ContinuationFrame(1, b"\x82"), "END_HEADERS")]),
    "6.10: CONTINUATION behind one that ends the block": (PROTOCOL, lambda c: [
        *block(c, 1), made(ContinuationFrame(1, b"\x82"), "END_HEADERS")]),
    "6.10: CONTINUATION behind DATA": (PROTOCOL, lambda c: [
        c.headers(1, POST, end=False), DataFrame(1, b"x"), made(ContinuationFrame(1, b"\x82"), "END_HEADERS")]),
    "8.1: a second HEADERS that does not end the stream": (PROTOCOL, lambda c: [
        c.headers(1, POST, end=False), c.headers(1, [("x-test", "ok")], end=False)]),
    "8.1.1: DATA over the Content-Length": (PROTOCOL, lambda c: [
        c.headers(1, [*POST, ("content-length", "1")], end=False), ended(DataFrame(1, b"test"))]),
    "8.1.1: DATA below the Content-Length": (PROTOCOL, lambda c: [
        c.headers(1, [*POST, ("content-length", "9")], end=False), DataFrame(1, b"te"), ended(DataFrame(1, b"st"))]),
    "8.1.1: two Content-Lengths": (PROTOCOL, lambda c: request(
        c, ("content-length", "0"), ("content-length", "1"), base=POST)),
    "8.1.1: a Content-Length of 5,000 digits": (PROTOCOL, lambda c: request(
        c, ("content-length", "1" * 5000), base=POST)),
    "hpack 2.3.3: an index beyond the tables": (COMPRESSION, lambda c: [
        raw(HEADERS, 1, c.encoder.encode(GET) + b"\xc6", END_STREAM | END_HEADERS)]),
    "hpack 2.3.3: a name's index beyond the tables": (COMPRESSION, lambda c: [
        raw(HEADERS, 1, c.encoder.encode(GET) + b"\x7f\x20\x01x", END_STREAM | END_HEADERS)]),
    "hpack 4.2: a table size update at the end": (COMPRESSION, lambda c: [
        raw(HEADERS, 1, c.encoder.encode(GET) + b"\x20", END_STREAM | END_HEADERS)]),
    "hpack 4.2: more than two table size updates": (COMPRESSION, lambda c: [
        raw(HEADERS, 1, b"\x3f\xe1\x1f\x20\x21" + c.encoder.encode(GET), END_STREAM | END_HEADERS)]),
    "hpack 4.2: more than two, in pieces, behind padding": (COMPRESSION, lambda c: [
        raw(HEADERS, 1, b"\x02\0\0\0\0\0\x20\0\0", END_STREAM | PADDED | PRIORITY),
        ContinuationFrame(1, b"\x20" * 10_000)]),
    "hpack 5.2: Huffman padding over 7 bits": (COMPRESSION, lambda c: [
        raw(HEADERS, 1, c.encoder.encode(GET) + b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff", END_STREAM | END_HEADERS)]),
    "hpack 5.2: Huffman padding of zeros": (COMPRESSION, lambda c: [
        raw(HEADERS, 1, c.encoder.encode(GET) + b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90", END_STREAM | END_HEADERS)]),
    "hpack 5.2: the Huffman end of string": (COMPRESSION, lambda c: [
        raw(HEADERS, 1, c.encoder.encode(GET) + b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\xff\xff\xff\xff", END_STREAM | END_HEADERS)]),
    "hpack 6.1: index 0": (COMPRESSION, lambda c: [raw(HEADERS, 1, c.encoder.encode(GET) + b"\x80", END_STREAM | END_HEADERS)]),
    "hpack 6.3: a table over the limit": (COMPRESSION, lambda c: [
        raw(HEADERS, 1, b"\x3f\xe2\x1f" + c.encoder.encode(GET), END_STREAM | END_HEADERS)]),
}  # fmt: skip

# Errors of stream 1; the connection goes on.
STREAM = {
    "5.1: half closed: DATA": (CLOSED, lambda c: [c.headers(1, WAIT), ended(DataFrame(1, b"test"))]),
    "5.1: half closed: HEADERS": (CLOSED, lambda c: [c.headers(1, WAIT), c.headers(1, WAIT)]),
    "5.1: reset: DATA": (CLOSED, lambda c: [c.headers(1, POST, end=False), RstStreamFrame(1, 8), DataFrame(1, b"x")]),
    "5.1: reset: HEADERS": (CLOSED, lambda c: [c.headers(1, WAIT), RstStreamFrame(1, 8), c.headers(1)]),
    "5.1: closed: DATA": (CLOSED, lambda c: closed_stream(c) or [ended(DataFrame(1, b"test"))]),
    "6.9.1: a stream's window over the largest": (FLOW_CONTROL, lambda c: [
        c.headers(1, WAIT), WindowUpdateFrame(1, window_increment=MOST), WindowUpdateFrame(1, window_increment=MOST)]),
}  # fmt: skip

# Malformed requests: 400, and the stream is reset with PROTOCOL_ERROR.
MALFORMED = {
    "8.1.1: no DATA, with a Content-Length": ("no body", lambda c: request(c, ("content-length", "9"), base=POST)),
    "8.2.1: an upper-case name": ("lower case", lambda c: request(c, ("X-TEST", "ok"))),
    "8.2.1: a space in a name": ("special", lambda c: request(c, ("x test", "ok"))),
    "8.2.1: a line end in a name": ("special", lambda c: request(c, ("x-test\r\nevil", "ok"))),
    "8.2.1: a colon in a name": ("special", lambda c: request(c, ("x:test", "ok"))),
    "8.2.1: an empty name": ("special", lambda c: request(c, ("", "ok"))),
    "8.2.1: a line end in a value": ("line end", lambda c: request(c, ("x-test", "a\r\nContent-Length: 3"))),
    "8.2.1: NUL in a value": ("NUL", lambda c: request(c, ("x-test", "a\0b"))),
    "8.2.1: space around a value": ("space", lambda c: request(c, ("x-test", "a "))),
    "8.3: an unknown pseudo-header": ("unknown", lambda c: request(c, (":test", "ok"))),
    "8.3: a pseudo-header of responses": ("unknown", lambda c: request(c, (":status", "200"))),
    "8.3: a pseudo-header in trailers": ("trailers", lambda c: [
        c.headers(1, POST, end=False), c.headers(1, [(":method", "GET")])]),
    "8.3: a pseudo-header behind others": ("behind", lambda c: request(
        c, ("x-test", "ok"), GET[3], base=without(":path"))),
    "8.2.2: Connection": ("must not", lambda c: request(c, ("connection", "keep-alive"))),
    "8.2.2: Transfer-Encoding": ("must not", lambda c: request(c, ("transfer-encoding", "chunked"))),
    "8.2.2: Upgrade": ("must not", lambda c: request(c, ("upgrade", "h2c"))),
    "8.2.2: TE other than trailers": ("must not", lambda c: request(c, ("te", "trailers, deflate"))),
    "8.3.1: an empty :path": ("':path' is missing", lambda c: request(c, (":path", ""), base=without(":path"))),
    "8.3.1: a :path without /": ("start with /", lambda c: request(c, (":path", "x"), base=without(":path"))),
    "8.3.1: a :path with a space": ("percent", lambda c: request(c, (":path", "/a b"), base=without(":path"))),
    "8.3.1: no :method": ("':method' is missing", lambda c: request(c, base=without(":method"))),
    "8.3.1: a :method with a space": ("a method", lambda c: request(c, (":method", "GET /x"), base=without(":method"))),
    "8.3.1: no :scheme": ("':scheme' is missing", lambda c: request(c, base=without(":scheme"))),
    "8.3.1: no :path": ("':path' is missing", lambda c: request(c, base=without(":path"))),
    "8.3.1: two :method": ("twice", lambda c: [c.headers(1, [GET[0], *GET])]),
    "8.3.1: two :scheme": ("twice", lambda c: [c.headers(1, [GET[1], *GET])]),
    "8.3.1: two :path": ("twice", lambda c: [c.headers(1, [GET[3], *GET])]),
    "8.3.1: neither :authority nor Host": (":authority", lambda c: request(c, base=without(":authority"))),
    "8.3.1: an empty :authority": (":authority", lambda c: request(c, (":authority", ""), base=without(":authority"))),
    "8.3.1: a user name in :authority": ("user name", lambda c: request(
        c, (":authority", "a@localhost"), base=without(":authority"))),
    "8.3.1: Host that differs from :authority": ("differ", lambda c: request(c, ("host", "other"))),
    "8.3.1: two Hosts": ("twice", lambda c: request(c, ("host", "localhost"), ("host", "localhost"))),
}  # fmt: skip


def goes_on(c):
    """Whether the connection goes on: a PING is answered, and so is a request."""
    c.send(PingFrame(0, b"go on?!?"), c.headers(101))
    assert [f.opaque_data for f in c.of(PingFrame)][-1] == b"go on?!?"
    assert (c.response(101).status, c.response(101).end) == (200, "end")
    assert c.goaway is None
    return True


def has_closed(c):
    """Whether the connection is closed, and what comes after that is neither parsed nor kept."""
    before = len(c.frames)
    for _ in range(50):
        c.send(bytes(65_536))
    assert len(c.frames) == before
    assert c.transport.producer is None
    assert c.transport.disconnecting
    assert c.site.connections == {c.server}, "it is still one of the site's"
    assert not c.transport.aborted
    c.sweep(7)
    assert c.transport.aborted, "it does not linger for ever"
    c.leave()
    assert (c.site.connections, c.site.ledger.pending) == (set(), {})
    return not c.clock.getDelayedCalls()


@pytest.mark.parametrize("name", GOOD)
def test_what_is_allowed(monkeypatch, name):
    c = Client(monkeypatch)
    c.send(*GOOD[name](c))
    assert goes_on(c)


@pytest.mark.parametrize("name", ANSWERED)
def test_what_is_answered(monkeypatch, name):
    c = Client(monkeypatch)
    c.send(*ANSWERED[name](c))
    assert (c.response(1).status, c.response(1).end) == (200, "end")
    assert goes_on(c)


@pytest.mark.parametrize("name", CONNECTION)
def test_errors_of_the_connection(monkeypatch, name):
    code, frames = CONNECTION[name]
    c = Client(monkeypatch)
    c.send(*frames(c))
    assert c.goaway == code
    assert c.entries[-1]["outcome"] == "refused"
    assert f"GOAWAY {code.name}, sent: " in c.entries[-1]["detail"]
    assert has_closed(c)


@pytest.mark.parametrize("name", BAD)
def test_a_connection_begins_with_settings(monkeypatch, name):
    code, frames = BAD[name]
    c = Client(monkeypatch, preface=False)
    c.send(PREFACE, *frames(c))
    assert c.goaway == code
    assert has_closed(c)


@pytest.mark.parametrize("begin", [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nXX", b"\0"])
def test_a_connection_begins_with_the_preface(monkeypatch, begin):
    c = Client(monkeypatch, preface=False)
    c.send(begin)
    assert c.goaway == PROTOCOL
    assert has_closed(c)


@pytest.mark.parametrize("name", STREAM)
def test_errors_of_a_stream(monkeypatch, name):
    code, frames = STREAM[name]
    c = Client(monkeypatch)
    c.send(*frames(c))
    assert [f.error_code for f in c.of(RstStreamFrame, 1)] == [code]
    assert c.site.ledger.pending == {}
    assert goes_on(c)


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_is_told_so_and_ends_its_stream(monkeypatch, name):
    line, frames = MALFORMED[name]
    c = Client(monkeypatch)
    c.send(*frames(c))
    response = c.response(1)
    assert (response.status, response.end) == (400, PROTOCOL)
    assert line in response.body.decode()
    assert response.body.count(b"\n") == 1
    (entry,) = c.entries
    assert (entry["outcome"], entry["status"]) == ("refused", 400)
    assert entry["detail"] == response.body.decode().rstrip()
    assert c.page.waiting == []
    assert goes_on(c)


# What h2spec looks at step by step


def test_settings_come_first_and_are_acknowledged(monkeypatch):
    c = Client(monkeypatch)
    assert [(type(f), f.flags) for f in c.frames] == [
        (SettingsFrame, set()),
        (SettingsFrame, {"ACK"}),
    ]


def test_the_concurrency_that_is_told_is_kept(monkeypatch):
    c = Client(monkeypatch)
    assert c.frames[0].settings[SettingsFrame.MAX_CONCURRENT_STREAMS] == 100
    c.send(*[c.headers(number, WAIT) for number in range(1, 205, 2)])
    assert [(f.stream_id, f.error_code) for f in c.of(RstStreamFrame)] == [
        (201, REFUSED),
        (203, REFUSED),
    ]
    assert len(c.page.waiting) == 100
    assert c.outcomes[-1] == ("refused", "REFUSED_STREAM: over 100 streams at once")
    c.page.waiting[0].finish()
    c.send(c.headers(205))
    assert c.response(205).status == 200


def test_the_window_of_a_stream_is_kept(monkeypatch):
    c = Client(monkeypatch)
    c.send(settings(window=1), c.headers(1))
    assert c.response(1).body == b"G"
    c.send(settings(window=3))
    assert c.response(1).body == b"GET"
    assert c.response(1).end == ""
    c.send(WindowUpdateFrame(1, window_increment=1))
    assert (c.response(1).body, c.response(1).end) == (b"GET ", "end")


def test_a_window_may_become_negative(monkeypatch):
    c = Client(monkeypatch)
    c.send(settings(window=3), c.headers(1), settings(window=2))
    assert c.response(1).body == b"GET"
    c.send(WindowUpdateFrame(1, window_increment=1))
    assert c.response(1).body == b"GET"
    c.send(WindowUpdateFrame(1, window_increment=1))
    assert c.response(1).body == b"GET "


def test_the_last_of_several_settings_counts(monkeypatch):
    c = Client(monkeypatch)
    c.send(settings(window=100), settings(window=1), c.headers(1))
    assert len(c.response(1).body) == 1


def test_goaway_with_an_unknown_code_ends_the_connection(monkeypatch):
    c = Client(monkeypatch)
    c.send(c.headers(1, WAIT), GoAwayFrame(0, error_code=0xFF))
    assert c.goaway == NO_ERROR
    assert c.outcomes == [("left", "GOAWAY 0xff")]
    assert has_closed(c)


# The tables are whole


def test_no_case_is_lost():
    assert (
        len(GOOD) + len(ANSWERED) + len(BAD) + len(CONNECTION) + len(STREAM) + len(MALFORMED) >= 130
    )
