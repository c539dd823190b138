"""longpoll.rpy in virtual time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport

from .conftest import RPY, Script

SCRIPT = "longpoll.rpy"


def publish(script, *texts, key="a"):
    return [script.post(f"?key={key}", data=text.encode()).json() for text in texts]


def got(asked):
    """Number and text of each message in the answer."""
    asked.script.treq.flush()
    return [(each["n"], each["text"]) for each in asked.json()["messages"]]


def test_a_reader_waits_for_the_next_message(script):
    asked = script.get("?key=a&after=0")
    script.advance(7)
    assert asked.response is None
    (told,) = publish(script, "héllo")
    assert got(asked) == [(1, "héllo")]
    channel = script.resource.channels.states["a"][0]
    assert told == {"key": "a", "n": 1, "epoch": channel.epoch, "waiting": 1}
    (message,) = asked.json().pop("messages")
    assert message["at"].endswith("+00:00")
    rest = {"key": "a", "missed": 0, "reset": False, "last": 1, "epoch": channel.epoch}
    assert asked.json() == rest | {"messages": [message]}
    assert asked.header("Server-Timing") == "wait;dur=7000.000"
    assert script.idle()


def test_what_is_there_already_is_told_at_once(script):
    publish(script, "one", "two", "three")
    assert got(script.get("?key=a&after=0")) == [(1, "one"), (2, "two"), (3, "three")]
    assert got(script.get("?key=a&after=2")) == [(3, "three")]
    from_now_on = [script.get("?key=a"), script.get("?key=a&after=3"), script.get("?key=a", "HEAD")]
    assert [each.response for each in from_now_on] == [None, None, None]
    assert script.get("?key=a&count").json()["waiting"] == 3
    publish(script, "elsewhere", key="b")
    assert publish(script, "four")[0]["waiting"] == 3
    assert [got(each) for each in from_now_on[:2]] == [[(4, "four")], [(4, "four")]]
    assert (from_now_on[2].code, from_now_on[2].body) == (200, b"")
    assert script.idle()


def test_when_the_time_is_over_there_are_no_messages(script):
    publish(script, "one")
    asked = script.get("?key=a&timeout=5")
    script.advance(5)
    assert (asked.code, asked.json()["messages"], asked.json()["last"]) == (200, [], 1)
    assert script.get("?key=a&count").json()["waiting"] == 0
    assert publish(script, "two")[0]["waiting"] == 0
    assert got(script.get("?key=a&after=1")) == [(2, "two")]
    assert script.idle()


def test_a_reader_that_leaves_misses_nothing(script, logged):
    script.get("?key=a&after=0").leave()
    assert script.idle()
    assert "the client left" in logged()
    assert publish(script, "one")[0]["waiting"] == 0
    assert got(script.get("?key=a&after=0")) == [(1, "one")]


@pytest.mark.parametrize(("size", "kept"), [(0, 100), (2**16, 7), (2**16 - 1, 7), (2**14 + 1, 31)])
def test_who_comes_too_late_is_told_how_much_was_dropped(script, size, kept):
    publish(script, *["x" * size] * (kept + 3))
    asked = script.get("?key=a&after=1")
    assert [n for n, _ in got(asked)] == list(range(4, kept + 4))
    assert asked.json()["missed"] == 2
    assert script.get("?key=a&after=3").json()["missed"] == 0
    channel = script.resource.channels.states["a"][0]
    assert channel.size == sum(len(message) for _, message in channel.messages) <= 2**19


def test_for_readers_that_do_not_read_little_is_buffered(script, monkeypatch):
    publish(script, *["x" * 60000] * 6)
    written = StringTransport.writeSequence

    def write(transport, data):
        written(transport, data)
        if len(transport.value()) > 65536:  # as TCP's has it
            transport.producer.pauseProducing()

    monkeypatch.setattr(StringTransport, "writeSequence", write)
    _, transport = script.connect(b"key=a&after=0")
    assert len(transport.value()) < 130000
    monkeypatch.undo()
    transport.producer.resumeProducing()
    assert transport.value().count(b'"text"') == 6


def test_a_channel_that_begins_anew_tells_its_readers(script):
    publish(script, "one", "two", "three")
    old = script.get("?key=a&count").json()["epoch"]
    script.advance(7200)
    script.get("?key=b&count")
    assert set(script.resource.channels.states) == {"b"}
    asked = script.get(f"?key=a&after=3&epoch={old}")
    assert (asked.json()["reset"], asked.json()["last"], got(asked)) == (True, 0, [])
    publish(script, "uno", "due", "tre", "quattro")
    told = script.get(f"?key=a&after=3&epoch={old}").json()
    assert (told["reset"], told["missed"], len(told["messages"])) == (True, 0, 4)
    assert script.get("?key=a&after=5").json()["reset"] is True
    told = script.get(f"?key=a&after=3&epoch={told['epoch']}").json()
    assert (told["reset"], [each["n"] for each in told["messages"]]) == (False, [4])


def test_who_waits_for_longest_has_time_to_come_back(script):
    publish(script, "one")
    asked = script.get("?key=a&after=1&timeout=3600")
    script.advance(3600)
    script.get("?key=b&count")
    assert asked.json()["reset"] is False
    assert script.get("?key=a&after=1").response is None


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"", 200), (b"x" * 2**16, 200), (b"x" * (2**16 + 1), 413), (b"a\xff", 400), (b"\x00", 200)],
)
def test_what_may_be_published(script, body, code):
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # what `curl -d` says
    asked = script.post("?key=a", data=body, headers=form)
    assert asked.code == code
    if code == 200:
        assert got(script.get("?key=a&after=0")) == [(1, body.decode())]
    else:
        assert asked.body.count(b"\n") == 1
        assert "a" not in script.resource.channels.states


def test_readers_and_channels_are_bounded(script, monkeypatch):
    monkeypatch.setitem(type(script.resource).render_GET.__globals__, "READERS", 1)
    script.resource.channels.most = 1
    script.get("?key=a")
    for refused in (script.get("?key=a"), script.get("?key=b"), script.post("?key=b")):
        assert (refused.code, refused.header("Retry-After")) == (503, "1")
    assert script.get("?key=a&count").json()["waiting"] == 1
    assert script.post("?key=a&after=1").code == 400


@given(st.lists(st.sampled_from(["ask", "leave", "publish", "time"]), max_size=60))
@settings(deadline=None)
def test_whatever_happens_each_message_comes_once_and_in_order(events):
    script, read, published = Script(RPY / SCRIPT), [], 0
    asked, after = None, 0
    for event in [*events, "ask", "publish"]:
        if event == "publish":
            published += 1
            publish(script, str(published))
        elif event == "time":
            script.advance(20)
        elif event == "leave" and asked:
            asked.leave()
            asked = None
        elif event == "ask" and not asked:
            asked = script.get(f"?key=a&after={after}")
        script.treq.flush()
        if asked and asked.done:
            read += got(asked)
            after, asked = asked.json()["last"], None
    assert read == [(n, str(n)) for n in range(1, published + 1)][: len(read)]
    assert len(read) >= published - 1  # the last ask may have been there before
