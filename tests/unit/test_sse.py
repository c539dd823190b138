"""sse.rpy in virtual time."""

import gc
import json

import pytest
from httpx_sse._decoders import SSEDecoder, SSELineDecoder
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from .conftest import RPY, Script

SCRIPT = "sse.rpy"


def events(body):
    """What a client makes of a stream: (id, name, data) of each event."""
    decoder, lines = SSEDecoder(), SSELineDecoder()
    decoded = map(decoder.decode, lines.decode(body.decode()) + lines.flush())
    return [(e.id, e.event, e.data) for e in decoded if e and (e.data or e.event != "message")]


def data(asked):
    return [data for _, _, data in events(asked.body)]


def follow(script, key="a", given=None, **about):
    query = "".join(f"&{name}={value}" for name, value in about.items())
    headers = {} if given is None else {"Last-Event-ID": given}
    return script.get(f"?key={key}{query}", headers=headers)


def publish(script, *bodies, query="?key=a"):
    for body in bodies:
        told = script.post(query, data=body).json()
    script.treq.flush()
    return told


def test_the_clock_keeps_its_times_and_goes_on_where_it_was(script):
    asked = script.get("?interval=0.5&count=4&retry=2.5")
    script.advance(0)
    assert asked.header("Content-Type") == "text/event-stream; charset=utf-8"
    assert asked.body.startswith(b"retry: 2500\nid: 0\n\nid: 1\ndata: {")
    script.advance(0.5, 0.4)
    assert [(n, json.loads(d)) for n, _, d in events(asked.body)] == [
        ("1", {"n": 1, "due": 0.0}),
        ("2", {"n": 2, "due": 0.5}),
    ]
    asked.leave()
    assert script.idle()
    again = script.get("?interval=0.5&count=4", headers={"Last-Event-ID": "2"})
    script.advance(0, 0.5)
    assert [n for n, _, _ in events(again.body)] == ["3", "4"]
    assert again.done
    assert script.idle()


@pytest.mark.parametrize(("given", "code"), [("3", 204), ("4", 204), ("2", 200), ("x", 200)])
def test_who_has_had_all_is_told_not_to_come_back(script, given, code):
    asked = script.get("?count=3&interval=0", headers={"Last-Event-ID": given})
    script.advance(0)
    assert asked.code == code
    assert script.get("?key=a&count=3", "HEAD", headers={"Last-Event-ID": given}).done


def test_a_comment_shows_that_a_quiet_stream_lives(script):
    clock, channel = script.get("?interval=60&count=2"), follow(script)
    script.advance(0, 14.9)
    assert b":\n\n" not in clock.body + channel.body
    script.advance(0.1, 15, 15)
    assert clock.body.count(b":\n\n") == channel.body.count(b":\n\n") == 3
    script.advance(15)
    assert clock.done


def test_all_who_listen_get_what_is_published_each_as_many_as_it_likes(script):
    publish(script, b"before")
    two, all_, other = follow(script, count=2), follow(script), follow(script, "b")
    told = publish(script, b"1", "2 \u2603".encode(), b"3", query="?key=a&event=news")
    assert (told["key"], told["readers"]) == ("a", 1)
    assert (data(two), two.done) == (["1", "2 \u2603"], True)
    assert (data(all_), data(other)) == (["1", "2 \u2603", "3"], [])
    assert events(all_.body)[2] == (told["id"], "news", "3")
    all_.leave()
    other.leave()
    assert publish(script, b"4")["readers"] == 0
    assert script.idle()


def test_nothing_is_lost_or_doubled_over_a_break(script):
    first = follow(script)
    begin = first.body.split(b"id: ")[1].split()[0]  # there before any event
    first.leave()
    ids = [publish(script, b"%d" % n)["id"] for n in range(5)]
    assert data(follow(script, given=begin)) == list("01234")
    assert data(follow(script, given=ids[1])) == list("234")
    assert data(follow(script, given=ids[4])) == []
    assert data(follow(script)) == []


def test_who_comes_too_late_is_told_how_many_it_missed(script, monkeypatch):
    monkeypatch.setitem(type(script.resource).render_GET.__globals__, "EVENTS", 3)
    ids = [publish(script, b"%d" % n)["id"] for n in range(9)]
    late = events(follow(script, given=ids[1]).body)
    assert late[0] == (ids[5], "missed", '{"missed": 4}')
    assert [data for _, _, data in late[1:]] == list("678")
    assert data(follow(script, given=ids[5])) == list("678")


