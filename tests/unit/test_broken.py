"""broken.rpy in virtual time: what each way sends, when, and how it ends."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .conftest import RPY, Script

SCRIPT = "broken.rpy"

HEADERS = """\
Content-Type: text/plain; charset=utf-8
Cache-Control: no-store
X-Content-Type-Options: nosniff
"""
OK = f"HTTP/1.1 200 OK\n{HEADERS}"
TWO = f"{OK}Content-Length: 3\n\n012HTTP/1.1 500 Internal Server Error\n{HEADERS}"
SENT = {  # with size=3, and what ends it
    "empty": ("", "close"),
    "reset": ("", "reset"),
    "silent": ("", "silence"),
    "garbage": ("SSH-2.0-tarry\n", "close"),
    "badheader": (OK + "a line without a colon\nContent-Length: 3\n\n012", "close"),
    "truncated": (OK + "Content-Length: 4\n\n012", "close"),
    "stalled": (OK + "Content-Length: 4\n\n012", "silence"),
    "badchunk": (OK + "Transfer-Encoding: chunked\n\n3\n012\nno number\n", "close"),
    "overlong": (OK + "Content-Length: 3\n\n012and more", "finish"),
    "twostatus": (TWO + "Content-Length: 3\n\n012", "finish"),
}


def sent(transport):
    return transport.value().decode().replace("\r\n", "\n")


def ended(transport):
    return "reset" if transport.disconnected else "close" if transport.disconnecting else None


@pytest.mark.parametrize("how", SENT)
def test_each_way_sends_its_bytes_when_due_and_has_its_end(script, how):
    text, end = SENT[how]
    server, transport = script.connect(f"how={how}&size=3&delay=5".encode())
    script.clock.advance(4.999)
    assert (sent(transport), ended(transport)) == ("", None)
    script.clock.advance(0.001)
    assert sent(transport) == text
    if end == "finish":  # the connection goes on
        transport.clear()
        server.dataReceived(b"GET /?how=garbage HTTP/1.1\r\nHost: localhost\r\n\r\n")
        script.clock.advance(0)
        assert (sent(transport), ended(transport)) == ("SSH-2.0-tarry\n", "close")
    elif end == "silence":
        script.clock.advance(3599.999)
        assert (sent(transport), ended(transport)) == (text, None)
        script.clock.advance(0.001)
        assert ended(transport) == "reset"
    else:
        assert ended(transport) == end
    assert script.idle()


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("how", SENT)
def test_another_end_may_be_chosen(script, how, end):
    _, transport = script.connect(f"how={how}&size=3&end={end}".encode())
    script.clock.advance(0)
    assert (sent(transport), ended(transport)) == (SENT[how][0], end)
    assert script.idle()


def test_an_empty_chunk_is_left_out_because_it_would_be_the_last(script):
    _, transport = script.connect(b"how=badchunk&size=0")
    script.clock.advance(0)
    assert sent(transport).endswith("chunked\n\nno number\n")


@given(size=st.integers(0, 100_000))
def test_half_a_gzip_member_unpacks_but_has_no_end(size):
    script = Script(RPY / SCRIPT)
    _, transport = script.connect(f"how=halfgzip&size={size}".encode())
    script.clock.advance(0)
    head, _, member = transport.value().partition(b"\r\n\r\n")
    assert head.endswith(b"\r\nContent-Encoding: gzip\r\nContent-Length: %d" % len(member))
    unpacker = zlib.decompressobj(wbits=31)
    assert unpacker.decompress(member) == (b"0123456789" * 10_000)[:size]
    assert not unpacker.eof


@pytest.mark.parametrize("how", SENT)
def test_head_gets_no_body(script, how):
    server, transport = script.connect(b"how=overlong")
    script.clock.advance(0)
    transport.clear()
    server.dataReceived(b"HEAD /?size=3&how=%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % how.encode())
    script.clock.advance(0)
    assert sent(transport) == "".join(SENT[how][0].partition("\n\n")[:2])


def test_a_post_is_answered_like_a_get(script):
    asked = script.post("?how=overlong", data=b"ignored")
    script.advance(0)
    assert (asked.code, asked.body) == (200, b"0123456789")


@pytest.mark.parametrize("query", ["?delay=5", "?how=silent", "?how=stalled"])
def test_a_disconnect_ends_it(script, logged, query):
    asked = script.get(query)
    script.advance(1)
    asked.leave()
    assert script.idle()
    assert "the client disconnected" in logged()


@pytest.mark.parametrize("how", ["twostatus", "truncated", "halfgzip", "stalled"])
def test_the_body_is_in_memory_only_while_it_is_sent(script, how):
    """Neither during the delay before it, nor during the silence after it."""
    import tracemalloc

    query = f"how={how}&size=100000&delay=600".encode()
    script.connect(query)  # what is made once is there
    tracemalloc.start()
    try:
        requests = [script.connect(query) for _ in range(5)]
        assert tracemalloc.get_traced_memory()[0] < 5 * 50_000
        if how == "stalled":
            script.clock.advance(600)
            for _, transport in requests:
                assert len(transport.value()) > 100_000
                transport.clear()
            assert tracemalloc.get_traced_memory()[0] < 5 * 50_000
    finally:
        tracemalloc.stop()


def test_a_failure_is_a_500(script, logged, monkeypatch):
    monkeypatch.setitem(script.globals["WAYS"], "empty", ("{unheard of}", "close"))
    asked = script.get()
    script.advance(0)
    assert asked.code == 500
    assert "KeyError" in logged()
    assert script.idle()
