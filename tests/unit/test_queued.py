"""queued.rpy in virtual time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import RPY, Script

SCRIPT = "queued.rpy"


def length(script):
    told = script.get("?key=a&count").json()
    return told["serving"], told["waiting"]


def leave(asked):
    """Close this client's connection, and no other."""
    asked.deferred.cancel()
    asked.script.treq.flush()


def test_so_many_are_served_at_a_time_and_the_rest_in_order(script):
    asked = [script.get("?key=a&limit=2&duration=3") for _ in range(5)]
    assert length(script) == (2, 3)
    ended = []
    for second in range(1, 10):
        script.advance(1)
        ended += [second] * (sum(each.done for each in asked) - len(ended))
    assert ended == [3, 3, 6, 6, 9]
    assert [each.json() for each in asked] == [
        {"key": "a", "ahead": ahead, "waited": waited, "served": 3.0}
        for ahead, waited in [(0, 0), (0, 0), (0, 3), (1, 3), (2, 6)]
    ]
    assert asked[4].header("Server-Timing") == "wait;dur=6000.000"
    assert length(script) == (0, 0)
    assert script.idle()


def test_each_goes_by_its_own_limit_and_nobody_overtakes(script):
    three = [script.get("?key=a&limit=3&duration=5") for _ in range(3)]
    low, high = script.get("?key=a&limit=1"), script.get("?key=a&limit=100")
    assert length(script) == (3, 2)  # there would be room for the last, but it is not first in line
    leave(three[0])
    assert length(script) == (2, 2)
    leave(low)
    assert length(script) == (3, 0)
    script.advance(1)
    assert high.json()["ahead"] == 1
    assert script.get("?key=a&limit=1&most=0").code == 503
    assert script.get("?key=b&limit=1&most=0").response is None


def test_who_leaves_frees_the_place(script, logged):
    served, first, second = (script.get("?key=a&limit=1&duration=9") for _ in range(3))
    leave(first)
    assert length(script) == (1, 1)
    leave(served)
    assert length(script) == (1, 0)
    script.advance(9)
    assert second.json() == {"key": "a", "ahead": 1, "waited": 0.0, "served": 9.0}
    assert logged().count("the client left") == 2
    assert not script.resource.queues.states["a"][0].busy()
    assert script.idle()


@pytest.mark.parametrize(
    ("query", "retry"),
    [
        ("limit=2&duration=60&most=3", "150"),  # two are served, three wait
        ("limit=2&duration=0.1&most=3", "1"),
        ("limit=2&duration=0&most=0", "1"),
        ("limit=100&duration=60&most=0", "3"),  # it would be served next, but it would have to wait
    ],
)
def test_one_too_many_is_told_when_to_come_again(script, query, retry):
    for _ in range(5):
        script.get("?key=a&limit=2")
    refused = script.get(f"?key=a&{query}")
    assert (refused.code, refused.header("Retry-After")) == (503, retry)
    assert retry in refused.body.decode()
    assert length(script) == (2, 3)
    assert script.get("?key=a&most=4").response is None


def test_what_fails_while_it_is_served_gives_its_place_back(script, monkeypatch, logged):
    def fail(clock, seconds):
        raise RuntimeError("as it happens")

    script.get("?key=a&limit=1")
    later = script.get("?key=a&limit=1")
    monkeypatch.setitem(type(script.resource).render_GET.__globals__, "deferLater", fail)
    script.advance(1)
    assert later.code == 500
    assert "as it happens" in logged()
    assert length(script) == (0, 0)


def test_queues_are_bounded(script):
    script.resource.queues.most = 1
    asked = script.get("?key=held", "HEAD")
    assert script.get("?key=b").header("Retry-After") == "1"
    script.advance(1)
    assert (asked.code, asked.body) == (200, b"")
    assert script.get("?key=b").response is None


EVENTS = st.tuples(st.sampled_from(["come", "leave", "advance"]), st.integers(0, 9))


@given(limit=st.integers(1, 3), events=st.lists(EVENTS, min_size=1, max_size=30))
@settings(deadline=None)
def test_whoever_comes_and_goes_the_order_is_kept(limit, events):
    script, asked, left = Script(RPY / SCRIPT), [], set()
    for event, number in [*events, *[("advance", 6)] * len(events)]:
        if event == "come":
            asked.append(script.get(f"?key=a&limit={limit}&duration=2"))
            asked[-1].at = script.clock.seconds()
        elif event == "advance":
            script.advance(number / 3)
        elif number < len(asked) and not asked[number].done:
            leave(asked[number])
            left.add(asked[number])
        here = [each for each in asked if each not in left and not each.done]
        assert length(script) == (min(limit, len(here)), max(0, len(here) - limit))
    assert here == []
    stayed = [each for each in asked if each not in left]
    began = [each.at + each.json()["waited"] for each in stayed]
    assert began == pytest.approx(sorted(began), abs=0.002)
    assert script.idle()
