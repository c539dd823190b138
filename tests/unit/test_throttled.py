"""throttled.rpy in virtual time."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from .conftest import RPY, Script

SCRIPT = "throttled.rpy"
KNOWN = Script(RPY / SCRIPT).globals


def whole(size):
    """The content that the manual promises."""
    return b"".join(b"%015d\n" % offset for offset in range(0, size, 16))[:size]


def body(transport):
    return transport.value().partition(b"\r\n\r\n")[2]


def test_no_byte_comes_early_and_the_last_is_on_time(script):
    asked = script.get("?size=1050&rate=1000")
    assert (asked.code, asked.body) == (200, b"")
    for n in range(1, 22):  # pieces of a twentieth of a second: 50 bytes
        script.advance(0.0499)
        assert len(asked.body) == (n - 1) * 50
        script.advance(n / 20 - script.clock.seconds())
        assert len(asked.body) == n * 50
    assert asked.done
    assert asked.body == whole(1050)
    assert script.idle()


@pytest.mark.parametrize(
    ("query", "times"),
    [
        ("size=3&rate=2", [(0.5, 1), (1.0, 2), (1.5, 3)]),  # a byte at a time
        ("size=120&rate=1000", [(0.05, 50), (0.1, 100), (0.12, 120)]),
        ("size=200000&rate=65536000", [(0.001, 65536), (0.002, 131072), (0.003, 196608)]),
        ("size=10&rate=1000000000", [(1e-8, 10)]),
    ],
)
def test_pieces_are_as_big_as_the_manual_says(script, query, times):
    asked = script.get(f"?{query}")
    for time, out in times:
        script.advance(time - 1e-9 - script.clock.seconds())
        assert len(asked.body) < out
        script.advance(2e-9)
        assert len(asked.body) == out


def test_without_a_rate_it_is_as_fast_as_the_client_reads(script):
    _, transport = script.connect(b"size=10000000000&rate=0")
    written = []

    def write(data):  # like a socket whose buffer takes 64 KiB
        written.append(len(data))
        if len(written) % 2 == 0:
            transport.producer.pauseProducing()

    transport.write = write
    script.advance(0, 0)
    assert written == [65536] * 2
    transport.producer.resumeProducing()
    script.advance(0)
    assert written == [65536] * 4


def test_time_lost_because_the_client_does_not_read_is_not_made_up_for(script):
    _, transport = script.connect(b"size=10000&rate=1000")
    script.advance(*[0.05] * 20)
    assert len(body(transport)) == 1000
    transport.producer.pauseProducing()
    script.advance(*[10] * 10)
    assert len(body(transport)) == 1000
    transport.producer.resumeProducing()
    assert len(body(transport)) == 1050  # the piece that was due
    script.advance(0.0499)
    assert len(body(transport)) == 1050
    script.advance(0.0002, *[0.05] * 19)
    assert len(body(transport)) == 2050


def test_lateness_of_the_server_does_not_add_up_but_is_not_made_up_for_without_end(script):
    asked = script.get("?size=1000&rate=1000")
    script.advance(*[0.03] * 33)
    assert len(asked.body) == 950
    script.advance(0.0101)
    assert asked.done
    late = script.get("?size=1000&rate=1000")
    script.advance(0.5)
    script.advance(0, 0.05)
    assert len(late.body) == 100


@given(size=st.integers(0, 10**10), first=st.integers(0, 10**10), length=st.integers(0, 70_000))
@example(size=10**10, first=10**10 - 65536, length=65536)
def test_every_part_is_known(size, first, length):
    end = min(first + length, size)
    if first < end:
        start = first - first % 16
        lines = b"".join(b"%015d\n" % offset for offset in range(start, end, 16))
        assert KNOWN["content"](first, end) == lines[first - start : end - start]


NUMBER = st.integers(0, 2000).map(str) | st.text("0123456789", max_size=25)
RANGES = st.one_of(
    st.tuples(NUMBER, NUMBER).map(lambda each: f"bytes={each[0]}-{each[1]}"),
    st.text("bytesBYTES=-, \t0123456789", max_size=30),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30),
)


@given(header=RANGES, size=st.integers(0, 1000))
@example("bytes=0-0,2-3", 10)
@example("bytes=-0", 10)
@example("bytes=-5", 0)
@example("bytes=5-4", 10)
@example("bytes=-", 10)
@example("bytes=9-", 10)
@example("bytes=10-", 10)
@example("items=0-1", 10)
@example("bytes=\u00b2-", 10)
def test_any_range_is_satisfied_ignored_or_not_satisfiable(header, size):
    parsed = KNOWN["parse_range"](header.encode("latin-1"), size)
    one = re.fullmatch("(?i)bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", header)
    first, last = one.groups() if one else ("", "")
    if not first + last or (first and last and int(last) < int(first)):
        assert parsed is None
    elif first:
        assert [*range(*parsed)] == [n for n in range(size) if int(first) <= n <= int(last or size)]
    else:
        assert [*range(*parsed)] == [n for n in range(size) if size - n <= int(last)]


def test_a_range_is_those_bytes_of_the_whole(script):
    asked = script.get("?size=1000&rate=0", headers={"Range": "bytes=100-199"})
    end = script.get("?size=1000&rate=0", headers={"Range": "bytes=-7"})
    script.advance(0)
    assert (asked.code, asked.body) == (206, whole(1000)[100:200])
    assert asked.header("Content-Range") == "bytes 100-199/1000"
    assert end.body == whole(1000)[-7:]
    slow = script.get("?size=1000&rate=100", headers={"Range": "bytes=900-"})
    script.advance(*[0.05] * 19, 0.049)
    assert (slow.code, slow.done) == (206, False)
    script.advance(0.0011)
    assert slow.body == whole(1000)[900:]


def test_a_range_without_a_byte_is_a_416(script):
    asked = script.get("?size=1000", headers={"Range": "bytes=1000-"})
    assert (asked.code, asked.header("Content-Range")) == (416, "bytes */1000")
    assert asked.body == b"no such range: give one within 1000 bytes\n"
    assert script.idle()


@pytest.mark.parametrize("name", [b"Range", b"If-Range"])
def test_a_range_that_is_no_utf_8_is_ignored(script, name):
    _, transport = script.connect(b"size=16&rate=0", name + b": bytes=\xff-\xff\r\n")
    script.advance(0)
    assert transport.value().startswith(b"HTTP/1.1 200 OK")
    assert body(transport) == whole(16)


def test_if_range_must_have_the_same_etag(script):
    tag = script.get("?size=10&rate=0").header("ETag")
    assert tag == '"10"'
    for condition, code in [
        (tag, 206),
        ('"11"', 200),
        (f"W/{tag}", 200),
        ("Mon, 01 Jan 2024 00:00:00 GMT", 200),
    ]:
        headers = {"Range": "bytes=5-", "If-Range": condition}
        assert script.get("?size=10&rate=0", headers=headers).code == code


def test_head_gets_the_headers_at_once_and_ignores_ranges(script):
    server, transport = script.connect(b"size=0")
    transport.clear()
    server.dataReceived(b"HEAD /?size=160 HTTP/1.1\r\nHost: localhost\r\nRange: bytes=1-2\r\n\r\n")
    head = transport.value()
    server.dataReceived(b"HEAD /?size=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert transport.value().count(b"HTTP/1.1 200 OK") == 2  # so the first one is done
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.endswith(b"\r\n\r\n")
    assert {b"Content-Length: 160", b"Accept-Ranges: bytes", b'ETag: "160"'} < set(
        head.split(b"\r\n")
    )


def test_a_disconnect_leaves_nothing_behind(script, logged):
    asked = script.get()
    script.advance(1)
    asked.leave()
    assert script.idle()
    assert "the client disconnected" in logged()
