"""longpoll.rpy in virtual time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import RPY, Script

SCRIPT = "longpoll.rpy"


def publish(script, *texts, key="a"):
    """Publish *texts*; return the number of the last."""
    for text in texts:
        posted = script.post(f"?key={key}", data=text.encode())
        assert posted.code == 200
    script.advance(0)
    return posted.json()["n"]


def last(script, key="a"):
    """Return the number of the channel's last message, without waiting."""
    asked = script.get(f"?key={key}&timeout=0")
    script.advance(0)
    return asked.json()["last"]


def got(asked):
    """Return the text of each message in a response."""
    asked.script.treq.flush()
    return [message["text"] for message in asked.json()["messages"]]


def limit(script, **constants):
    type(script.resource).render_GET.__globals__.update(constants)


def test_a_request_waits_for_the_next_message(script):
    asked = script.get("?key=a")
    script.advance(7)
    assert asked.response is None
    posted = script.post("?key=a", data="h\u00e9llo".encode())
    n = posted.json()["n"]
    assert posted.json() == {"n": n, "waiting": 1}
    script.advance(0)
    message = {"n": n, "text": "h\u00e9llo"}
    assert asked.json() == {"messages": [message], "last": n, "waiting": 0}
    assert asked.header("Server-Timing") == "wait;dur=7000.000"
    assert script.idle()


def test_messages_that_are_there_are_sent_at_once(script):
    n = publish(script, "one", "two", "three")
    assert got(script.get("?key=a")) == ["one", "two", "three"]
    assert got(script.get(f"?key=a&after={n - 1}")) == ["three"]
    waiting = [script.get(f"?key=a&after={n}"), script.get(f"?key=a&after={n}", "HEAD")]
    assert [each.response for each in waiting] == [None, None]
    publish(script, "elsewhere", key="b")
    assert script.get("?key=a").json()["waiting"] == 2
    publish(script, "four")
    assert (got(waiting[0]), waiting[1].code, waiting[1].body) == (["four"], 200, b"")
    assert script.idle()


def test_there_are_no_messages_at_the_timeout(script):
    n = publish(script, "one")
    asked = script.get(f"?key=a&after={n}&timeout=5")
    script.advance(4.9)
    assert asked.response is None
    script.advance(0.1)
    assert (asked.code, asked.json()) == (200, {"messages": [], "last": n, "waiting": 0})
    publish(script, "two")
    assert got(script.get(f"?key=a&after={n}")) == ["two"]
    assert script.idle()


def test_no_message_is_lost_when_the_client_disconnects(script, logged):
    n = last(script)
    script.get("?key=a").leave()
    assert script.idle()
    assert "the client disconnected" in logged()
    assert script.post("?key=a", data=b"one").json()["waiting"] == 0
    assert got(script.get(f"?key=a&after={n}")) == ["one"]


def test_a_gap_in_the_numbers_shows_that_messages_are_no_longer_kept(script):
    n = publish(script, *map(str, range(105)))
    first = script.get("?key=a").json()["messages"][0]
    assert first == {"n": n - 99, "text": "5"}


def test_a_response_is_bounded_and_the_rest_follows(script):
    publish(script, *map(str, range(50)))
    after, read, sizes = 0, [], []
    for _ in range(3):
        asked = script.get(f"?key=a&after={after}")
        read += got(asked)
        sizes.append(len(got(asked)))
        after = asked.json()["last"]
    assert (read, sizes) == ([*map(str, range(50))], [20, 20, 10])


def test_numbers_go_on_when_a_channel_is_dropped_or_the_server_restarts(script):
    """A client that comes back with its old number gets everything published since."""
    old = publish(script, "one")
    limit(script, MAX_CHANNELS=1)
    publish(script, "elsewhere", key="b")
    assert set(script.resource.channels) == {"b"}
    publish(script, "two", "three")
    assert got(script.get(f"?key=a&after={old}")) == ["two", "three"]
    again = Script(RPY / SCRIPT)
    publish(again, "four")
    assert got(again.get(f"?key=a&after={old}")) == ["four"]


def test_a_number_that_does_not_exist_yet_is_waited_for(script):
    publish(script, "one")
    asked = script.get("?key=a&after=9007199254740991&timeout=5")
    assert asked.response is None
    script.advance(5)
    assert asked.json()["last"] == last(script)


def test_the_channel_unused_for_longest_makes_room(script):
    limit(script, MAX_CHANNELS=2)
    publish(script, "1", key="a")
    publish(script, "1", key="b")
    last(script, "a")
    publish(script, "1", key="c")
    assert list(script.resource.channels) == ["a", "c"]


def test_a_thousand_requests_are_not_answered_in_one_turn_of_the_reactor(script, monkeypatch):
    channel, turns, call_later = script.resource.channel({"key": "a"}), [], script.clock.callLater

    def count_turns(*call):
        turns.append(sum(each.response is not None for each in asked))
        return call_later(*call)

    asked = [script.get("?key=a") for _ in range(50)]
    monkeypatch.setattr(script.clock, "callLater", count_turns)
    assert script.post("?key=a", data=b"x").json()["waiting"] == 50
    script.advance(0)
    assert all(got(each) == ["x"] for each in asked)
    assert (len(turns), channel.waiting, script.idle()) == (2, {}, True)


def test_a_request_that_ends_before_its_turn_is_no_failure(script, logged):
    asked = [script.get("?key=a") for _ in range(41)]
    script.post("?key=a", data=b"x")  # answers the first 20
    for each in asked:
        each.leave()
    script.advance(1)
    assert script.idle()
    assert "Traceback" not in logged()


def test_a_timeout_just_before_its_turn_brings_the_message_too(script):
    asked = [script.get(f"?key=a&timeout={timeout}") for timeout in [30] * 20 + [5]]
    (timer,) = (call for call in script.clock.getDelayedCalls() if call.getTime() == 5)
    script.post("?key=a", data=b"x")
    timer.reset(0)
    script.advance(0)
    assert got(asked[20]) == ["x"]
    assert script.idle()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 200), (b"x" * 4096, 200), (b"\x00", 200),
        (b"x" * 4097, 400), (b"a\xff", 400), (b"x" * 4095 + b"\xc3\xa9", 400),
    ],
)  # fmt: skip
def test_what_may_be_published(script, body, code):
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # what `curl -d` says
    asked = script.post("?key=a", data=body, headers=form)
    assert asked.code == code
    if code == 200:
        assert got(script.get("?key=a")) == [body.decode()]
    else:
        assert asked.body.count(b"\n") == 1
        assert "a" not in script.resource.channels


def test_post_takes_no_other_parameter(script):
    asked = script.post("?key=a&after=1", data=b"x")
    assert (asked.code, script.resource.channels) == (400, {})


@given(st.lists(st.sampled_from(["ask", "leave", "publish", "time"]), max_size=60))
@settings(deadline=None)
def test_whatever_happens_each_message_comes_once_and_in_order(events):
    script, read, published = Script(RPY / SCRIPT), [], 0
    asked, after = None, 0
    for event in [*events, "ask", "publish", "ask"]:
        if event == "publish":
            published += 1
            script.post("?key=a", data=str(published).encode())
        elif event == "time":
            script.advance(20)
        elif event == "leave" and asked:
            asked.leave()
            asked = None
        elif event == "ask" and not asked:
            asked = script.get(f"?key=a&after={after}")
        script.advance(0)
        if asked and asked.done:
            read += got(asked)
            after, asked = asked.json()["last"], None
    assert read == [str(n) for n in range(1, published + 1)]
