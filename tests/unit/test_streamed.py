"""streamed.rpy in virtual time."""

from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

SCRIPT = "streamed.rpy"


def test_each_chunk_at_its_time(script):
    asked = script.get("?delay=0.5&interval=0.25&count=4")
    script.advance(0.4999)
    assert asked.response is None
    seen = []
    for step in (0.0001, 0.25, 0.25, 0.25):
        script.advance(step)
        seen.append(len(asked.lines()))
    assert seen == [1, 2, 3, 4]
    assert asked.done
    assert script.idle()
    assert asked.lines() == [
        {"n": 1, "due": 0.5, "written": 0.5},
        {"n": 2, "due": 0.75, "written": 0.75},
        {"n": 3, "due": 1.0, "written": 1.0},
        {"n": 4, "due": 1.25, "written": 1.25},
    ]
    assert asked.header("Content-Type") == "application/x-ndjson"
    assert asked.header("Server-Timing") == "wait;dur=500.000"


def test_ten_chunks_a_second_apart_by_default(script):
    asked = script.get()
    script.advance(0)
    assert len(asked.lines()) == 1
    script.advance(*[1] * 8)
    assert (len(asked.lines()), asked.done) == (9, False)
    script.advance(1)
    assert (len(asked.lines()), asked.done) == (10, True)


def test_lateness_does_not_add_up(script):
    """A reactor that comes 0.3 s late to one chunk is on time for those after it."""
    asked = script.get("?interval=1&count=4")
    script.advance(0, 1.3, 0.7, 1.0)
    assert [line["due"] for line in asked.lines()] == [0.0, 1.0, 2.0, 3.0]
    assert [line["written"] for line in asked.lines()] == [0.0, 1.3, 2.0, 3.0]
    assert asked.done


def test_head_ends_with_the_headers(script):
    asked = script.get("?delay=1&count=100000", method="HEAD")
    script.advance(1)
    assert (asked.code, asked.body, asked.done) == (200, b"", True)
    assert script.idle()


def test_a_client_that_leaves_leaves_nothing_behind(script):
    asked = script.get("?interval=1")
    script.advance(0, 1, 1)
    assert len(asked.lines()) == 3
    asked.leave()
    assert script.idle()


def test_a_paused_stream_writes_nothing_until_the_client_reads(script):
    _, transport = script.connect(b"count=100000&interval=1")
    script.advance(0, 1)
    assert transport.value().count(b'{"n"') == 2
    transport.producer.pauseProducing()  # as when the buffer is full
    script.advance(5, 5)
    assert script.idle()  # one chunk became due: no timer is left that could wake it up
    assert transport.value().count(b'{"n"') == 2
    transport.producer.resumeProducing()
    script.advance(0)
    assert transport.value().count(b'{"n"') == 12  # those due after 0, 1, … 11 seconds


def test_a_stream_that_catches_up_says_so(script):
    _, transport = script.connect(b"count=3&interval=1")
    script.advance(0)
    transport.producer.pauseProducing()
    script.advance(10)
    transport.producer.resumeProducing()
    script.advance(0, 0)
    body = transport.value()
    assert b'{"n": 2, "due": 1.0000, "written": 10.0000}' in body
    assert b'{"n": 3, "due": 2.0000, "written": 10.0000}' in body
    assert body.endswith(b"0\r\n\r\n")


def test_a_connection_lost_while_paused_leaves_nothing_behind(script):
    server, transport = script.connect(b"count=100000&interval=1")
    script.advance(0)
    transport.producer.pauseProducing()
    server.connectionLost(Failure(ConnectionLost()))
    assert script.idle()


def test_a_failure_in_mid_stream_breaks_the_connection(script, monkeypatch, logged):
    asked = script.get("?interval=1&count=3")
    script.advance(0)
    monkeypatch.setattr(script.resource, "now", lambda: None)
    script.advance(1)
    assert asked.failure is not None
    assert not asked.done
    assert script.idle()
    assert "TypeError" in logged()
