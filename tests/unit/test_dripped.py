"""dripped.rpy in virtual time."""

import zlib

import pytest

SCRIPT = "dripped.rpy"


def wire(script, query, headers=b""):
    """Send a request; return a function that returns what is on the wire, and the transport."""
    _, transport = script.connect(query, headers)
    return transport.value, transport


def test_each_byte_is_on_time_and_the_last_one_ends_it(script):
    asked = script.get("?delay=1&duration=2&size=4")
    script.advance(0.9999)
    assert asked.response is None
    script.advance(0.0001)
    assert (asked.code, asked.body) == (200, b"")
    assert asked.header("Server-Timing") == "wait;dur=1000.000"
    seen = []
    for step in (0.4999, 0.0001, 0.5, 0.5, 0.4999, 0.0001):
        script.advance(step)
        seen.append((asked.body, asked.done))
    assert seen == [
        (b"", False), (b"0", False), (b"01", False), (b"012", False), (b"012", False), (b"0123", True),
    ]  # fmt: skip
    assert asked.header("Content-Type") == "text/plain; charset=utf-8"
    assert script.idle()


@pytest.mark.parametrize("size", [0, 1, 7, 150, 1000, 100_000])
def test_how_many_bytes_are_out_at_each_time(script, size):
    asked = script.get(f"?size={size}&duration=1.5&framing=chunked")
    for n in range(150):
        script.advance(n / 100 + 1e-6 - script.clock.seconds())
        assert len(asked.body) == size * n // 150  # size * t / duration, t being n hundredths
        assert not asked.done
    script.advance(0.01)
    assert asked.done
    assert asked.body == (b"0123456789" * (size // 10 + 1))[:size]
    assert script.idle()


def test_writes_are_bounded_in_number_and_size(script, monkeypatch):
    sizes = []
    digits = script.globals["digits"]
    monkeypatch.setitem(
        type(script.resource).render_GET.__globals__,
        "digits",
        lambda first, end: sizes.append(end - first) or digits(first, end),
    )
    script.get("?size=10000000&duration=0")
    script.advance(0)
    assert sum(sizes) == 10_000_000
    assert max(sizes) <= 65536
    sizes.clear()
    script.get("?size=100000&duration=3")
    script.advance(3)
    assert len(sizes) == 300


def test_lateness_does_not_add_up(script):
    asked = script.get("?duration=4&size=4")
    script.advance(0, 1.3)
    assert asked.body == b"0"
    script.advance(0.7)
    assert asked.body == b"01"
    script.advance(1.9, 0.1)
    assert asked.done


@pytest.mark.parametrize(
    ("framing", "ends", "body"),
    [
        (b"length", b"Content-Length: 4\r\n", b"0123"),
        (b"chunked", b"Transfer-Encoding: chunked\r\n", b"4\r\n0123\r\n0\r\n\r\n"),
    ],
)
def test_headers_are_dripped_too(script, framing, ends, body):
    value, transport = wire(script, b"part=headers&size=4&delay=1&duration=2&framing=" + framing)
    script.advance(1)
    assert value() == b""
    script.advance(0.0999)
    first = len(value())
    assert 0 < first < 17
    script.advance(1.9)
    assert len(value()) > first * 15
    assert b"\r\n\r\n" not in value()
    script.advance(0.0001)
    head, _, rest = value().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert ends in head + b"\r\n"
    assert rest == body
    assert not transport.disconnecting


def test_dripped_headers_are_those_that_twisted_writes(script):
    ours, _ = wire(script, b"part=headers&size=4&status=404&framing=chunked&duration=0")
    twisted, _ = wire(script, b"size=4&status=404&framing=chunked&duration=0")
    script.advance(0)
    assert sorted(ours().split(b"\r\n")) == sorted(twisted().split(b"\r\n"))
    assert ours().startswith(b"HTTP/1.1 404 Not Found\r\n")


@pytest.mark.parametrize("part", [b"body", b"headers"])
def test_head_gets_no_body(script, part):
    server, transport = script.connect(b"size=1")
    script.advance(2)
    transport.clear()
    query = b"part=%b&framing=chunked&duration=1" % part
    server.dataReceived(b"HEAD /?%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % query)
    script.advance(1)
    assert transport.value().endswith(b"\r\n\r\n")
    assert transport.value().count(b"\r\n\r\n") == 1


def test_a_gzip_member_can_stall_in_the_middle(script):
    value, _ = wire(script, b"size=100000&encoding=gzip&duration=10")
    script.advance(5)
    head, _, part = value().partition(b"\r\n\r\n")
    assert b"\r\nContent-Encoding: gzip" in head
    assert b"\r\nContent-Length: %d" % (len(part) * 2) in head
    unpacker = zlib.decompressobj(wbits=31)
    assert 0 < len(unpacker.decompress(part)) < 100_000
    assert not unpacker.eof
    script.advance(5)
    whole = value().partition(b"\r\n\r\n")[2]
    assert zlib.decompress(whole, wbits=31) == b"0123456789" * 10_000


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_compression_lets_other_requests_in(script, method):
    """Ten megabytes take some 20 ms: they are compressed after the delay, in many turns."""
    turns, later = [], script.clock.callLater
    script.clock.callLater = lambda delay, *call: turns.append(delay) or later(delay, *call)
    server, transport = script.connect(b"size=0")
    script.advance(0, 2)
    transport.clear()
    query = b"size=10000000&encoding=gzip&delay=1&duration=9"
    turns.clear()
    server.dataReceived(b"%b /?%b HTTP/1.1\r\nHost: x\r\n\r\n" % (method, query))
    assert turns == [1]
    script.advance(1)
    assert turns[1:10] == [0] * 9
    assert b"\r\nContent-Length: " in transport.value()


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_is_refused(script, status):
    asked = script.get(f"?status={status}")
    assert asked.code == 400
    assert f"status {status}" in asked.body.decode()
    assert script.get("?status=599&delay=1").response is None


def test_nothing_is_written_while_the_client_does_not_read(script):
    value, transport = wire(script, b"size=10&duration=10")
    script.advance(3)
    transport.producer.pauseProducing()
    script.advance(4)
    assert value().endswith(b"\r\n\r\n012")
    assert script.idle()
    transport.producer.resumeProducing()
    script.advance(0)
    assert value().endswith(b"\r\n\r\n0123456")
    script.advance(3)
    assert value().endswith(b"\r\n\r\n0123456789")


@pytest.mark.parametrize("part", ["body", "headers"])
def test_a_disconnect_leaves_nothing_behind(script, logged, part):
    asked = script.get(f"?size=10&duration=10&part={part}")
    script.advance(3)
    asked.leave()
    assert script.idle()
    assert "the client disconnected" in logged()


def test_a_failure_in_mid_drip_aborts_the_connection(script, monkeypatch, logged):
    asked = script.get("?duration=2&size=2")
    script.advance(1)
    monkeypatch.setitem(type(script.resource).render_GET.__globals__, "DIGITS", None)
    script.advance(1)
    assert asked.failure is not None
    assert "TypeError" in logged()
    assert script.idle()
