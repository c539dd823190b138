"""sse.rpy in virtual time."""

import json

import pytest
from httpx_sse._decoders import SSEDecoder, SSELineDecoder
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

SCRIPT = "sse.rpy"


def events(body):
    """Return what a client reads from a stream: the id, name and data of each event."""
    decoder, lines = SSEDecoder(), SSELineDecoder()
    decoded = map(decoder.decode, lines.decode(body.decode()) + lines.flush())
    return [(e.id, e.event, e.data) for e in decoded if e and e.data]


def ids(asked):
    return [int(number) for number, _, _ in events(asked.body)]


def resume(script, last, query):
    asked = script.get(query, headers={"Last-Event-ID": last})
    script.advance(0)
    return asked


def test_events_are_sent_when_they_are_due(script):
    asked = script.get("?interval=0.5&count=3&retry=2.5")
    script.advance(0)
    assert asked.header("Content-Type") == "text/event-stream; charset=utf-8"
    assert asked.body.startswith(b"retry: 2500\nid: 0\n\nid: 1\ndata: {")
    script.advance(0.4)
    assert ids(asked) == [1]
    script.advance(0.1)
    assert [(number, name, json.loads(data)) for number, name, data in events(asked.body)] == [
        ("1", "message", {"n": 1, "due": 0.0}),
        ("2", "message", {"n": 2, "due": 0.5}),
    ]
    script.advance(0.5)
    assert (ids(asked), asked.done) == ([1, 2, 3], True)
    assert script.idle()


def test_lateness_does_not_add_up(script):
    asked = script.get("?interval=1&count=3")
    script.advance(0, 1.3)
    assert ids(asked) == [1, 2]
    script.advance(0.7)
    assert ids(asked) == [1, 2, 3]


def test_a_client_that_comes_back_gets_the_events_after_its_last(script):
    asked = script.get("?interval=0.5&count=4")
    script.advance(0, 0.5)
    asked.leave()
    assert (ids(asked), script.idle()) == ([1, 2], True)
    again = resume(script, "2", "?interval=0.5&count=4")
    script.advance(0.5)
    assert (ids(again), again.done) == ([3, 4], True)


def test_a_client_that_got_no_event_comes_back_to_where_it_was(script):
    """The id at the beginning is what it sends then."""
    asked = script.get("?count=4", headers={"Last-Event-ID": "2"})
    assert asked.body == b"retry: 1000\nid: 2\n\n"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("last", "code"), [("2", 200), ("3", 204), ("4", 204), ("9" * 15, 204)])
def test_204_after_the_last_event(script, method, last, code):
    asked = script.get("?count=3&interval=0", method, headers={"Last-Event-ID": last})
    script.advance(0)
    assert (asked.code, asked.done) == (code, True)
    assert (asked.body == b"") == (method == "HEAD" or code == 204)


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "", "9" * 16, "\u2603", b"\xff", "1 2", "٣"])
def test_an_id_of_another_form_begins_at_the_first_event(script, last):
    last = last.encode() if isinstance(last, str) else last
    asked = resume(script, last, "?count=1")
    assert (ids(asked), asked.body[:20]) == ([1], b"retry: 1000\nid: 0\n\ni")


def test_without_a_count_there_is_no_end(script):
    asked = script.get("?interval=1")
    script.advance(0, *[1] * 99)
    assert (len(ids(asked)), asked.done) == (100, False)
    asked.leave()
    assert script.idle()


def test_comments_are_sent_while_there_is_no_event(script):
    asked, busy = script.get("?interval=60&count=2"), script.get("?interval=14&count=3")
    script.advance(0, 14.9)
    assert b":\n\n" not in asked.body
    script.advance(0.1, 15, 15)
    assert asked.body.count(b":\n\n") == 3
    script.advance(15)
    assert (asked.body.count(b":\n\n"), ids(asked), asked.done) == (3, [1, 2], True)
    assert (b":\n\n" in busy.body, busy.done) == (False, True)


def test_nothing_is_written_while_the_client_is_not_reading(script):
    server, transport = script.connect(b"interval=20")
    script.advance(0)
    transport.producer.pauseProducing()  # as when the send buffer is full
    before = transport.value()
    script.advance(15, 5, 100)
    assert transport.value() == before
    assert script.idle()
    transport.producer.resumeProducing()
    script.advance(0, 0)
    assert transport.value().count(b"data:") == 7  # those due after 0, 20, ... 120 seconds
    server.connectionLost(Failure(ConnectionDone()))
    assert script.idle()


@pytest.mark.parametrize("paused", [False, True])
def test_nothing_is_left_when_the_client_disconnects(script, logged, paused):
    server, transport = script.connect(b"interval=60")
    script.advance(0)
    if paused:
        transport.producer.pauseProducing()
    script.advance(15)
    server.connectionLost(Failure(ConnectionDone()))
    assert script.idle()
    assert "the client disconnected" in logged()
    assert "Unhandled" not in logged()


def test_each_event_has_a_turn_of_the_reactor(script, monkeypatch):
    """A client that wants 100000 events at once does not make others wait."""
    turns, call_later = [], script.clock.callLater
    monkeypatch.setattr(
        script.clock, "callLater", lambda *call: turns.append(call) or call_later(*call)
    )
    asked = script.get("?interval=0&count=50")
    script.advance(0)
    assert (len(ids(asked)), len(turns)) == (50, 50)