@pytest.mark.parametrize("given", ["3", "{}-10", "0-1", "{}-", "{}-x", "-", "\u2603"])
def test_an_id_of_another_run_gets_all_that_is_kept(script, given):
    life = publish(script, b"1", b"2")["id"].partition("-")[0]
    got = follow(script, given=given.format(life).encode())
    assert data(got) == ['{"missed": null}', "1", "2"]


def test_what_a_channel_keeps_is_bounded_in_bytes(script):
    publish(script, *[b"\n" * 1000] * 100)  # seven times as long when they are sent
    (feed, _) = script.resource.channels.states["a"]
    assert len(feed.events) < 100
    assert feed.size == sum(map(len, feed.events)) <= 524_288
    refused = script.post("?key=a", data=b"\n" * 1001)
    assert (refused.code, refused.body) == (400, b"the body has over 1000 lines: give fewer\n")


def test_a_slow_reader_is_not_buffered_for(script):
    server, transport = script.connect(b"key=a")
    transport.producer.pauseProducing()  # as when the buffer is full
    before = transport.value()
    publish(script, *[b"%d" % n for n in range(1500)])
    script.advance(15)  # nor is a comment written
    assert transport.value() == before
    transport.producer.resumeProducing()
    assert data_of(transport) == ["0", '{"missed": 499}', *map(str, range(500, 1500))]
    server.connectionLost(Failure(ConnectionDone()))
    assert not script.resource.channels.states["a"][0].busy()
    assert script.idle()


def data_of(transport):
    chunks = transport.value().partition(b"\r\n\r\n")[2].split(b"\r\n")
    return [data for _, _, data in events(b"".join(chunks[1::2]))]


@given(text=st.text(st.sampled_from("a :\r\n\u2028\ufeff") | st.characters(codec="utf-8")))
def test_any_text_arrives_with_its_lines(text):
    script = Script(RPY / SCRIPT)
    asked = follow(script)
    publish(script, text.encode(), b"end")
    got = [e for e in asked.body.decode().split("\n\n") if "data" in e]
    lines = [line.removeprefix("data: ") for line in got[0].split("\n") if line[:5] == "data:"]
    assert "\n".join(lines) == text.replace("\r\n", "\n").replace("\r", "\n")
    assert data(asked)[-1] == "end"


@pytest.mark.parametrize(
    ("query", "body", "code", "word"),
    [
        ("?key=a", b"x" * 65537, 413, "65536"),
        ("?key=a", b"ok\xff", 400, "at byte 2"),
        ("?key=a&event=a%0Adata:b", b"x", 400, "event"),
        ("?key=a&event=a%0Db", b"x", 400, "event"),
        ("", b"x", 400, "key"),
        ("?key=a&count=1", b"x", 400, "count"),
    ],
)
def test_what_is_not_published(script, query, body, code, word):
    reader = follow(script)
    asked = script.post(query, data=body)
    assert (asked.code, asked.body.count(b"\n")) == (code, 1)
    assert word in asked.body.decode()
    assert data(reader) == []


def test_channels_and_readers_are_bounded(script, monkeypatch):
    monkeypatch.setitem(type(script.resource).render_GET.__globals__, "READERS", 1)
    script.resource.channels.most = 2
    follow(script, "a"), follow(script, "b")
    for full in (follow(script, "a"), follow(script, "c"), script.post("?key=c", data=b"x")):
        assert (full.code, full.header("Retry-After")) == (503, "1")
    assert script.post("?key=b", data=b"x").code == 200


def test_a_slow_reader_that_leaves_after_a_heartbeat(script, logged):
    server, transport = script.connect(b"key=a")
    transport.producer.pauseProducing()
    script.advance(15)
    publish(script, b"1")
    server.connectionLost(Failure(ConnectionDone()))
    gc.collect()
    assert script.idle()
    assert "Unhandled" not in logged()


def test_the_clock_begins_where_it_says(script):
    asked = script.get("?count=1", headers={"Last-Event-ID": "abc"})
    script.advance(0)
    assert asked.body.startswith(b"retry: 1000\nid: 0\n\n")
