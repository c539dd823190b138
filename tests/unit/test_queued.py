"""queued.rpy in virtual time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import RPY, Script

SCRIPT = "queued.rpy"


def length(script, limit=1):
    """How many the queue is serving, and how many are waiting."""
    shown = script.get(f"?key=a&limit={limit}&show").json()
    return shown["serving"], shown["waiting"]


def leave(asked):
    """Close this client's connection, and no other."""
    asked.deferred.cancel()
    asked.script.treq.flush()


def test_a_few_are_served_at_a_time_and_the_rest_in_order(script):
    asked = [script.get("?key=a&limit=2&duration=3") for _ in range(5)]
    assert length(script, limit=2) == (2, 3)
    ended = []
    for second in range(1, 10):
        script.advance(1)
        ended += [second] * (sum(each.done for each in asked) - len(ended))
    assert ended == [3, 3, 6, 6, 9]
    assert [each.json() for each in asked] == [
        {"ahead": ahead, "waited": waited, "served": 3.0}
        for ahead, waited in [(0, 0), (0, 0), (0, 3), (1, 3), (2, 6)]
    ]
    assert asked[4].header("Server-Timing") == "wait;dur=6000.000"
    assert length(script, limit=2) == (0, 0)
    assert script.idle()


def test_another_key_or_another_limit_is_another_queue(script):
    script.get("?key=a&limit=1&duration=9")
    assert script.get("?key=a&limit=1&backlog=0").code == 503
    others = [script.get("?key=b&limit=1"), script.get("?key=a&limit=2")]
    script.advance(1)
    assert [each.json()["waited"] for each in others] == [0, 0]


def test_a_disconnect_frees_the_place(script, logged):
    served, first, second = (script.get("?key=a&limit=1&duration=9") for _ in range(3))
    leave(first)
    assert length(script) == (1, 1)
    leave(served)
    assert length(script) == (1, 0)
    script.advance(9)
    assert second.json() == {"ahead": 1, "waited": 0.0, "served": 9.0}
    assert logged().count("the client disconnected") == 2
    assert not script.resource.queues
    assert script.idle()


@pytest.mark.parametrize(
    ("query", "retry"),
    [
        ("duration=60&backlog=3", "150"),  # two are being served, three are waiting
        ("duration=0.1&backlog=3", "1"),
        ("duration=0&backlog=0", "1"),
    ],
)
def test_a_request_too_many_is_told_when_to_try_again(script, query, retry):
    for _ in range(5):
        script.get("?key=a")
    refused = script.get(f"?key=a&{query}")
    assert (refused.code, refused.header("Retry-After")) == (503, retry)
    assert f"try again in {retry} s" in refused.body.decode()
    assert length(script, limit=2) == (2, 3)
    assert script.get("?key=a&backlog=4").response is None


def test_a_failure_while_it_is_served_frees_the_place(script, monkeypatch, logged):
    def fail(clock, seconds):
        raise RuntimeError("the database is down")

    script.get("?key=a&limit=1")
    later = script.get("?key=a&limit=1")
    monkeypatch.setitem(type(script.resource).render_GET.__globals__, "deferLater", fail)
    script.advance(1)
    assert later.code == 500
    assert "the database is down" in logged()
    assert length(script) == (0, 0)
    assert not script.resource.queues


def test_queues_are_bounded_and_forgotten_when_empty(script, monkeypatch):
    monkeypatch.setitem(type(script.resource).render_GET.__globals__, "MAX_QUEUES", 1)
    asked = script.get("?key=held", "HEAD")
    assert script.get("?key=held").response is None
    assert script.get("?key=b").header("Retry-After") == "1"
    script.advance(1)
    assert (asked.code, asked.body) == (200, b"")
    assert script.get("?key=b").response is None


EVENTS = st.tuples(st.sampled_from(["come", "leave", "advance"]), st.integers(0, 9))


@given(limit=st.integers(1, 3), events=st.lists(EVENTS, min_size=1, max_size=30))
@settings(deadline=None)
def test_whoever_comes_and_goes_the_order_is_kept(limit, events):
    script, asked, left = Script(RPY / SCRIPT), [], set()
    for event, n in [*events, *[("advance", 6)] * len(events)]:
        if event == "come":
            asked.append(script.get(f"?key=a&limit={limit}&duration=2"))
            asked[-1].at = script.clock.seconds()
        elif event == "advance":
            script.advance(n / 3)
        elif n < len(asked) and not asked[n].done:
            leave(asked[n])
            left.add(asked[n])
        here = [each for each in asked if each not in left and not each.done]
        assert length(script, limit) == (min(limit, len(here)), max(0, len(here) - limit))
    assert here == []
    assert not script.resource.queues
    stayed = [each for each in asked if each not in left]
    began = [each.at + each.json()["waited"] for each in stayed]
    assert began == pytest.approx(sorted(began), abs=0.002)
    assert script.idle()
